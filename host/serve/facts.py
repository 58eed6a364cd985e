"""What the server tells of itself: models, health, properties, sessions, metrics."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from host.serve.answers import timings, usage
from host.serve.endpoints import Endpoint, json_response
from host.serve.errors import ApiError
from host.serve.messages import (
    CHATS,
    LONGEST_STOP,
    MOST_STOPS,
    DefaultProps,
    DeviceProps,
    Health,
    LimitProps,
    ModelEntry,
    ModelList,
    ModelProps,
    Props,
    Slot,
    Slots,
)
from host.serve.scheduler import Session, State, Status
from host.serve.service import Service

OWNER = "tritstream"


def _entry(service: Service) -> ModelEntry:
    return ModelEntry(id=service.name, created=service.created, owned_by=OWNER)


async def models(service: Service, request: Request) -> Response:
    return json_response(ModelList(data=[_entry(service)]))


async def model(service: Service, request: Request) -> Response:
    name = request.path_params["model"]
    if name != service.name:
        raise ApiError(
            404,
            f"there is no model {name!r} here; it is {service.name!r}",
            "model_not_found",
            param="model",
        )
    return json_response(_entry(service))


async def health(service: Service, request: Request) -> Response:
    status = service.scheduler.status()
    if status.state is State.READY:
        return json_response(Health(status="ok"))
    told = status.error or "the device is being loaded; wait"
    raise ApiError(503, told, status.state.value, headers={"Retry-After": "2"})


async def props(service: Service, request: Request) -> Response:
    status, limits, shape = service.scheduler.status(), service.limits, service.model.shape
    identity = status.identity
    return json_response(
        Props(
            model=ModelProps(
                id=service.name,
                source=service.model.source,
                shape=asdict(shape),
                ternary_weights=shape.ternary_weights,
            ),
            device=DeviceProps(
                url=service.device,
                state=status.state.value,
                board=identity.board if identity else None,
                clock_hz=identity.clock_hz if identity else None,
                geometry=asdict(identity.geometry) if identity else None,
            ),
            total_slots=status.slots,
            limits=LimitProps(
                body_bytes=limits.body_bytes,
                prompt_tokens=limits.prompt_tokens,
                max_tokens=limits.tokens,
                stops=MOST_STOPS,
                stop_characters=LONGEST_STOP,
            ),
            defaults=DefaultProps(
                max_tokens=min(limits.default_tokens, limits.tokens), temperature=1.0
            ),
            chats=CHATS,
            shared=service.stories.shared,
        )
    )


async def slots(service: Service, request: Request) -> Response:
    status = service.scheduler.status()
    return json_response(
        Slots(
            total=status.slots,
            contexts=status.contexts,
            slice_ms=1e3 * status.slice_s,
            swap_ms=None if math.isnan(status.swap_s) else 1e3 * status.swap_s,
            sessions=[_slot(session, status) for session in status.sessions],
        )
    )


def _slot(session: Session, status: Status) -> Slot:
    figures = session.figures
    return Slot(
        id=session.number,
        max_tokens=session.request.tokens,
        sampled=session.request.sampled,
        usage=usage(figures, figures.chosen),
        timings=timings(figures, figures.chosen, status.identity),
    )


# Metrics --------------------------------------------------------------------------------------


def _families(status: Status) -> Iterator[Metric]:
    work = status.totals
    for name, value, text in (
        ("prompt_tokens", work.read, "Tokens of prompts that were read"),
        ("prompt_tokens_cached", work.reused, "Tokens of prompts whose state was there"),
        ("tokens_predicted", work.chosen, "Tokens of answers"),
        ("sessions", work.sessions, "Sessions that have come"),
        ("sessions_failed", work.failed, "Sessions that ended with the device's error"),
        ("sessions_cancelled", work.cancelled, "Sessions that a client or a stop string ended"),
        ("state_swaps", work.swaps, "How often a session's state took another's place"),
        ("device_seconds", work.seconds, "Seconds in which the device worked"),
        ("device_tokens", work.tokens, "Tokens through the model, as the device counts"),
        ("device_cycles", work.cycles, "Cycles of the device, as it counts"),
        ("engine_cycles", work.engine_cycles, "Cycles in which its engine worked"),
    ):
        yield CounterMetricFamily(f"{OWNER}_{name}", text, value=value)
    started = sum(session.figures.tokens > 0 for session in status.sessions)
    speed = work.chosen / work.seconds if work.seconds else 0.0
    for name, value, text in (
        ("up", float(status.state is State.READY), "Whether the device is there"),
        ("slots", status.slots, "Sessions that there may be"),
        ("contexts", status.contexts, "Sessions that the device runs side by side"),
        ("requests_processing", len(status.sessions), "Sessions under way"),
        ("requests_deferred", len(status.sessions) - started, "Sessions before their first work"),
        ("predicted_tokens_seconds", speed, "Mean tokens of answers per second of work"),
        ("longest_wait_seconds", work.longest_wait_s, "Longest time before a session's first work"),
    ):
        yield GaugeMetricFamily(f"{OWNER}_{name}", text, value=value)


class _Numbers(Collector):
    def __init__(self, status: Status):
        self._status = status

    def collect(self) -> Iterator[Metric]:
        return _families(self._status)


async def metrics(service: Service, request: Request) -> Response:
    registry = CollectorRegistry()
    registry.register(_Numbers(service.scheduler.status()))
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(registry), headers={"content-type": content_type})


ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/v1/models",
        handler=models,
        summary="The model that is served",
        answers=ModelList,
    ),
    Endpoint(
        method="GET",
        path="/v1/models/{model:path}",
        handler=model,
        summary="The model by its name",
        answers=ModelEntry,
    ),
    Endpoint(
        method="GET",
        path="/health",
        handler=health,
        summary="Whether the device is there: 200, or 503 and why not",
        answers=Health,
        open=True,
    ),
    Endpoint(
        method="GET",
        path="/props",
        handler=props,
        summary="Model, device, limits, and how chats are joined",
        answers=Props,
    ),
    Endpoint(
        method="GET",
        path="/slots",
        handler=slots,
        summary="Sessions under way, without their texts",
        answers=Slots,
    ),
    Endpoint(
        method="GET",
        path="/metrics",
        handler=metrics,
        summary="Counters for Prometheus",
        media="text/plain",
    ),
)
