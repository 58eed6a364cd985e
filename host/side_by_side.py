"""Several requests of one device at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable

from host.device import Device
from host.request import Request


def side_by_side(
    device: Device, requests: Iterable[Request]
) -> Generator[tuple[int, int | None], None, None]:
    """Number of a request and a token of its answer, as they come; None for a token at its end.

    As many run at once as the device has slots, the next ones as slots become free; each answer is
    that of its request alone, and the device's totals are those of all. Closing the iterator, or an
    exception within it, ends them all.

    Raises
    ------
    HostError
        See `host.device.Slot.answer`.
    """
    free, under_way = deque(device.slots), {}
    coming = enumerate(requests)
    device.recount()
    try:
        while True:
            while free and (one := next(coming, None)) is not None:
                number, request = one
                slot = free.popleft()
                under_way[number] = slot, slot.answer(request)
            if not under_way:
                return
            for number, (slot, answer) in list(under_way.items()):
                try:
                    token = next(answer)
                except StopIteration:
                    del under_way[number]
                    free.append(slot)
                    yield number, None
                else:
                    if token is not None:
                        yield number, token
    finally:
        for _, answer in under_way.values():
            answer.close()
