"""Who is asking, from where, and what a page may do.

A browser carries a session in a cookie that scripts cannot read; a program carries a token in its Authorization header.
"""

from typing import Annotated, Any, cast
from urllib.parse import urlsplit

from fastapi import Depends, HTTPException, Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse

from handrail.feedback.store import people
from handrail.feedback.store.people import Person

COOKIE = "handrail_session"
LOOPBACK = {"localhost", "127.0.0.1", "::1"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; font-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; manifest-src 'self'; worker-src 'self'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # with no-referrer a browser sends a form with the origin null, and nobody could sign in
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
SAFE = {"GET", "HEAD", "OPTIONS"}


def who(request: Request) -> Person | None:
    """The person who is signed in."""
    db, alone = request.app.state.db, request.app.state.alone
    if alone is not None:
        return cast(Person, alone)
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return people.known(db, token.strip(), "token")
    session = request.cookies.get(COOKIE)
    return people.known(db, session, "session") if session else None


def signed_in(request: Request) -> Person:
    """The person who is signed in; else 401."""
    person = who(request)
    if person is None:
        raise HTTPException(401, "not signed in: open your link, or send a token", {"www-authenticate": "Bearer"})
    return person


def an_admin(person: Annotated[Person, Depends(signed_in)]) -> Person:
    """The admin who is signed in; else 403."""
    if not person.admin:
        raise HTTPException(403, "this is for those who run the projects")
    return person


SignedIn = Annotated[Person, Depends(signed_in)]
Admin = Annotated[Person, Depends(an_admin)]


class Guard:
    """What holds for every request: the host is ours, a change comes from our own pages, and no body is endless."""

    def __init__(self, app: Any, hosts: frozenset[str], largest: int):
        self.app, self.hosts, self.largest = app, hosts, largest

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if refused := self.refusal(scope, headers):
            status, why = refused
            await JSONResponse({"found": why}, status, HEADERS)(scope, receive, send)
            return
        taken = 0

        async def counted() -> Any:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self.largest:
                raise HTTPException(413, f"a body of more than {self.largest} bytes")
            return message

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                found = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    found.setdefault(name, value)
                found.setdefault("cache-control", "no-cache" if scope["path"].startswith("/static/") else "no-store")
            await send(message)

        await self.app(scope, counted, guarded)

    def refusal(self, scope: dict, headers: Headers) -> tuple[int, str] | None:
        """Status and reason for a request that is not let in."""
        host = headers.get("host", "")
        if hostname(host) not in self.hosts:
            return 421, "this host name is not the one under which the app is served"
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self.largest:
            return 413, f"a body of more than {self.largest} bytes"
        if scope["method"] in SAFE or "authorization" in headers:
            return None
        origin = headers.get("origin")
        if origin is None or urlsplit(origin).netloc != host:
            return 403, "a change that does not come from one of the app's own pages"
        return None


def hostname(host: str) -> str:
    """A Host header without its port."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0].lower()
