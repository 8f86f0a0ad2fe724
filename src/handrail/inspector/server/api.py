"""What the pages ask for, as JSON.  Nothing here changes anything."""

import json
import math
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import JSONResponse

from handrail.inspector.curves import MAIN, SIDE
from handrail.inspector.folders import finite
from handrail.inspector.lines import Method
from handrail.inspector.seconds import REST, rest
from handrail.inspector.server import near, traces
from handrail.inspector.server.findings import findings
from handrail.inspector.server.methods import method
from handrail.inspector.server.microscope import beside, response
from handrail.inspector.server.pages import known
from handrail.inspector.server.rows import Rows, name_of
from handrail.inspector.server.runs import Entry, Runs, state
from handrail.inspector.server.said import said, sendable

router = APIRouter(prefix="/api", include_in_schema=False)
Number = Annotated[int, Query(ge=0, le=2**53)]
SHORT = 300  # characters of a text in a table


def answer(found: Any) -> JSONResponse:
    return JSONResponse(sendable(found))


@router.get("/runs")
def runs(request: Request) -> JSONResponse:
    """Every run as the list shows it."""
    found: Runs = request.app.state.runs
    return answer([found.told(entry) for entry in found.all()])


@router.get("/metrics/{path:path}")
def metrics(request: Request, path: str, version: int = -1, since: Number = 0) -> JSONResponse:
    """The run's numbers by name, from line `since` on where what was asked for before still holds (`version`)."""
    found: Runs = request.app.state.runs
    entry = known(request, path)
    growing = found.shelf.of(entry.folder / "metrics.jsonl")
    lines = growing.read()
    start = since if version == growing.version else 0
    timing = found.timing(entry)
    doctor = findings(found.shelf.of(entry.folder / "findings.jsonl").read())
    return answer(
        {
            "version": growing.version,
            "since": start,
            "lines": len(lines),
            "state": state(entry.folder),
            "planned": entry.planned,
            "columns": columns(lines[start:]),
            "timing": {"since": start, "columns": columns(timing[start:]) | {REST: rest(timing)[start:]}},
            "findings": [{name: said(str(value)) if isinstance(value, str) else value for name, value in one.items()} for one in doctor],
        }
    )


