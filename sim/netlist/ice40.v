// Pins of an iCE40 that have one direction and no register. All else is as Yosys's models have it.

module SB_IO_input (input PACKAGE_PIN, output D_IN_0);
    assign D_IN_0 = PACKAGE_PIN;
endmodule

module SB_IO_output (output PACKAGE_PIN, input D_OUT_0);
    assign PACKAGE_PIN = D_OUT_0;
endmodule

module SB_GB_IO_input (input PACKAGE_PIN, output D_IN_0, output GLOBAL_BUFFER_OUTPUT);
    assign D_IN_0 = PACKAGE_PIN;
    assign GLOBAL_BUFFER_OUTPUT = PACKAGE_PIN;
endmodule
