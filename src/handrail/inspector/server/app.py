"""The app put together: the pages, what they ask for, and what is answered when something is not there."""

import json
from pathlib import Path

import pyarrow
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from handrail import __version__
from handrail.errors import HandrailError
from handrail.feedback.server.app import STATIC as SHARED
from handrail.feedback.server.security import LOOPBACK, Guard
from handrail.inspector.server import api, labels_api, labels_pages, pages
from handrail.inspector.server.items import Items
from handrail.inspector.server.measured import Measures
from handrail.inspector.server.rows import Library
from handrail.inspector.server.runs import Runs
from handrail.inspector.server.stores import Stores

STATIC = Path(__file__).parent / "static"
SAME_AS_FEEDBACK = frozenset({"base.css", "theme.js", "dom.js", "icon.svg"})  # one look for all pages of Handrail
LARGEST = 2**16  # bytes of a request; nothing is sent here but questions


def create_app(root: Path, store: str = "", measures: Measures | None = None) -> FastAPI:
    """The app over the run folders below `root` and over a `store`, a path or URL; "": over those that belong to the runs.

    Raises InputError where there is no such folder or store, StorageError where the store cannot be read.
    """
    app = FastAPI(title="Handrail inspector", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.runs, app.state.library = Runs(root), Library()
    app.state.stores, app.state.items, app.state.measures = Stores(app.state.runs, store), Items(), measures or Measures()
    app.include_router(api.router)
    app.include_router(labels_api.router)
    app.add_api_route("/shared/{name}", shared, include_in_schema=False)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.include_router(labels_pages.router)
    app.include_router(pages.router)  # the last: every other address of two parts is a run's
    app.add_exception_handler(HTTPException, absent)
    app.add_exception_handler(RequestValidationError, unfit)
    for kind in (OSError, IndexError, pyarrow.ArrowException):
        app.add_exception_handler(kind, gone)
    for kind in (HandrailError, json.JSONDecodeError, UnicodeDecodeError):
        app.add_exception_handler(kind, damaged)
    app.add_middleware(Guard, hosts=frozenset(LOOPBACK), largest=LARGEST)
    return app


def shared(name: str) -> FileResponse:
    """A file that the labellers' pages have too."""
    if name not in SAME_AS_FEEDBACK:
        raise HTTPException(404, "there is no such file")
    return FileResponse(SHARED / name)


async def absent(request: Request, error: Exception) -> Response:
    """No such page or run."""
    assert isinstance(error, HTTPException)
    return told(request, error.status_code, str(error.detail))


async def unfit(request: Request, error: Exception) -> Response:
    """A question that cannot be read."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return told(request, 422, f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}")


async def gone(request: Request, error: Exception) -> Response:
    """A file that went away or changed while it was read, as when a run goes on from a checkpoint; or a row that is not there."""
    return told(request, 404, f"it is not there, or not any more: {error}"[:500])


async def damaged(request: Request, error: Exception) -> Response:
    """A file of a run's that is not what a run writes, or a store that cannot be read."""
    return told(request, 404, f"it cannot be read: {error}"[:500])


def told(request: Request, status: int, found: str) -> Response:
    """JSON for scripts, a page for people."""
    if request.url.path.startswith("/api/"):
        return JSONResponse({"found": found}, status)
    return pages.page(request, "absent.html", status, found=found)
