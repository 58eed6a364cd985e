"""The MatMul-free LM of arXiv 2406.02528: its dimensions, matrices and norms.

Each has two names: that of the integer model, as in ``docs/arithmetic.md``, and upstream's, the
one in checkpoints of the class ``HGRNBitForCausalLM``.
"""

from __future__ import annotations

import reprlib
from dataclasses import dataclass

NAME = "mmfree"
"""What a model file calls this architecture."""

LARGEST_DIMENSIONS = {
    "hidden": 1 << 16,
    "layers": 1 << 10,
    "intermediate": 1 << 16,
    "vocabulary": 1 << 20,
}
"""Sums of 2**16 codes just fit the accumulators' 24 bits. The other two are far beyond any model
and keep a damaged number from asking for endless memory."""

DEFAULT_RATIO = 4
"""Of a layer's intermediate to its hidden width, before two thirds of it are taken."""

EMBEDDING = "model.embeddings.weight"
"""Upstream's tensor (vocabulary, hidden)."""

LOWER_BOUNDS = "model.lower_bounds"
"""Upstream's tensor (layers, hidden), of which each layer's ``attn.lower_bound`` is made."""


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """The dimensions of a model, all that its tensors' shapes depend on.

    Members
    -------
    hidden : width of the residual stream and of a layer's state
    layers : number of blocks
    intermediate : width of the gated linear unit; its gate matrix has twice as many rows
    vocabulary : number of tokens
    """

    hidden: int
    layers: int
    intermediate: int
    vocabulary: int

    def __post_init__(self) -> None:
        for name, largest in LARGEST_DIMENSIONS.items():
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= largest:
                raise ValueError(
                    f"{name} must be a positive integer up to {largest}, not {reprlib.repr(value)}"
                )

    @staticmethod
    def default_intermediate(hidden: int, ratio: int | float = DEFAULT_RATIO) -> int:
        """Upstream's rule for a configuration without `intermediate_size`:
        two thirds of ``hidden * ratio``, up to the next multiple of 256."""
        double = hidden * ratio * 2
        third = double // 3 if isinstance(double, int) else int(double / 3)
        return 256 * -(-third // 256)

    @property
    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Upstream's name and shape of each of the 15 * layers + 5 tensors."""
        shapes: dict[str, tuple[int, ...]] = {
            EMBEDDING: (self.vocabulary, self.hidden),
            LOWER_BOUNDS: (self.layers, self.hidden),
        }
        for upstream in norms(self).values():
            shapes[upstream] = (self.hidden,)
        for matrix in matrices(self).values():
            shapes[matrix.weight] = matrix.shape
            shapes[matrix.inner_norm] = (matrix.columns,)
        return shapes

    @property
    def ternary_weights(self) -> int:
        """Number of ternary weights in the layers and the head."""
        return sum(matrix.rows * matrix.columns for matrix in matrices(self).values())


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """One ternary matrix.

    Members
    -------
    name : in the integer model, which has ``NAME.trits``, ``NAME.gain`` and ``NAME.scale`` of it
    upstream : in a checkpoint
    rows, columns : outputs and inputs
    norm : name of the norm, `norms`, that makes its input; None where the inner norm is the only
        one
    """

    name: str
    upstream: str
    rows: int
    columns: int
    norm: str | None

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows, self.columns

    @property
    def weight(self) -> str:
        """Upstream's tensor of latents."""
        return f"{self.upstream}.weight"

    @property
    def inner_norm(self) -> str:
        """Upstream's tensor of the norm that belongs to the matrix."""
        return f"{self.upstream}.norm.weight"


def matrices(shape: ModelShape) -> dict[str, Matrix]:
    """Every ternary matrix by its name, in the order in which a token uses them."""
    d, m = shape.hidden, shape.intermediate
    layer = (
        ("attn.i", "attn.i_proj", d, d, "attn.norm"),
        ("attn.f", "attn.f_proj", d, d, "attn.norm"),
        ("attn.g", "attn.g_proj", d, d, "attn.norm"),
        ("attn.o", "attn.o_proj", d, d, "attn.o.norm"),
        ("mlp.gate", "mlp.gate_proj", 2 * m, d, "mlp.norm"),
        ("mlp.down", "mlp.down_proj", d, m, None),
    )
    found = [
        Matrix(
            name=f"layers.{n}.{name}",
            upstream=f"model.layers.{n}.{upstream}",
            rows=rows,
            columns=columns,
            norm=norm and f"layers.{n}.{norm}",
        )
        for n in range(shape.layers)
        for name, upstream, rows, columns, norm in layer
    ]
    found.append(
        Matrix(name="head", upstream="lm_head", rows=shape.vocabulary, columns=d, norm="head.norm")
    )
    return {matrix.name: matrix for matrix in found}


def norms(shape: ModelShape) -> dict[str, str]:
    """Every norm over the hidden width: name of its table, and upstream's tensor (hidden)."""
    layer = {"attn.norm": "attn_norm", "attn.o.norm": "attn.g_norm", "mlp.norm": "mlp_norm"}
    found = {
        f"layers.{n}.{name}": f"model.layers.{n}.{upstream}.weight"
        for n in range(shape.layers)
        for name, upstream in layer.items()
    }
    return found | {"head.norm": "model.norm.weight"}
