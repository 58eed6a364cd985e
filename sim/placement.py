"""Where a model lies on a board, how fast it will run there, and what sets its speed."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest

from host.compiler import Image, compile_fitting, compile_image
from hw.arch.memories import Kind, Memory, memories
from hw.arch.packing import FEW, MANY
from hw.arch.program import Unit
from hw.arch.protocol import MemorySpace
from hw.boards import Board, board, names
from hw.build.estimate import lacking, large_memories
from hw.machine import BlockRam, Machine
from sim.timing import Timing, predict
from weights.commandline import one_line
from weights.model import IntegerModel

WORD_BYTES = 8
"""Of the widest words of which weight rows must be whole numbers."""

UNITS = {Unit.ENGINE: "ternary engine", Unit.VECTOR: "vector unit", Unit.SCALAR: "scalar unit"}

RESOURCES = {
    **{"lut4": "LUT4", "ff": "flip-flops", "bram": "block RAMs", "dsp": "multipliers"},
    "spram": "large memories",
}


@dataclass(frozen=True, kw_only=True)
class Share:
    """A model's part of one memory, in bytes."""

    name: str
    where: str
    needs: int
    has: int

    @property
    def fits(self) -> bool:
        return self.needs <= self.has


@dataclass(frozen=True, kw_only=True)
class Placement:
    """A model on a board.

    Parameters
    ----------
    model : IntegerModel
    name : str
        Of the model.
    board : Board
    """

    model: IntegerModel
    name: str
    board: Board

    @cached_property
    def image(self) -> Image:
        """For the board's lanes and elements, and memories that just hold the model.

        Raises
        ------
        FitError
            No machine can run it.
        """
        return compile_fitting(self.model, self.board.geometry)

    @cached_property
    def shares(self) -> tuple[Share, ...]:
        """Every memory of which a model takes some."""
        there = self.board.machine.memories
        return tuple(
            Share(
                name=name,
                where=self._where(name),
                needs=_bytes(memory),
                has=_bytes(there[name]),
            )
            for name, memory in memories(self.image.geometry).items()
            if memory.kind in (Kind.STORE, Kind.BANK)
        )

    def _where(self, name: str) -> str:
        if name in large_memories(self.board):
            return "SPRAM"
        memory = getattr(self.board.machine.stores, name, None)
        return BlockRam.place if memory is None else memory.place

    @property
    def fits(self) -> bool:
        return all(share.fits for share in self.shares)

    @cached_property
    def _run(self) -> tuple[Image, Machine]:
        """Of the board, whose spare room a program may use; of what it takes, where it has not."""
        machine = self.board.machine
        if self.fits:
            return compile_image(self.model, machine.geometry), machine
        return self.image, replace(machine, geometry=self.image.geometry)

    @cached_property
    def timing(self) -> Timing:
        """Of a token of one stream."""
        return predict(*self._run)

    @property
    def tokens_per_second(self) -> float:
        """At the board's clock, predicted."""
        return self.board.clock_hz / self.timing.cycles

    @property
    def busy(self) -> dict[str, int]:
        """Cycles of a token in which each unit works, and that its weights take, by name."""
        units = {
            name: sum(step.worked for step in self.timing.steps if step.unit == unit)
            for unit, name in UNITS.items()
        }
        pace = self.board.machine.weights.row_cycles
        return units | ({self._where("weights"): round(pace * self._rows)} if pace else {})

    @property
    def _rows(self) -> int:
        """Weight rows of a token."""
        return sum(
            s.descriptor.length * s.descriptor.operand
            for s in self.timing.steps
            if s.unit == Unit.ENGINE
        )

    @property
    def bytes_per_token(self) -> tuple[int, int]:
        """Read of the weights for a token, and of the tables for its embedding."""
        row = next(step for step in self.timing.steps if step.kind == "embedding").descriptor
        width = memories(self.image.geometry)["tables"].bits // 8
        return len(self.image.sections[MemorySpace.WEIGHTS]), row.operand * width

    @cached_property
    def repacked(self) -> Placement | None:
        """With the other number of trits in a byte, if that lets it fit, or run faster.

        As many bytes of weights, on as many lanes as come nearest.
        """
        machine, there = self.board.machine, self.board.geometry
        trits = FEW + MANY - there.trits_per_byte
        word = WORD_BYTES * trits
        step = math.lcm(there.elements, word // math.gcd(word, there.columns))
        rows = step * max(1, round(there.rows / step))
        geometry = replace(
            there,
            rows=rows,
            weight_rows=there.weight_rows * there.row_bytes * trits // (rows * there.columns),
            trits_per_byte=trits,
        )
        board = replace(self.board, machine=replace(machine, geometry=geometry))
        if board.device is not None and lacking(board):
            return None
        other = replace(self, board=board)
        lacks = {share.name for share in self.shares if not share.fits}
        if lacks - {"weights"} or any(s.name == "weights" and not s.fits for s in other.shares):
            return None
        waits = max(self.busy, key=lambda name: self.busy[name]) == self._where("weights")
        faster = waits and other.tokens_per_second > self.tokens_per_second
        return other if faster or lacks else None

    # Text ----------------------------------------------------------------------------------------

    def report(self) -> str:
        """Text of 80 columns."""
        return "\n".join([*self._memory_lines(), "", *self._speed_lines(), *self._lack_lines()])

    def _memory_lines(self) -> Iterator[str]:
        verdict = "fits" if self.fits else "does not fit"
        yield f"{one_line(self.name)} on {self.board.name}: {verdict}"
        yield ""
        yield f"{'memory':16}{'where':12}{'needs':>12}{'has':>12}{'share':>9}"
        for share in self.shares:
            yield (
                f"{share.name:16}{share.where:12}{_size(share.needs):>12}{_size(share.has):>12}"
                f"{share.needs / share.has:>9.0%}"
            )

    def _speed_lines(self) -> Iterator[str]:
        weights, embedding = self.bytes_per_token
        cycles, clock = self.timing.cycles, self.board.clock_hz / 1e6
        (bound, most), *others = sorted(self.busy.items(), key=lambda unit: -unit[1])
        rest = ", ".join(f"{name} {number / cycles:.0%}" for name, number in others)
        condition = "" if self.fits else " if it fitted"
        yield f"a token reads   {_size(weights)} of weights, {_size(embedding)} of its embedding"
        yield f"a token takes   {cycles:,} cycles{condition} (predicted)"
        yield f"speed           {self.tokens_per_second:,.0f} tokens/s at {clock:g} MHz{condition}"
        several = self.board.geometry.contexts
        share = f"{self.timing.utilization:.1%} of it"
        if several > 1:
            together = predict(*self._run, contexts=several)
            share += f", {together.utilization:.1%} with {several} texts at once"
            yield from self._lines_of_several(together)
        yield f"bound           {bound}, busy {most / cycles:.0%} of them"
        yield f"beside it       {rest}"
        yield f"engine's peak   {share}"
        if (other := self.repacked) is not None:
            g, (weights, _) = other.board.geometry, other.bytes_per_token
            yield (
                f"{g.trits_per_byte} trits a byte  {_size(weights)} of weights, "
                f"{other.tokens_per_second:,.0f} tokens/s on {g.rows} x {g.columns} lanes"
            )

    def _lines_of_several(self, together: Timing) -> Iterator[str]:
        several, clock = together.contexts, self.board.clock_hz
        chained = predict(*self._run, contexts=several, chained=True)
        alone, by_all = clock / self.timing.prefill_cycles, clock / chained.prefill_cycles
        yield f"{f'{several} at once':15} {several * clock / together.cycles:,.0f} tokens/s in all"
        yield (
            f"a prompt        {alone:,.0f} tokens/s, "
            f"{several * by_all:,.0f} where all {several} contexts read it"
        )

    def _lack_lines(self) -> Iterator[str]:
        if self.fits:
            return
        if self.board.device is not None:
            machine = replace(self.board.machine, geometry=self.image.geometry)
            for name, (need, has) in lacking(replace(self.board, machine=machine)).items():
                yield f"to hold it      about {need:,} {RESOURCES[name]} of {has:,}"
        holders = [name for name in names() if replace(self, board=board(name)).fits]
        told = textwrap.wrap(", ".join(holders) or "none; native:// runs it", 64)
        for title, line in zip_longest(["held by"], told, fillvalue=""):
            yield f"{title:16}{line}"


def _bytes(memory: Memory) -> int:
    return memory.words * memory.bits // 8


def _size(count: int) -> str:
    """Bytes for people: powers of 1024, three digits."""
    value = float(count)
    for unit in ("B", "KB", "MB"):
        if value < 1024 or unit == "MB":
            return f"{value:.3g} {unit}" if value < 1000 else f"{value:,.0f} {unit}"
        value /= 1024
    raise AssertionError
