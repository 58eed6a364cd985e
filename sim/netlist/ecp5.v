// Models of the ECP5 cells that Yosys has none of, after Lattice's FPGA-TN-02204 (memory),
// FPGA-TN-02205 (multipliers) and FPGA-TN-02200 (clocks). They know what synthesis makes here and no
// more: `sim.netlist` refuses cells with other parameters, or with other values on fixed pins.

// Block RAM of 1,024 x 18 bits. Port A, if it is enabled at all, writes with port B's clock; B reads.
//
// An address counts bits: the byte of 9 from bit 3 up; below it, for 1, 2 or 4 bits, where in the
// lower 8 of that byte. For 18 and 36 bits, the lowest bits of A's address enable its bytes. 36 bits
// use the data pins of both ports, the lower half those of A.
//
// What is read from where port A writes at that edge is undefined. To make sure that nobody uses it,
// it comes inverted.
module DP16KD (
    input DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9,
    input DIA8, DIA7, DIA6, DIA5, DIA4, DIA3, DIA2, DIA1, DIA0,
    input ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0,
    input CEA, OCEA, CLKA, WEA, RSTA, CSA2, CSA1, CSA0,
    output DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9,
    output DOA8, DOA7, DOA6, DOA5, DOA4, DOA3, DOA2, DOA1, DOA0,
    input DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9,
    input DIB8, DIB7, DIB6, DIB5, DIB4, DIB3, DIB2, DIB1, DIB0,
    input ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0,
    input CEB, OCEB, CLKB, WEB, RSTB, CSB2, CSB1, CSB0,
    output DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9,
    output DOB8, DOB7, DOB6, DOB5, DOB4, DOB3, DOB2, DOB1, DOB0
);
    parameter DATA_WIDTH_A = 18, DATA_WIDTH_B = 18;
    parameter REGMODE_A = "NOREG", REGMODE_B = "NOREG";
    parameter WRITEMODE_A = "NORMAL", WRITEMODE_B = "NORMAL";
    parameter CLKAMUX = "CLKA", CLKBMUX = "CLKB";
    parameter CSDECODE_A = "0b000", CSDECODE_B = "0b000";
    parameter RESETMODE = "SYNC", ASYNC_RESET_RELEASE = "SYNC", GSR = "ENABLED";
    parameter [319:0]
        INITVAL_00 = 0, INITVAL_01 = 0, INITVAL_02 = 0, INITVAL_03 = 0,
        INITVAL_04 = 0, INITVAL_05 = 0, INITVAL_06 = 0, INITVAL_07 = 0,
        INITVAL_08 = 0, INITVAL_09 = 0, INITVAL_0A = 0, INITVAL_0B = 0,
        INITVAL_0C = 0, INITVAL_0D = 0, INITVAL_0E = 0, INITVAL_0F = 0,
        INITVAL_10 = 0, INITVAL_11 = 0, INITVAL_12 = 0, INITVAL_13 = 0,
        INITVAL_14 = 0, INITVAL_15 = 0, INITVAL_16 = 0, INITVAL_17 = 0,
        INITVAL_18 = 0, INITVAL_19 = 0, INITVAL_1A = 0, INITVAL_1B = 0,
        INITVAL_1C = 0, INITVAL_1D = 0, INITVAL_1E = 0, INITVAL_1F = 0,
        INITVAL_20 = 0, INITVAL_21 = 0, INITVAL_22 = 0, INITVAL_23 = 0,
        INITVAL_24 = 0, INITVAL_25 = 0, INITVAL_26 = 0, INITVAL_27 = 0,
        INITVAL_28 = 0, INITVAL_29 = 0, INITVAL_2A = 0, INITVAL_2B = 0,
        INITVAL_2C = 0, INITVAL_2D = 0, INITVAL_2E = 0, INITVAL_2F = 0,
        INITVAL_30 = 0, INITVAL_31 = 0, INITVAL_32 = 0, INITVAL_33 = 0,
        INITVAL_34 = 0, INITVAL_35 = 0, INITVAL_36 = 0, INITVAL_37 = 0,
        INITVAL_38 = 0, INITVAL_39 = 0, INITVAL_3A = 0, INITVAL_3B = 0,
        INITVAL_3C = 0, INITVAL_3D = 0, INITVAL_3E = 0, INITVAL_3F = 0;
    localparam [64*320-1:0] INITIAL = {
        INITVAL_3F, INITVAL_3E, INITVAL_3D, INITVAL_3C, INITVAL_3B, INITVAL_3A,
        INITVAL_39, INITVAL_38, INITVAL_37, INITVAL_36, INITVAL_35, INITVAL_34,
        INITVAL_33, INITVAL_32, INITVAL_31, INITVAL_30, INITVAL_2F, INITVAL_2E,
        INITVAL_2D, INITVAL_2C, INITVAL_2B, INITVAL_2A, INITVAL_29, INITVAL_28,
        INITVAL_27, INITVAL_26, INITVAL_25, INITVAL_24, INITVAL_23, INITVAL_22,
        INITVAL_21, INITVAL_20, INITVAL_1F, INITVAL_1E, INITVAL_1D, INITVAL_1C,
        INITVAL_1B, INITVAL_1A, INITVAL_19, INITVAL_18, INITVAL_17, INITVAL_16,
        INITVAL_15, INITVAL_14, INITVAL_13, INITVAL_12, INITVAL_11, INITVAL_10,
        INITVAL_0F, INITVAL_0E, INITVAL_0D, INITVAL_0C, INITVAL_0B, INITVAL_0A,
        INITVAL_09, INITVAL_08, INITVAL_07, INITVAL_06, INITVAL_05, INITVAL_04,
        INITVAL_03, INITVAL_02, INITVAL_01, INITVAL_00
    };

    wire [13:0] write_address = {
        ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0
    };
    wire [13:0] read_address = {
        ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0
    };
    wire [35:0] data = {
        DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9,
        DIB8, DIB7, DIB6, DIB5, DIB4, DIB3, DIB2, DIB1, DIB0,
        DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9,
        DIA8, DIA7, DIA6, DIA5, DIA4, DIA3, DIA2, DIA1, DIA0
    };

    // The place of what an address names in a row of 36 bits: its lowest bit.
    function [5:0] place(input integer width, input [13:0] address);
        case (width)
            36: place = 0;
            18: place = address[4] ? 18 : 0;
            9: place = 9 * address[4:3];
            4: place = 9 * address[4:3] + {address[2], 2'b0};
            2: place = 9 * address[4:3] + {address[2:1], 1'b0};
            default: place = 9 * address[4:3] + address[2:0];
        endcase
    endfunction

    wire [35:0] enabled =
        DATA_WIDTH_A == 36 ? {{9{ADA3}}, {9{ADA2}}, {9{ADA1}}, {9{ADA0}}}
        : DATA_WIDTH_A == 18 ? {18'b0, {9{ADA1}}, {9{ADA0}}}
        : (36'b1 << DATA_WIDTH_A) - 36'b1;
    wire [35:0] written = CEA & WEA ? enabled << place(DATA_WIDTH_A, write_address) : 36'b0;

    reg [35:0] rows [0:511];
    reg [35:0] latch, register;
    integer row;
    initial begin
        for (row = 0; row < 512; row = row + 1)
            rows[row] = {INITIAL[row * 40 + 20 +: 18], INITIAL[row * 40 +: 18]};
        latch = 0;
        register = 0;
    end

    wire collides = write_address[13:5] == read_address[13:5];
    always @(posedge CLKA)
        if (|written)
            rows[write_address[13:5]] <= rows[write_address[13:5]] & ~written
                | data << place(DATA_WIDTH_A, write_address) & written;
    always @(posedge CLKB) begin
        if (CEB)
            latch <= (rows[read_address[13:5]] ^ (collides ? written : 36'b0))
                >> place(DATA_WIDTH_B, read_address) & (36'hfffffffff >> 36 - DATA_WIDTH_B);
        if (OCEB)
            register <= latch;
    end

    wire [35:0] out = REGMODE_B == "OUTREG" ? register : latch;
    assign {
        DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9,
        DOA8, DOA7, DOA6, DOA5, DOA4, DOA3, DOA2, DOA1, DOA0
    } = out[17:0];
    assign {
        DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9,
        DOB8, DOB7, DOB6, DOB5, DOB4, DOB3, DOB2, DOB1, DOB0
    } = DATA_WIDTH_B == 36 ? out[35:18] : out[17:0];
endmodule

// 18 x 18 bits, signed or not, without registers.
module MULT18X18D (
    input A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1, A0,
    input B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1, B0,
    input C17, C16, C15, C14, C13, C12, C11, C10, C9, C8, C7, C6, C5, C4, C3, C2, C1, C0,
    input SIGNEDA, SIGNEDB, SOURCEA, SOURCEB,
    output P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19, P18,
    output P17, P16, P15, P14, P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0
);
    wire signed [18:0] a = {
        SIGNEDA & A17,
        A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1, A0
    };
    wire signed [18:0] b = {
        SIGNEDB & B17,
        B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1, B0
    };
    wire signed [37:0] product = a * b;
    assign {
        P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19, P18,
        P17, P16, P15, P14, P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0
    } = product[35:0];
endmodule

// The PLL as far as cycles go: whatever it makes of the reference is the one clock of a simulation.
// It locks, loses the lock and has it again, as one that settles may.
module EHXPLLL (
    input CLKI, CLKFB, PHASESEL1, PHASESEL0, PHASEDIR, PHASESTEP, PHASELOADREG,
    input STDBY, PLLWAKESYNC, RST, ENCLKOP, ENCLKOS, ENCLKOS2, ENCLKOS3,
    output CLKOP, CLKOS, CLKOS2, CLKOS3, output LOCK, INTLOCK, REFCLK, CLKINTFB
);
    parameter CLKI_DIV = 1, CLKFB_DIV = 1;
    parameter CLKOP_DIV = 8, CLKOS_DIV = 8, CLKOS2_DIV = 8, CLKOS3_DIV = 8;
    parameter CLKOP_ENABLE = "ENABLED", CLKOS_ENABLE = "DISABLED";
    parameter CLKOS2_ENABLE = "DISABLED", CLKOS3_ENABLE = "DISABLED";
    parameter CLKOP_CPHASE = 0, CLKOS_CPHASE = 0, CLKOS2_CPHASE = 0, CLKOS3_CPHASE = 0;
    parameter CLKOP_FPHASE = 0, CLKOS_FPHASE = 0, CLKOS2_FPHASE = 0, CLKOS3_FPHASE = 0;
    parameter FEEDBK_PATH = "CLKOP", DPHASE_SOURCE = "DISABLED", PLLRST_ENA = "DISABLED";
    parameter INTFB_WAKE = "DISABLED", STDBY_ENABLE = "DISABLED";
    parameter OUTDIVIDER_MUXA = "DIVA", OUTDIVIDER_MUXB = "DIVB";
    parameter OUTDIVIDER_MUXC = "DIVC", OUTDIVIDER_MUXD = "DIVD";

    reg [5:0] age = 0;
    always @(posedge CLKI)
        if (!age[5])
            age <= age + 6'd1;
    assign CLKOP = CLKI, CLKOS = CLKI, CLKOS2 = CLKI;
    assign LOCK = age[5] | age[4:3] == 2'd1;
endmodule

// A clock that stands still, low, while it is not enabled.
module DCCA (input CLKI, CE, output CLKO);
    reg enable = 0;
    always @(negedge CLKI)
        enable <= CE;
    assign CLKO = CLKI & enable;
endmodule

// Pins, whose direction is a parameter of the cell; Verilator wants it in the port.
module TRELLIS_IO_INPUT (input B, output O);
    assign O = B;
endmodule
module TRELLIS_IO_OUTPUT (input I, T, output B);
    assign B = I | T;  // pulled up while it is not driven
endmodule

// A pin of both directions: `sim.netlist` takes it apart, since none is driven from two sides here.
module TRELLIS_IO_BIDIR (input I, T, FROM, output O, TO, FREE);
    assign O = FROM, TO = I, FREE = T;
endmodule

// Two data in a cycle, the second of them while the clock is low.
module ODDRX1F (input SCLK, RST, D0, D1, output Q);
    parameter GSR = "DISABLED";
    reg first = 0, second = 0, late = 0;
    always @(posedge SCLK) begin
        first <= D0;
        second <= D1;
    end
    always @(negedge SCLK)
        late <= second;
    assign Q = SCLK ? first : late;
endmodule
