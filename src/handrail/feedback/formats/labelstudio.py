"""Label Studio's JSON of annotated tasks, and the labelling config that each file of them needs.

A folder is a project: compare (Pairwise), rank (List and Ranker, a bucket for each place, so that places may be shared),
rate (Rating, or Number where stars cannot say it) and demonstrate (TextArea).  Texts are shown by tags that render no HTML.
What Label Studio has no field for stands in the first result's `meta`, which it keeps.
https://labelstud.io/guide/task_format and https://labelstud.io/tags
"""

import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any
from xml.sax.saxutils import quoteattr

from handrail.feedback.formats.asked import Asked, gathered, scale, slugs
from handrail.feedback.formats.lines import json_list
from handrail.feedback.formats.options import Made, Options
from handrail.feedback.formats.said import R, Said, Sayings
from handrail.feedback.kinds import Compared
from handrail.records import Demonstration, Ranking, Rating

Results = list[dict[str, Any]]

_NOTE = """For Label Studio: each folder is a project. Make one with `config.xml` as its labelling interface, then import `tasks.json`.
An annotation belongs to whoever imports it, unless the export was given the labellers' e-mail addresses and they are members."""
_PROMPT = '<Text name="prompt" value="$prompt" valueType="text"/>'


def labelstudio(said: Sayings, options: Options) -> Made:
    """tasks.json and config.xml for each kind of question."""
    compared = [s for s in said.rankings if len(s.record.responses) == 2]
    ranked = [s for s in said.rankings if len(s.record.responses) > 2]
    most = max((len(s.record.responses) for s in ranked), default=0)
    named = slugs(s.record.criterion for s in said.ratings)
    scales = {name: scale(name, said.ratings, options) for name in named}
    stars = {name: scales[name][0] >= 1 and _whole(name, said.ratings) for name in named}
    projects: dict[str, tuple[Sequence[Said[Any]], str, Callable[[list[Any]], Results]]] = {
        "compare": (compared, _COMPARE, _compared),
        "rank": (ranked, _rank_config(most), _ranked),
        "rate": (said.ratings, _rate_config(named, stars, scales), lambda some: _rated(some, named, stars)),
        "demonstrate": (said.demonstrations, _DEMONSTRATE, _demonstrated),
    }
    files = {}
    for name, (some, config, results) in projects.items():
        if some:
            tasks = [_task(asked, name, results, options) for asked in gathered(some)]
            files[f"{name}/tasks.json"] = json_list(tasks).encode()
            files[f"{name}/config.xml"] = config.encode()
    return Made(files, _NOTE)


def _whole(criterion: str, ratings: Sequence[Said[Rating]]) -> bool:
    scores = [s.record.score for s in ratings if s.record.criterion == criterion]
    return all(score % 1 == 0 for score in scores)


def _task(asked: Asked[R], kind: str, results: Callable[[list[Any]], Results], options: Options) -> dict[str, Any]:
    data: dict[str, Any] = {"prompt": asked.prompt.text, "messages": [m.model_dump() for m in asked.prompt.messages]}
    if kind == "rank":
        data["items"] = [{"id": _id(i), "title": f"Response {i + 1}", "body": text} for i, text in enumerate(asked.responses)]
    elif kind == "compare":
        data |= {_id(i): text for i, text in enumerate(asked.responses)}
    elif kind == "rate":
        data["response"] = asked.responses[0]
    about = {"meta": asked.prompt.meta, "models": list(asked.models)}
    annotations = [_annotation(some, results(some), options) for some in asked.answers.values()]
    return {"data": data, "meta": {"handrail": {name: value for name, value in about.items() if value}}, "annotations": annotations}


