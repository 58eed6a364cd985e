"""Packing, conversion, and the integer model file with everything that can happen to it."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from host.sampling import TEMPERATURE_MAX, TEMPERATURE_MIN
from sim.checkpoints import RandomCheckpoint
from sim.golden_device import GoldenDevice
from sim.models import model_at_the_bounds
from weights import ModelError, packing, quantise
from weights.__main__ import main
from weights.architectures.mmfree import matrices
from weights.checkpoint import Checkpoint, ModelShape
from weights.fixed import Scale, sum_shift
from weights.model import IntegerModel, tensor_layouts
from weights.quantise import convert, ternarise
from weights.tensorfile import TensorFile, write_tensors

SHAPE = ModelShape(hidden=10, layers=2, intermediate=7, vocabulary=301)

TINY = ModelShape(hidden=8, layers=1, intermediate=6, vocabulary=5)

SHAPES = [
    SHAPE,
    ModelShape(hidden=1, layers=1, intermediate=1, vocabulary=1),
    ModelShape(hidden=33, layers=24, intermediate=5, vocabulary=19),
    ModelShape(hidden=300, layers=1, intermediate=130, vocabulary=511),
]

MATRICES = {"i": "i_proj", "f": "f_proj", "g": "g_proj", "o": "o_proj"}

trit_matrices = arrays.arrays(
    np.int8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=20), elements=st.integers(-1, 1)
)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return Checkpoint(RandomCheckpoint(shape=SHAPE).write(tmp_path / "checkpoint"))


@pytest.fixture
def model_file(tmp_path: Path, checkpoint: Checkpoint) -> Path:
    path = tmp_path / "model.safetensors"
    convert(checkpoint).save(path)
    return path


# Packing


def test_packing_code() -> None:
    trits = np.array([[0, 1, -1, 1, -1], [-1, 0, 0, 0, 0]], dtype=np.int8)
    expected = [[0b01_11_01_00, 0b00_00_00_11], [0b00_00_00_11, 0]]
    np.testing.assert_array_equal(packing.pack(trits), expected)


@given(trits=trit_matrices)
def test_packing_round_trip(trits: np.ndarray) -> None:
    columns = trits.shape[1]
    packed = packing.pack(trits)
    assert packed.dtype == np.uint8
    assert packed.shape == (len(trits), math.ceil(columns / 4))
    assert packing.is_packed(packed, columns)
    assert packing.count_nonzero(packed) == np.count_nonzero(trits)
    unpacked = packing.unpack(packed, columns)
    assert unpacked.dtype == np.int8
    np.testing.assert_array_equal(unpacked, trits)


@given(trits=trit_matrices, data=st.data())
def test_packing_recognises_foreign_bytes(trits: np.ndarray, data: st.DataObject) -> None:
    packed = packing.pack(trits)
    row = data.draw(st.integers(0, packed.shape[0] - 1))
    column = data.draw(st.integers(0, packed.shape[1] - 1))
    packed[row, column] = value = data.draw(st.integers(0, 255))
    codes = [value >> 2 * i & 3 for i in range(4)]
    used = min(4, trits.shape[1] - 4 * column)
    fits = 2 not in codes and not any(codes[used:])
    assert packing.is_packed(packed, trits.shape[1]) == fits


# Conversion


def test_ternarise_threshold() -> None:
    beta = 0.25
    above = np.nextafter(np.float32(0.125), np.float32(1))
    latents = np.array([0, 0.125, -0.125, above, -above, 9, -9], dtype=np.float32)
    assert ternarise(latents, beta).tolist() == [0, 0, 0, 1, -1, 1, -1]


@given(
    arrays.arrays(
        np.float64, st.integers(1, 30), elements=st.floats(-1e6, 1e6, allow_subnormal=False)
    )
)
def test_table(values: np.ndarray) -> None:
    codes, exponent = quantise.table(values)
    assert codes.dtype == np.int16
    peak = int(np.abs(codes.astype(int)).max())
    assert peak == 0 if not values.any() else 1 << 14 <= peak <= 32767
    assert np.abs(np.ldexp(codes.astype(float), exponent) - values).max() <= math.ldexp(
        0.5, exponent
    )


@given(st.floats(1e-6, 1e6))
def test_embedding_fraction_is_the_largest(peak: float) -> None:
    fraction = quantise.embedding_fraction(peak)
    assert fraction is not None
    assert quantise.row_scales(np.float64(peak), fraction) <= 32767
    assert quantise.row_scales(np.float64(peak), fraction + 1) > 32767


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "shards"), [("bf16", 1), ("fp32", 3), ("fp16", 2)])
def test_layout(tmp_path: Path, shape: ModelShape, dtype: str, shards: int) -> None:
    source = RandomCheckpoint(shape=shape, dtype=dtype, shards=shards)
    model = convert(Checkpoint(source.write(tmp_path)))
    layouts = tensor_layouts(shape)
    assert model.tensors.keys() == layouts.keys() | {"tokenizer"}
    assert len(matrices(shape)) == 6 * shape.layers + 1
    assert sum(m.rows * m.columns for m in matrices(shape).values()) == shape.ternary_weights
    assert model.tokenizer_json == (tmp_path / "tokenizer.json").read_text()


@pytest.mark.parametrize("shape", SHAPES)
def test_contents(tmp_path: Path, shape: ModelShape) -> None:
    """Every number against the contract's formulas, written out again in real arithmetic."""
    checkpoint = Checkpoint(RandomCheckpoint(shape=shape, dtype="fp32").write(tmp_path))
    model = convert(checkpoint)
    sums = 2.0 ** (sum_shift(shape.hidden) - 10)

    def real(name: str) -> np.ndarray:
        return checkpoint.tensor(name).astype(np.float64)

    def unit(name: str, values: np.ndarray) -> float:
        """Power of two that a table was scaled by."""
        codes = model[name].astype(np.float64)
        power = 2.0 ** round(math.log2(np.abs(values).max() / np.abs(codes).max()))
        np.testing.assert_allclose(codes * power, values, atol=power / 2)
        return power

    def check_matrix(ours: str, theirs: str, gain: np.ndarray, norm_unit: float) -> float:
        latents = checkpoint.tensor(f"{theirs}.weight")
        beta = float(np.mean(np.abs(latents), dtype=np.float64))
        trits = np.sign(latents) * (np.abs(latents) > beta / 2)
        np.testing.assert_array_equal(model.trits(ours), trits)
        constant = unit(f"{ours}.gain", gain) / norm_unit * math.sqrt(gain.size) * beta / 127
        assert float(model.scale(f"{ours}.scale")) == pytest.approx(constant, rel=2**-15)
        return beta

    largest_sigma = 0.0
    bounds = real("model.lower_bounds")
    shares = np.exp(bounds) / np.exp(bounds).sum(axis=0)
    for n in range(shape.layers):
        theirs = f"model.layers.{n}"
        outer = real(f"{theirs}.attn_norm.weight")
        norm = unit(f"layers.{n}.attn.norm", np.sqrt(outer**2 + 1e-6))
        for ours in "ifg":
            source = f"{theirs}.attn.{ours}_proj"
            gain = outer * real(f"{source}.norm.weight")
            check_matrix(f"layers.{n}.attn.{ours}", source, gain, norm)
        bound = (shares[: n + 1].sum(axis=0) - shares[0]) * 32768
        np.testing.assert_allclose(model[f"layers.{n}.attn.lower_bound"], bound, atol=1.001)

        outer = real(f"{theirs}.attn.g_norm.weight")
        norm = unit(f"layers.{n}.attn.o.norm", outer)
        inner = real(f"{theirs}.attn.o_proj.norm.weight")
        beta = check_matrix(f"layers.{n}.attn.o", f"{theirs}.attn.o_proj", outer * inner, norm)
        largest_sigma = max(largest_sigma, math.sqrt(inner.size) * np.abs(inner).max() * beta / 127)
        epsilon = float(model.scale(f"layers.{n}.attn.o.epsilon"))
        assert epsilon == pytest.approx(1e-6 / (sums * norm) ** 2, rel=2**-15)

        outer = real(f"{theirs}.mlp_norm.weight")
        norm = unit(f"layers.{n}.mlp.norm", np.sqrt(outer**2 + 1e-6))
        gain = outer * real(f"{theirs}.mlp.gate_proj.norm.weight")
        check_matrix(f"layers.{n}.mlp.gate", f"{theirs}.mlp.gate_proj", gain, norm)
        inner = real(f"{theirs}.mlp.down_proj.norm.weight")
        beta = check_matrix(f"layers.{n}.mlp.down", f"{theirs}.mlp.down_proj", inner, 1.0)
        largest_sigma = max(largest_sigma, math.sqrt(inner.size) * np.abs(inner).max() * beta / 127)
        epsilon = float(model.scale(f"layers.{n}.mlp.down.epsilon"))
        assert epsilon == pytest.approx(1e-6 * inner.size / sums**2, rel=2**-15)
    assert not model["layers.0.attn.lower_bound"].any()

    outer = real("model.norm.weight")
    norm = unit("head.norm", np.sqrt(outer**2 + 1e-6))
    check_matrix("head", "lm_head", outer * real("lm_head.norm.weight"), norm)

    embeddings = real("model.embeddings.weight")
    assert model.residual_fraction <= 14 - math.floor(math.log2(largest_sigma))
    step = model["embedding.scale"] * 2.0 ** -(model.residual_fraction + 3)
    peaks = np.abs(embeddings).max(axis=1)
    np.testing.assert_allclose(step, peaks / 127, atol=2.0 ** -(model.residual_fraction + 4))
    codes = model["embedding.codes"]
    error = np.abs(codes * step[:, None] - embeddings)
    slack = np.maximum(0, peaks - 127 * step)  # where a rounded-down scale clips the peak
    assert (error <= (step / 2 + slack)[:, None] * 1.0001).all()
    assert (np.abs(codes.astype(int)).max(axis=1) == 127).all()


