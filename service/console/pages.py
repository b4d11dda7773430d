"""The console's routes: sign in, the overview, a gate, an alert. HTML only; programs use the API."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, urlsplit

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import ValidationError

from pipeline.dataset import FINDINGS
from pipeline.errors import SluicewatchError
from service import store
from service.api import alerts, auth
from service.api.auth import Principal
from service.api.context import Context, Here, context_of
from service.api.problems import Problem, field_errors
from service.api.schemas import ResolveIn
from service.console import session
from service.console.views.alert import alert_page
from service.console.views.gate import gate_page
from service.console.views.overview import overview
from service.console.views.parts import SHAPES
from service.console.views.strip import system_strip
from service.console.words import LANGUAGES, Words, choose_language

router = APIRouter(include_in_schema=False)

LANGUAGE_COOKIE = "sluicewatch_language"
CONSOLE_SCOPES = frozenset({"gates:read", "alerts:read"})
RANGES_DAYS = (7, 30, 90)

_templates = Environment(
    loader=PackageLoader("service.console"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.globals |= {"shape_of": SHAPES, "languages": LANGUAGES, "findings": FINDINGS}


class SignInNeeded(SluicewatchError):
    """The page needs somebody signed in."""


def words_of(request: Request) -> Words:
    """Pick the language of a request."""
    remembered = request.cookies.get(LANGUAGE_COOKIE)
    return Words(choose_language(request.query_params.get("lang"), remembered, request.headers.get("accept-language")))


def signed_in(request: Request, here: Here) -> Principal:
    """Return who is signed in; a revoked or expired key ends its sessions at once."""
    now = here.wall_clock()
    key_id = session.open_seal(request.cookies.get(session.COOKIE, ""), now, here.session_key)
    if key_id is not None:
        with here.engine.connect() as connection:
            row = store.find_api_key(connection, key_id)
        who = auth.live_principal(row, now) if row else None
        if who is not None and who.scopes >= CONSOLE_SCOPES:
            return who
    raise SignInNeeded("sign in first")


Who = Annotated[Principal, Depends(signed_in)]
Speech = Annotated[Words, Depends(words_of)]


async def form_of(request: Request) -> dict[str, str]:
    """Read a form; the standard library decodes it."""
    text = (await request.body()).decode("utf-8", "replace")
    return {name: values[-1] for name, values in parse_qs(text, keep_blank_values=True).items()}


Form = Annotated[dict[str, str], Depends(form_of)]


def _page(request: Request, template: str, words: Words, *, status: int = 200, **values: Any) -> HTMLResponse:
    here = context_of(request)
    cookie = request.cookies.get(session.COOKIE, "")
    html = _templates.get_template(template).render(
        t=words,
        path=request.url.path,
        token=session.form_token(cookie, here.session_key) if cookie else "",
        **{"who": None, **values},
    )
    response = HTMLResponse(html, status_code=status, headers={"Cache-Control": "no-store"})
    if request.query_params.get("lang") in LANGUAGES:
        response.set_cookie(LANGUAGE_COOKIE, words.language, max_age=31_536_000, samesite="lax")
    return response


@router.get("/login")
def show_login(request: Request, words: Speech, after: Annotated[str, Query(alias="next")] = "/") -> Response:
    """Show the sign-in form."""
    return _page(request, "login.html", words, wrong="", after=_own_path(after))


@router.post("/login")
def sign_in(request: Request, here: Here, words: Speech, form: Form) -> Response:
    """Take an API key and begin a session."""
    after = _own_path(form.get("next", "/"))
    _refuse_other_sites(request)
    now = here.wall_clock()
    with here.engine.connect() as connection:
        who = auth.find_principal(connection, form.get("key", "").strip(), now)
    if who is None or not who.scopes >= CONSOLE_SCOPES:
        wrong = words("login.wrong" if who is None else "login.scope")
        return _page(request, "login.html", words, status=403 if who else 401, wrong=wrong, after=after)
    auth.note_use(here.engine, who, now)
    response = RedirectResponse(after, status_code=303)
    response.set_cookie(
        session.COOKIE,
        session.seal(who.key_id, now, here.session_key),
        max_age=int(session.LIFETIME.total_seconds()),
        httponly=True,
        samesite="lax",
        secure=request.url.scheme == "https",
    )
    return response


@router.post("/logout")
def sign_out(request: Request, here: Here, form: Form) -> Response:
    """End the session."""
    _check_token(request, here, form)
    response = RedirectResponse("/login", status_code=303)
    response.delete_cookie(session.COOKIE)
    return response


@router.get("/")
def show_overview(request: Request, here: Here, who: Who, words: Speech) -> Response:
    """Show what needs doing and how every gate stands."""
    with here.engine.connect() as connection:
        view = overview(connection, here.clock(), words, here.champion())
    return _page(request, "overview.html", words, who=who, view=view, strip=view.strip)


@router.get("/gates/{gate_id}")
def show_gate(
    request: Request,
    here: Here,
    who: Who,
    words: Speech,
    gate_id: str,
    days: Annotated[Literal["7", "30", "90"], Query()] = "30",
) -> Response:
    """Show a gate's vibration, temperature, forecast and history."""
    now, models = here.clock(), here.list_models()
    with here.engine.connect() as connection:
        view = gate_page(connection, gate_id, now, int(days), words, models)
        strip = system_strip(connection, now, words, here.champion())
    if view is None:
        raise Problem("not_found", f"There is no gate {gate_id!r}.")
    return _page(request, "gate.html", words, who=who, view=view, strip=strip, days=int(days), ranges=RANGES_DAYS)


