"""A model at any OpenAI-compatible endpoint: each question asked once, answers kept on disk, failures asked again."""

import hashlib
import json
import os
import random
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
from pydantic import Field, model_validator

from handrail.config import Settings
from handrail.errors import ConfigError, JudgeError, StorageError

NAME = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")  # of an environment variable; few keys look like one
AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 529}  # what another try may mend
REFUSED = {400, 413, 422}  # what lies in the question: too long, not allowed
LONGEST_WAIT = 600.0  # seconds that a server may ask to be left alone
LARGEST_ANSWER = 1 << 23  # bytes

REMEDIES = {
    401: "name the environment variable with the right key in judge.key_env",
    403: "name the environment variable with the right key in judge.key_env",
    404: "judge.endpoint ends where /chat/completions follows, often in /v1; judge.model is a model that it serves",
    429: "wait, or lower judge.concurrency; the same command goes on from the answers that are there",
}
GO_ON = "see that it answers; the same command goes on from the answers that are there"


class EndpointSettings(Settings):
    """A language model that is asked which of two responses is better."""

    endpoint: str = Field(description="base URL of an OpenAI-compatible server, for example http://127.0.0.1:8000/v1")
    model: str = Field(min_length=1, description="its name there")
    key_env: str = Field("", description="NAME of the environment variable that holds the key; the key itself stands nowhere")
    rubric: str = Field("", description="a text file that says what is better; the built-in one if not given")
    options: dict[str, Any] = Field({}, description="fields of the request over temperature 0 and max_tokens 1024; null takes one out")
    concurrency: int = Field(8, ge=1, le=256, description="questions at once")
    timeout: float = Field(120.0, gt=0, description="seconds for an answer")
    retries: int = Field(6, ge=0, description="more tries where there was no answer, each after a longer wait")

    @model_validator(mode="after")
    def _no_secret(self) -> "EndpointSettings":
        url = urlsplit(self.endpoint)
        if url.username or url.password or url.query:
            raise ValueError("judge.endpoint holds a password or a query; give the plain address, and the key by judge.key_env")
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError(f"judge.endpoint is {self.endpoint!r}; it is an address like http://127.0.0.1:8000/v1")
        if self.key_env and not NAME.fullmatch(self.key_env):  # what was found may be the key: it is not repeated
            raise ValueError("judge.key_env is the NAME of an environment variable, of A to Z, 0 to 9 and _, never the key itself")
        return self


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, and the tokens that it cost; None where the server does not tell."""

    text: str
    prompt_tokens: int | None
    completion_tokens: int | None


class Refused(Exception):
    """The server will not answer this question, and may answer others."""


class Answers:
    """Answers on disk by the hash of what was asked, a line each.  A line that a crash cut off is no answer."""

    def __init__(self, path: Path):
        self.path, self.lock = path, threading.Lock()
        self.known: dict[str, Answer] = {}
        content = path.read_bytes() if path.is_file() else b""
        self.between = b"\n" if content and not content.endswith(b"\n") else b""
        for line in content.splitlines():
            try:
                told = json.loads(line)
                asked = told.pop("asked")
                self.known[asked] = Answer(**told)
            except (ValueError, TypeError, KeyError, AttributeError):
                continue

    def keep(self, asked: str, answer: Answer) -> None:
        """On disk before it counts.  Raises StorageError."""
        line = json.dumps({"asked": asked, **asdict(answer)}).encode() + b"\n"
        with self.lock:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("ab") as stream:
                    stream.write(self.between + line)
                    stream.flush()
                    os.fsync(stream.fileno())
            except OSError as error:
                raise StorageError(f"{self.path}: cannot be written: {error.strerror or error}") from error
            self.known[asked], self.between = answer, b""


class Endpoint:
    """Asks a model by chat completions.

    Args:
        cfg: where, and how patiently.
        kept: the file of answers.
        wait: seconds before the second try; each further one waits twice as long, at most a minute.

    Raises:
        ConfigError: the environment variable is not set, or holds what cannot be a key.
    """

    def __init__(self, cfg: EndpointSettings, kept: Path, wait: float = 1.0):
        self.cfg, self.wait, self.answers = cfg, wait, Answers(kept)
        self.url = cfg.endpoint.rstrip("/") + "/chat/completions"
        self.key = key_of(cfg.key_env)
        self.request = {"model": cfg.model, "temperature": 0, "max_tokens": 1024, **cfg.options}
        self.stop, self.rest, self.rest_until = threading.Event(), threading.Lock(), 0.0

    def ask(self, questions: Sequence[str], advance: Callable[[int], None] = lambda more: None) -> list[Answer | None]:
        """The answer to each question, None where the server refused it; what is on disk is not asked again.

        Raises JudgeError, after the answers that came in are kept.
        """
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        found: list[Answer | None] = [None] * len(questions)
        refusals: list[str] = []
        failures: list[Exception] = []

        def one(client: httpx2.Client, number: int) -> None:
            try:
                found[number] = self._one(client, questions[number])
            except Refused as refusal:
                refusals.append(str(refusal))
                if len(refusals) > self.cfg.concurrency and not any(found):
                    failures.append(self._useless(refusals))
                    self.stop.set()
            except Exception as error:
                failures.append(error)
                self.stop.set()  # for those who wait for another try, and those who have not begun
            advance(1)

        with (
            httpx2.Client(headers=headers, timeout=self.cfg.timeout, limits=httpx2.Limits(max_connections=self.cfg.concurrency)) as client,
            ThreadPoolExecutor(self.cfg.concurrency, thread_name_prefix="judge") as pool,
        ):
            work = [pool.submit(one, client, number) for number in range(len(questions))]
            try:
                wait(work)
            finally:
                self.stop.set()
                pool.shutdown(cancel_futures=True)
                self.stop.clear()
        if failures:
            raise failures[0]
        if refusals and not any(found):
            raise self._useless(refusals)
        return found

    def _useless(self, refusals: list[str]) -> JudgeError:
        return JudgeError(
            f"{self.url} answers none of the questions: {refusals[0]}",
            "a request that the server takes",
            "see judge.model and judge.options, for example options: {max_tokens: null, max_completion_tokens: 1024}",
        )

    def _one(self, client: httpx2.Client, question: str) -> Answer | None:
        body = {**self.request, "messages": [{"role": "user", "content": question}]}
        body = {name: value for name, value in body.items() if value is not None}
        asked = hashlib.sha256(json.dumps([self.url, body], sort_keys=True).encode()).hexdigest()
        if asked in self.answers.known:
            return self.answers.known[asked]
        answer = self._insist(client, body)
        self.answers.keep(asked, answer)
        return answer

    def _insist(self, client: httpx2.Client, body: dict[str, Any]) -> Answer:
        """The answer, asked for `retries` times more.  Raises Refused, JudgeError."""
        problem, status = "", 0
        for attempt in range(self.cfg.retries + 1):
            self._pause(attempt)
            try:
                status, said, after = self._post(client, body)
            except (httpx2.TransportError, httpx2.DecodingError, httpx2.InvalidURL) as error:
                problem, status = f"{type(error).__name__} {error}".strip(), 0
                continue
            if status == 200 and (answer := answer_of(said)):
                return answer
            problem = f"status {status}: {self._quoted(said)}"
            if status in REFUSED:
                raise Refused(problem)
            if status != 200 and status not in AGAIN:
                raise JudgeError(f"{self.url}: {problem}", "", REMEDIES.get(status, GO_ON))
            self._leave_alone(after)
        tries = f"no answer in {self.cfg.retries + 1} tries of {self.cfg.timeout:g} s at most"
        raise JudgeError(f"{self.url}: {tries}; the last: {problem}", "", REMEDIES.get(status, GO_ON))

    def _post(self, client: httpx2.Client, body: dict[str, Any]) -> tuple[int, bytes, float]:
        """(status, content, seconds that the server asks to be left alone).  A server that drips is cut off in time."""
        deadline, said = time.monotonic() + self.cfg.timeout, b""
        with client.stream("POST", self.url, content=json.dumps(body)) as response:
            for part in response.iter_bytes():
                said += part
                if time.monotonic() > deadline or len(said) > LARGEST_ANSWER:
                    raise httpx2.ReadTimeout(f"an answer of {len(said)} bytes so far, and no end")
            return response.status_code, said, retry_after(response.headers.get("retry-after", ""))

    def _pause(self, attempt: int) -> None:
        """Wait for one's own turn to try again, and for the time that the server wants to be left alone."""
        own = min(60.0, self.wait * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0) if attempt else 0.0
        until = time.monotonic() + own
        while (left := max(until, self.rest_until) - time.monotonic()) > 0 and not self.stop.is_set():
            self.stop.wait(left)
        if self.stop.is_set():
            raise JudgeError(f"{self.url}: left before an answer came", "", GO_ON)

    def _leave_alone(self, seconds: float) -> None:
        """No question by anybody for so long.  Raises JudgeError where that is too long to wait."""
        if seconds > LONGEST_WAIT:
            raise JudgeError(f"{self.url} asks to be left alone for {seconds:.0f} s", f"up to {LONGEST_WAIT:.0f} s", REMEDIES[429])
        with self.rest:
            self.rest_until = max(self.rest_until, time.monotonic() + seconds)

    def _quoted(self, said: bytes) -> str:
        """The beginning of what the server said, without the key, should it repeat it."""
        text = " ".join(said.decode("utf-8", "replace").split())
        return (text.replace(self.key, "***") if self.key else text)[:300] or "(nothing)"


def key_of(name: str) -> str:
    """The key in an environment variable, "" where none is named.  Raises ConfigError, which does not repeat the key."""
    if not name:
        return ""
    key = os.environ.get(name, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        found = "is not set" if not key else "holds characters that no key has"
        raise ConfigError(f"judge.key_env: the environment variable {name} {found}", "a key", f"export {name}=...")
    return key


def answer_of(said: bytes) -> Answer | None:
    """The first choice of a chat completion, "" where the model said nothing; None where this is no chat completion."""
    try:
        told = json.loads(said)
        message = told["choices"][0]["message"]
        usage = told.get("usage") or {}
        counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    text = message.get("content", 0) if isinstance(message, dict) else 0
    prompt, completion = (n if isinstance(n, int) else None for n in counts)
    return Answer(text or "", prompt, completion) if isinstance(text, str | None) else None


def retry_after(value: str) -> float:
    """Seconds from a Retry-After header: a number of them, or a date.  0 where there is none."""
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0
