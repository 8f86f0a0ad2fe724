"""The app put together: the store, the API, the pages, and what is answered when something fails."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from pydantic import Field
from sqlalchemy.exc import IntegrityError, OperationalError
from starlette.exceptions import HTTPException

from handrail import __version__
from handrail.errors import HandrailError, InputError, StorageError
from handrail.feedback.server import admin_pages, admin_review, api, manage, pages, review
from handrail.feedback.server.board import Board
from handrail.feedback.server.kept import Kept
from handrail.feedback.server.security import LOOPBACK, Guard
from handrail.feedback.store import Database, people
from handrail.feedback.store.labels import Conflict, NotThere
from handrail.records import Message, Record

STATIC = Path(__file__).parent / "static"


class Refusal(Record):
    """Why a request was not done: what was found, what is allowed, what to do."""

    found: str
    allowed: str = ""
    remedy: str = ""


REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Refusal, "description": "The body cannot be read"},
    401: {"model": Refusal, "description": "Not signed in"},
    403: {"model": Refusal, "description": "Not for this person, or not from one of the app's own pages"},
    404: {"model": Refusal, "description": "There is no such thing for this person"},
    409: {"model": Refusal, "description": "The key stands for something else, or the act does not fit what was done before"},
    413: {"model": Refusal, "description": "The body is too large"},
    421: {"model": Refusal, "description": "The app is not served under this host name"},
    422: {"model": Refusal, "description": "What was sent cannot be used"},
    503: {"model": Refusal, "description": "Busy: try again, with the same key"},
    507: {"model": Refusal, "description": "The disk is full: try again later, with the same key"},
}


class Responder(Protocol):
    """A model that people chat with."""

    def reply(self, messages: tuple[Message, ...]) -> str:
        """The assistant's next message."""
        ...


class ServerSettings(Record):
    """Where the app is served."""

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    public: str = Field("", description="the address that people open, where it is another: https://labels.example.org")
    sign_in: bool = Field(True, description="False: whoever opens the page is the one person there is; on this machine alone")
    largest: int = Field(64 * 2**20, description="bytes of a request at most")


def create_app(db: Database, settings: ServerSettings | None = None, responders: Mapping[str, Responder] | None = None) -> FastAPI:
    """The app over a store; `responders` are the models that people can chat with, by name."""
    settings = settings or ServerSettings()
    app = FastAPI(title="Handrail feedback", version=__version__, docs_url=None, redoc_url=None, openapi_url="/api/openapi.json")
    app.state.db, app.state.settings, app.state.responders = db, settings, dict(responders or {})
    app.state.alone = None if settings.sign_in else people.the_only_one(db)
    app.state.board, app.state.kept = Board(db), Kept()
    for part in (api, manage, review):
        app.include_router(part.router, responses=REFUSALS)
    for part in (pages, admin_pages, admin_review):
        app.include_router(part.router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.add_exception_handler(HandrailError, told)
    app.add_exception_handler(OperationalError, busy)
    app.add_exception_handler(IntegrityError, clash)
    app.add_exception_handler(HTTPException, turned_away)
    app.add_exception_handler(RequestValidationError, unfit)
    app.add_middleware(Guard, hosts=hosts(settings), largest=settings.largest)
    return app


def hosts(settings: ServerSettings) -> frozenset[str]:
    """The names under which the app answers."""
    public = urlsplit(settings.public).hostname
    return frozenset(LOOPBACK | {settings.host} | ({public} if public else set()))


def refused(status: int, found: str, allowed: str = "", remedy: str = "", headers: Mapping[str, str] | None = None) -> JSONResponse:
    """A refusal as JSON; half a surrogate pair, which UTF-8 has not, is written out."""
    told = {"found": found, "allowed": allowed, "remedy": remedy}
    return JSONResponse({key: text.encode("utf-8", "backslashreplace").decode() for key, text in told.items()}, status, headers)


async def told(request: Request, error: Exception) -> JSONResponse:
    """An error of ours."""
    assert isinstance(error, HandrailError)
    statuses = ((NotThere, 404), (Conflict, 409), (InputError, 422), (StorageError, 503), (api.Away, 503))
    status = next((status for kind, status in statuses if isinstance(error, kind)), 500)
    return refused(status, error.found, error.allowed, error.remedy, {"retry-after": "2"} if status == 503 else None)


async def turned_away(request: Request, error: Exception) -> JSONResponse:
    """No such page, not signed in, not for this person."""
    assert isinstance(error, HTTPException)
    return refused(error.status_code, error.detail, headers=error.headers)


async def unfit(request: Request, error: Exception) -> JSONResponse:
    """A body that is not what the schema says."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return refused(422, f"{where}: {first['msg']}"[:1000], "see /api/openapi.json")


async def busy(request: Request, error: Exception) -> JSONResponse:
    """The database cannot be written now: nothing was acknowledged, the client keeps what it has and tries again."""
    assert isinstance(error, OperationalError)
    if any(word in str(error.orig) for word in ("full", "No space left")):
        return refused(507, "the disk is full", remedy="make room, then try again", headers={"retry-after": "30"})
    return refused(503, "the database is busy", remedy="try again", headers={"retry-after": "2"})


async def clash(request: Request, error: Exception) -> JSONResponse:
    """Two did the same at the same moment, and the other one was first."""
    return refused(409, "somebody else did the same at this moment", remedy="look at what is there now, then try again")
