"""Integer models of random numbers and of extreme ones, for tests and checks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sim.checkpoints import RandomCheckpoint
from weights import packing
from weights.architectures.mmfree import matrices
from weights.checkpoint import Checkpoint, ModelShape
from weights.model import IntegerModel, tensor_layouts
from weights.quantise import convert


def random_model(directory: Path, shape: ModelShape, seed: int) -> IntegerModel:
    """The model of a random checkpoint, which is written into a directory."""
    RandomCheckpoint(shape=shape, dtype="fp32", seed=seed).write(directory)
    return convert(Checkpoint(directory))


def model_at_the_bounds(model: IntegerModel, seed: int) -> IntegerModel:
    """A model of the same shape, all of whose numbers are at either end of what a file may hold."""
    random = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {}
    for name, layout in tensor_layouts(model.shape).items():
        if layout.lowest is None:
            exponents = (-128, 127) if seed < 8 else (-30, 0)
            tensors[name] = np.array([random.choice([1 << 14, 32767]), random.choice(exponents)])
        elif name.endswith("trits"):
            trits = random.integers(-1, 2, matrices(model.shape)[name[:-6]].shape)
            tensors[name] = packing.pack(trits.astype(np.int8))
        else:
            highest = np.iinfo(layout.type).max
            values = [layout.lowest, 0, 1, highest] if seed % 2 else [layout.lowest, highest]
            tensors[name] = random.choice(values, layout.shape)
        tensors[name] = tensors[name].astype(layout.type)
    return IntegerModel(
        shape=model.shape,
        residual_fraction=(-63, 64)[seed // 2 % 2],
        start_token=0,
        end_token=0,
        source=model.source,
        tensors=tensors | {"tokenizer": model["tokenizer"]},
    )
