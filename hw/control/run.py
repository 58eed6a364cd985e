"""Runs, and the link's control over them."""

from amaranth.hdl import signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2


def context_bits(contexts: int) -> int:
    """Bits of a context's number, at least 1: of a single context that is always 0."""
    return max(1, exact_log2(contexts))


def run_command(contexts: int) -> data.StructLayout:
    """A run of one of so many contexts; ``hw.arch.protocol.RunRequest`` says what fields mean."""
    return data.StructLayout(
        {
            "context": context_bits(contexts),
            "reset": 1,
            "sampled": 1,
            "stop_enable": 1,
            "chained": 1,
            "prompt_length": 16,
            "generate": 16,
            "stop_token": 16,
            "mantissa": 15,
            "exponent": signed(10),
            "noise": 32,
        }
    )


class RunControlSignature(wiring.Signature):
    """The link's control over the runs of ``contexts`` contexts.

    Members
    -------
    run : Out(stream.Signature(run_command(contexts))), offered only while its context does not run,
        and only if its buffer holds what it asks for
    running : In(contexts), a bit each: high from the cycle after ``run`` was taken to the run's end
    context : Out(context_bits(contexts)), which one ``produced`` is asked of
    produced : In(16), a cycle later, tokens in its buffer, prompt included; final once its bit of
        ``running`` is low
    stop : Out(contexts), one cycle: end the context's run after the current token; of one that does
        not run it says nothing about the next run
    reset : Out(1), one cycle: end all runs at once, whatever they are doing
    """

    def __init__(self, contexts: int):
        super().__init__(
            {
                "run": Out(stream.Signature(run_command(contexts))),
                "running": In(contexts),
                "context": Out(context_bits(contexts)),
                "produced": In(16),
                "stop": Out(contexts),
                "reset": Out(1),
            }
        )
