"""Machines of other sizes for a board and a model, by what they would do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

from host.compiler import Image, compile_fitting, compile_image
from host.errors import FitError
from hw.arch.geometry import Geometry
from hw.arch.packing import MANY
from hw.boards import Board
from hw.build.estimate import check_fit, estimate
from hw.machine import Machine
from sim.timing import Timing, predict
from weights.model import IntegerModel

ROWS = tuple(1 << n for n in range(1, 8))
COLUMNS = tuple(1 << n for n in range(2, 7))
ELEMENTS = (1, 2, 4, 8)
CONTEXTS = (2, 4, 8)
QUEUED = 4
"""Steps before each unit of a machine of several contexts whose weights are never late."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A machine of another size on a board, with memories that just hold a model.

    Parameters
    ----------
    board : Board
        With that machine.
    image : Image
        The model for it.
    """

    board: Board
    image: Image

    @classmethod
    def of(
        cls, board: Board, model: IntegerModel, *, rows: int, columns: int, elements: int
    ) -> Candidate:
        """The board's machine with other sizes; its cascades are as long as rows let them.

        Raises
        ------
        ValueError
            There is no such machine.
        FitError
            No machine can run the model.
        """
        machine = board.machine
        sizes = {"rows": rows, "columns": columns, "elements": elements, "contexts": 1}
        image = compile_fitting(model, replace(machine.geometry, **sizes), spare=True)
        sized = _of_one_context(machine, image.geometry)
        return cls(board=replace(board, machine=sized), image=image)

    def several(self, model: IntegerModel, contexts: int) -> Candidate:
        """The same for several contexts, which share rows if those come late, or else wait in
        queues."""
        geometry = self.image.geometry.with_contexts(contexts)
        shared = self.machine.weights.row_cycles > 0
        machine = replace(
            self.machine, geometry=geometry, shared=shared, queued=0 if shared else QUEUED
        )
        return Candidate(
            board=replace(self.board, machine=machine), image=compile_image(model, geometry)
        )

    @property
    def machine(self) -> Machine:
        return self.board.machine

    @cached_property
    def takes(self) -> dict[str, int]:
        """What it will take of the part (`hw.build.estimate`)."""
        return estimate(self.board)

    @cached_property
    def timing(self) -> Timing:
        return predict(self.image, self.machine)

    @property
    def tokens_per_second(self) -> float:
        """Of one stream, at the board's clock."""
        return self.board.clock_hz / self.timing.cycles

    @cached_property
    def together(self) -> float:
        """Tokens per second of streams in all contexts."""
        contexts = self.machine.geometry.contexts
        cycles = predict(self.image, self.machine, contexts=contexts).cycles
        return self.board.clock_hz * contexts / cycles

    @property
    def fits(self) -> bool:
        """Whether the part has enough, and some left to place and route it."""
        fit = check_fit(self.takes, self.board.device)
        return not (fit.lacks or fit.warnings)


def _of_one_context(machine: Machine, geometry: Geometry) -> Machine:
    """The machine with a geometry of one context; cascades are no longer than rows."""
    chain = min(machine.chain, geometry.columns)
    return replace(machine, geometry=geometry, chain=chain, shared=False, queued=0)


def _sizes(board: Board) -> Iterator[dict[str, int]]:
    """Sizes of machines whose lanes alone leave the part some room."""
    g = board.machine.geometry
    # Five trits of a byte make whole words only where rows are a multiple of five.
    rows_of_all = [rows * (MANY if g.trits_per_byte == MANY else 1) for rows in ROWS]
    every = {(g.rows, g.columns, g.elements), *product(rows_of_all, COLUMNS, ELEMENTS)}
    for rows, columns, elements in sorted(every):
        try:
            sizes = {"rows": rows, "columns": columns, "elements": elements, "contexts": 1}
            machine = _of_one_context(board.machine, replace(g, **sizes))
        except ValueError:
            continue
        guess = estimate(replace(board, machine=machine))
        logic = {name: guess[name] for name in ("lut4", "ff", "dsp")}
        if not check_fit(logic, board.device).lacks:
            yield {"rows": rows, "columns": columns, "elements": elements}


def candidates(board: Board, model: IntegerModel) -> list[Candidate]:
    """All that fit, the fastest first; of those that are equally fast, the smallest."""
    found = []
    for sizes in _sizes(board):
        try:
            candidate = Candidate.of(board, model, **sizes)
        except (ValueError, FitError):
            continue
        if candidate.fits:
            found.append(candidate)
    return sorted(found, key=lambda c: (c.timing.cycles, c.takes["lut4"]))


def best(found: list[Candidate]) -> list[Candidate]:
    """Those for which no other one is both faster and smaller, the fastest first."""
    front: list[Candidate] = []
    for candidate in found:
        if not front or candidate.takes["lut4"] < front[-1].takes["lut4"]:
            front.append(candidate)
    return front


def most_together(candidate: Candidate, model: IntegerModel) -> Candidate:
    """Of the same machine with one or more contexts that which makes most tokens in all."""
    found = [candidate]
    for contexts in CONTEXTS:
        try:
            found.append(candidate.several(model, contexts))
        except (ValueError, FitError):
            continue
    return max((each for each in found if each.fits), key=lambda each: each.together)