@router.get("/alerts/{alert_id}")
def show_alert(request: Request, here: Here, who: Who, words: Speech, alert_id: str) -> Response:
    """Show an alert: why, what to do, what happened so far."""
    now = here.clock()
    with here.engine.connect() as connection:
        view = alert_page(connection, alert_id, now, words)
        strip = system_strip(connection, now, words, here.champion())
    return _page(request, "alert.html", words, who=who, view=view, strip=strip)


@router.post("/alerts/{alert_id}/acknowledge")
def acknowledge(request: Request, here: Here, who: Who, form: Form, alert_id: str) -> Response:
    """Acknowledge an alert and go back to where the button was."""
    _check_token(request, here, form)
    alerts.acknowledge(here, alert_id, _person(who, request))
    return RedirectResponse(_own_path(form.get("next", "/")), status_code=303)


@router.post("/alerts/{alert_id}/resolve")
def resolve(request: Request, here: Here, who: Who, form: Form, alert_id: str) -> Response:
    """Resolve an alert with what was found."""
    _check_token(request, here, form)
    try:
        found = ResolveIn.model_validate({name: form.get(name) for name in ("finding", "note")})
    except ValidationError as error:
        raise Problem("invalid", "The finding is not one of those allowed.", errors=field_errors(error.errors())) from None
    alerts.resolve(here, alert_id, found, _person(who, request))
    return RedirectResponse(f"/alerts/{alert_id}", status_code=303)


def _person(who: Principal, request: Request) -> store.Actor:
    if "alerts:write" not in who.scopes:
        raise Problem("forbidden", f"Key {who.key_id} lacks the scope alerts:write.")
    return store.Actor(who.name, "ui", request.state.request_id)


def _check_token(request: Request, here: Context, form: dict[str, str]) -> None:
    cookie = request.cookies.get(session.COOKIE, "")
    if not session.token_matches(form.get("token", ""), cookie, here.session_key):
        raise Problem("forbidden", "The form is out of date or came from another site; load the page again.")


def _refuse_other_sites(request: Request) -> None:
    # before sign-in there is no session that a token could belong to; browsers say where a form came from
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise Problem("forbidden", "The sign-in form must come from this site.")


def _own_path(path: str) -> str:
    parts = urlsplit(path)
    is_own = path.startswith("/") and not path.startswith(("//", "/\\")) and not parts.scheme and not parts.netloc
    return path if is_own and path.isprintable() else "/"


def install(app: FastAPI) -> None:
    """Add the pages, and show errors to a browser as a page."""
    app.include_router(router)
    app.state.error_page = error_page

    @app.exception_handler(SignInNeeded)
    def _sign_in(request: Request, _error: SignInNeeded) -> Response:
        after = request.url.path if request.method == "GET" else "/"
        return RedirectResponse(f"/login?next={after}", status_code=303)


def error_page(request: Request, status: int) -> Response:
    """Show an error to a person; programs get the same as a problem body."""
    words = words_of(request)
    text = words("error.not_found" if status == 404 else "error.other", request_id=request.state.request_id)
    return _page(request, "error.html", words, status=status, text=text)