def test_blocks_do_not_matter(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = convert(checkpoint)
    blocks = Checkpoint.blocks
    monkeypatch.setattr(Checkpoint, "blocks", lambda self, name: blocks(self, name, 23))
    for name, tensor in convert(checkpoint).tensors.items():
        np.testing.assert_array_equal(tensor, whole[name], err_msg=name)


def test_progress_reaches_the_end(checkpoint: Checkpoint) -> None:
    reports: list[tuple[int, int]] = []
    convert(checkpoint, lambda done, total: reports.append((done, total)))
    assert reports[-1] == (SHAPE.ternary_weights, SHAPE.ternary_weights)
    assert reports == sorted(reports)


def test_zero_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        RandomCheckpoint, "value", lambda self, index, name, shape: np.zeros(shape, np.float32)
    )
    model = convert(Checkpoint(RandomCheckpoint(shape=SHAPE).write(tmp_path)))
    assert not model.trits("head").any()
    assert not model["embedding.scale"].any()
    assert model.scale("head.scale") == Scale.from_float(float(model.scale("head.scale")))


# The file


def test_round_trip(checkpoint: Checkpoint, model_file: Path) -> None:
    model = convert(checkpoint)
    loaded = IntegerModel.load(model_file)
    assert loaded.digest() == model.digest()
    assert loaded.shape == SHAPE
    assert loaded.source == checkpoint.digest()
    assert (loaded.start_token, loaded.end_token) == (0, 0)
    for name, tensor in model.tensors.items():
        np.testing.assert_array_equal(loaded[name], tensor, err_msg=name)


