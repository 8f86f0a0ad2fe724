"""Serving the app: on this machine alone, unless it is told otherwise and people sign in."""

from collections.abc import Callable, Mapping

import uvicorn

from handrail.errors import InputError
from handrail.feedback.server.app import Responder, ServerSettings, create_app
from handrail.feedback.server.security import LOOPBACK
from handrail.feedback.store import Database, people

Say = Callable[[str], None]


def serve(db: Database, settings: ServerSettings, responders: Mapping[str, Responder] | None = None, say: Say = print) -> None:
    """Serve until the process is told to end.  At the first start it says a link with which the first admin signs in, once.

    Raises InputError where others could reach the app without signing in.
    """
    check(settings)
    app = create_app(db, settings, responders)
    config = uvicorn.Config(app, settings.host, settings.port, log_level="warning", server_header=False, proxy_headers=False)
    server = uvicorn.Server(config)
    with config.bind_socket() as socket:
        port = socket.getsockname()[1]
        where = settings.public.rstrip("/") or f"http://{'[::1]' if settings.host == '::1' else settings.host}:{port}"
        say(f"Handrail feedback: {where}")
        if settings.sign_in and people.nobody_yet(db):
            admin = people.invite(db, "Admin", "admin", pseudonym="admin")
            say(f"Sign in as the first admin, once, at {where}/enter/{people.issue(db, admin, 'link')}")
        server.run(sockets=[socket])


def check(settings: ServerSettings) -> None:
    """Whether the app may be served so.  Raises InputError."""
    if settings.host in LOOPBACK:
        return
    if not settings.sign_in:
        raise InputError(f"host {settings.host} without signing in", "that is for this machine alone", "leave --no-sign-in away")
    if not settings.public:
        address = "the address that people will open, such as https://labels.example.org"
        raise InputError(f"host {settings.host} without --public", address, "give --public")
