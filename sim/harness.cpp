// Byte streams in and out of a verilated core, for `sim.device` through ctypes.
//
// A core has the ports clk, rst, rx__{valid,ready,payload} and tx__{valid,ready,payload}; Verilator
// spells the second of two underscores ___05F. Inputs change while the clock is low; a byte passes
// where valid and ready are both high at the edge. What a core may have beside it says in `fault` what
// the core did to it that it must not.

#include <cstdint>
#include <memory>

#include "Vcore.h"
#include "verilated.h"

namespace {

struct Device {
    VerilatedContext context;  // outlives the core
    std::unique_ptr<Vcore> core;

    Device() : core(new Vcore{&context, "core"}) {
        core->clk = 0;
        core->rx___05Fvalid = 0;
        core->rx___05Fpayload = 0;
        core->tx___05Fready = 0;
        for (int cycle = 0; cycle < 5; ++cycle) {
            core->rst = cycle < 4;  // which takes a cycle to get to the machine
            core->eval();
            core->clk = 1;
            core->eval();
            core->clk = 0;
        }
    }
    ~Device() { core->final(); }
};

// Of a core that has the port, if it has; 0 if all is well.
template <class Core> auto fault_of(const Core &core, int) -> decltype(uint64_t{core.fault}) {
    return core.fault;
}
template <class Core> uint64_t fault_of(const Core &, long) { return 0; }

}  // namespace

extern "C" {

struct Counts {
    uint64_t consumed, produced, cycles, fault;
};

void *device_create() { return new Device; }

void device_delete(void *device) { delete static_cast<Device *>(device); }

// Stops at a fault. Runs until `wanted` bytes came out (0: until all input went in), the output is full, or
// `max_cycles` have passed. Room for `capacity` bytes is offered to the core all the while.
void device_step(void *device, const uint8_t *input, uint64_t count, uint8_t *output,
                 uint64_t capacity, uint64_t wanted, uint64_t max_cycles, Counts *counts) {
    Vcore &core = *static_cast<Device *>(device)->core;
    uint64_t consumed = 0, produced = 0, cycles = 0, fault = 0;
    if (wanted > capacity) wanted = capacity;
    while (!fault && cycles < max_cycles && (wanted ? produced < wanted : consumed < count)) {
        core.rx___05Fvalid = consumed < count;
        core.rx___05Fpayload = consumed < count ? input[consumed] : 0;
        core.tx___05Fready = produced < capacity;
        core.clk = 0;
        core.eval();
        if (core.rx___05Fvalid && core.rx___05Fready) ++consumed;
        if (core.tx___05Fvalid && core.tx___05Fready) output[produced++] = core.tx___05Fpayload;
        core.clk = 1;
        core.eval();
        ++cycles;
        fault = fault_of(core, 0);
    }
    *counts = {consumed, produced, cycles, fault};
}

}
