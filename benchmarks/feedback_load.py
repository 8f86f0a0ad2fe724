"""How the feedback app carries two hundred labellers: latency of each route, errors, memory of the server.

    python benchmarks/feedback_load.py                         # 200 labellers for three minutes, SQLite on this disk
    python benchmarks/feedback_load.py --seconds 60 --json load.json
    python benchmarks/feedback_load.py --database postgresql://USER@HOST/NAME     # an empty database

The server is a process of its own on this machine; the labellers are one other process.  Each thinks 5 to 20 seconds
(uniform) before it answers an item, fetches three items at a time as the page does, looks at its task now and then, flags
one item in fifty and takes one answer in fifty back.  The first `--warm` seconds do not count.  Memory is the resident set
of the server after the warm-up and at the end.  The bar: 99 of 100 requests of each route within 200 ms, and no error.
"""

import argparse
import asyncio
import json
import os
import random
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import closing
from pathlib import Path

import httpx2

from handrail.feedback.kinds import Compared, Item, TaskSettings
from handrail.feedback.store import Database, people, projects
from handrail.records import Prompt

BAR = 0.2  # seconds
SERVE = """
import sys
from handrail.feedback.server import ServerSettings, serve
from handrail.feedback.store import Database
serve(Database.open(sys.argv[1]), ServerSettings(port=int(sys.argv[2])), say=lambda line: None)
"""


