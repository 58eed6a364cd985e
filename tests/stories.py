"""Stories made up by rule, for tests of the trainer that need no data set."""

from __future__ import annotations

import random
from pathlib import Path

NAMES = ("Lily", "Tom", "Mia", "Ben", "the dog", "a cat")
DEEDS = ("saw", "found", "liked", "took", "lost", "wanted")
THINGS = ("a red ball", "the big tree", "some cake", "a blue hat", "the old boat", "a shell")
CLOSINGS = ("They were happy.", "It was fun.", "Then they went home.")


def made_up_story(source: random.Random) -> str:
    """A few sentences of who did what."""
    sentences = [
        f"{source.choice(NAMES)} {source.choice(DEEDS)} {source.choice(THINGS)}."
        for _ in range(source.randint(3, 7))
    ]
    return " ".join([*sentences, source.choice(CLOSINGS)])


def write_stories(directory: Path, training: int = 400, validation: int = 60) -> Path:
    """Writes ``train.txt`` and ``valid.txt`` with so many stories. Returns the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    source = random.Random(1)
    for name, count in (("train", training), ("valid", validation)):
        text = "\n<|endoftext|>\n".join(made_up_story(source) for _ in range(count))
        (directory / f"{name}.txt").write_text(text, encoding="utf-8")
    return directory
