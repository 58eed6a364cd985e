// An SDR SDRAM as its data sheet describes it, which watches how it is used.
//
// Times are in picoseconds; time itself is the edges of the clock, rising ones or all. The first thing that is not
// allowed stays in `fault`, by its name in eight characters; nothing is right after it. What is not
// driven, or not yet, reads as nonsense. Sequential bursts of 1, 2, 4, 8 words and whole rows, single
// writes; no automatic precharge, no self-refresh and no power-down: using them is a fault.
module sdram #(
    parameter WIDTH = 16, ROW_BITS = 13, COLUMN_BITS = 9, BANK_BITS = 2,
    parameter BOTH_EDGES = 0,             // a cycle from each edge of clk to the next
    parameter CLOCK = 10000,              // the period
    parameter CLOCK_CL2 = 10000, CLOCK_CL3 = 7000,  // the least one for each CAS latency
    parameter RCD = 20000, RP = 20000, RAS = 44000, RC = 66000, RRD = 15000, RFC = 66000,
    parameter WR = 15000, MRD = 15000, MRD_CLOCKS = 2,
    parameter RAS_MOST = 100000000,       // a row may be open
    parameter REFI = 7812500,             // on average from a refresh to the next
    parameter POSTPONED = 8,              // refreshes that may be owed
    parameter FIRST_REFRESHES = 8,        // before the first access
    parameter POWER_UP = 200000000
) (
    input clk, input cke, cs_n, ras_n, cas_n, we_n,
    input [BANK_BITS-1:0] ba, input [ROW_BITS-1:0] a, input [WIDTH/8-1:0] dqm,
    input [WIDTH-1:0] dq_i, input dq_oe,
    output reg [WIDTH-1:0] dq_o, output reg [63:0] fault
);
    localparam BANKS = 1 << BANK_BITS, COLUMNS = 1 << COLUMN_BITS;
    localparam NONSENSE = {WIDTH/8{8'ha7}};

    reg [WIDTH-1:0] cells [0:(1<<(BANK_BITS+ROW_BITS+COLUMN_BITS))-1];

    // Times of the last events; long ago at first.
    longint now, activated_any, refreshed, moded;
    longint activated [0:BANKS-1], precharged [0:BANKS-1], written [0:BANKS-1];
    reg [BANKS-1:0] open;
    reg [ROW_BITS-1:0] row [0:BANKS-1];

    // Mode.
    reg closed_once, ready;
    reg [2:0] cas;
    reg [3:0] burst;                      // words less one; 15: the whole row
    reg single_writes;
    integer refreshes, clocks_since_mode;
    longint owing_since;                  // when the refreshes that came began to count

    // The burst under way, and words on their way to the pins: [0] is driven after this edge.
    reg reading, writing;
    integer left;
    reg [BANK_BITS-1:0] bank;
    reg [COLUMN_BITS-1:0] column;
    reg [2:0] coming;
    reg [WIDTH-1:0] word [0:2];
    reg [WIDTH/8-1:0] masked;             // dqm of the edge before
    reg [1:0] driving;                    // here, at the last two edges

    integer n;
    initial begin
        now = 0;
        fault = 0;
        open = 0; closed_once = 0; ready = 0; cas = 0; burst = 0; single_writes = 0;
        refreshes = 0; clocks_since_mode = 1000; owing_since = 0;
        reading = 0; writing = 0; left = 0; coming = 0; masked = 0; driving = 0;
        bank = 0; column = 0; dq_o = NONSENSE;
        activated_any = -1000000000; refreshed = -1000000000; moded = -1000000000;
        for (n = 0; n < BANKS; n = n + 1) begin
            activated[n] = -1000000000; precharged[n] = -1000000000; written[n] = -1000000000;
            row[n] = 0;
        end
        for (n = 0; n < 3; n = n + 1) word[n] = NONSENSE;
    end

    task wrong(input [63:0] name);
        if (fault == 0) fault = name;
    endtask
    task early(input longint since, input longint least, input [63:0] name);
        if (now - since < least) wrong(name);
    endtask

    // Words of a burst stay within their block of columns.
    function [COLUMN_BITS-1:0] next(input [COLUMN_BITS-1:0] from);
        next = burst == 15 ? from + 1'b1
            : (from & ~{{COLUMN_BITS-4{1'b0}}, burst}) | ((from + 1'b1) & {{COLUMN_BITS-4{1'b0}}, burst});
    endfunction

    wire [2:0] command = {~ras_n, ~cas_n, ~we_n};
    wire told = !cs_n && command != 3'b000;
    localparam ACTIVATE = 3'b100, READ = 3'b010, WRITE = 3'b011, TERMINATE = 3'b001;
    localparam PRECHARGE = 3'b101, REFRESH = 3'b110, MODE = 3'b111;

    task precharge(input integer which);
        if (open[which]) begin
            early(activated[which], RAS, "tRAS");
            early(written[which], WR, "tWR");
            open[which] = 0;
            precharged[which] = now;
            if (bank == which) begin
                reading = 0;
                writing = 0;
            end
        end
    endtask

    // All must be closed for as long as they need.
    task all_closed;
        if (open != 0) wrong("open");
        for (n = 0; n < BANKS; n = n + 1) begin
            early(precharged[n], RP, "tRP");
            early(activated[n], RC, "tRC");
        end
    endtask

    task start_access;
        if (!ready) wrong("init");
        if (!open[ba]) wrong("closed");
        early(activated[ba], RCD, "tRCD");
        if (a[10]) wrong("autoprec");
        reading = command == READ;
        writing = command == WRITE;
        bank = ba;
        column = a[COLUMN_BITS-1:0];
        left = burst == 15 ? -1 : writing && single_writes ? 1 : burst + 1;
    endtask

    generate
        if (BOTH_EDGES != 0) always @(posedge clk or negedge clk) edge_of_clock;
        else always @(posedge clk) edge_of_clock;
    endgenerate

    task edge_of_clock; begin
        now = now + CLOCK;
        clocks_since_mode = clocks_since_mode + 1;

        // What was read CAS latency less one edges ago comes now; the next edge captures it.
        word[0] = word[1]; word[1] = word[2]; word[2] = NONSENSE;
        coming = coming >> 1;

        if (told) begin
            if (now < POWER_UP) wrong("power-up");
            if (!cke) wrong("cke");
            early(refreshed, RFC, "tRFC");
            early(moded, MRD, "tMRD");
            if (clocks_since_mode < MRD_CLOCKS) wrong("tMRD");
            if (command == MODE || command == REFRESH) all_closed;
            case (command)
                ACTIVATE: begin
                    if (!ready) wrong("init");
                    if (open[ba]) wrong("open");
                    early(precharged[ba], RP, "tRP");
                    early(activated[ba], RC, "tRC");
                    early(activated_any, RRD, "tRRD");
                    open[ba] = 1;
                    row[ba] = a;
                    activated[ba] = now;
                    activated_any = now;
                end
                READ, WRITE: start_access;
                TERMINATE: begin
                    reading = 0;
                    writing = 0;
                end
                PRECHARGE:
                    if (a[10]) begin
                        for (n = 0; n < BANKS; n = n + 1) precharge(n);
                        if (!closed_once)
                            for (n = 0; n < BANKS; n = n + 1) precharged[n] = now;
                        closed_once = 1;
                    end else
                        precharge({{32-BANK_BITS{1'b0}}, ba});
                REFRESH: begin
                    if (!closed_once) wrong("init");
                    refreshed = now;
                    refreshes = refreshes + 1;
                    if (ready) owing_since = owing_since + REFI > now ? now : owing_since + REFI;
                end
                MODE: begin
                    if (!closed_once || refreshes < FIRST_REFRESHES) wrong("init");
                    moded = now;
                    clocks_since_mode = 0;
                    cas = a[6:4];
                    single_writes = a[9];
                    case (a[2:0])
                        0: burst = 0;
                        1: burst = 1;
                        2: burst = 3;
                        3: burst = 7;
                        7: burst = 15;
                        default: wrong("mode");
                    endcase
                    if (a[3] || a[8:7] != 0) wrong("mode");
                    if (!(cas == 2 && CLOCK >= CLOCK_CL2 || cas == 3 && CLOCK >= CLOCK_CL3))
                        wrong("mode");
                    if (!ready) owing_since = now;
                    ready = 1;
                end
                default: ;
            endcase
        end
        if (ready && now - owing_since > (POSTPONED + 1) * REFI) wrong("refresh");
        for (n = 0; n < BANKS; n = n + 1)
            if (open[n] && now - activated[n] > RAS_MOST) wrong("tRAS max");

        if (writing && left != 0) begin
            if (!dq_oe) wrong("undriven");
            for (n = 0; n < WIDTH/8; n = n + 1)
                if (!dqm[n]) cells[{bank, row[bank], column}][8*n +: 8] = dq_i[8*n +: 8];
            written[bank] = now;
        end
        if (reading && left != 0) begin
            word[cas-1] = cells[{bank, row[bank], column}];
            coming[cas-1] = 1;
        end
        if (left > 0) left = left - 1;
        if (left == 0) begin
            reading = 0;
            writing = 0;
        end
        column = next(column);

        // A whole cycle lies between what is driven here and what is driven there.
        if (dq_oe && (coming[0] || driving != 0)) wrong("contend");
        driving = {driving[0], coming[0]};
        dq_o <= NONSENSE;
        if (coming[0])
            for (n = 0; n < WIDTH/8; n = n + 1)
                if (!masked[n]) dq_o[8*n +: 8] <= word[0][8*n +: 8];
        masked = dqm;
    end endtask
endmodule
