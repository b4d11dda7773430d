"""The HTTP application: `create_app` puts routers, pages, docs and errors together. It reads no settings and starts no server."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles
from sqlalchemy.engine import Engine

from service import store
from service.alerts import IllegalTransition
from service.api import alerts, gates, health, maintenance, problems, records, webhooks
from service.api.context import Context
from service.api.envelope import Envelope
from service.console import pages

STATIC = Path(str(files("service.console").joinpath("static")))


def create_app(
    engine: Engine,
    *,
    clock: Callable[[], datetime],
    registry: Path,
    seal_secret: Callable[[str], bytes],
    check_url: Callable[[str], str],
    session_key: bytes,
    public_url: str = "",
    bursts: Path | None = None,
    wall_clock: Callable[[], datetime] | None = None,
) -> FastAPI:
    """Make the application; every argument is explained at `service.api.context.Context`. One clock may serve as both."""
    app = FastAPI(
        title="sluicewatch",
        description="Predictive maintenance for water gates: gates, readings, forecasts, alerts and who is told.",
        version=version("sluicewatch"),
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.context = Context(
        engine=engine,
        clock=clock,
        wall_clock=wall_clock or clock,
        registry=registry,
        seal_secret=seal_secret,
        check_url=check_url,
        session_key=session_key,
        public_url=public_url,
        bursts=bursts,
    )
    app.add_middleware(Envelope)
    problems.install(app)
    _answer_store_errors(app)
    for router in (gates, maintenance, alerts, webhooks, records, health):
        app.include_router(router.router)
    pages.install(app)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")

    @app.get("/docs", include_in_schema=False)
    def show_docs() -> FileResponse:
        """Show the API reference."""
        return FileResponse(STATIC / "docs.html")

    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]  # FastAPI's documented way to extend the schema
    return app


def _answer_store_errors(app: FastAPI) -> None:
    @app.exception_handler(store.NotFound)
    def _not_found(request: Request, error: store.NotFound) -> Response:
        return problems.answer(request, "not_found", f"{error}.")

    @app.exception_handler(IllegalTransition)
    @app.exception_handler(store.Conflict)
    def _conflict(request: Request, error: Exception) -> Response:
        return problems.answer(request, "conflict", f"{error}.")


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's schema with our one error shape in place of its own."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        shapes = schema["components"]["schemas"]
        for unused in ("HTTPValidationError", "ValidationError"):
            shapes.pop(unused, None)
        shape = problems.ProblemBody.model_json_schema(ref_template="#/components/schemas/{model}")
        shapes |= shape.pop("$defs")
        shapes["Problem"] = shape
        content = {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
        for operations in schema["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
                operation["responses"]["default"] = {"description": "An error (RFC 9457).", "content": content}
        app.openapi_schema = schema
    return app.openapi_schema
