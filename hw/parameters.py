"""What the parameters of units and memories have in common."""

from dataclasses import fields


def require_positive(parameters):
    """All whole numbers of a dataclass of parameters are at least 1, or it is a `ValueError`."""
    for field in fields(parameters):
        value = getattr(parameters, field.name)
        if field.type is int and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{field.name} must be a positive integer, not {value!r}")