def columns(lines: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Each number that occurs, a value a line: None where a line has none, "NaN" where it has one that is not finite."""
    names = dict.fromkeys(name for line in lines for name, value in line.items() if isinstance(value, int | float))

    def told(value: Any) -> float | str | None:
        return "NaN" if isinstance(value, float) and not math.isfinite(value) else finite(value)

    return {name: [told(line.get(name)) for line in lines] for name in names}


@router.get("/panels/{path:path}")
def panels(request: Request, path: str) -> JSONResponse:
    """Which curves stand at the head of the run's page, and how to read each."""
    entry = known(request, path)
    told = [{"keys": one.keys, "caption": one.caption, "unit": one.unit, "note": one.note} for one in MAIN.get(entry.stage, [])]
    return answer({"panels": told, "side": SIDE, "config": flat(entry.config)})


@router.get("/differences")
def differences(request: Request, run: Annotated[list[str], Query(max_length=400)]) -> JSONResponse:
    """The settings that are not the same in all of these runs; and which of them differ in nothing but their seed."""
    entries = [known(request, path) for path in run[:24]]
    flats = [flat(entry.config) for entry in entries]
    names = dict.fromkeys(name for one in flats for name in one)
    rows = [{"name": name, "values": [one.get(name) for one in flats]} for name in names if name != "out"]
    groups: dict[str, list[int]] = {}
    for number, entry in enumerate(entries):
        groups.setdefault(entry.without_seed, []).append(number)
    return answer({"rows": [row for row in rows if len(set(row["values"])) > 1], "same": len(rows), "groups": [*groups.values()]})


def flat(config: dict[str, Any], before: str = "") -> dict[str, str]:
    """Settings by their dotted names, as text."""
    found: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, dict) and value:
            found |= flat(value, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = value if isinstance(value, str) else json.dumps(value, default=str)
    return found


def rows_of(request: Request, entry: Entry) -> Rows:
    found: Rows = request.app.state.library.of(entry.folder)
    return found


@router.get("/rows/{path:path}")
def rows(
    request: Request,
    path: str,
    by: Annotated[str, Query(max_length=40)] = "step",
    falling: bool = True,
    words: Annotated[str, Query(max_length=400)] = "",
    prompt: Annotated[int | None, Query(ge=0, le=2**53)] = None,
    start: Number = 0,
    count: Annotated[int, Query(ge=0, le=500)] = 64,
) -> JSONResponse:
    """A window of the table of responses, how long it is, and the share of the texts that was searched so far."""
    table = rows_of(request, known(request, path))
    order, share = table.order(by, falling, words.strip(), prompt)
    shown = table.window(order, start, count)
    for one in shown:
        one["response"] = said(str(one.get("response") or ""), SHORT)
    return answer({"total": len(order), "steps": len(table.steps), "share": share, "start": start, "rows": shown})


@router.get("/response/{path:path}")
def one_response(request: Request, path: str, row: Number) -> JSONResponse:
    """One response, token by token, with all that its trace says of it, and those that it is weighed against."""
    entry = known(request, path)
    table = rows_of(request, entry)
    step, place, count = table.place(row)
    found, its = traces.row(table.path(step), place), method_of(request, entry, step)
    before, after = table.around(step, place, count)
    where = {"row": name_of(step, place), "step": step, "in_step": place, "of_step": count, "before": before, "after": after}
    others = beside(its, found | {"in_step": place}, group_of(table, its, step, place), SHORT) if its else []
    told = [one | {"row": name_of(step, one["in_step"])} for one in others]
    return answer(where | {"steps": table.steps, "known": its is not None, "beside": told} | response(found, its))


@router.get("/arithmetic/{path:path}")
def written_out(
    request: Request, path: str, row: Number, token: Number, number: Annotated[int, Query(alias="pass", ge=0)] = 0
) -> JSONResponse:
    """How the loss of a token comes about."""
    entry = known(request, path)
    table = rows_of(request, entry)
    step, place, _ = table.place(row)
    found, its = traces.row(table.path(step), place), method_of(request, entry, step)
    if token >= len(found.get("tokens") or []):
        raise HTTPException(404, f"token {token} of {len(found.get('tokens') or [])}")
    blocks = its.written(found, group_of(table, its, step, place), token, number) if its else []
    return answer({"blocks": [asdict(block) for block in blocks], "known": its is not None})


@router.get("/sums/{path:path}")
def sums(request: Request, path: str, step: Number) -> JSONResponse:
    """The parts of all traced tokens of a step added up, beside the losses that the step has logged."""
    entry = known(request, path)
    table, its = rows_of(request, entry), method_of(request, entry, step)
    if its is None or step not in table.steps:
        return answer({"whole": False})
    *_, count = table.place(name_of(step, 0))
    found = its.sums(traces.groups(table.path(step), [*its.needs], list(range(count))))
    logged = line_of(request, entry, step)
    return answer(found | {"logged": {name: finite(logged.get(name)) for name in its.logged}})


@router.get("/near/{path:path}")
def nearest(request: Request, path: str, row: Number) -> JSONResponse:
    """The responses of the same step that share most of their word triples with this one."""
    table = rows_of(request, known(request, path))
    step, place, count = table.place(row)
    texts = [text or "" for text in traces.column(table.path(step), "response").to_pylist()]
    found = [
        {"row": name_of(step, other), "share": share, "response": said(texts[other], SHORT)} for other, share in near.nearest(texts, place)
    ]
    return answer({"near": found, "among": count})


def line_of(request: Request, entry: Entry, step: int) -> dict[str, Any]:
    """What the run has logged of a step."""
    found: Runs = request.app.state.runs
    return next((line for line in found.metrics(entry) if line.get("step") == step), {})


def method_of(request: Request, entry: Entry, step: int) -> Method | None:
    """How the loss of a step comes about, where that is known."""
    return method(entry.stage, entry.config, step, line_of(request, entry, step))


def group_of(table: Rows, its: Method, step: int, place: int) -> list[dict[str, Any]]:
    """The responses that are learned from together with this one, itself among them, with where they stand; none where it is alone."""
    if "group" not in its.needs:
        return []
    path = table.path(step)
    groups = traces.column(path, "group").to_pylist()
    rows = [number for number, group in enumerate(groups) if group is not None and group == groups[place]]
    found = traces.groups(path, [*its.needs, "response"], rows)
    return [one | {"in_step": number} for number, one in zip(rows, found, strict=True)]
