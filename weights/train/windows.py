"""The windows of text that each step trains on.

Training takes the token stream in windows at a phase that changes with every epoch; each epoch uses
(almost) every token once, in an order that depends on seed and epoch only.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..errors import ModelError


class Windows:
    """The windows of every step of a run, on one device.

    Parameters
    ----------
    stream : tokens of the training text
    length : predicted tokens of a window
    batch : windows of a step, over all processes
    rank, world : this process's share is every `world`-th window from `rank` on
    """

    def __init__(
        self,
        stream: np.ndarray,
        *,
        length: int,
        batch: int,
        seed: int,
        device: torch.device,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.length, self.batch, self.seed = length, batch, seed
        self.rank, self.world = rank, world
        self.stream = torch.from_numpy(stream.astype(np.int32)).to(device)
        self.per_epoch = (stream.size - 1) // length - 1
        if self.per_epoch < 1:
            raise ModelError(f"training has {stream.size} tokens; windows of {length} need more")
        self.offsets = torch.arange(length + 1, device=device)
        self._orders: dict[int, Tensor] = {}

    def order(self, epoch: int) -> Tensor:
        """Starts of an epoch's windows, in the order of their use."""
        if epoch not in self._orders:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            phase = torch.randint(self.length, (1,), generator=generator)
            starts = phase + self.length * torch.randperm(self.per_epoch, generator=generator)
            kept = {e: o for e, o in self._orders.items() if e == epoch - 1}
            self._orders = kept | {epoch: starts.to(self.stream.device)}
        return self._orders[epoch]

    def starts(self, step: int) -> Tensor:
        """Starts (batch / world) of this process's windows of a step."""
        first, last = step * self.batch, (step + 1) * self.batch
        pieces = []
        while first < last:
            epoch, index = divmod(first, self.per_epoch)
            count = min(last - first, self.per_epoch - index)
            pieces.append(self.order(epoch)[index : index + count])
            first += count
        whole = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        return whole[self.rank :: self.world]

    def gather(self, starts: Tensor) -> tuple[Tensor, Tensor]:
        """(tokens, targets), each (batch, length), of windows that begin at `starts`."""
        windows = self.stream[starts[:, None] + self.offsets].long()
        return windows[:, :-1], windows[:, 1:]
