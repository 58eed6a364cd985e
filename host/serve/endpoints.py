"""What an endpoint is: a row of the table of routes, from which their document is made, too."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from sse_starlette import EventSourceResponse
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from host.serve.errors import api_error
from host.serve.service import Service

Handler = Callable[[Service, Request], Awaitable[Response]]


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One address with one method.

    Members
    -------
    path : as of Starlette's routes
    handler : whose exceptions become answers in OpenAI's shape
    summary : one line
    asks : model of the request's body, if it takes one
    answers : model of the answer, if it is JSON
    media : type of the answer that is none, or that it may be instead
    open : whether it needs no key
    """

    method: str
    path: str
    handler: Handler
    summary: str
    asks: type[BaseModel] | None = None
    answers: type[BaseModel] | None = None
    media: str | None = None
    open: bool = False

    def route(self, service: Service) -> Route:
        async def endpoint(request: Request) -> Response:
            try:
                return await self.handler(service, request)
            except Exception as error:
                return api_error(error).response()

        return Route(self.path, endpoint, methods=[self.method])


class EventResponse(EventSourceResponse):
    """Events as they come, until the client goes."""

    def __init__(self, service: Service, content: AsyncIterator[dict[str, str]], **options: Any):
        super().__init__(content, ping=service.limits.ping_s, sep="\n", **options)


def json_response(model: BaseModel, status: int = 200) -> Response:
    return Response(model.model_dump_json(), status, media_type="application/json")