def test_same_model_gives_same_bytes(checkpoint: Checkpoint, model_file: Path) -> None:
    again = model_file.with_name("again.safetensors")
    convert(checkpoint).save(again)
    assert again.read_bytes() == model_file.read_bytes()


def test_tensors_are_aligned(model_file: Path) -> None:
    for entry in TensorFile(model_file).entries.values():
        size = {"I32": 4, "I16": 2, "I8": 1, "U8": 1}[entry.type_name]
        assert entry.offset % size == 0


def test_failed_save_leaves_the_old_file(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = model_file.read_bytes()
    model = IntegerModel.load(model_file)

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        model.save(model_file)
    assert model_file.read_bytes() == before
    assert [path.name for path in model_file.parent.iterdir() if path.is_file()] == [
        model_file.name
    ]


def test_cut_anywhere(model_file: Path) -> None:
    whole = model_file.read_bytes()
    for place in {*range(12), *range(0, len(whole), 499), len(whole) - 1}:
        model_file.write_bytes(whole[:place])
        with pytest.raises(ModelError, match="truncated or not a safetensors file"):
            IntegerModel.load(model_file)


def test_flipped_bit_anywhere(model_file: Path) -> None:
    whole = model_file.read_bytes()
    for place in {*range(0, 4000, 13), *range(0, len(whole), 211), len(whole) - 1}:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << (place % 8)
        model_file.write_bytes(flipped)
        with pytest.raises(ModelError) as raised:
            IntegerModel.load(model_file)
        assert "\n" not in str(raised.value)


Edit = Callable[[dict], object]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda facts: facts.update(residual_fraction=3), "does not match its digest"),
        (lambda facts: facts.update(residual_fraction="3"), "residual_fraction must be"),
        (lambda facts: facts.update(residual_fraction=True), "residual_fraction must be"),
        (lambda facts: facts.update(residual_fraction=65), "integer from -63 to 64, not 65"),
        (lambda facts: facts.update(residual_fraction=10**400), "integer from -63 to 64, not 1000"),
        (lambda facts: facts.update(more_end_tokens=3), "must be a list of tokens, not 3"),
        (lambda facts: facts.update(more_end_tokens=[301]), "more_end_tokens must be a token"),
        (lambda facts: facts.update(more_end_tokens="1"), "must be a list of tokens"),
        (lambda facts: facts.update(source=3), "source must be a SHA-256 digest"),
        (lambda facts: facts.update(source="../x"), "source must be a SHA-256 digest"),
        (lambda facts: facts.update(source="0" * 64), "does not match its digest"),
        (lambda facts: facts.update(start_token=1), "does not match its digest"),
        (lambda facts: facts.update(end_token=301), "end_token must be a token"),
        (lambda facts: facts.update(content=""), "does not match its digest"),
        (lambda facts: facts.pop("content"), "does not match its digest"),
        (lambda facts: facts.pop("source"), "metadata lacks 'source'"),
        (lambda facts: facts.update(hidden=11), r"must be int8 \(301, 11\)"),
        (lambda facts: facts.update(layers=10**9), "layers must be a positive integer up to"),
        (lambda facts: facts.update(hidden=[10]), "hidden must be a positive integer"),
        (lambda facts: facts.update(layers=3), "is missing"),
        (lambda facts: facts.update(layers=1), "does not belong here"),
        (lambda facts: facts.update(version=2), "format version 2, but this program reads 1"),
        (
            lambda facts: facts.update(architecture="rwkv"),
            "architecture 'rwkv', but this program runs 'mmfree'; use another model",
        ),
        (lambda facts: facts.update(architecture=["mmfree"]), r"architecture \['mmfree'\], but"),
        (lambda facts: facts.update(format="other"), "not an integer model"),
        (lambda facts: facts.clear(), "not an integer model"),
    ],
)
def test_edited_metadata(model_file: Path, edit: Edit, message: str) -> None:
    edit_facts(model_file, edit)
    with pytest.raises(ModelError, match=message) as raised:
        IntegerModel.load(model_file)
    assert "\n" not in str(raised.value)


