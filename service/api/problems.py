"""Errors as the outside sees them: RFC 9457 `application/problem+json`, and a plain page for a browser. Decides nothing else."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel, Field
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException

from pipeline.errors import BadInput, SluicewatchError
from service.api.envelope import SECURITY_HEADERS

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of problem: its HTTP status, its title and what it means."""

    status: int
    title: str
    meaning: str


KINDS: dict[str, Kind] = {
    "bad_request": Kind(400, "The request cannot be read", "The body is not JSON, or the request is malformed."),
    "bad_cursor": Kind(400, "The cursor does not belong here", "Use `next` of a page of the very same query."),
    "unauthenticated": Kind(401, "An API key is needed", "Send `Authorization: Bearer gk_…` with a key that is live."),
    "forbidden": Kind(403, "The key may not do this", "The key lacks the scope that the operation declares."),
    "not_found": Kind(404, "There is no such thing", "The path or the id in it is unknown here."),
    "method_not_allowed": Kind(405, "The method is not allowed here", "See the `Allow` header."),
    "conflict": Kind(409, "The state does not allow this", "For example acknowledging an alert that is resolved."),
    "too_large": Kind(413, "The body is too large", "A request body may have up to 1 MB; waveforms travel by MQTT."),
    "invalid": Kind(422, "The request is not valid", "`errors` lists each member that is wrong, with a JSON pointer."),
    "http_error": Kind(400, "The request was refused", "`status` and `detail` say why."),
    "internal": Kind(500, "Something broke on our side", "The log has the details under `request_id`."),
    "unavailable": Kind(503, "The database cannot be used just now", "Try again in a few seconds."),
}

_CODE_OF_STATUS = {kind.status: code for code, kind in reversed(KINDS.items())}


class FieldError(BaseModel):
    """One wrong member of a request."""

    pointer: str = Field(description="Where it is: `/query/…`, `/path/…`, `/header/…` or `/body/…` as a JSON pointer.")
    code: str = Field(description="What is wrong, for programs. New codes may appear.")
    message: str = Field(description="What is wrong, for people.")


class ProblemBody(BaseModel):
    """An error as RFC 9457 lays it out."""

    type: str = Field(description="A page that explains this kind of problem.")
    title: str
    status: int
    detail: str
    instance: str = Field(description="The path that was asked for.")
    code: str = Field(description="The kind of problem, for programs. New codes may appear.")
    request_id: str = Field(description="Quote it when you ask for help; the log has it too.")
    errors: list[FieldError] = []


class Problem(SluicewatchError):
    """Refuse a request with one of `KINDS`."""

    def __init__(
        self, code: str, detail: str, *, errors: Sequence[FieldError] = (), headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.errors = list(errors)
        self.headers = headers or {}


def answer(
    request: Request,
    code: str,
    detail: str,
    *,
    status: int | None = None,
    errors: Sequence[FieldError] = (),
    headers: dict[str, str] | None = None,
) -> Response:
    """Lay out one problem as an HTTP response; a browser that asked for a page gets a page."""
    kind = KINDS[code]
    if "text/html" in request.headers.get("accept", "") and not request.url.path.startswith("/api/"):
        page: Response = request.app.state.error_page(request, status or kind.status)
        return page
    body = ProblemBody(
        type=f"/problems/{code}",
        title=kind.title,
        status=status or kind.status,
        detail=detail,
        instance=request.url.path,
        code=code,
        request_id=getattr(request.state, "request_id", ""),
        errors=list(errors),
    )
    return JSONResponse(body.model_dump(), status_code=body.status, media_type=MEDIA_TYPE, headers=headers)


def _escape(part: object) -> str:
    return str(part).replace("~", "~0").replace("/", "~1")


def field_errors(errors: Sequence[Any]) -> list[FieldError]:
    """Turn pydantic's error list into ours; the refused input itself is left out, for it may be a secret."""
    return [
        FieldError(
            pointer="/" + "/".join(_escape(part) for part in error["loc"]),
            code=error["type"],
            message=error["msg"].removeprefix("Value error, "),
        )
        for error in errors
    ]


def install(app: FastAPI) -> None:
    """Answer every error of `app` with a problem body and serve the pages that explain the kinds."""

    @app.exception_handler(Problem)
    def _problem(request: Request, error: Problem) -> Response:
        return answer(request, error.code, str(error), errors=error.errors, headers=error.headers)

    @app.exception_handler(HTTPException)
    def _http(request: Request, error: HTTPException) -> Response:
        code = _CODE_OF_STATUS.get(error.status_code, "http_error")
        headers = dict(error.headers or {})
        detail = {
            "not_found": f"Nothing is at {request.url.path}.",
            "method_not_allowed": f"{request.method} is not possible at {request.url.path}.",
        }.get(code, error.detail or HTTPStatus(error.status_code).phrase)
        return answer(request, code, detail, status=error.status_code, headers=headers)

    @app.exception_handler(RequestValidationError)
    def _invalid(request: Request, error: RequestValidationError) -> Response:
        errors = field_errors(error.errors())
        if any(item.code == "json_invalid" for item in errors):
            return answer(request, "bad_request", "The body is not valid JSON.", errors=errors)
        wrong = ", ".join(sorted({item.pointer for item in errors}))
        return answer(request, "invalid", f"Not valid: {wrong}.", errors=errors)

    @app.exception_handler(BadInput)
    def _bad_input(request: Request, error: BadInput) -> Response:
        return answer(request, "invalid", str(error))

    @app.exception_handler(OperationalError)
    def _unavailable(request: Request, error: OperationalError) -> Response:
        log.error("request %s: the database cannot be used: %s", request.state.request_id, error.orig)
        detail = "The database does not answer; nothing was changed."
        return answer(request, "unavailable", detail, headers={"Retry-After": "5"})

    @app.exception_handler(Exception)
    def _internal(request: Request, error: Exception) -> Response:
        # the server logs the traceback itself, for this handler answers outside of all others
        log.error("request %s failed: %s", getattr(request.state, "request_id", ""), type(error).__name__)
        detail = "The request could not be answered; the log says why."
        return answer(request, "internal", detail, headers=SECURITY_HEADERS)

    @app.get("/problems/{code}", include_in_schema=False)
    def explain_problem(code: str) -> PlainTextResponse:
        """Explain one kind of problem."""
        if code not in KINDS:
            raise Problem("not_found", f"Known kinds are {', '.join(KINDS)}; got {code!r}.")
        kind = KINDS[code]
        return PlainTextResponse(f"{code} ({kind.status})\n\n{kind.title}. {kind.meaning}\n")
