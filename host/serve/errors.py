"""What goes wrong, as an answer in OpenAI's shape."""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Mapping
from http import HTTPStatus

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from host.serve.messages import TAGS, ErrorAnswer, ErrorBody
from host.serve.scheduler import BusyError, QueueFullError
from weights.commandline import explain, one_line
from weights.errors import ReportedError, UsageError

INVALID = "invalid_request_error"
OVERLOADED = "rate_limit_error"
FAILED = "server_error"


class ApiError(Exception):
    """An answer that is an error.

    Parameters
    ----------
    status : of HTTP
    message : one line
    code : short name of what is wrong
    param : field of the request that is
    headers : of the answer
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.headers = headers

    @property
    def type(self) -> str:
        if self.status == HTTPStatus.TOO_MANY_REQUESTS:
            return OVERLOADED
        return FAILED if self.status >= HTTPStatus.INTERNAL_SERVER_ERROR else INVALID

    def json(self) -> str:
        body = ErrorBody(message=str(self), type=self.type, param=self.param, code=self.code)
        return ErrorAnswer(error=body).model_dump_json()

    def response(self) -> Response:
        return Response(
            self.json(), self.status, headers=self.headers, media_type="application/json"
        )


def api_error(error: BaseException) -> ApiError:
    """The answer that an exception is; one that nobody foresaw is told on standard error."""
    match error:
        case ApiError():
            return error
        case ValidationError():
            return _of_request(error)
        case BusyError():
            full = isinstance(error, QueueFullError)
            wait = {"Retry-After": str(error.retry_after)}
            code = "queue_full" if full else "device_unavailable"
            return ApiError(429 if full else 503, one_line(error), code, headers=wait)
        case UsageError():
            return ApiError(400, one_line(error), "invalid_value")
        case ReportedError():
            return ApiError(503, one_line(error), "device_failed", headers={"Retry-After": "5"})
        case HTTPException(status_code=status, headers=headers):
            return ApiError(status, _TOLD.get(status, error.detail), headers=headers)
        case ClientDisconnect():
            return ApiError(400, "the client went before its request's end")
    print(explain(error), file=sys.stderr)
    return ApiError(500, "the server failed; it has printed where", "internal_error")


_TOLD = {
    404: "there is nothing at this address; /openapi.json lists what there is",
    405: "this address does not take this method; /openapi.json lists what there is",
}

_CODES = {"extra_forbidden": "unknown_parameter", "literal_error": "unsupported_value"}


def _of_request(error: ValidationError) -> ApiError:
    """The first thing that is wrong with a request's body."""
    first = error.errors(include_url=False)[0]
    param = ".".join(str(part) for part in first["loc"] if part not in TAGS) or None
    code = _CODES.get(first["type"], "invalid_value")
    told = reprlib.repr(first["input"])
    match first["type"]:
        case "json_invalid" | "model_type" if param is None:
            return ApiError(400, f"the body must be a JSON object ({first['msg']})", "invalid_json")
        case "missing":
            return ApiError(400, f"{param} is missing", "missing_parameter", param=param)
        case "extra_forbidden":
            message = f"{param} is not known here; leave it out"
        case "literal_error":
            taken = first["ctx"]["expected"].replace("True", "true").replace("False", "false")
            message = f"{param} can only be {taken} here, not {told}"
        case _:
            wanted = first["msg"].replace("Input should be", "must be").replace("should", "must")
            message = f"{param}: {wanted[:1].lower()}{wanted[1:]}"
            if "not" not in wanted:
                message += f", not {told}"
    return ApiError(400, one_line(message), code, param=param)
