"""Checkpoints in, integer models out: everything about weights that needs no hardware."""

from .errors import ModelError

__all__ = ["ModelError"]
