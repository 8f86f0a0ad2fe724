"""A small OpenAI-compatible server on this machine, which judges by a rule and fails as it is told."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Rule = Callable[[str, str], str]  # (response A, response B) -> what the judge says
SHOWN = re.compile(r"(?m)^(\[[0-9a-f]{12}\]) response A\n(.*)\n\1 response B\n(.*)\n\1 end$", re.DOTALL)


def longer(first: str, second: str) -> str:
    """Prefers the longer response, wherever it stands."""
    said = "tie" if len(first) == len(second) else "A" if len(first) > len(second) else "B"
    return f"One is {abs(len(first) - len(second))} letters longer.\n**Verdict: {said}**"


def always_first(first: str, second: str) -> str:
    return "What comes first is best.\nVerdict: A"


@dataclass
class Fault:
    """Instead of an answer: a status and a body, after so many seconds; or the right answer drop by drop."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    drips: bool = False


@dataclass
class Judge:
    """What the server was asked, and how it answers."""

    url: str
    rule: Rule
    faults: Callable[[int, str], Fault | None]  # of the request's number and the question
    usage: dict[str, int] | None
    asked: list[dict] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    at: list[float] = field(default_factory=list)
    busy: int = 0
    busiest: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def serving(
    rule: Rule = longer, faults: Callable[[int, str], Fault | None] = lambda number, question: None, usage: bool = True
) -> Iterator[Judge]:
    """The server while it runs.  An answer costs 100 tokens of question and 7 of answer, where `usage` tells."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with judge.lock:
                number = len(judge.asked)
                judge.asked.append(body)
                judge.headers.append(dict(self.headers))
                judge.at.append(time.monotonic())
                judge.busy += 1
                judge.busiest = max(judge.busiest, judge.busy)
            try:
                self.answer(number, body["messages"][0]["content"])
            except (BrokenPipeError, ConnectionResetError):
                pass
            finally:
                with judge.lock:
                    judge.busy -= 1

        def answer(self, number: int, question: str) -> None:
            assert self.path == "/v1/chat/completions"
            shown = SHOWN.search(question)
            assert shown, question
            told = {"choices": [{"message": {"role": "assistant", "content": judge.rule(shown[2], shown[3])}}], "usage": judge.usage}
            fault = judge.faults(number, question) or Fault(body=json.dumps(told).encode())
            stopped.wait(fault.seconds)
            self.send_response(fault.status)
            for name, value in fault.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(fault.body)))
            self.end_headers()
            for byte in fault.body if fault.drips else ():
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                stopped.wait(0.02)
            self.wfile.write(b"" if fault.drips else fault.body)

        def log_message(self, *_: object) -> None:
            pass

    stopped = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    tokens = {"prompt_tokens": 100, "completion_tokens": 7} if usage else None
    judge = Judge(f"http://127.0.0.1:{server.server_port}/v1", rule, faults, tokens)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield judge
    finally:
        stopped.set()
        server.shutdown()
        server.server_close()
        thread.join()
