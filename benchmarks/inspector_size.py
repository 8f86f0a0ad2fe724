"""Seconds until the inspector shows something on a run of 1,000 steps x 512 responses x 512 tokens.

    python benchmarks/inspector_size.py                            # 20 GB of traces in a temporary folder, minutes to write
    python benchmarks/inspector_size.py --steps 200 --rows 64      # smaller
    python benchmarks/inspector_size.py --folder traces --keep     # once written, they are used again

The traces have all that PPO with two passes writes, over random numbers, which compress worse than real ones; every
eighth step also has the alternatives of policy and reference at each token.  Eight steps are made and the others are
copies of them, files of their own.  Measured with nothing of them in memory where the kernel lets go of it
(posix_fadvise), each question the first of its kind: what the page asks for, over HTTP, to the last byte of the answer.
With Chromium there (--browser), also from opening a page until its rows or tokens are on the screen.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

from handrail.inspector.server import served
from handrail.inspector.server.rows import PLACES
from handrail.track.traces import GROUP

MADE, TOP_EVERY = 8, 8
WORDS = [f" {a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("", "n", "r", "st", "ll", "m")]


def lists(values: np.ndarray) -> pa.Array:
    """[rows, tokens, ...] as lists."""
    found = pa.array(values.ravel())
    for size in reversed(values.shape[1:]):
        found = pa.ListArray.from_arrays(pa.array(np.arange(0, len(found) + 1, size, dtype=np.int32)), found)
    return found


def words(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, pa.Array]:
    """Ids of tokens, the frequent ones more often, and their texts in lists."""
    ids = (len(WORDS) * rng.random(shape) ** 3).astype(np.int32)
    texts = pa.DictionaryArray.from_arrays(pa.array(ids.ravel()), pa.array(WORDS)).cast(pa.string())
    for size in reversed(shape[1:]):
        texts = pa.ListArray.from_arrays(pa.array(np.arange(0, len(texts) + 1, size, dtype=np.int32)), texts)
    return ids, texts


def step_table(rng: np.random.Generator, rows: int, tokens: int, top: bool) -> pa.Table:
    """One step's trace with the columns of PPO."""

    def numbers(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    ids, pieces = words(rng, (rows, tokens))
    texts = ["".join(WORDS[i] for i in row) for row in ids]
    scalars = ("score", "kl_sum", "advantage_mean", "value_after", "advantage_after")
    found: dict[str, pa.Array] = {
        "prompt_id": pa.array([f"prompt-{i % 64}" for i in range(rows)]),
        "prompt": pa.array([f"What would you say of {WORDS[i % 64]} and the rest?" for i in range(rows)]),
        "response": pa.array(texts),
        "ended": pa.array([True] * rows),
        "length": pa.array([tokens] * rows),
        **{name: pa.array(numbers(rows).astype(np.float64)) for name in scalars},
        **{name: pa.array([value] * rows) for name, value in (("beta", 0.05), ("advantages_mean", 0.0), ("advantages_std", 1.0))},
        "ids": lists(ids),
        "tokens": pieces,
    }
    for name in ("logp_old", "logp_ref", "kl", "reward", "value", "return", "advantage", "entropy"):
        found[name] = lists(numbers(rows, tokens))
    found["token_reward"] = lists(np.zeros((rows, tokens), np.float32))
    found |= {"pass_update": lists(np.tile(np.int32([0, 1]), (rows, 1))), "pass_weight": lists(np.ones((rows, 2), np.float32))}
    found["pass_count"] = lists(np.full((rows, 2), rows * tokens, np.int32))
    found |= {name: lists(numbers(rows, 2, tokens)) for name in ("pass_logp", "pass_value")}
    for model in ("policy", "reference") if top else ():
        others, texts_of = words(rng, (rows, tokens, 5))
        found |= {f"{model}_top": texts_of, f"{model}_top_ids": lists(others), f"{model}_top_logp": lists(-abs(numbers(rows, tokens, 5)))}
    return pa.table(found)


def make_run(folder: Path, steps: int, rows: int, tokens: int) -> None:
    """The run folder; its traces are some files and copies of them."""
    (folder / "tokens").mkdir(parents=True)
    rng = np.random.default_rng(0)
    config = {
        "seed": 0,
        "steps": steps,
        "gamma": 1.0,
        "lam": 0.95,
        "objective": {"kind": "ppo_clip", "clip": 0.2},
        "whiten_advantages": True,
    }
    (folder / "config.yaml").write_text(json.dumps(config))
    (folder / "inputs.json").write_text(json.dumps({"stage": "ppo", "inputs": {}}))
    names = ["reward", "kl", "length", "entropy", "clip_fraction", "value_loss", "explained_variance", *(f"metric_{i}" for i in range(14))]
    walks = np.cumsum(rng.standard_normal((steps, len(names))), 0)
    with (folder / "metrics.jsonl").open("w") as metrics, (folder / "timing.jsonl").open("w") as timing:
        for step in range(steps):
            metrics.write(json.dumps({"step": step, **dict(zip(names, walks[step].tolist(), strict=True))}) + "\n")
            timing.write(json.dumps({"step": step, "time": 1.7e9 + 60 * step, "act": 30.0, "judge": 9.0, "improve": 20.0}) + "\n")
    for step in range(steps):
        path = folder / f"tokens/step-{step:06d}.parquet"
        if step < MADE:
            parquet.write_table(step_table(rng, rows, tokens, step % TOP_EVERY == 0), path, compression="zstd", row_group_size=GROUP)
        else:
            shutil.copyfile(folder / f"tokens/step-{step % MADE:06d}.parquet", path)
    (folder / "summary.json").write_text("{}")


def forgotten(folder: Path) -> None:
    """Let the kernel forget the files, as far as it does."""
    os.sync()
    for path in (folder / "tokens").iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def timed(where: str, path: str) -> tuple[float, dict]:
    """Seconds to the last byte of an answer, and the answer."""
    start = time.perf_counter()
    with urllib.request.urlopen(f"{where}{path}") as answer:
        body = answer.read()
    return time.perf_counter() - start, json.loads(body)


def measure(where: str, steps: int, rows: int) -> dict[str, float]:
    """Seconds of what the pages ask for, each for the first time."""
    found: dict[str, float] = {}
    found["runs"], _ = timed(where, "/api/runs")
    found["run: curves"], _ = timed(where, "/api/metrics/run")
    found["responses: first rows"], answer = timed(where, "/api/rows/run?count=32")
    start, share, total = time.perf_counter(), answer["share"], steps * rows
    while share < 1:
        share = timed(where, "/api/rows/run?count=32")[1]["share"]
    found["responses: all counted"] = found["responses: first rows"] + time.perf_counter() - start
    row = steps // 2 // MADE * MADE * PLACES + 5
    rng = np.random.default_rng(1)
    for by, falling in (("step", "true"), ("score", "true"), ("kl_sum", "false")):
        found[f"responses: first by {by}"], answer = timed(where, f"/api/rows/run?by={by}&falling={falling}&count=32")
        start, share = time.perf_counter(), answer["share"]
        while share < 1:
            share = timed(where, f"/api/rows/run?by={by}&falling={falling}&count=32")[1]["share"]
        found[f"responses: all by {by}"] = found[f"responses: first by {by}"] + time.perf_counter() - start
        windows = [
            timed(where, f"/api/rows/run?by={by}&falling={falling}&start={start}&count=32")[0] for start in rng.integers(0, total, 20)
        ]
        found[f"window by {by}: median"], found[f"window by {by}: longest"] = statistics.median(windows), max(windows)
    found["response"], _ = timed(where, f"/api/response/run?row={row + PLACES}")
    found["response with alternatives"], _ = timed(where, f"/api/response/run?row={row}")
    found["arithmetic of a token"], _ = timed(where, f"/api/arithmetic/run?row={row}&token=100&pass=1")
    found["answers to one prompt: first"], _ = timed(where, f"/api/rows/run?prompt={row}&count=32")
    found["nearest in its step"], _ = timed(where, f"/api/near/run?row={row}")
    start, share = time.perf_counter(), 0.0
    while share < 1:
        seconds, answer = timed(where, "/api/rows/run?words=gall+starst&count=32")
        found.setdefault("search: first answer", seconds)
        share = answer["share"]
    found["search: all texts"] = time.perf_counter() - start
    return found


def seen(where: str, row: int) -> dict[str, float]:
    """Seconds in Chromium from opening a page until what it is for is on the screen; and how smoothly the table scrolls."""
    from playwright.sync_api import sync_playwright

    found = {}
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(60_000)
        for name, path, ready in (
            ("run", "/run/run", "#curves .curve"),
            ("responses", "/responses/run", ".line .response:not(:empty)"),
            ("microscope", f"/microscope/run?row={row}", "#arithmetic .line"),
        ):
            start = time.perf_counter()
            page.goto(where + path)
            page.wait_for_selector(ready)
            found[f"seen: {name}"] = time.perf_counter() - start
        page.goto(where + "/responses/run")
        page.wait_for_selector(".line .response:not(:empty)")
        frames = page.evaluate(
            """() => new Promise((done) => {
                 const table = document.getElementById("table"), gaps = [];
                 let last = performance.now(), left = 240;
                 const turn = (now) => {
                   gaps.push(now - last); last = now; table.scrollTop += 240;
                   if (left--) requestAnimationFrame(turn); else done(gaps.slice(2));
                 };
                 requestAnimationFrame(turn);
               })"""
        )
        found["scrolling: ms a frame, median"] = statistics.median(frames)
        found["scrolling: ms a frame, 95 %"] = float(np.quantile(frames, 0.95))
        browser.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--folder", type=Path, help="where the run is made; a temporary one if not given")
    parser.add_argument("--keep", action="store_true", help="leave the folder there")
    parser.add_argument("--browser", action="store_true")
    given = parser.parse_args()
    root = given.folder or Path(tempfile.mkdtemp(prefix="inspector-size-"))
    try:
        if not (root / "run/summary.json").exists():
            start = time.perf_counter()
            make_run(root / "run", given.steps, given.rows, given.tokens)
            print(f"made in {time.perf_counter() - start:.0f} s")
        size = sum(path.stat().st_size for path in (root / "run/tokens").iterdir())
        print(f"{given.steps} steps x {given.rows} responses x {given.tokens} tokens, {size / 2**30:.1f} GiB")
        forgotten(root / "run")
        with served(root) as where:
            found = measure(where, given.steps, given.rows)
        if given.browser:
            forgotten(root / "run")
            with served(root) as where:
                found |= seen(where, given.steps // 2 // MADE * MADE * PLACES + 5)
        for name, value in found.items():
            print(f"{name:40s} {value:8.3f}{'' if 'ms a frame' in name else ' s'}")
    finally:
        if not given.keep:
            shutil.rmtree(root)


if __name__ == "__main__":
    main()
