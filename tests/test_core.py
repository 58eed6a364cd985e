"""Whole generations of the compiled core against the golden model, to the bit."""

import numpy as np
import pytest
from tokenizers import Tokenizer

from host.compiler import compile_image
from host.errors import FitError
from host.urls import open_device
from hw.boards import board
from sim.golden_device import GoldenDevice
from sim.models import random_model
from weights.checkpoint import ModelShape
from weights.files import ZOO
from weights.model import IntegerModel

pytestmark = pytest.mark.whole

OPENINGS = (
    "Once upon a time, there was a {} who",
    "One day, a {} went to the park.",
    "The little {} was very sad because",
    'Tom said, "Look at the {}!"',
)
HEROES = ("girl", "boy", "dog", "red bird", "big bear", "tree", "frog", "old man")
PROMPTS = [opening.format(hero) for opening in OPENINGS for hero in HEROES]

# The smallest of everything, odd sizes, sizes above and below a tile, deep and thin.
SHAPES = [
    ModelShape(hidden=1, layers=1, intermediate=1, vocabulary=2),
    ModelShape(hidden=37, layers=2, intermediate=61, vocabulary=301),
    ModelShape(hidden=16, layers=4, intermediate=45, vocabulary=257),
    ModelShape(hidden=97, layers=1, intermediate=131, vocabulary=1001),
    ModelShape(hidden=14, layers=24, intermediate=19, vocabulary=77),
]
BOARDS = ("sim_tiny", "sim_small")


@pytest.fixture(scope="module")
def device(request):
    opened = open_device(f"sim://{request.param}")
    yield opened
    opened.close()


def check_prompts(device, name, tokens):
    """Answers of a shipped model to 32 prompts, greedy and sampled, are the golden model's."""
    model = IntegerModel.load(ZOO / f"{name}.safetensors")
    tokenizer = Tokenizer.from_str(model.tokenizer_json)
    golden = GoldenDevice()
    golden.load(model)
    device.load(model)
    for seed, prompt in enumerate(PROMPTS):
        ids = [model.start_token, *tokenizer.encode(prompt).ids]
        for temperature in (0.0, 0.5 + seed / 32):
            arguments = {"temperature": temperature, "seed": seed}
            expected = list(golden.generate(ids, tokens, **arguments))
            assert list(device.generate(ids, tokens, **arguments)) == expected


@pytest.mark.parametrize("device", ["ulx3s_85f", "sim_small"], indirect=True)
def test_32_prompts_greedy_and_sampled(device):
    check_prompts(device, "stories-fixture", 16)


@pytest.mark.parametrize("device", BOARDS, indirect=True)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_shape(device, shape, tmp_path):
    """Tokens and logits of random models, across continuations of the token buffer."""
    model = random_model(tmp_path / "model", shape, seed=shape.hidden)
    golden = GoldenDevice()
    golden.load(model)
    try:
        device.load(model)
    except FitError:
        # What does not fit is refused; the shape still runs on the other board.
        assert device.name == "sim://sim_small" and shape.layers == 24
        return
    prompt = np.random.default_rng(shape.layers).integers(0, shape.vocabulary, 5).tolist()
    for temperature, count in ((0.0, 7), (1.0, 7), (3.0, 60)):
        arguments = {"temperature": temperature, "seed": 11}
        expected = list(golden.generate(prompt, count, **arguments))
        assert list(device.generate(prompt, count, **arguments)) == expected
    pairs = zip(device.logits(prompt), golden.logits(prompt), strict=True)
    assert all((ours == theirs).all() for ours, theirs in pairs)


@pytest.mark.parametrize("device", ["sim_tiny"], indirect=True)
def test_counters_add_up(device, tmp_path):
    """Cycles at the steps, and a few per token and run around them, are the run's cycles."""
    device.load(random_model(tmp_path / "model", SHAPES[2], seed=1))
    list(device.generate([3, 4, 5], 5, stop=None))
    totals = device.totals()
    assert totals.tokens == 7
    steps = sum(cycles for _, cycles in device.counters())
    overhead = totals.cycles - steps
    geometry = device.identify().geometry
    assert 0 < overhead <= geometry.descriptors + 8 * totals.tokens + 8


@pytest.mark.parametrize("device", ["sim_tiny"], indirect=True)
def test_closed_generation_leaves_the_device_usable(device, tmp_path):
    model = random_model(tmp_path / "model", SHAPES[2], seed=2)
    golden = GoldenDevice()
    golden.load(model)
    device.load(model)
    running = device.generate([1, 2], 40)
    next(running)
    running.close()
    expected = list(golden.generate([9, 8], 6))
    assert list(device.generate([9, 8], 6)) == expected


def test_engine_is_busy_while_a_matrix_runs():
    """At least 70 % of the peak for the products of a model on the board, one behind the other."""
    from hw.units.engine import EngineParameters

    model = IntegerModel.load(ZOO / "stories-fixture.safetensors")
    geometry = board("ulx3s_85f").geometry
    assert geometry.lanes >= 128
    compile_image(model, geometry)
    engine = EngineParameters.from_geometry(geometry)
    d, m, v = model.shape.hidden, model.shape.intermediate, model.shape.vocabulary
    layer = [(d, d)] * 4 + [(m, d)] * 2 + [(d, m)]
    products = [*layer * model.shape.layers, (v, d)]
    cycles = sum(
        engine.cycles(-(-outputs // geometry.rows), -(-inputs // geometry.columns))
        for outputs, inputs in products
    )
    trits = sum(outputs * inputs for outputs, inputs in products)
    assert trits >= 0.7 * geometry.lanes * cycles


def test_too_large_a_model_is_refused_by_name(tmp_path):
    shape = ModelShape(hidden=300, layers=2, intermediate=600, vocabulary=2000)
    model = random_model(tmp_path / "model", shape, seed=1)
    with pytest.raises(FitError, match=r"needs 2000 sums \(it has 1040\), 600 multiplicands"):
        compile_image(model, board("sim_tiny").geometry)
