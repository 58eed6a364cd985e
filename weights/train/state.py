"""The state of a run as files of limited size, so that it can go on elsewhere.

``state.json`` names the parts of one byte stream, a safetensors file, and their digest. Parts are
written first, the name last: a run killed while it saves goes on from the state before.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..errors import ModelError
from ..files import write_file
from .output import BRING, MANIFEST, Manifest

MEBIBYTE = 1 << 20
PART = re.compile(r"\.?state-\d+-\d+\.part(\.\w+)*")
"""A part, or what a killed process left of one."""


def save_state(
    directory: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], limit: float
) -> None:
    """Writes tensors and JSON facts in files of at most `limit` MiB; removes the state before.

    `facts` must hold ``step``, another than that of the state before, and ``config``.

    Raises
    ------
    ModelError
        When it cannot be written; the state before is as it was.
    """
    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    size = max(1, int(limit * MEBIBYTE))
    kept = _part_names(directory)
    parts = []
    try:
        for number, first in enumerate(range(0, len(content), size), start=1):
            parts.append(f"state-{facts['step']:08d}-{number:03d}.part")
            write_file(directory / parts[-1], content[first : first + size])
        digest = hashlib.sha256(content).hexdigest()
        Manifest(parts=parts, sha256=digest, facts=dict(facts)).write(directory)
        kept = set(parts)
    except OSError as error:
        raise ModelError(
            f"{directory}: the state of step {facts['step']} cannot be saved ({error.strerror}); "
            "correct that and go on from the state before"
        ) from error
    finally:
        for name in _part_names(directory) - kept:
            (directory / name).unlink(missing_ok=True)


def _part_names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir() if PART.fullmatch(path.name)}


def load_state(directory: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and facts of the state in a directory, or None where none was saved yet.

    Raises
    ------
    ModelError
        When a part is missing or damaged.
    """
    manifest = Manifest.read(directory)
    if manifest is None or not manifest.parts:
        return None
    path = directory / MANIFEST
    try:
        content = b"".join((directory / name).read_bytes() for name in manifest.parts)
    except OSError as error:
        raise ModelError(f"{error.filename}: cannot be read; bring all parts along") from error
    if hashlib.sha256(content).hexdigest() != manifest.sha256:
        raise ModelError(f"{path}: the parts do not match their digest; bring them again")
    try:
        return load(content), manifest.facts
    except SafetensorError as error:
        raise ModelError(f"{path}: not a state ({error}); {BRING}") from error


def take(tensors: Mapping[str, Tensor], name: str, like: Tensor) -> Tensor:
    """The tensor of a state that takes the place of `like`.

    Raises
    ------
    ModelError
        When it is missing, or of another shape or type.
    """
    tensor = tensors.get(name)
    if tensor is None or (tensor.shape, tensor.dtype) != (like.shape, like.dtype):
        wanted = f"{str(like.dtype).removeprefix('torch.')} {list(like.shape)}"
        raise ModelError(f"the state in --out has no tensor {name}, {wanted}; {BRING}")
    return tensor


def random_state() -> dict[str, Tensor]:
    """States of the generators that dropout draws from."""
    states = {"random.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["random.cuda"] = torch.cuda.get_rng_state()
    return states


def restore_random_state(tensors: Mapping[str, Tensor]) -> None:
    """Puts back what `random_state` gave, as far as this machine has the generators.

    Raises
    ------
    ModelError
        As `take` does.
    """
    here = random_state()
    torch.set_rng_state(take(tensors, "random.cpu", here["random.cpu"]))
    if "random.cuda" in here and "random.cuda" in tensors:
        torch.cuda.set_rng_state(take(tensors, "random.cuda", here["random.cuda"]))
