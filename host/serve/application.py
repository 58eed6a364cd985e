"""The application: the table of routes, and what is around all of them."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from host.serve import completions, facts, openapi, watch
from host.serve.endpoints import Endpoint
from host.serve.errors import api_error
from host.serve.guard import Guard
from host.serve.service import Service


async def describe(service: Service, request: Request) -> Response:
    return JSONResponse(openapi.document(service, ENDPOINTS))


ENDPOINTS: tuple[Endpoint, ...] = (
    *completions.ENDPOINTS,
    *facts.ENDPOINTS,
    *watch.ENDPOINTS,
    Endpoint(
        method="GET",
        path="/openapi.json",
        handler=describe,
        summary="This document",
        media="application/json",
    ),
)


def application(service: Service) -> Starlette:
    """The ASGI application of a service, whose scheduler is started and closed by the caller."""
    open_paths = [each.path for each in ENDPOINTS if each.open]
    app = Starlette(
        routes=[each.route(service) for each in ENDPOINTS],
        middleware=[Middleware(Guard, service=service, open_paths=open_paths)],
        exception_handlers={HTTPException: _refuse},
    )
    app.router.redirect_slashes = False
    return app


async def _refuse(request: Request, error: Exception) -> Response:
    return api_error(error).response()
