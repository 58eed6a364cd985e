"""A run, and the link's control over it."""

from amaranth.hdl import signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

RunCommand = data.StructLayout(
    {
        "reset": 1,
        "sampled": 1,
        "stop_enable": 1,
        "prompt_length": 16,
        "generate": 16,
        "stop_token": 16,
        "mantissa": 15,
        "exponent": signed(10),
        "noise": 32,
    }
)
"""A run; ``hw.arch.protocol.RunRequest`` says what the fields mean."""


class RunControlSignature(wiring.Signature):
    """The link's control over runs.

    Members
    -------
    run : Out(stream.Signature(RunCommand)), offered only while nothing runs
    running : In(1), high from the cycle after ``run`` was taken to the end of the run
    produced : In(16), tokens in the buffer, prompt included; final once ``running`` is low
    stop : Out(1), one cycle: end the run after the current token
    reset : Out(1), one cycle: end the run at once, whatever it is doing
    """

    def __init__(self):
        super().__init__(
            {
                "run": Out(stream.Signature(RunCommand)),
                "running": In(1),
                "produced": In(16),
                "stop": Out(1),
                "reset": Out(1),
            }
        )
