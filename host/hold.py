"""What this host has of the device behind a link: its model there, runs, and what they took."""

from __future__ import annotations

import contextlib
import random
import struct
from collections.abc import Iterator

from host.compiler import Image
from host.errors import DeviceError, LostError, UsageError
from host.link import Link
from host.request import Turns
from hw.arch.protocol import Command, Feature, MemorySpace, Totals, argument_struct


class Counts:
    """Cycles and tokens over several runs, which the device counts from where nothing ran.

    Members
    -------
    totals : of all runs since `clear`, as far as was seen
    steps : the same of each step's cycles, of times at whose end nothing ran

    Parameters
    ----------
    steps : of the program
    """

    def __init__(self, steps: int = 0) -> None:
        self.steps = [0] * steps
        self.clear()

    def clear(self) -> None:
        """Begin anew; nothing runs."""
        self.steps = [0] * len(self.steps)
        self._before, self._now = Totals(), Totals()  # up to where nothing ran, and since

    @property
    def totals(self) -> Totals:
        return self._before + self._now

    def see(self, now: Totals) -> None:
        """What the device has counted up to now; less than before it has after nothing ran."""
        if now.tokens < self._now.tokens:
            self._before += self._now
        self._now = now

    def settle(self, now: Totals, steps: tuple[int, ...]) -> None:
        """What it has counted, and nothing runs."""
        self.see(now)
        self._before, self._now = self.totals, Totals()
        self.steps = [a + b for a, b in zip(self.steps, steps, strict=True)]


class Hold:
    """A device as this host uses it.

    Members
    -------
    image : the model that it holds, None for none
    session : number under which it does
    run_ids : by context, that of the last run
    ahead : by context in which a run may be under way, how many tokens the device may have to take
        before it chooses the run's next one
    turns : by context, whose turn it is
    counts : of its runs
    """

    def __init__(self, link: Link):
        self.link = link
        self.image: Image | None = None
        self.session = 0
        self.run_ids: dict[int, int] = {}
        self.ahead: dict[int, int] = {}
        self.turns: dict[int, Turns] = {}
        self.counts = Counts()
        self._count = random.randrange(1 << 32)  # so that runs of two hosts differ

    @property
    def name(self) -> str:
        return self.link.name

    def claim(self) -> None:
        """Take the device over for this host, before a model is put into it."""
        self.session = random.randrange(1, 1 << 32)
        self.link.exchange(Command.CLAIM, argument_struct(Command.CLAIM).pack(self.session))
        self.run_ids.clear()

    def reset(self) -> None:
        """End what is running at once."""
        self.link.exchange(Command.RESET)
        self.run_ids.clear()
        self.ahead.clear()

    def next_id(self) -> int:
        """Number of a run, never 0."""
        self._count += 1
        return self._count % 0xFFFFFFFF + 1

    def loaded(self) -> Image:
        """The model that it holds. Raises UsageError if it holds none."""
        if self.image is None:
            raise UsageError(f"{self.name}: no model is loaded; load one first")
        return self.image

    @contextlib.contextmanager
    def trusting(self) -> Iterator[None]:
        """Within, a device that turns out to hold something else has no model from then on."""
        try:
            yield
        except LostError:
            self.image = None
            raise

    def has(self, feature: Feature) -> bool:
        return bool(self.link.identify().features & feature)

    def require(self, feature: Feature, what: str) -> None:
        """Raises DeviceError if it was built without a feature."""
        if not self.has(feature):
            raise DeviceError(
                f"{self.name}: its bitstream keeps {what} to itself; "
                f"build it with {feature.name} among its machine's features"
            )

    def count(self) -> None:
        """See what the device has counted; of one that counts nothing it stays zero."""
        if not self.has(Feature.COUNTERS):
            return
        size = Totals.LAYOUT.size // 2
        totals = Totals.from_bytes(self.link.read(MemorySpace.TOTALS, 0, size))
        if self.ahead:
            self.counts.see(totals)
            return
        steps = len(self.counts.steps)
        data = self.link.read(MemorySpace.COUNTERS, 0, 2 * steps)
        self.counts.settle(totals, struct.unpack(f"<{steps}I", data))
