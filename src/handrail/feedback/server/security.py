"""Who is asking, from where, and what a page may do.

A browser carries a session in a cookie that scripts cannot read; a program carries a token in its Authorization header.
"""

from typing import Annotated, Any, cast

from fastapi import Depends, HTTPException, Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse

from handrail.feedback.store import people
from handrail.feedback.store.people import Person

COOKIE = "handrail_session"
WHOSE = "x-handrail-person"  # whom a page was made for: its answers are not taken as another's who has signed in since
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
FRESH = {"cache-control": "no-store"}
SAFE = {"GET", "HEAD", "OPTIONS"}
SMALL = 4 * 2**20  # bytes: a demonstration of 200,000 characters, each written as an escape, fits


def who(request: Request) -> Person | None:
    """The person who is signed in."""
    db, alone = request.app.state.db, request.app.state.alone
    if alone is not None:
        return cast(Person, alone)
    if bearer(request.headers):
        return people.known(db, request.headers["authorization"].partition(" ")[2].strip(), "token")
    session = request.cookies.get(COOKIE)
    return people.known(db, session, "session") if session else None


def bearer(headers: Headers) -> bool:
    """Whether a program with a token asks; a browser never sends one by itself."""
    return headers.get("authorization", "").lower().startswith("bearer ")


def signed_in(request: Request) -> Person:
    """The person who is signed in; else 401, or 412 where the page that asks was made for somebody else."""
    person = who(request)
    if person is None:
        raise HTTPException(401, "not signed in: open your link, or send a token", {"www-authenticate": "Bearer"})
    if request.headers.get(WHOSE, person.pseudonym) != person.pseudonym:
        raise HTTPException(412, "somebody else has signed in on this browser")
    return person


def an_admin(person: Annotated[Person, Depends(signed_in)]) -> Person:
    """The admin who is signed in; else 403."""
    if not person.admin:
        raise HTTPException(403, "this is for those who run the projects")
    return person


SignedIn = Annotated[Person, Depends(signed_in)]
Admin = Annotated[Person, Depends(an_admin)]


class Guard:
    """What holds for every request: the host is ours, a change comes from our own pages, and no body is endless.

    `largest` is what an import may have, in bytes; what a labeller sends is smaller.
    """

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
            await JSONResponse({"found": why, "allowed": "", "remedy": ""}, status, {**HEADERS, **FRESH})(scope, receive, send)
            return
        taken, largest = 0, self.limit(scope)

        async def counted() -> Any:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > largest:
                raise HTTPException(413, f"a body of more than {largest} bytes")
            return message

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                found = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    found.setdefault(name, value)
                found.setdefault("cache-control", "no-cache" if scope["path"].startswith("/static/") else FRESH["cache-control"])
            await send(message)

        await self.app(scope, counted, guarded)

    def refusal(self, scope: dict, headers: Headers) -> tuple[int, str] | None:
        """Status and reason for a request that is not let in."""
        host = headers.get("host", "")
        if hostname(host) not in self.hosts:
            return 421, "this host name is not the one under which the app is served"
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self.limit(scope):
            return 413, f"a body of more than {self.limit(scope)} bytes"
        if scope["method"] in SAFE or bearer(headers):
            return None
        _, slashes, origin = headers.get("origin", "").partition("://")
        if not slashes or origin != host:
            return 403, "a change that does not come from one of the app's own pages"
        return None

    def limit(self, scope: dict) -> int:
        """How many bytes the body of a request may have."""
        path = scope["path"]
        small = path.startswith(("/api/assignments/", "/enter/", "/leave")) or path.endswith("/next")
        return min(self.largest, SMALL) if small else self.largest


def hostname(host: str) -> str:
    """A Host header without its port."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0].lower()
