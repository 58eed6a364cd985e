"""The golden model: batches, noise, choice, and its distance from the float reference."""

import math

import numpy as np
import pytest
from tokenizers import Tokenizer

from sim.checkpoints import RandomCheckpoint
from sim.golden import GoldenModel, choose, gumbel, noise, sigmoid
from sim.losses import FloatBackend, GoldenBackend
from weights.checkpoint import Checkpoint, ModelShape
from weights.fixed import Scale
from weights.noise import NOISE_STEP, TOKEN_STEP, xorshift
from weights.quantise import convert
from weights.text import token_windows


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    shape = ModelShape(hidden=20, layers=3, intermediate=33, vocabulary=301)
    directory = tmp_path_factory.mktemp("checkpoint")
    RandomCheckpoint(shape=shape, dtype="fp32", seed=3).write(directory)
    return convert(Checkpoint(directory))


def test_batch_equals_single_runs(model):
    tokens = np.random.default_rng(1).integers(0, 301, (5, 9))
    together = GoldenModel(model, batch=5)
    alone = [GoldenModel(model) for _ in range(5)]
    for step in tokens.T:
        together.step(step)
        sums, sigma = together.head()
        for i, single in enumerate(alone):
            single.step(step[i : i + 1])
            one, scale = single.head()
            assert (one[0] == sums[i]).all() and scale[0] == sigma[i]
    for i, single in enumerate(alone):
        assert (single.states[:, 0] == together.states[:, i]).all()


def test_start_forgets(model):
    golden = GoldenModel(model)
    golden.step([7])
    first = golden.head()[0]
    golden.step([8])
    golden.start()
    golden.step([7])
    assert (golden.head()[0] == first).all()


def test_head_needs_a_token(model):
    with pytest.raises(ValueError, match="no token yet"):
        GoldenModel(model).head()


def test_noise_is_xorshift():
    state = expected = 0x12345678
    draws = noise(state, 700)
    for draw in draws:
        expected = xorshift(expected, NOISE_STEP)
        assert draw == expected


def test_sigmoid_near_float():
    z = np.arange(-(1 << 17), 1 << 17, 37)
    exact = 1 / (1 + np.exp(-z / 4096))
    assert np.abs(sigmoid(z) / 32768 - exact).max() < 2e-4


def test_gumbel_near_float():
    t = np.random.default_rng(1).integers(1 << 12, 1 << 32, 4000) >> np.arange(4000) % 20
    t = t[t >= 1 << 12]
    octaves = np.floor(np.log2(t >> 12))  # their leading one, below which the last bits are taken
    u = (1 + (t & 0xFFF) / 2**12) * 2.0 ** (octaves - 20)
    t, u = t[u < 0.93], u[u < 0.93]
    exact = -np.log(-np.log1p(-u))
    assert np.abs(gumbel(t.astype(np.uint32)) / 512 - exact).max() < 0.02


def test_sampling_follows_the_softmax():
    sums = np.array([0, 700, -400, 1000, 300])
    sigma = Scale.from_float(1 / 700)
    inverse = Scale.from_float(1 / 0.8)
    wanted = np.exp(sums / 700 / 0.8)
    wanted /= wanted.sum()
    state, counts, draws = 99, np.zeros(5), 20_000
    for _ in range(draws):
        counts[choose(sums, sigma, inverse, state)] += 1
        state = xorshift(state, TOKEN_STEP)
    # Five standard deviations of each count, plus the table's half per cent.
    slack = 5 * np.sqrt(wanted * (1 - wanted) / draws) + 0.005
    assert (np.abs(counts / draws - wanted) < slack).all()


def test_greedy_takes_the_first_of_equals():
    assert choose(np.array([3, 9, 9, 1]), Scale.from_float(1.0), None, 1) == 1


@pytest.mark.whole
def test_near_float_reference(upstream_tiny, validation_text):
    """Loss and top token over the 512 windows of the fixture's own measurement."""
    windows = 512
    checkpoint = Checkpoint(upstream_tiny)
    model = convert(checkpoint)
    tokens = token_windows(
        validation_text.read_text(),
        Tokenizer.from_str(model.tokenizer_json),
        model.start_token,
        windows,
        256,
    )
    agree = loss = 0.0
    targets = np.roll(tokens, -1, axis=1)
    rows = np.arange(windows)
    backends = FloatBackend(checkpoint), GoldenBackend(model)
    both = zip(*(backend.logits(tokens) for backend in backends), strict=True)
    for t, (exact, integer) in enumerate(both):
        agree += (exact.argmax(1) == integer.argmax(1)).mean() / 256
        if t < 255:
            for sign, logits in ((1, integer), (-1, exact)):
                z = logits.astype(np.float64) - logits.max(1, keepdims=True)
                likelihood = z[rows, targets[:, t]] - np.log(np.exp(z).sum(1))
                loss -= sign * likelihood.mean() / 255
    assert agree >= 0.97
    assert math.isfinite(loss) and abs(loss) < 0.005
