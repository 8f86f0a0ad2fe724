"""Serving the inspector: on this machine alone, whatever is asked for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import AF_INET, IPPROTO_TCP, SO_REUSEADDR, SOCK_STREAM, SOL_SOCKET
from socket import socket as Socket

import uvicorn

from handrail.errors import InputError
from handrail.feedback.server.serve import in_a_thread
from handrail.inspector.server.app import create_app

HOST = "127.0.0.1"


def serve(root: Path, port: int, begun: Callable[[str], None], store: str = "") -> None:
    """Serve the pages over `root` until the process is told to end; `begun` gets their address.

    `store` is a path or URL; "": the stores that belong to the runs.  Raises InputError, StorageError.
    """
    server, socket, where = bound(root, port, store)
    with socket:
        begun(where)
        server.run(sockets=[socket])


@contextmanager
def served(root: Path, port: int = 0, store: str = "") -> Iterator[str]:
    """The pages in a thread of this process while the block lasts; gives their address.  Raises InputError, RunError."""
    server, socket, where = bound(root, port, store)
    with in_a_thread(server, socket, f"the inspector could not be started at {where}"):
        yield where


def bound(root: Path, port: int, store: str) -> tuple[uvicorn.Server, Socket, str]:
    """A server, its socket and its address.  Raises what `create_app` does, and InputError where the port is taken."""
    config = uvicorn.Config(create_app(root, store), HOST, port, log_level="warning", log_config=None, server_header=False)
    socket = Socket(AF_INET, SOCK_STREAM, IPPROTO_TCP)  # asyncio sends without delay only where the protocol is named
    socket.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
    try:
        socket.bind((HOST, port))
    except OSError as error:
        socket.close()
        taken = f"{HOST}:{port} cannot be used: {error.strerror}"
        raise InputError(taken, "a free port of this machine", "give --port; 0 takes any that is free") from error
    return uvicorn.Server(config), socket, f"http://{HOST}:{socket.getsockname()[1]}"
