"""Pins of boards."""


def request_raw(platform, name: str, number: int = 0):
    """All ports of a platform's resource, without buffers; ``ResourceError`` if there is none."""
    resource = platform.lookup(name, number)
    return platform.request(name, number, dir={part.name: "-" for part in resource.ios})
