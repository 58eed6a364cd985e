"""The state of a run as files of limited size, so that it can go on elsewhere.

``state.json`` names the parts of one byte stream, a safetensors file, and their digest. Parts are
written first, the name last: a run killed while it saves goes on from the state before.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..errors import ModelError

MANIFEST = "state.json"
MEBIBYTE = 1 << 20


def write_atomically(path: Path, content: bytes) -> None:
    """`path` holds the old content or all of the new one."""
    temporary = path.with_name(path.name + ".new")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def save_state(
    directory: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], limit: float
) -> None:
    """Writes tensors and JSON facts in files of at most `limit` MiB; removes the state before.

    `facts` must hold ``step``.
    """
    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    size = max(1, int(limit * MEBIBYTE))
    parts = []
    for number, first in enumerate(range(0, len(content), size), start=1):
        name = f"state-{facts['step']:08d}-{number:03d}.part"
        write_atomically(directory / name, content[first : first + size])
        parts.append(name)
    digest = hashlib.sha256(content).hexdigest()
    manifest = {"parts": parts, "sha256": digest, "facts": dict(facts)}
    write_atomically(directory / MANIFEST, json.dumps(manifest, indent=1).encode())
    for path in directory.glob("state-*.part*"):
        if path.name not in parts:
            path.unlink()


def load_state(directory: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and facts of the state in a directory, or None where there is none.

    Raises
    ------
    ModelError
        When a part is missing or damaged.
    """
    path = directory / MANIFEST
    if not path.exists():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        parts, digest, facts = manifest["parts"], manifest["sha256"], manifest["facts"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: damaged; delete it to start the run again") from error
    try:
        content = b"".join((directory / name).read_bytes() for name in parts)
    except OSError as error:
        raise ModelError(f"{error.filename}: cannot be read; bring all parts along") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise ModelError(f"{path}: the parts do not match their digest; bring them again")
    try:
        return load(content), facts
    except SafetensorError as error:
        raise ModelError(f"{path}: not a state ({error}); delete it to start again") from error


def random_state() -> dict[str, Tensor]:
    """States of the generators that dropout draws from."""
    states = {"random.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["random.cuda"] = torch.cuda.get_rng_state()
    return states


def restore_random_state(tensors: Mapping[str, Tensor]) -> None:
    """Puts back what `random_state` gave, as far as this machine has the generators."""
    torch.set_rng_state(tensors["random.cpu"])
    if torch.cuda.is_available() and "random.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random.cuda"])
