"""The reader of upstream checkpoints: values, shapes, and everything that can be wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from sim.checkpoints import TYPE_NAMES, RandomCheckpoint, to_stored, write_shard
from weights import ModelError
from weights.checkpoint import Checkpoint, ModelShape
from weights.model import IntegerModel
from weights.quantise import convert

SHAPE = ModelShape(hidden=10, layers=2, intermediate=7, vocabulary=301)

SHAPES = [
    SHAPE,
    ModelShape(hidden=1, layers=1, intermediate=1, vocabulary=1),
    ModelShape(hidden=5, layers=24, intermediate=3, vocabulary=17),
]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return RandomCheckpoint(shape=SHAPE).write(tmp_path / "checkpoint")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return RandomCheckpoint(shape=SHAPE, shards=3).write(tmp_path / "checkpoint")


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewrite(directory: Path, change: Any) -> None:
    """Writes the tensors of the default random checkpoint again, after ``change(values)``."""
    source = RandomCheckpoint(shape=SHAPE)
    values = {
        name: source.value(index, name, shape)
        for index, (name, shape) in enumerate(SHAPE.tensor_shapes.items())
    }
    change(values)
    shapes = {name: value.shape for name, value in values.items()}
    write_shard(directory / "model.safetensors", shapes, "F32", iter(values.values()))


@pytest.mark.parametrize(
    ("hidden", "layers", "intermediate", "ternary_weights"),
    [
        (1024, 24, 2816, 341_049_344),
        (2048, 24, 5632, 1_298_661_376),
        (2560, 32, 6912, 2_619_473_920),
    ],
)
def test_published_shapes(
    hidden: int, layers: int, intermediate: int, ternary_weights: int
) -> None:
    assert ModelShape.default_intermediate(hidden) == intermediate
    shape = ModelShape(hidden=hidden, layers=layers, intermediate=intermediate, vocabulary=32000)
    assert shape.ternary_weights == ternary_weights
    assert len(shape.tensor_shapes) == 15 * layers + 5


@pytest.mark.parametrize("value", [0, -1, 1.0, True, None])
def test_shape_refuses(value: Any) -> None:
    with pytest.raises(ValueError, match="hidden must be a positive integer up to 65536, not"):
        ModelShape(hidden=value, layers=1, intermediate=1, vocabulary=1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", TYPE_NAMES)
@pytest.mark.parametrize("shards", [1, 4])
def test_values(tmp_path: Path, shape: ModelShape, dtype: str, shards: int) -> None:
    source = RandomCheckpoint(shape=shape, dtype=dtype, shards=shards)
    checkpoint = Checkpoint(source.write(tmp_path))
    assert checkpoint.shape == shape
    for index, (name, dimensions) in enumerate(shape.tensor_shapes.items()):
        stored = to_stored(source.value(index, name, dimensions), TYPE_NAMES[dtype])
        tensor = checkpoint.tensor(name)
        assert tensor.dtype == np.float32 and tensor.shape == dimensions
        np.testing.assert_array_equal(to_stored(tensor, TYPE_NAMES[dtype]), stored)


def test_bf16_is_widened_exactly(directory: Path) -> None:
    def spread(values: dict[str, np.ndarray]) -> None:
        values["model.norm.weight"][:] = [0, -0.0, 1, -1, 2**-126, 2**-133, 2**15, -3e4, 0.1, 1e-3]

    rewrite(directory, spread)
    wide = Checkpoint(directory).tensor("model.norm.weight")
    bits = to_stored(wide, "BF16")
    path = directory / "model.safetensors"
    shapes = SHAPE.tensor_shapes
    values = (
        wide if n == "model.norm.weight" else np.zeros(s, np.float32) for n, s in shapes.items()
    )
    write_shard(path, shapes, "BF16", values)
    narrow = Checkpoint(directory).tensor("model.norm.weight")
    np.testing.assert_array_equal(narrow.view(np.uint32), bits.astype(np.uint32) << 16)


@given(elements=st.integers(1, 5000))
@settings(max_examples=20, deadline=None)
def test_blocks_cover_a_matrix(tmp_path_factory: pytest.TempPathFactory, elements: int) -> None:
    directory = tmp_path_factory.getbasetemp() / "blocks"
    if not directory.exists():
        RandomCheckpoint(shape=SHAPE).write(directory)
    checkpoint = Checkpoint(directory)
    whole = checkpoint.tensor("lm_head.weight")
    end = 0
    for rows, block in checkpoint.blocks("lm_head.weight", elements):
        assert rows.start == end
        end = rows.stop
        assert block.shape[0] == 1 or block.size <= elements
        np.testing.assert_array_equal(block, whole[rows])
    assert end == SHAPE.vocabulary


def test_digest_follows_content(tmp_path: Path, directory: Path) -> None:
    digest = Checkpoint(directory).digest()
    assert Checkpoint(shutil.copytree(directory, tmp_path / "copy")).digest() == digest
    edit_json(directory / "config.json", torch_dtype="bfloat16")
    assert Checkpoint(directory).digest() != digest


def test_default_intermediate_is_used(directory: Path) -> None:
    edit_json(directory / "config.json", intermediate_size=None)
    with pytest.raises(ModelError, match=r"must have shape \(512, 10\), not \(14, 10\)"):
        Checkpoint(directory)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "llama"),
        ("model_type", None),
        ("num_heads", 2),
        ("expand_ratio", 2),
        ("use_short_conv", True),
        ("use_lower_bound", False),
        ("tie_word_embeddings", True),
        ("hidden_act", "gelu"),
        ("rms_norm_eps", 1e-5),
        ("hidden_size", 0),
        ("hidden_size", "10"),
        ("num_hidden_layers", None),
        ("num_hidden_layers", 2.5),
        ("vocab_size", -3),
        ("vocab_size", 1e300),
        ("vocab_size", float("inf")),
        ("intermediate_size", [7]),
        ("use_lower_bound", None),
        ("bos_token_id", 301),
        ("bos_token_id", [0, 1]),
        ("eos_token_id", "2"),
        ("eos_token_id", 2.5),
        ("eos_token_id", True),
        ("eos_token_id", []),
        ("eos_token_id", [2, 301]),
        ("eos_token_id", [[2]]),
        ("eos_token_id", ["x" * 1000]),
    ],
)
def test_unsupported_setting(directory: Path, key: str, value: Any) -> None:
    edit_json(directory / "config.json", **{key: value})
    with pytest.raises(ModelError, match=f"config.json: {key} must be") as raised:
        Checkpoint(directory)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 400


@pytest.mark.parametrize(
    "key",
    ["hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size", "hidden_ratio"],
)
@pytest.mark.parametrize("value", [10**9, 10**400])
def test_absurd_dimension(directory: Path, key: str, value: int) -> None:
    given = 7 if key == "intermediate_size" else None
    edit_json(directory / "config.json", **({"intermediate_size": given} | {key: value}))
    with pytest.raises(
        ModelError, match=rf"config\.json: {key} must be .* up to \d+, not 1000"
    ) as e:
        Checkpoint(directory)
    assert len(str(e.value)) < 400


@pytest.mark.parametrize("value", [10**400, -(10**400), "y" * 1000])
def test_messages_stay_short(value: Any) -> None:
    with pytest.raises(ValueError, match="hidden must be a positive integer up to") as raised:
        ModelShape(hidden=value, layers=1, intermediate=1, vocabulary=1)
    assert len(str(raised.value)) < 120


@pytest.mark.parametrize("hidden", [64, 500, 1024, 2048, 2560, 65535])
@pytest.mark.parametrize("ratio", [1, 3, 4, 4.0, 2.5, 3.7, 8])
def test_default_intermediate_is_that_of_upstream(hidden: int, ratio: float) -> None:
    upstream = 256 * ((int(hidden * ratio * 2 / 3) + 256 - 1) // 256)
    assert ModelShape.default_intermediate(hidden, ratio) == upstream


def test_other_spellings_of_the_same_configuration(directory: Path) -> None:
    plain = Checkpoint(directory)
    config = directory / "config.json"
    edit_json(
        config, hidden_size=10.0, num_hidden_layers=2.0, intermediate_size=7.0, vocab_size=301.0,
        bos_token_id=0.0, eos_token_id=[0.0], num_heads=None, expand_ratio=1.0,
        use_short_conv=None, tie_word_embeddings=None, hidden_ratio=None, hidden_act="silu",
        rms_norm_eps=0.000001,
    )  # fmt: skip
    config.write_bytes(b"\xef\xbb\xbf" + config.read_bytes().replace(b"\n", b"\r\n"))
    tokenizer = directory / "tokenizer.json"
    tokenizer.write_bytes(b"\xef\xbb\xbf" + tokenizer.read_bytes())
    other = Checkpoint(directory)
    assert other.shape == plain.shape and other.tokenizer_json == plain.tokenizer_json
    assert (other.start_token, other.end_tokens) == (0, (0,))


@pytest.mark.parametrize(("ratio", "intermediate"), [(4, 256), (4.0, 256), (None, 256), (40, 512)])
def test_ratio_is_used(directory: Path, ratio: Any, intermediate: int) -> None:
    edit_json(directory / "config.json", intermediate_size=None, hidden_ratio=ratio)
    with pytest.raises(ModelError, match=rf"must have shape \({2 * intermediate}, 10\), not"):
        Checkpoint(directory)


def test_several_tokens_end_a_text(directory: Path, tmp_path: Path) -> None:
    edit_json(directory / "config.json", eos_token_id=[7, 3, 7, 0])
    checkpoint = Checkpoint(directory)
    assert checkpoint.end_tokens == (7, 3, 0) and checkpoint.end_token == 7
    path = tmp_path / "model.safetensors"
    convert(checkpoint).save(path)
    model = IntegerModel.load(path)
    assert model.end_tokens == (7, 3, 0) and model.end_token == 7


def test_no_tokens_around_a_text_are_set(directory: Path) -> None:
    """Then they are those of the tokenizer that are called so."""
    edit_json(directory / "config.json", bos_token_id=None, eos_token_id=None)
    path = directory / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    assert Checkpoint(directory).end_tokens == (0,) and Checkpoint(directory).start_token == 0
    path.write_text(tokenizer.to_str().replace("<|endoftext|>", "<|oftext|>"))
    with pytest.raises(
        ModelError, match=r"config\.json: bos_token_id is null, .*; set bos_token_id"
    ):
        Checkpoint(directory)
    edit_json(directory / "config.json", bos_token_id=1)
    with pytest.raises(
        ModelError, match=r"config\.json: eos_token_id is null, .*; set eos_token_id"
    ):
        Checkpoint(directory)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b"\xff\xfe{", b"[" * 100_000])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors.index.json"])
def test_damaged_json(sharded: Path, name: str, content: bytes) -> None:
    (sharded / name).write_bytes(content)
    with pytest.raises(ModelError, match=name):
        Checkpoint(sharded)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_missing_file(directory: Path, name: str) -> None:
    (directory / name).unlink()
    with pytest.raises(ModelError, match=name):
        Checkpoint(directory)


def test_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a directory"):
        Checkpoint(tmp_path / "nowhere")


def test_tokenizer_of_a_larger_model(tmp_path: Path, directory: Path) -> None:
    other = ModelShape(hidden=1, layers=1, intermediate=1, vocabulary=302)
    RandomCheckpoint(shape=other).write(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "tokenizer.json", directory)
    with pytest.raises(ModelError, match=r"up to 301, but the model knows 301, .* out 'bs'; use"):
        Checkpoint(directory)


def test_tokens_that_only_fill_up_batches(directory: Path) -> None:
    path = directory / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.add_special_tokens(["[PAD]", "[CLS]"])
    tokenizer.save(str(path))
    edit_json(directory / "config.json", eos_token_id=[301, 5])
    assert Checkpoint(directory).shape == SHAPE and Checkpoint(directory).end_tokens == (5,)
    edit_json(directory / "config.json", eos_token_id=301)
    with pytest.raises(ModelError, match=r"eos_token_id must be a token below 301, not 301"):
        Checkpoint(directory)
    edit_json(directory / "config.json", eos_token_id=5)
    tokenizer.add_tokens(["dog"])
    tokenizer.save(str(path))
    with pytest.raises(ModelError, match=r"go up to 303, .* which leaves out 'dog'; use the token"):
        Checkpoint(directory)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%064d\nsize 739000000\n" % 7


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "tokenizer.json",
        "model.safetensors.index.json",
        "model-00002-of-00003.safetensors",
    ],
)
def test_pointer_in_place_of_a_file(sharded: Path, name: str) -> None:
    (sharded / name).write_bytes(POINTER)
    with pytest.raises(ModelError, match=f"{name}: a git-lfs pointer, .*run 'git lfs pull'"):
        Checkpoint(sharded)


def test_missing_tensor(directory: Path) -> None:
    rewrite(directory, lambda values: values.pop("model.layers.1.attn.g_norm.weight"))
    with pytest.raises(ModelError, match=r"model\.layers\.1\.attn\.g_norm\.weight is missing"):
        Checkpoint(directory)


def test_extra_tensor(directory: Path) -> None:
    rewrite(directory, lambda values: values.update(extra=np.zeros(1, np.float32)))
    with pytest.raises(ModelError, match="extra does not belong"):
        Checkpoint(directory)


def test_misshaped_tensor(directory: Path) -> None:
    def transpose(values: dict[str, np.ndarray]) -> None:
        values["lm_head.weight"] = values["lm_head.weight"].T.copy()

    rewrite(directory, transpose)
    with pytest.raises(ModelError, match=r"lm_head.weight must have shape \(301, 10\), not"):
        Checkpoint(directory)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_tensor(directory: Path, value: float) -> None:
    def spoil(values: dict[str, np.ndarray]) -> None:
        values["lm_head.weight"][300, 9] = value

    rewrite(directory, spoil)
    checkpoint = Checkpoint(directory)
    checkpoint.tensor("model.norm.weight")
    with pytest.raises(ModelError, match=r"lm_head\.weight holds NaN or infinity"):
        checkpoint.tensor("lm_head.weight")
    with pytest.raises(ModelError, match=r"lm_head\.weight holds NaN or infinity"):
        list(checkpoint.blocks("lm_head.weight", 100))


def test_unsupported_element_type(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"BF16"', b'"I16" ', 1))
    with pytest.raises(ModelError, match="must be BF16, F16 or F32, not I16"):
        Checkpoint(directory)


def test_shard_not_there(sharded: Path) -> None:
    (sharded / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ModelError, match=r"shard model-00002-of-00003\.safetensors is not there"):
        Checkpoint(sharded)


@pytest.mark.parametrize("file", ["../config.json", "/etc/passwd", 3, ""])
def test_index_names_no_file_of_the_folder(sharded: Path, file: Any) -> None:
    index = sharded / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    edit_json(index, weight_map=weight_map | {"lm_head.weight": file})
    with pytest.raises(ModelError, match="weight_map must give a file of this folder"):
        Checkpoint(sharded)


def test_index_disagrees_with_shard(sharded: Path) -> None:
    index = sharded / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    file = weight_map["model.norm.weight"]
    other = next(name for name in weight_map.values() if name != file)
    edit_json(index, weight_map=weight_map | {"model.norm.weight": other})
    with pytest.raises(ModelError, match="the index does not say so"):
        Checkpoint(sharded)


def test_cut_anywhere(directory: Path) -> None:
    path = directory / "model.safetensors"
    whole = path.read_bytes()
    places = {*range(12), *range(0, len(whole), 997), len(whole) - 1}
    for place in places:
        path.write_bytes(whole[:place])
        with pytest.raises(ModelError, match="truncated or not a safetensors file"):
            Checkpoint(directory)
    path.write_bytes(whole + b"\0")
    with pytest.raises(ModelError, match="truncated or not a safetensors file"):
        Checkpoint(directory)


def test_cut_after_opening(directory: Path) -> None:
    checkpoint = Checkpoint(directory)
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="cut short within"):
        for name in SHAPE.tensor_shapes:
            checkpoint.tensor(name)


def test_flipped_header_bits(directory: Path) -> None:
    path = directory / "model.safetensors"
    whole = path.read_bytes()
    header_end = 8 + int.from_bytes(whole[:8], "little")
    refused = 0
    for place in range(0, header_end, 23):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << (place % 8)
        path.write_bytes(flipped)
        try:
            Checkpoint(directory)
        except ModelError as error:
            assert "\n" not in str(error)
            refused += 1
    # The rest hit spaces between fields or upstream's free-form metadata.
    assert refused > 0.9 * len(range(0, header_end, 23))


def test_upstream_fixture(upstream_tiny: Path) -> None:
    checkpoint = Checkpoint(upstream_tiny)
    assert checkpoint.shape == ModelShape(hidden=128, layers=3, intermediate=512, vocabulary=1024)
    assert (checkpoint.start_token, checkpoint.end_token) == (0, 0)
    for name, shape in checkpoint.shape.tensor_shapes.items():
        assert checkpoint.tensor(name).shape == shape
