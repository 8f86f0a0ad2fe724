"""The app put together: the store, the API, the pages, and what is answered when something fails."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from pydantic import Field
from sqlalchemy.exc import OperationalError

from handrail import __version__
from handrail.errors import HandrailError, InputError
from handrail.feedback.server import admin_pages, admin_review, api, manage, pages, review
from handrail.feedback.server.board import Board
from handrail.feedback.server.kept import Kept
from handrail.feedback.server.security import LOOPBACK, Guard
from handrail.feedback.store import Database, people
from handrail.feedback.store.labels import Conflict, NotThere
from handrail.records import Message, Record

STATIC = Path(__file__).parent / "static"


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
    for part in (api, manage, review, pages, admin_pages, admin_review):
        app.include_router(part.router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.add_exception_handler(HandrailError, told)
    app.add_exception_handler(OperationalError, busy)
    app.add_exception_handler(RequestValidationError, unfit)
    app.add_middleware(Guard, hosts=hosts(settings), largest=settings.largest)
    return app


def hosts(settings: ServerSettings) -> frozenset[str]:
    """The names under which the app answers."""
    public = settings.public.partition("//")[2].partition("/")[0].partition(":")[0].lower()
    return frozenset(LOOPBACK | {settings.host} | ({public} if public else set()))


async def told(request: Request, error: Exception) -> JSONResponse:
    """An error of ours: what was found, what is allowed, what to do."""
    status = 404 if isinstance(error, NotThere) else 409 if isinstance(error, Conflict) else 422 if isinstance(error, InputError) else 500
    assert isinstance(error, HandrailError)
    return JSONResponse({"found": error.found, "allowed": error.allowed, "remedy": error.remedy}, status)


async def unfit(request: Request, error: Exception) -> JSONResponse:
    """A body that is not what the schema says."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return JSONResponse({"found": f"{where}: {first['msg']}", "allowed": "see /api/openapi.json", "remedy": ""}, 422)


async def busy(request: Request, error: Exception) -> JSONResponse:
    """The database cannot be written now: nothing was acknowledged, the client keeps what it has and tries again."""
    assert isinstance(error, OperationalError)
    full = "full" in str(error.orig)
    found = "the disk is full" if full else "the database is busy"
    return JSONResponse({"found": found, "allowed": "", "remedy": "try again"}, 507 if full else 503, {"retry-after": "2"})