def edit_facts(model_file: Path, edit: Edit) -> None:
    file = TensorFile(model_file)
    tensors = {name: file.read(name) for name in file.entries}
    facts = json.loads(file.metadata["tritstream"])
    edit(facts)
    write_tensors(model_file, tensors, {"tritstream": json.dumps(facts)})


def test_the_first_architecture_is_named_or_not(model_file: Path) -> None:
    """Files from before there was another do not name it, nor do those of today."""
    digest = IntegerModel.load(model_file).digest()
    edit_facts(model_file, lambda facts: facts.update(architecture="mmfree"))
    assert IntegerModel.load(model_file).digest() == digest
    IntegerModel.load(model_file).save(model_file)
    assert "architecture" not in json.loads(TensorFile(model_file).metadata["tritstream"])


def test_negative_zero_is_refused(model_file: Path) -> None:
    model = IntegerModel.load(model_file)
    model["head.trits"][0, 0] = 0b10
    model.save(model_file)
    with pytest.raises(ModelError, match=r"head\.trits must hold packed trits only"):
        IntegerModel.load(model_file)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("head.scale", [1, 0], "head.scale: mantissa must be normalised"),
        ("head.scale", [-(1 << 14), 0], "head.scale: mantissa must be normalised"),
        ("head.scale", [0, 1], "head.scale: zero must have exponent 0"),
        ("layers.0.attn.i.scale", [1 << 14, 600], "i.scale: exponent must fit 10 bits"),
        ("layers.1.mlp.gate.scale", [1 << 14, 128], "gate.scale: a model's exponent must fit 8"),
        ("layers.0.attn.o.scale", [1 << 14, -129], "o.scale: a model's exponent must fit 8 bits"),
        ("layers.1.mlp.down.epsilon", [0, 0], "down.epsilon must not be zero"),
        ("embedding.codes", -128, "embedding.codes must hold -127 at least, not -128"),
        ("embedding.scale", -1, "embedding.scale must hold 0 at least, not -1"),
        ("layers.1.attn.lower_bound", -1, "lower_bound must hold 0 at least, not -1"),
        ("layers.1.attn.norm", -1, "attn.norm must hold 0 at least, not -1"),
        ("layers.1.attn.o.norm", -32768, "o.norm must hold -32767 at least, not -32768"),
        ("layers.0.mlp.down.gain", -32768, "down.gain must hold -32767 at least, not -32768"),
        ("tokenizer", 0xFF, "tokenizer must be UTF-8 text"),
    ],
)
def test_values_that_no_machine_takes(
    model_file: Path, name: str, value: object, message: str
) -> None:
    """A file whose digest is right is refused where it is read, in one line that names it."""
    model = IntegerModel.load(model_file)
    model[name][:] = value
    model.save(model_file)
    with pytest.raises(ModelError, match=re.escape(message)) as raised:
        IntegerModel.load(model_file)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("seed", range(12))
