"""Pins of boards."""

from amaranth.build import ResourceError


def request_raw(platform, name: str, number: int = 0):
    """All ports of a platform's resource, without buffers; ``ResourceError`` if there is none."""
    if (name, number) not in platform.resources:
        known = ", ".join(dict.fromkeys(other for other, _ in platform.resources))
        raise ResourceError(f"resource must be one of its platform's, {known}, not {name} {number}")
    resource = platform.lookup(name, number)
    return platform.request(name, number, dir={part.name: "-" for part in resource.ios})
