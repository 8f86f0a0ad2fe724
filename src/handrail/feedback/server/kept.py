"""What one page leaves for the next: a secret that is told once, an upload that waits to be taken in."""

import secrets
import threading
import time
from collections import OrderedDict
from typing import Any

from handrail.feedback.store.people import Person

HOUR = 3600.0
MOST = 32  # things at a time; the oldest goes first


class Kept:
    """Things that one person left and may pick up within the hour.  They live in memory: a restart forgets them."""

    def __init__(self) -> None:
        self._things: OrderedDict[str, tuple[int, float, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def leave(self, person: Person, thing: Any) -> str:
        """Under which name it can be picked up."""
        name = secrets.token_hex(12)
        with self._lock:
            self._things[name] = (person.id, time.monotonic(), thing)
            while len(self._things) > MOST:
                self._things.popitem(last=False)
        return name

    def look(self, person: Person, name: str) -> Any:
        """The thing, which stays; None where there is none for this person."""
        with self._lock:
            owner, at, thing = self._things.get(name, (0, 0.0, None))
        return thing if owner == person.id and time.monotonic() - at < HOUR else None

    def take(self, person: Person, name: str) -> Any:
        """The thing, which is gone from here."""
        thing = self.look(person, name)
        if thing is not None:
            with self._lock:
                self._things.pop(name, None)
        return thing
