"""What a device is loaded with."""

from __future__ import annotations

from dataclasses import dataclass

from host.compiler.layout import ceil_div
from hw.arch.geometry import Geometry
from hw.arch.memories import spaces
from hw.arch.program import DESCRIPTOR_BITS, Descriptor
from hw.arch.protocol import MemorySpace


@dataclass(frozen=True)
class Image:
    """A model laid out for one geometry.

    Attributes
    ----------
    sections : dict of MemorySpace to bytes
        What each memory must hold, from its address 0, as little-endian half-words.
    depths : dict of str to int
        What it takes of the memories that are loaded, as fields of a `Geometry`.
    steps : tuple of str
        One name per program step, for profiles; those of a layer are there once.
    trits_per_token : int
        Ternary weights that one generated token takes, padding not counted.
    state_shape : (int, int)
        Layers, and hidden states of each; `pack_states` says how they lie.
    head_scale_register : int
        Holds the factor from the head's sums to logits.
    token_cycles : int
        More cycles than a token takes: after so many without one the device does not work.
    """

    geometry: Geometry
    sections: dict[MemorySpace, bytes]
    depths: dict[str, int]
    steps: tuple[str, ...]
    trits_per_token: int
    vocabulary: int
    state_shape: tuple[int, int]
    head_scale_register: int
    token_cycles: int = 1 << 32

    @property
    def state_halfwords(self) -> int:
        """Half-words that the hidden states take of their memory."""
        layers, hidden = self.state_shape
        beats = layers * ceil_div(hidden, self.geometry.elements)
        return beats * spaces(self.geometry)[MemorySpace.STATES].half_words

    def program(self) -> list[Descriptor]:
        """The steps as the device gets them."""
        data, size = self.sections[MemorySpace.PROGRAM], DESCRIPTOR_BITS // 8
        return [
            Descriptor.from_bytes(data[at : at + size])
            for at in range(0, size * len(self.steps), size)
        ]
