"""The API against its own OpenAPI schema: requests made up by Schemathesis, as an admin and as a labeller."""

from contextlib import suppress

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import SearchStrategy
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from feedback_world import World, pair
from handrail.feedback.kinds import Compared, Item
from handrail.records import Prompt

EXAMPLES = 20  # requests of each operation, person and kind of data
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
]
KEPT = settings(max_examples=EXAMPLES, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))


@pytest.mark.slow
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["fitting", "unfit"])
@pytest.mark.parametrize("role", ["admin", "labeller"])
def test_every_answer_is_one_that_the_schema_promises(world: World, role: str, mode: GenerationMode):
    """No failure, no status that is not declared, no body of another shape; real ids stand among those made up."""
    person = world.admin() if role == "admin" else world.labeller()
    task = world.make_task(*map(pair, range(200)), pair(900, practice=True, gold=Compared(better=0)), overlap=3)
    ids = {"task": [task.id], "assignment": [one.id for one in world.give(person, 40)], "project": ["support"]}
    another = world.labeller()
    world.give(another, 1)  # so that the project cannot be deleted
    ids |= {"pseudonym": [another.pseudonym], "item": [one.item for one in world.give(person, 5)]}
    chat = world.make_task(*[Item(prompt=Prompt.of(f"{n}")) for n in range(20)], kind="chat", models=("a", "b"))
    ids["assignment"] += [one.id for one in world.give(person, 20)]
    ids["task"].append(chat.id)
    headers = world.token(person)
    schema = schemathesis.openapi.from_asgi("/api/openapi.json", world.app(), headers={"host": "127.0.0.1"})
    statuses = {}
    for found in schema.get_all_operations():
        operation = found.ok()
        statuses[operation.label] = answers(operation.as_strategy(mode), ids, headers)
    assert len(statuses) >= 20
    every = {status for told in statuses.values() for status in told}
    assert every >= ({200, 404} if mode is GenerationMode.POSITIVE else {422})
    assert (403 in every) == (role == "labeller")


def answers(cases: SearchStrategy[schemathesis.Case], ids: dict[str, list], headers: dict[str, str]) -> list[int]:
    """The statuses of the answers to requests of one operation, each held to the schema."""
    told: list[int] = []

    @KEPT
    @given(cases)
    def ask(case: schemathesis.Case) -> None:
        for name, known in ids.items():
            if name in (case.path_parameters or {}) and len(told) % 4:
                case.path_parameters[name] = known[len(told) % len(known)]
        answer = case.call(base_url="http://127.0.0.1", headers=headers)
        told.append(answer.status_code)
        case.validate_response(answer, checks=CHECKS)

    with suppress(Unsatisfiable):  # an operation to which nothing unfit can be sent
        ask()
    return told
