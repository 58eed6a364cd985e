"""The random sequence of sampled tokens, one definition for host, golden model and gateware."""


def xorshift(state, triple: tuple[int, int, int]):
    """One step of Marsaglia's 32-bit xorshift (J. Stat. Softw. 8(14), 2003).

    Linear over GF(2); ``state`` is an integer, an integer array or a signal, and never 0.
    """
    a, b, c = triple
    state = (state ^ (state << a)) & 0xFFFFFFFF
    state = state ^ (state >> b)
    return (state ^ (state << c)) & 0xFFFFFFFF


NOISE_STEP = (13, 17, 5)
"""From one vocabulary entry to the next."""

TOKEN_STEP = (5, 9, 7)
"""From one token to the next."""
