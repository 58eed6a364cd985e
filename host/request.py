"""What a user asks of a device, checked once for every kind of device, and whose turn it is."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from host.errors import DeviceError, UsageError
from host.sampling import initial_noise, inverse_temperature, next_noise
from hw.arch.arithmetic import HIDDEN_BITS
from weights.fixed import ONE, Scale

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


def check_state(state: np.ndarray, shape: tuple[int, ...]) -> None:
    """Raises UsageError for what is no state of a model of so many layers and hidden values."""
    if state.shape != shape or state.dtype.kind not in "iu":
        raise UsageError(
            f"a state of this model is {shape[0]} x {shape[1]} integers, not "
            f"{' x '.join(map(str, state.shape))} of {state.dtype}"
        )
    limit = 1 << HIDDEN_BITS - 1
    if state.min() < -limit or state.max() >= limit:
        raise UsageError(f"a state's values are from {-limit} to {limit - 1}; this one's are not")


@dataclass(frozen=True, kw_only=True)
class Request:
    """One answer that is wanted, or a part of one.

    Members
    -------
    prompt : tokens to go on from, at least one
    tokens : how many to choose at most; none for a prompt that is only read
    sampled : choose with noise instead of greedily
    inverse_temperature : 1 / T
    noise : noise state for the first token
    stop : tokens that end the answer, itself included; the first one is the device's
    resume : go on from the state that the device has instead of the zero state
    """

    prompt: tuple[int, ...]
    tokens: int
    sampled: bool
    inverse_temperature: Scale
    noise: int
    stop: tuple[int, ...]
    resume: bool = False

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

    @classmethod
    def reading(cls, prompt: Sequence[int], *, resume: bool) -> Request:
        """A request that only reads these tokens, which were checked before."""
        return cls(
            prompt=tuple(prompt),
            tokens=0,
            sampled=False,
            inverse_temperature=ONE,
            noise=1,
            stop=(),
            resume=resume,
        )

    def part(self, most: int) -> Request:
        """The beginning of it that takes at most ``most`` tokens through the model, at least 1.

        That is a piece of the prompt, or all of the prompt and as many tokens as then follow.
        """
        if len(self.prompt) > most:
            return replace(self, prompt=self.prompt[:most], tokens=0)
        return replace(self, tokens=min(self.tokens, most - len(self.prompt) + 1))

    def after(self, part: Request, chosen: Sequence[int]) -> Request | None:
        """What is left of it once a `part` was taken to its end, and chose these tokens."""
        if len(part.prompt) < len(self.prompt):
            return replace(self, prompt=self.prompt[len(part.prompt) :], resume=True)
        if len(chosen) == self.tokens or chosen[-1] in self.stop:
            return None
        noise = self.noise
        for _ in chosen if self.sampled else ():
            noise = next_noise(noise)
        left = self.tokens - len(chosen)
        return replace(self, prompt=(chosen[-1],), tokens=left, noise=noise, resume=True)


class Turns:
    """Whose turn a device's is: it has one state, which belongs to the answer begun last.

    Parameters
    ----------
    name : of the device, for messages

    Members
    -------
    settled : the last turn has left a state that is known
    """

    def __init__(self, name: str):
        self.settled = False
        self._name = name
        self._last = 0

    def begin(self, resume: bool = False) -> int:
        """A new turn, which ends all earlier ones; one that resumes needs a state that is known.

        Raises
        ------
        UsageError
            There is none.
        """
        if resume:
            self.check_state()
        self._last += 1
        self.settled = False
        return self._last

    def settle(self, turn: int) -> None:
        """The turn has come to its end, and left a state that is known."""
        self.settled = self.has(turn)

    def check_state(self) -> None:
        """Raises UsageError if no turn has left a state since the last one began."""
        if not self.settled:
            raise UsageError(
                f"{self._name}: it has no state to go on from; take an answer to its end, or "
                "restore a state"
            )

    def has(self, turn: int) -> bool:
        return turn == self._last

    def check(self, turn: int) -> None:
        """Raises DeviceError if another turn has begun since."""
        if not self.has(turn):
            raise DeviceError(
                f"{self._name}: something else was started on it before this answer's end; "
                "take one answer to its end, or start it again"
            )
