"""The pages: signing in, the labeller's desk, and what those who run the projects see."""

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Request
from fastapi import Path as PathOf
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.templating import Jinja2Templates

from handrail.feedback.server.security import COOKIE, who
from handrail.feedback.store import Database, people

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
templates = Jinja2Templates(Path(__file__).parent / "templates")
Secret = Annotated[str, PathOf(max_length=200)]


def page(request: Request, name: str, status: int = 200, **found: object) -> HTMLResponse:
    """A page from its template."""
    return templates.TemplateResponse(request, name, {"person": who(request), **found}, status)


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
    response = RedirectResponse("/", 303)
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
