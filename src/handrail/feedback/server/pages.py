"""The labeller's pages: signing in, the tasks, the desk, and what keeps them at hand without a connection."""

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Request
from fastapi import Path as PathOf
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.templating import Jinja2Templates

from handrail.errors import InputError
from handrail.feedback.server.security import COOKIE, who
from handrail.feedback.store import Database, people, projects

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
HERE = Path(__file__).parent
SHELLS = ("/shell/home", "/shell/desk")
templates = Jinja2Templates(HERE / "templates")
Secret = Annotated[str, PathOf(max_length=200)]
TaskId = Annotated[int, PathOf(ge=1, le=2**31 - 1)]


def page(request: Request, name: str, status: int = 200, **found: object) -> HTMLResponse:
    """A page from its template."""
    return templates.TemplateResponse(request, name, {"person": who(request), **found}, status)


@router.get("/")
def home(request: Request) -> Response:
    """The person's tasks; how to sign in for those who have not."""
    return page(request, "home.html" if who(request) else "welcome.html")


@router.get("/tasks/{task}")
def desk(request: Request, task: TaskId) -> Response:
    """Where a task is worked on."""
    person = who(request)
    if person is None:
        return RedirectResponse("/", 303)
    try:
        settings = projects.task_of(request.app.state.db, task, person)
    except InputError:
        return page(request, "absent.html", 404)
    return page(request, "desk.html", title=settings.settings.title or settings.name)


@router.get("/shell/{name}")
def shell(request: Request, name: str) -> Response:
    """A page without anybody's name in it, to be kept in the browser: scripts fill it from what is kept there."""
    if f"/shell/{name}" not in SHELLS:
        return page(request, "absent.html", 404)
    return templates.TemplateResponse(request, f"{name}.html", {"person": None, "title": ""})


@router.get("/sw.js")
def service_worker() -> Response:
    """The service worker, served from the root so that it may serve every page."""
    return Response(worker(), media_type="text/javascript")


@cache
def worker() -> str:
    """Its text, after the files that it keeps and a version that changes whenever one of them does."""
    static = sorted(path for path in (HERE / "static").iterdir() if path.is_file() and not path.name.startswith(("admin", "sw.js")))
    kept = [*static, *sorted((HERE / "templates").glob("*.html")), HERE / "static" / "sw.js"]
    version = hashlib.sha256(b"".join(path.read_bytes() for path in kept)).hexdigest()[:12]
    files = json.dumps([*SHELLS, *(f"/static/{path.name}" for path in static)])
    return f'const VERSION = "{version}";\nconst FILES = {files};\n' + (HERE / "static" / "sw.js").read_text(encoding="utf-8")


@router.get("/enter/{link}")
def before_entering(request: Request, link: Secret) -> Response:
    """A link lets nobody in before its button is pressed: programs that look at links in mails must not use it up."""
    person = people.peek(request.app.state.db, link)
    return page(request, "enter.html", 200 if person else 404, guest=person)


@router.post("/enter/{link}")
def enter(request: Request, link: Secret) -> Response:
    """Sign in."""
    db: Database = request.app.state.db
    entered = people.enter(db, link)
    if entered is None:
        return page(request, "enter.html", 404, guest=None)
    response = RedirectResponse("/admin" if entered[0].admin else "/", 303)
    secure = request.url.scheme == "https" or request.app.state.settings.public.startswith("https:")
    life = int(people.LIFE["session"])
    response.set_cookie(COOKIE, entered[1], max_age=life, httponly=True, samesite="lax", secure=secure)
    return response


@router.post("/leave")
def leave(request: Request) -> Response:
    """Sign out."""
    if session := request.cookies.get(COOKIE):
        people.leave(request.app.state.db, session)
    response = RedirectResponse("/", 303)
    response.delete_cookie(COOKIE)
    return response
