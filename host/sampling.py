"""Seeds and temperatures as the device wants them; the rules are in ``docs/arithmetic.md``."""

import math

from host.errors import UsageError
from weights.fixed import ONE, Scale
from weights.noise import TOKEN_STEP, xorshift

TEMPERATURE_MIN = 0.01
TEMPERATURE_MAX = 100.0

_MASK = 0xFFFFFFFF
_NEVER_ZERO = 0x9E3779B9


def initial_noise(seed: int) -> int:
    """First noise state of a stream, 1..2**32 - 1: the finalizer of MurmurHash3 over the seed.

    It spreads neighbouring seeds over the whole period of the noise; 0, where xorshift stands
    still, is replaced.

    Raises
    ------
    UsageError
        The seed is not an integer of 32 bits.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= _MASK:
        raise UsageError(f"seed must be an integer from 0 to {_MASK}, not {seed!r}")
    value = seed
    value = ((value ^ value >> 16) * 0x85EBCA6B) & _MASK
    value = ((value ^ value >> 13) * 0xC2B2AE35) & _MASK
    return (value ^ value >> 16) or _NEVER_ZERO


def next_noise(state: int) -> int:
    """Noise state after one sampled token."""
    return xorshift(state, TOKEN_STEP)


def inverse_temperature(temperature: float) -> Scale:
    """``1 / temperature``; 1.0 for temperature 0, which means greedy choice.

    Raises
    ------
    UsageError
        The temperature is neither 0 nor within ``TEMPERATURE_MIN..TEMPERATURE_MAX``.
    """
    if temperature == 0:
        return ONE
    if not (math.isfinite(temperature) and TEMPERATURE_MIN <= temperature <= TEMPERATURE_MAX):
        raise UsageError(
            f"temperature must be 0 (greedy) or from {TEMPERATURE_MIN:g} to {TEMPERATURE_MAX:g}, "
            f"not {temperature!r}"
        )
    return Scale.from_float(1 / temperature)
