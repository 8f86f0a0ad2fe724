"""The models that people chat with in the feedback app: a local one in this process, or one behind an endpoint."""

import os
import random
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from handrail.cli.chat import Speak, load
from handrail.config import is_local, nearby
from handrail.errors import InputError, ModelError, RunError
from handrail.records import Message

LENGTH, TEMPERATURE = 512, 1.0  # of a reply: tokens at most, and how it is drawn
SECONDS = 120.0  # that an endpoint may take
ONE_AT_A_TIME = threading.Lock()  # local models share the machine


@dataclass
class Local:
    """A run folder, a model's folder or a hub name; loaded when somebody first talks to it."""

    path: str
    _speak: Speak | None = field(default=None, init=False)

    def reply(self, messages: tuple[Message, ...]) -> str:
        """The assistant's next message.  Raises ModelError, InputError."""
        with ONE_AT_A_TIME:
            if self._speak is None:
                self._speak = load(self.path, "")
            said = [message.model_dump() for message in messages]
            return self._speak(said, TEMPERATURE, LENGTH, random.SystemRandom().randrange(2**31))


@dataclass
class Endpoint:
    """A server that speaks OpenAI's chat completions."""

    base: str
    model: str
    key: str = field(repr=False)

    def reply(self, messages: tuple[Message, ...]) -> str:
        """The assistant's next message.  Raises RunError."""
        import httpx2

        headers = {"authorization": f"Bearer {self.key}"} if self.key else {}
        body = {"model": self.model, "messages": [message.model_dump() for message in messages], "temperature": TEMPERATURE}
        try:
            answer = httpx2.post(f"{self.base}/chat/completions", json=body | {"max_tokens": LENGTH}, headers=headers, timeout=SECONDS)
            answer.raise_for_status()
            return str(answer.json()["choices"][0]["message"]["content"] or "")
        except (httpx2.HTTPError, ValueError, LookupError, TypeError) as error:
            told = f"status {error.response.status_code}" if isinstance(error, httpx2.HTTPStatusError) else type(error).__name__
            raise RunError(f"the model {self.model} at {self.base} gave no answer: {told}", "", "send the message again") from error


def responders(given: list[str], key_variable: str) -> Mapping[str, Local | Endpoint]:
    """NAME=PATH and NAME=URL or NAME=URL#MODEL as models to chat with, by name.  Raises InputError, ModelError."""
    found: dict[str, Local | Endpoint] = {}
    for one in given:
        name, equals, where = one.partition("=")
        if not (name and equals and where):
            raise InputError(f"--chat {one}", "NAME=PATH, or NAME=URL#MODEL for an endpoint")
        if name in found:
            raise InputError(f"--chat {name} stands twice", "each name once")
        if where.startswith(("http://", "https://")):
            base, _, model = where.partition("#")
            found[name] = Endpoint(base.rstrip("/"), model or name, os.environ.get(key_variable, ""))
        else:
            require(where)
            found[name] = Local(where)
    return found


def require(path: str) -> None:
    """Whether something that looks like a path is there, before anybody waits for it.  Raises ModelError."""
    if not os.path.exists(os.path.expanduser(path)) and (is_local(path) or "/" not in path):
        raise ModelError(f"{path}: there is no such folder", "a run folder, a folder with a model, or a hub name", nearby(path))
