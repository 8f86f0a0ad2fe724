"""The typed client of the API, for programs: simulated labellers, a training run that asks people, scripts.

    client = Client("http://127.0.0.1:8000", token)
    for item in client.next_items(task.id, count=5):
        client.submit(item.id, Ranked(places=...))

What fails for a while, a server that restarts, a database that is busy or a disk that is full, is tried again with the same
key, so that nothing is written twice.  What has no key and would make something twice is sent again only where it surely
did not arrive.
"""

import secrets
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Self

import httpx2
from pydantic import BaseModel, TypeAdapter

from handrail.errors import HandrailError, InputError, RunError
from handrail.feedback.kinds import Item, Label, TaskSettings
from handrail.feedback.server.api import Acknowledgement, Asked, Chat, Given, Me, Shown
from handrail.feedback.server.manage import Exported, Invited, Taken, TaskState
from handrail.feedback.store.snapshots import Rules

AGAIN = {429, 503, 507}  # nothing was done
UNSURE = {502, 504}  # a proxy does not know: it may have arrived
BATCH = 500  # items in one request


class Client:
    """A person's, or an admin's, access to an app."""

    def __init__(self, address: str, token: str, patience: float = 60.0, transport: httpx2.BaseTransport | None = None):
        headers = {"authorization": f"Bearer {token}"}
        self.http = httpx2.Client(base_url=address, headers=headers, timeout=60.0, transport=transport)
        self.address, self.patience = address, patience

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection."""
        self.http.close()

    def me(self) -> Me:
        """Who this is, and their tasks."""
        return Me.model_validate(self._ask("GET", "/api/me"))

    def task(self, number: int) -> Asked:
        """One task with its progress."""
        return Asked.model_validate(self._ask("GET", f"/api/tasks/{number}"))

    def next_items(self, task: int, count: int = 1) -> tuple[Shown, ...]:
        """Items to answer; none when there are no more for this person."""
        return Given.model_validate(self._ask("POST", f"/api/tasks/{task}/next", {"count": count})).items

    def submit(self, assignment: str, answer: BaseModel, seconds: float = 0.0, reason: str = "", key: str = "") -> Acknowledgement:
        """Answer; when this returns it is on disk."""
        body = {"answer": answer.model_dump(mode="json"), "seconds": seconds, "reason": reason}
        return self._act(assignment, "submit", body, key)

    def skip(self, assignment: str, reason: str = "", key: str = "") -> Acknowledgement:
        """Leave an item to others."""
        return self._act(assignment, "skip", {"reason": reason}, key)

    def flag(self, assignment: str, reason: str, key: str = "") -> Acknowledgement:
        """Say that something is wrong with an item."""
        return self._act(assignment, "flag", {"reason": reason}, key)

    def undo(self, assignment: str, key: str = "") -> Acknowledgement:
        """Take the last act on an item back."""
        return self._act(assignment, "undo", {}, key)

    def hand_in(self, assignment: str, reason: str = "", key: str = "") -> Acknowledgement:
        """End a chat: its turns become the label."""
        return self._act(assignment, "submit", {"reason": reason}, key)

    def say(self, assignment: str, message: str, key: str = "") -> Chat:
        """Say something to both models of a chat."""
        body = {"key": key or new_key(), "message": message}
        return Chat.model_validate(self._ask("POST", f"/api/assignments/{assignment}/chat", body))

    def choose(self, assignment: str, better: int, tie: bool = False, key: str = "") -> Chat:
        """Choose the answer, 0 or 1 as shown, that a chat goes on from."""
        body = {"key": key or new_key(), "better": better, "tie": tie}
        return Chat.model_validate(self._ask("POST", f"/api/assignments/{assignment}/chat/choice", body))

    def make_project(self, name: str, title: str = "") -> None:
        """Make a project; as admin."""
        self._ask("POST", "/api/projects", {"name": name, "title": title}, once=True)

    def make_task(self, project: str, name: str, settings: TaskSettings) -> TaskState:
        """Make a task; as admin."""
        body = {"name": name, "settings": settings.model_dump(mode="json")}
        return TaskState.model_validate(self._ask("POST", f"/api/projects/{project}/tasks", body, once=True))

    def tasks(self, project: str) -> list[TaskState]:
        """The tasks of a project; as admin."""
        return TypeAdapter(list[TaskState]).validate_python(self._ask("GET", f"/api/projects/{project}/tasks"))

    def put_items(self, task: int, items: Iterable[Item]) -> Taken:
        """Put items into a task; as admin.  Items that are there already get the new priority."""
        found, new, known = list(items), 0, 0
        for start in range(0, len(found), BATCH):
            body = [item.model_dump(mode="json") for item in found[start : start + BATCH]]
            done = Taken.model_validate(self._ask("POST", f"/api/tasks/{task}/items", body))
            new, known = new + done.new, known + done.known
        return Taken(new=new, known=known)

    def invite(self, name: str, projects: Sequence[str] = (), pseudonym: str = "") -> Invited:
        """Invite a labeller; as admin."""
        body = {"name": name, "projects": list(projects), "pseudonym": pseudonym}
        return Invited.model_validate(self._ask("POST", "/api/people", body, once=True))

    def token(self, pseudonym: str) -> str:
        """A token for a program in somebody's name; as admin."""
        return Invited.model_validate(self._ask("POST", f"/api/people/{pseudonym}/token")).secret

    def people(self) -> list[dict[str, Any]]:
        """Everybody; as admin."""
        return list(self._ask("GET", "/api/people"))

    def snapshot(self, project: str, rules: Rules | None = None) -> Exported:
        """Take a snapshot of the labels as they stand; as admin."""
        body = {"rules": (rules or Rules()).model_dump(mode="json")}
        return Exported.model_validate(self._ask("POST", f"/api/projects/{project}/snapshots", body))

    def labels(self, snapshot: str) -> list[Label]:
        """The labels of a snapshot; as admin."""
        text = self._send("GET", f"/api/snapshots/{snapshot}/labels.jsonl", None).text
        return [Label.model_validate_json(line) for line in text.split("\n") if line]

    def _act(self, assignment: str, act: str, body: dict[str, Any], key: str) -> Acknowledgement:
        found = self._ask("POST", f"/api/assignments/{assignment}", {"key": key or new_key(), "act": act, **body})
        return Acknowledgement.model_validate(found)

    def _ask(self, method: str, path: str, body: Any = None, once: bool = False) -> Any:
        response = self._send(method, path, body, once)
        return response.json() if response.content else None

    def _send(self, method: str, path: str, body: Any, once: bool = False) -> httpx2.Response:
        """One request, again and again while the server is away or busy; with `once` never after it may have arrived.

        Raises InputError, RunError.
        """
        until, pause = time.monotonic() + self.patience, 0.05
        while True:
            try:
                response = self.http.request(method, path, json=body)
                if response.status_code not in AGAIN | UNSURE:
                    break
                why, unsure = f"status {response.status_code}", response.status_code in UNSURE
            except httpx2.TransportError as error:
                why, unsure = str(error) or type(error).__name__, not isinstance(error, httpx2.ConnectError)
            if once and unsure:
                raise RunError(f"{self.address} broke off: {why}", "", "see whether it was done, then do it again if not")
            if time.monotonic() + pause > until:
                raise RunError(f"{self.address} does not answer: {why}", f"within {self.patience:g} s", "is the feedback app running?")
            time.sleep(pause)
            pause = min(2 * pause, 2.0)
        if response.status_code >= 400:
            raise refused(response)
        return response


def status_of(url: str) -> int:
    """With which status something answers there within two seconds; 0 where nothing does."""
    try:
        return httpx2.get(url, timeout=2.0).status_code
    except (httpx2.HTTPError, httpx2.InvalidURL):
        return 0


def refused(response: httpx2.Response) -> HandrailError:
    """What the app said when it refused, or that it failed."""
    try:
        told = response.json()
    except ValueError:
        told = {}
    found = told.get("found") or f"status {response.status_code}"
    kind = InputError if response.status_code < 500 else RunError
    return kind(f"the feedback app refused: {found}", str(told.get("allowed", "")), str(told.get("remedy", "")))


def new_key() -> str:
    """A key that nobody has used."""
    return secrets.token_urlsafe(16)
