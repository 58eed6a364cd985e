"""The folder that a run writes to: its files, and whose it is.

``state.json`` comes before all other files and tells that the folder is a run's. Only one process
at a time runs in a folder, and no file that the run did not write is ever written over.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelError
from ..files import read_json, write_file
from ..locks import InUse, locked
from .config import Config, read_config

MANIFEST, CONFIG, TOKENIZER = "state.json", "config.toml", "tokenizer.json"
METRICS, PLOT, RESULT, CHECKPOINT = "metrics.jsonl", "curves.png", "result.json", "checkpoint"
WRITTEN_OVER = {MANIFEST, METRICS, PLOT, RESULT, CHECKPOINT}
"""What a run that goes on replaces; its configuration and tokenizer stay."""
LOCK = ".train.lock"
PART = re.compile(r"state-\d+-\d+\.part")
BRING = "bring it again from where the run was, or give another --out"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What ``state.json`` holds.

    Members
    -------
    parts : names of the files that are one after the other the state; none before the first save
    sha256 : of all parts
    facts : JSON values; among them the ``step`` and the ``config``'s digest
    """

    parts: Sequence[str]
    sha256: str
    facts: dict[str, Any]

    def write(self, directory: Path) -> None:
        write_file(directory / MANIFEST, json.dumps(asdict(self), indent=1).encode())

    @classmethod
    def read(cls, directory: Path) -> Manifest | None:
        """The manifest in a folder, or None where there is none.

        Raises
        ------
        ModelError
            When it is damaged, or a file of another program.
        """
        path = directory / MANIFEST
        if not path.exists():
            return None
        match read_json(path, BRING):
            case {
                "parts": [*parts],
                "sha256": str(sha256),
                "facts": {"step": int(step)} as facts,
            } if step >= 0 and all(isinstance(p, str) and PART.fullmatch(p) for p in parts):
                return cls(parts=parts, sha256=sha256, facts=facts)
        raise ModelError(f"{path}: not the state of a run; {BRING}")


@contextmanager
def owned(output: Path, config: Config, inputs: Sequence[Path]) -> Iterator[None]:
    """`output`, made if need be, is this run's alone in the block.

    Parameters
    ----------
    config : of the run, which that of an earlier run there must equal
    inputs : files of the user's that may lie there

    Raises
    ------
    ModelError
        When another process uses the folder, or it holds what a run writes, but no run. Then
        nothing was written.
    """
    inputs = [path.resolve() for path in inputs]
    _check(output, config, inputs)
    output.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(output / LOCK, wait=False))
        except InUse as error:
            raise ModelError(
                f"{output}: in use by another run; wait for its end, or give another --out"
            ) from error
        _check(output, config, inputs)  # one that has ended since
        yield


def _check(output: Path, config: Config, inputs: Sequence[Path]) -> None:
    if not output.exists():
        return
    if not output.is_dir():
        raise ModelError(f"{output}: not a folder; give one for --out")
    folder = output.resolve()
    for path in inputs:
        if path.is_relative_to(folder) and path.relative_to(folder).parts[0] in WRITTEN_OVER:
            raise ModelError(f"{path}: would be written over; copy it out of {output} first")
    manifest = Manifest.read(output)
    if manifest is None:
        for path in sorted(output.iterdir()):
            written = path.name in {*WRITTEN_OVER, CONFIG, TOKENIZER} or PART.fullmatch(path.name)
            if written and path.resolve() not in inputs:
                raise ModelError(f"{output}: holds {path.name}, but no run; give a new folder")
    elif manifest.facts.get("config") != config.digest():
        raise ModelError(f"{output}: holds a run of another configuration; give another --out")
    kept = output / CONFIG
    if kept.exists() and read_config(kept).digest() != config.digest():
        raise ModelError(f"{kept}: not the run's configuration; give another --out")


def claim(output: Path, config: Config) -> None:
    """Makes the folder a run's, unless it is one. Raises `OSError`."""
    if Manifest.read(output) is None:
        facts = {"step": 0, "config": config.digest()}
        Manifest(parts=(), sha256=hashlib.sha256().hexdigest(), facts=facts).write(output)
    if not (output / CONFIG).exists():
        write_file(output / CONFIG, config.toml().encode())