def test_values_at_the_bounds_run(model_file: Path, seed: int) -> None:
    """All numbers of a model at either end of what a file may hold: no operation fails."""
    model_at_the_bounds(IntegerModel.load(model_file), seed).save(model_file)
    device = GoldenDevice()
    device.load(IntegerModel.load(model_file))
    for temperature in (0.0, TEMPERATURE_MIN, TEMPERATURE_MAX):
        tokens = list(device.generate([3, 0, 300], 4, temperature=temperature, seed=seed))
        assert len(tokens) == 4 and all(0 <= token < 301 for token in tokens)


Range = tuple[int, int]


def exponents(low: int, high: int) -> Range:
    """A range of exponents, all of which a scale can have."""
    for exponent in (low, high):
        Scale(1 << 14, exponent)
    return low, high


def follow_exponents(constant: Range) -> None:
    """Every operation on scales, in ranges wider than any token's, as the contract orders them."""

    def times(a: Range, b: Range) -> Range:
        return exponents(a[0] + b[0] + 14, a[1] + b[1] + 15)

    def over(a: Range, b: Range) -> Range:
        return exponents(a[0] - b[1] - 15, a[1] - b[0] - 14)

    def plus(a: Range, b: Range) -> Range:
        return exponents(min(a[0], b[0]), max(a[1], b[1]) + 1)

    def sigma(square: Range) -> Range:
        root = exponents((square[0] - 15) // 2, (square[1] - 14) // 2)
        return times(over(peak, root), constant)

    energy = exponents(-14, 112)  # of up to 2**16 squares of 24 bits, in units up to 2**64
    peak = exponents(1, 33)  # of 24 bits, in units from 2**15 to 2**(15 + 9)
    over((-8, -8), peak)
    gate = sigma(energy)
    times(gate, (-21, -8))  # one over the temperature
    sigma(plus(energy, times(energy, constant)))
    sigma(plus(energy, over(constant, times(gate, gate))))


def test_exponents_of_a_model_are_as_wide_as_can_be() -> None:
    follow_exponents((-128, 127))
    with pytest.raises(ValueError, match="exponent must fit 10 bits"):
        follow_exponents((-256, 255))


@pytest.mark.parametrize(
    ("tensor", "value"),
    [
        ("model.layers.0.attn.o_proj.norm.weight", 3e38),
        ("lm_head.weight", -33000.0),
        ("model.lower_bounds", 1e30),
        ("model.embeddings.weight", 65504.0),
    ],
)
def test_value_that_only_damage_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tensor: str, value: float
) -> None:
    """As one flipped bit of an exponent does."""
    original = RandomCheckpoint.value

    def spoilt(self: RandomCheckpoint, index: int, name: str, shape: tuple) -> np.ndarray:
        values = original(self, index, name, shape)
        if name == tensor:
            values.flat[-1] = value
        return values

    monkeypatch.setattr(RandomCheckpoint, "value", spoilt)
    source = Checkpoint(RandomCheckpoint(shape=SHAPE, dtype="fp32").write(tmp_path))
    with pytest.raises(ModelError, match=rf"{re.escape(tensor)} holds .* \(32768\)") as raised:
        convert(source)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-30, 1e-12, 1.0, 32768.0])
