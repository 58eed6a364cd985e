"""What a user asks of a device, checked once for every kind of device, and whose turn it is."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from host.errors import DeviceError, UsageError
from host.sampling import initial_noise, inverse_temperature
from weights.fixed import Scale

Stop = int | Collection[int] | None
"""One token that ends an answer, several, or none."""


def check_tokens(tokens: Sequence[int], vocabulary: int, what: str) -> tuple[int, ...]:
    """The tokens. Raises UsageError for none, or for one outside the vocabulary."""
    result = tuple(int(token) for token in tokens)
    if not result:
        raise UsageError(f"{what} must hold at least one token")
    for token in result:
        if not 0 <= token < vocabulary:
            raise UsageError(f"{what}: tokens must be from 0 to {vocabulary - 1}, not {token!r}")
    return result


@dataclass(frozen=True, kw_only=True)
class Request:
    """One answer that is wanted.

    Members
    -------
    prompt : tokens to go on from, at least one
    tokens : how many to choose at most
    sampled : choose with noise instead of greedily
    inverse_temperature : 1 / T
    noise : noise state for the first token
    stop : tokens that end the answer, itself included; the first one is the device's
    """

    prompt: tuple[int, ...]
    tokens: int
    sampled: bool
    inverse_temperature: Scale
    noise: int
    stop: tuple[int, ...]

    @classmethod
    def of(
        cls,
        prompt: Sequence[int],
        tokens: int,
        temperature: float,
        seed: int,
        stop: Stop,
        *,
        vocabulary: int,
    ) -> Request:
        """The request that the arguments of `host.device.Device.generate` state.

        Raises
        ------
        UsageError
            For one that cannot be used.
        """
        if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
            raise UsageError(f"tokens must be a positive integer, not {tokens!r}")
        stops = (stop,) if isinstance(stop, int) else tuple(stop or ())
        return cls(
            prompt=check_tokens(prompt, vocabulary, "prompt"),
            tokens=tokens,
            sampled=temperature != 0,
            inverse_temperature=inverse_temperature(temperature),
            noise=initial_noise(seed),
            stop=check_tokens(stops, vocabulary, "stop") if stops else (),
        )


class Turns:
    """Whose turn a device's is: it has one state, which belongs to the answer begun last.

    Parameters
    ----------
    name : of the device, for messages
    """

    def __init__(self, name: str):
        self._name = name
        self._last = 0

    def begin(self) -> int:
        """A new turn, which ends all earlier ones."""
        self._last += 1
        return self._last

    def has(self, turn: int) -> bool:
        return turn == self._last

    def check(self, turn: int) -> None:
        """Raises DeviceError if another turn has begun since."""
        if not self.has(turn):
            raise DeviceError(
                f"{self._name}: something else was started on it before this answer's end; "
                "take one answer to its end, or start it again"
            )