def _annotation(some: list[Said[R]], results: Results, options: Options) -> dict[str, Any]:
    label = some[0].label
    about: dict[str, Any] = {"labeller": label.labeller, "label": label.id}
    if isinstance(some[0].record, Ranking):
        about["weight"] = some[0].record.weight
    results[0].setdefault("meta", {"handrail": {}})["handrail"].update(about)
    for result in results:
        result["id"] = hashlib.sha256(f"{label.id}/{result['from_name']}".encode()).hexdigest()[:10]
    found = {
        "result": results,
        "was_cancelled": False,
        "ground_truth": label.purpose == "adjudication",
        "lead_time": label.seconds,
        "created_at": datetime.fromtimestamp(label.at, UTC).isoformat(),
    }
    return found | ({"completed_by": {"email": options.users[label.labeller]}} if label.labeller in options.users else {})


def _id(i: int) -> str:
    return f"response_{i + 1}"


def _result(name: str, to: str, kind: str, value: Any, field: str = "") -> dict[str, Any]:
    return {"from_name": name, "to_name": to, "type": kind, "value": {field or kind: value}}


def _compared(some: list[Said[Ranking]]) -> Results:
    places, answer = some[0].record.places, some[0].label.answer
    if places[0] == places[1]:
        return [_result("tie", "prompt", "choices", ["tie"])]
    preferred = _result("preference", "response_1,response_2", "pairwise", "left" if places[0] < places[1] else "right", "selected")
    strength = answer.strength if isinstance(answer, Compared) else ""
    return [preferred] + ([_result("strength", "prompt", "choices", [strength])] if strength else [])


def _ranked(some: list[Said[Ranking]]) -> Results:
    buckets: dict[str, list[str]] = {}
    for i, place in sorted(enumerate(some[0].record.places), key=lambda pair: pair[1]):
        buckets.setdefault(f"place_{place}", []).append(_id(i))
    return [_result("ranking", "items", "ranker", buckets)]


def _rated(some: list[Said[Rating]], named: dict[str, str], stars: dict[str, bool]) -> Results:
    found = []
    for rating in (s.record for s in some):
        score = int(rating.score) if rating.score % 1 == 0 else rating.score
        result = _result(named[rating.criterion], "response", "rating" if stars[rating.criterion] else "number", score)
        found.append(result | {"meta": {"handrail": {"criterion": rating.criterion}}})
    return found


def _demonstrated(some: list[Said[Demonstration]]) -> Results:
    return [_result("demonstration", "prompt", "textarea", [some[0].record.response], "text")]


_COMPARE = f"""<View>
  {_PROMPT}
  <Pairwise name="preference" toName="response_1,response_2"/>
  <View style="display: flex;">
    <View style="flex: 1;"><Text name="response_1" value="$response_1" valueType="text"/></View>
    <View style="flex: 1;"><Text name="response_2" value="$response_2" valueType="text"/></View>
  </View>
  <Choices name="tie" toName="prompt" choice="single"><Choice value="tie"/></Choices>
  <Choices name="strength" toName="prompt" choice="single"><Choice value="slightly"/><Choice value="clearly"/></Choices>
</View>
"""

_DEMONSTRATE = f"""<View>
  {_PROMPT}
  <TextArea name="demonstration" toName="prompt" rows="8" maxSubmissions="1" editable="true"/>
</View>
"""


def _rank_config(most: int) -> str:
    buckets = "\n".join(f'    <Bucket name="place_{place}" title="Place {place}"/>' for place in range(1, most + 1))
    return f"""<View>
  {_PROMPT}
  <List name="items" value="$items" title="Responses"/>
  <Ranker name="ranking" toName="items">
{buckets}
  </Ranker>
</View>
"""


def _rate_config(named: dict[str, str], stars: dict[str, bool], scales: dict[str, tuple[int, int]]) -> str:
    tags = []
    for name, slug in named.items():
        low, high = scales[name]
        scale_of = f'maxRating="{high}"' if stars[name] else f'min="{low}" max="{high}"'
        tags.append(f"  <Header value={quoteattr(name)}/>")
        tags.append(f'  <{"Rating" if stars[name] else "Number"} name="{slug}" toName="response" {scale_of}/>')
    return f"""<View>
  {_PROMPT}
  <Text name="response" value="$response" valueType="text"/>
{chr(10).join(tags)}
</View>
"""