@pytest.mark.parametrize("norms", [0.0, 1e-45, 1e-30, 1e-9, 1.0, 32768.0])
def test_checkpoint_of_any_size_converts_or_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: float, norms: float
) -> None:
    """Far from one, constants leave their ranges: that is told, and what converts runs."""

    def value(self: RandomCheckpoint, index: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
        random = np.random.default_rng(index).uniform(-1, 1, shape)
        return (random * (norms if "norm" in name else size)).astype(np.float32)

    monkeypatch.setattr(RandomCheckpoint, "value", value)
    source = Checkpoint(RandomCheckpoint(shape=SHAPE, dtype="fp32").write(tmp_path))
    if 0 < norms < 1e-20:
        with pytest.raises(ModelError, match="makes no integer model") as raised:
            convert(source)
        assert "\n" not in str(raised.value)
    else:
        assert runs(convert(source))


def runs(model: IntegerModel) -> bool:
    device = GoldenDevice()
    device.load(model)
    return len(list(device.generate([3, 0], 2))) == 2


FLIPS = 150


def flips(content: bytes, seed: int) -> Iterator[bytes]:
    """The content with a random bit, or a random byte, changed."""
    random = np.random.default_rng(seed)
    for place in random.integers(0, len(content), FLIPS).tolist():
        changed = bytearray(content)
        changed[place] ^= int(random.choice([1 << random.integers(8), random.integers(1, 256)]))
        yield bytes(changed)


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_damaged_checkpoint_converts_or_is_refused(tmp_path: Path, dtype: str) -> None:
    """Any damage: a model that runs, or one line. No warning and no other exception."""
    directory = RandomCheckpoint(shape=TINY, dtype=dtype, seed=1).write(tmp_path / "whole")
    outcomes = {"runs": 0, "refused": 0}
    for seed, name in enumerate(("model.safetensors", "config.json", "tokenizer.json")):
        path = directory / name
        whole = path.read_bytes()
        for changed in flips(whole, seed):
            path.write_bytes(changed)
            try:
                outcomes["runs"] += runs(convert(Checkpoint(directory)))
            except ModelError as error:
                outcomes["refused"] += 1
                assert "\n" not in str(error)
        path.write_bytes(whole)
    assert outcomes["runs"] + outcomes["refused"] == 3 * FLIPS
    assert min(outcomes.values()) > 20


def test_damaged_values_with_their_digest(tmp_path: Path) -> None:
    """Damage that the digest does not show, since it was made afterwards."""
    model = convert(Checkpoint(RandomCheckpoint(shape=TINY).write(tmp_path / "checkpoint")))
    path = tmp_path / "model.safetensors"
    random = np.random.default_rng(5)
    names = [name for name in sorted(model.tensors) if name != "tokenizer"]
    outcomes = {"runs": 0, "refused": 0}
    for _ in range(2 * FLIPS):
        name = random.choice(names)
        content = bytearray(model[name].tobytes())
        content[random.integers(len(content))] ^= 1 << random.integers(8)
        changed = np.frombuffer(bytes(content), model[name].dtype).reshape(model[name].shape)
        facts = model._facts()
        tensors = {**model.tensors, name: changed}
        digest = IntegerModel.digest(SimpleNamespace(tensors=tensors, _facts=lambda f=facts: f))
        write_tensors(path, tensors, {"tritstream": json.dumps(facts | {"content": digest})})
        try:
            outcomes["runs"] += runs(IntegerModel.load(path))
        except ModelError as error:
            outcomes["refused"] += 1
            assert str(path) in str(error) and "\n" not in str(error)
    assert min(outcomes.values()) > 20


def test_checkpoint_is_no_model(checkpoint: Checkpoint) -> None:
    with pytest.raises(ModelError, match="not an integer model"):
        IntegerModel.load(checkpoint.directory / "model.safetensors")


# The command line


def test_convert_and_info(
    tmp_path: Path, checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out.safetensors"
    assert main(["convert", str(checkpoint.directory), str(path)]) == 0
    assert capsys.readouterr().out == ""
    assert main(["info", str(path)]) == 0
    output = capsys.readouterr().out
    assert max(map(len, output.splitlines())) <= 80
    model = IntegerModel.load(path)
    for fact in (f"{SHAPE.ternary_weights:,}", f"{model.residual_fraction} bits"):
        assert fact in output


@pytest.mark.parametrize(
    "arguments", [["convert", "nowhere", "out"], ["convert", ".", "no/where"], ["info", "nowhere"]]
)
def test_failed_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1


@pytest.mark.parametrize(
    "target",
    [
        "checkpoint/model.safetensors",
        "checkpoint/tokenizer.json",
        "./checkpoint/../checkpoint/config.json",
        "linked/model.safetensors",
        "symbolic.safetensors",
        "hard.safetensors",
        "looped.safetensors",
        "shards/model.safetensors",
        "shards/model.safetensors.index.json",
        "shards/model-00001-of-00002.safetensors",
        "text.txt",
        "empty",
        "pipe",
        "folder",
        "folder/absent/model.safetensors",
        os.devnull,
    ],
)
@pytest.mark.parametrize("source", ["checkpoint", "shards"])
def test_convert_replaces_nothing_but_models(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    source: str,
    target: str,
) -> None:
    """Least of all what it reads. It says so before it converts anything."""
    monkeypatch.chdir(tmp_path)
    RandomCheckpoint(shape=TINY).write(Path("checkpoint"))
    RandomCheckpoint(shape=TINY, shards=2).write(Path("shards"))
    Path("linked").symlink_to("checkpoint")
    Path("symbolic.safetensors").symlink_to("checkpoint/model.safetensors")
    Path("looped.safetensors").symlink_to("looped.safetensors")
    Path("hard.safetensors").hardlink_to("checkpoint/model.safetensors")
    Path("text.txt").write_text("mine")
    Path("empty").touch()
    Path("folder").mkdir()
    os.mkfifo("pipe")
    device = os.stat(os.devnull)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    names = set(tmp_path.rglob("*"))
    monkeypatch.setattr("weights.__main__.convert", pytest.fail)
    assert main(["convert", source, target]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert "give another name" in captured.err or "give a file name" in captured.err
    assert set(tmp_path.rglob("*")) == names
    assert {p: p.read_bytes() for p in before} == before
    assert os.path.samestat(os.stat(os.devnull), device)


def test_convert_replaces_a_model_where_a_link_leads(
    tmp_path: Path, checkpoint: Checkpoint, model_file: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(model_file)
    other = RandomCheckpoint(shape=SHAPE, seed=3).write(tmp_path / "other")
    assert main(["convert", str(other), str(link)]) == 0
    assert link.is_symlink()
    assert IntegerModel.load(model_file).source == Checkpoint(other).digest()
    assert main(["convert", str(checkpoint.directory), str(model_file)]) == 0
    assert IntegerModel.load(link).source == checkpoint.digest()


def test_what_killed_conversions_left_goes(checkpoint: Checkpoint, tmp_path: Path) -> None:
    target = tmp_path / "out" / "model.safetensors"
    target.parent.mkdir()
    target.with_name(".model.safetensors.999999.part").write_bytes(b"x")
    assert main(["convert", str(checkpoint.directory), str(target)]) == 0
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("path", ["pipe", os.devnull, "folder", "absent"])
def test_what_is_no_file_is_no_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    Path("folder").mkdir()
    assert main(["info", path]) == 1
    assert capsys.readouterr().err.startswith(f"{path}: ")


@pytest.mark.parametrize("arguments", [[], ["info"], ["convert", "one"], ["melt", "a", "b"]])
def test_wrong_usage(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1


@settings(max_examples=15, deadline=None)
@given(
    hidden=st.integers(1, 40),
    layers=st.integers(1, 4),
    intermediate=st.integers(1, 40),
    vocabulary=st.integers(1, 300),
    seed=st.integers(0, 9),
)
def test_any_shape(
    tmp_path_factory: pytest.TempPathFactory,
    hidden: int,
    layers: int,
    intermediate: int,
    vocabulary: int,
    seed: int,
) -> None:
    shape = ModelShape(
        hidden=hidden, layers=layers, intermediate=intermediate, vocabulary=vocabulary
    )
    directory = tmp_path_factory.mktemp("any")
    model = convert(Checkpoint(RandomCheckpoint(shape=shape, seed=seed).write(directory)))
    path = directory / "model"
    model.save(path)
    assert IntegerModel.load(path).digest() == model.digest()
