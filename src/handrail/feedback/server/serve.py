"""Serving the app: on this machine alone, unless it is told otherwise and people sign in."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from socket import AF_INET, AF_INET6, IPPROTO_TCP, SO_REUSEADDR, SOCK_STREAM, SOL_SOCKET
from socket import socket as Socket

import uvicorn

from handrail.errors import InputError, RunError
from handrail.feedback.server.app import Responder, ServerSettings, create_app
from handrail.feedback.server.security import LOOPBACK
from handrail.feedback.store import Database, people

Say = Callable[[str], None]


def serve(
    db: Database,
    settings: ServerSettings,
    responders: Mapping[str, Responder] | None = None,
    say: Say = print,
    socket: Socket | None = None,
) -> None:
    """Serve until the process is told to end.  At the first start it says a link with which the first admin signs in, once.

    `socket` is one that `listening` gave before there was a store.  Raises InputError as `listening` does.
    """
    server, socket, where = bound(db, settings, responders, socket)
    with socket:
        people.announce(db, where)
        say(f"Handrail feedback: {where}")
        if settings.sign_in and people.nobody_yet(db):
            admin = people.first_admin(db, "Admin", "admin")
            say(f"Sign in as the first admin, once, at {where}/enter/{people.issue(db, admin, 'link')}")
        server.run(sockets=[socket])


@contextmanager
def served(db: Database, settings: ServerSettings, responders: Mapping[str, Responder] | None = None) -> Iterator[str]:
    """The app in a thread of this process while the block lasts; gives its address.  Raises InputError, RunError."""
    server, socket, where = bound(db, settings, responders)
    with in_a_thread(server, socket, f"the feedback app could not be started at {where}"):
        yield where


@contextmanager
def in_a_thread(server: uvicorn.Server, socket: Socket, failure: str) -> Iterator[None]:
    """The server runs in a thread of this process while the block lasts.  Raises RunError, `failure`, where it does not begin."""
    with socket:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]}, daemon=True)
        thread.start()
        while not server.started:
            if not thread.is_alive():
                raise RunError(failure)
            time.sleep(0.01)
        try:
            yield
        finally:
            server.should_exit = True
            thread.join(10.0)


def bound(
    db: Database, settings: ServerSettings, responders: Mapping[str, Responder] | None, socket: Socket | None = None
) -> tuple[uvicorn.Server, Socket, str]:
    """A server, its socket, and the address that people open.  Raises InputError as `listening` does."""
    socket = socket or listening(settings)
    app = create_app(db, settings, responders)
    # Logging stays as it is: a configuration of uvicorn's own closes every handler of the process that trains beside the app.
    config = uvicorn.Config(app, settings.host, settings.port, log_level="warning", log_config=None, server_header=False)
    name = f"[{settings.host}]" if socket.family == AF_INET6 else settings.host
    where = settings.public.rstrip("/") or f"http://{name}:{socket.getsockname()[1]}"
    return uvicorn.Server(config), socket, where


def listening(settings: ServerSettings) -> Socket:
    """The app's socket.  Raises InputError where the port is taken, or others could reach the app without signing in."""
    check(settings)
    family = AF_INET6 if ":" in settings.host else AF_INET
    socket = Socket(family, SOCK_STREAM, IPPROTO_TCP)  # asyncio sends without delay only where the protocol is named
    socket.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
    try:
        socket.bind((settings.host, settings.port))
    except OSError as error:
        socket.close()
        taken = f"{settings.host}:{settings.port} cannot be used: {error.strerror}"
        raise InputError(taken, "a free port of this machine", "give --port; 0 takes any that is free") from error
    return socket


def check(settings: ServerSettings) -> None:
    """Whether the app may be served so.  Raises InputError."""
    if not settings.sign_in and (settings.public or settings.host not in LOOPBACK):
        where = f"--public {settings.public}" if settings.public else f"host {settings.host}"
        raise InputError(f"{where} without signing in", "that is for this machine alone", "leave --no-sign-in away")
    if settings.host not in LOOPBACK and not settings.public:
        address = "the address that people will open, such as https://labels.example.org"
        raise InputError(f"host {settings.host} without --public", address, "give --public")