def prepare(where: str, labellers: int, items: int) -> tuple[int, list[str]]:
    """A task of comparisons with gold items and repeats; its number, and a token for each labeller."""
    rng = random.Random(0)

    def text() -> str:
        return " ".join(rng.choice(("the", "owl", "**went**", "away", "and", "`came`", "back")) for _ in range(rng.randint(30, 200)))

    with closing(Database.open(where)) as db:
        projects.make_project(db, "load")
        settings = TaskSettings(kind="compare", overlap=3, gold=0.1, repeats=0.05, instructions=text())
        task = projects.make_task(db, "load", "compare", settings)
        found = [Item(prompt=Prompt.of(text()), responses=(text(), text()), models=("one", "other")) for _ in range(items)]
        gold = [Item(prompt=Prompt.of(text()), responses=(text(), text()), gold=Compared(better=0)) for _ in range(items // 20)]
        projects.take_in(db, task, found + gold)
        everybody = [people.invite(db, "Labeller", to=["load"]) for _ in range(labellers)]
        return task.id, [people.issue(db, person, "token") for person in everybody]


class Load:
    """What was asked so far, and how long it took."""

    def __init__(self, address: str, task: int, think: tuple[float, float]):
        self.address, self.task, self.think = address, task, think
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.errors: list[str] = []
        self.counts = False

    async def ask(self, client: httpx2.AsyncClient, route: str, path: str, body: dict | None = None) -> dict:
        """One request; its time counts once the warm-up is over."""
        began = time.perf_counter()
        try:
            answer = await (client.get(path) if body is None else client.post(path, json=body))
            if answer.status_code != 200:
                self.errors.append(f"{route}: {answer.status_code} {answer.text[:200]}")
            found = answer.json()
        except (httpx2.HTTPError, ValueError) as error:
            self.errors.append(f"{route}: {type(error).__name__} {error}")
            found = {}
        if self.counts:
            self.seconds[route].append(time.perf_counter() - began)
        return found

    async def labeller(self, token: str) -> None:
        """One person, until cancelled."""
        headers = {"authorization": f"Bearer {token}"}
        async with httpx2.AsyncClient(base_url=self.address, headers=headers, timeout=60) as client:
            await asyncio.sleep(random.uniform(0, self.think[1]))
            await self.ask(client, "GET /api/me", "/api/me")
            while True:
                given = await self.ask(client, "POST next", f"/api/tasks/{self.task}/next", {"count": 3, "html": True})
                if not given.get("items"):
                    self.errors.append("no items are left: give more with --items")
                    return
                for one in given["items"]:
                    await self.answer(client, one["id"])
                if random.random() < 0.2:
                    await self.ask(client, "GET task", f"/api/tasks/{self.task}")

    async def answer(self, client: httpx2.AsyncClient, item: str) -> None:
        """Think, answer, and sometimes something more."""
        think = random.uniform(*self.think)
        await asyncio.sleep(think)
        acts: list[dict] = [{"answer": {"kind": "compare", "better": random.randrange(2)}, "seconds": think, "reason": "clearer"}]
        acts += [{"act": "undo"}, acts[0]] if random.random() < 0.02 else []
        acts += [{"act": "flag", "reason": "odd"}] if random.random() < 0.02 else []
        for act in acts:
            await self.ask(client, "POST answer", f"/api/assignments/{item}", {"key": secrets.token_urlsafe(16), **act})


def resident(pid: int) -> float:
    """Megabytes of memory that a process holds."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"the server, process {pid}, has ended")


async def run(args: argparse.Namespace, address: str, pid: int, task: int, tokens: list[str]) -> dict:
    """The whole load; the figures."""
    load = Load(address, task, (args.think[0], args.think[1]))
    everybody = [asyncio.create_task(load.labeller(token)) for token in tokens]
    await asyncio.sleep(args.warm)
    load.counts, before, began = True, resident(pid), time.perf_counter()
    await asyncio.sleep(args.seconds)
    load.counts, spent, after = False, time.perf_counter() - began, resident(pid)
    for one in everybody:
        one.cancel()
    await asyncio.gather(*everybody, return_exceptions=True)
    routes = {route: describe(found) for route, found in sorted(load.seconds.items())}
    total = sum(len(found) for found in load.seconds.values())
    figures = {
        "labellers": len(tokens),
        "seconds": spent,
        "requests_per_second": total / spent,
        "routes": routes,
        "errors": len(load.errors),
    }
    machine = {"cores": os.cpu_count(), "load_average": os.getloadavg()[0]}
    return figures | {"what_failed": load.errors[:5], "rss_mb": {"start": before, "end": after}, "machine": machine}


def describe(found: list[float]) -> dict:
    """Percentiles in milliseconds."""
    ordered = sorted(found)

    def percentile(share: float) -> float:
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    return {"requests": len(ordered), "p50": percentile(0.5), "p95": percentile(0.95), "p99": percentile(0.99), "max": 1000 * ordered[-1]}


def show(figures: dict) -> None:
    """The table."""
    rate, machine = figures["requests_per_second"], figures["machine"]
    print(f"{figures['labellers']} labellers, {figures['seconds']:.0f} s, {rate:.1f} requests a second, {figures['errors']} errors")
    print(f"{machine['cores']} cores, load average {machine['load_average']:.1f}, labellers and server together")
    print(f"{'ms':14}{'requests':>10}{'p50':>9}{'p95':>9}{'p99':>9}{'max':>9}")
    for route, found in figures["routes"].items():
        print(f"{route:14}{found['requests']:10}" + "".join(f"{found[name]:9.1f}" for name in ("p50", "p95", "p99", "max")))
    print(f"memory of the server: {figures['rss_mb']['start']:.0f} MB after the warm-up, {figures['rss_mb']['end']:.0f} MB at the end")
    for failed in figures["what_failed"]:
        print(f"failed: {failed}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labellers", type=int, default=200)
    parser.add_argument("--items", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--warm", type=float, default=25.0, help="seconds before it counts")
    parser.add_argument("--think", type=float, nargs=2, default=(5.0, 20.0), help="seconds, from and to")
    parser.add_argument("--database", default="", help="URL or path; a new SQLite file if absent")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        where = args.database or f"{folder}/feedback.db"
        task, tokens = prepare(where, args.labellers, args.items)
        server = subprocess.Popen([sys.executable, "-c", SERVE, where, str(port)])
        try:
            address, until = f"http://127.0.0.1:{port}", time.monotonic() + 60
            while True:
                try:
                    httpx2.get(f"{address}/api/openapi.json")
                    break
                except httpx2.TransportError:
                    if time.monotonic() > until or server.poll() is not None:
                        sys.exit("the server does not start")
                    time.sleep(0.1)
            figures = asyncio.run(run(args, address, server.pid, task, tokens))
        finally:
            server.kill()
            server.wait()
    show(figures)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    slow = [route for route, found in figures["routes"].items() if found["p99"] > 1000 * BAR]
    if figures["errors"] or slow:
        sys.exit(f"not within the bar: {', '.join(slow) or 'errors'}")


if __name__ == "__main__":
    main()
