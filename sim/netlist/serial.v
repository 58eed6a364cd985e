// The other end of a board's serial line, for sim/harness.cpp: bytes in, line out, and the reverse.
// It has nothing of the board's own UART.
module serial #(parameter DIVISOR = 4) (
    input clk,
    input send_valid, input [7:0] send, output send_ready, output reg to_board = 1,
    input from_board, output reg received_valid = 0, output reg [7:0] received = 0,
    input received_ready
);
    // The board's clock starts a while after its configuration, and with it its outputs.
    reg [10:0] age = 0;
    wire started = age[10];
    always @(posedge clk)
        if (!started)
            age <= age + 11'd1;

    reg [15:0] send_timer = 0;
    reg [3:0] send_left = 0;
    reg [8:0] send_bits = 0;
    assign send_ready = started && send_left == 0;
    always @(posedge clk)
        if (send_ready && send_valid) begin
            {send_bits, to_board} <= {1'b1, send, 1'b0};
            send_left <= 10;
            send_timer <= DIVISOR - 1;
        end else if (send_timer != 0)
            send_timer <= send_timer - 16'd1;
        else if (send_left != 0) begin
            {send_bits, to_board} <= {1'b1, send_bits};
            send_left <= send_left - 4'd1;
            send_timer <= DIVISOR - 1;
        end

    // In the middle of each bit; the stop bit ends a byte.
    reg [15:0] receive_timer = 0;
    reg [3:0] receive_left = 0;
    always @(posedge clk) begin
        if (received_ready)
            received_valid <= 0;
        if (receive_left == 0) begin
            receive_left <= started && !from_board ? 9 : 0;
            receive_timer <= DIVISOR + DIVISOR / 2 - 1;
        end else if (receive_timer != 0)
            receive_timer <= receive_timer - 16'd1;
        else begin
            receive_left <= receive_left - 4'd1;
            receive_timer <= DIVISOR - 1;
            if (receive_left == 1)
                received_valid <= from_board;
            else
                received <= {from_board, received[7:1]};
        end
    end
endmodule
