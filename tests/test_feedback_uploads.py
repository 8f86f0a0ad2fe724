"""Files that people are to be asked about: what is read, what is refused, and in which words."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from handrail.errors import DataError, InputError
from handrail.feedback import uploads
from handrail.feedback.kinds import ANSWER, Compared, Item, TaskSettings
from handrail.feedback.store import Database, projects
from handrail.records import Prompt

PAIRS = TaskSettings(kind="compare")


def gold(*places: int, responses: tuple[str, ...] = ("a", "b"), prompt: str = "p") -> bytes:
    return json.dumps({"prompt": prompt, "responses": responses, "places": places}).encode()


def test_two_right_answers_to_one_question_are_refused_by_their_lines_and_so_is_another_than_the_store_has(tmp_path: Path) -> None:
    lines = [gold(1, 2), gold(1, 2, prompt="q"), gold(1, 2, responses=("b", "a")), gold(1, 3)]
    read = uploads.read(b"\n".join(lines), "gold.jsonl", PAIRS, as_="gold")
    assert [item.prompt.text for item in read.items] == ["q"], "which of the two is right, the file does not say"
    with pytest.raises(DataError, match=r"gold\.jsonl, line 3: its right answer is another than that of line 1") as refused:
        read.whole()
    assert refused.value.allowed == "one right answer to a question" and "keep the line that is right" in refused.value.remedy
    same = uploads.read(gold(1, 2) + b"\n" + gold(2, 4, responses=("a", "b")), "gold.jsonl", PAIRS, as_="gold").whole()
    db = Database.open(tmp_path / "f.db")
    projects.make_project(db, "p")
    task = projects.make_task(db, "p", "t", PAIRS)
    work_item = Item(prompt=Prompt.of("w"), responses=("a", "b"))
    assert projects.take_in(db, task, [*same.items, work_item]) == projects.TakenIn(2, 1)
    with pytest.raises(InputError, match="item 1 for task t: its right answer is another"):
        projects.take_in(db, task, uploads.read(gold(2, 1), "f", PAIRS, as_="gold").items)
    models = Item(prompt=Prompt.of("p"), responses=("a", "b"), models=("m", "n"), gold=Compared(better=1))
    turned = uploads.read(gold(1, 2, responses=("b", "a")), "f", PAIRS, as_="gold").items
    for other in ([models], turned, [Item(prompt=Prompt.of("new"), responses=("a", "b")), *turned]):
        with pytest.raises(InputError, match="its right answer is another"):
            projects.take_in(db, task, other)
    agreeing = uploads.read(gold(2, 1, responses=("b", "a")), "f", PAIRS, as_="gold").items
    assert projects.take_in(db, task, agreeing) == projects.TakenIn(1, 0), "the same answer the other way round"
    again = uploads.read(gold(1, 2, prompt="w"), "f", PAIRS, as_="gold").items
    assert projects.take_in(db, task, again) == projects.TakenIn(0, 1, work=1), "it is told that this checks nobody"
    db.close()


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "p", "chosen": "good", "rejected": "bad", "score_chosen": 9},
        {
            "prompt": [{"role": "user", "content": "p"}],
            "chosen": [{"role": "assistant", "content": "good"}],
            "rejected": [{"role": "assistant", "content": "bad"}],
            "models": ["one", "two"],
        },
    ],
)
def test_plain_comparisons_are_asked_about_or_are_gold(row: dict) -> None:
    raw = json.dumps(row).encode()
    [item] = uploads.read(raw, "f", PAIRS).whole().items
    assert (item.prompt.text, item.responses, item.models, item.gold) == ("p", ("good", "bad"), tuple(row.get("models", ())), None)
    assert uploads.read(raw, "f", PAIRS, as_="gold").whole().items[0].gold == Compared(better=0)
    equal = uploads.read(json.dumps(row | {"rejected": row["chosen"]}).encode(), "f", PAIRS)
    with pytest.raises(DataError, match="line 1: chosen and rejected are the same"):
        equal.whole()


def test_a_table_or_a_list_is_refused_with_the_command_that_makes_lines_of_it(tmp_path: Path) -> None:
    table = b'\xef\xbb\xbfprompt,chosen,rejected\r\np,good,"bad, or worse"\r\n'
    with pytest.raises(DataError, match=r"answers\.csv: a table with the columns 'prompt', 'chosen', 'rejected'") as refused:
        uploads.read(table, "answers.csv", PAIRS)
    assert "a comparison (prompt, chosen, rejected)" in refused.value.allowed
    (tmp_path / "answers.csv").write_bytes(table.removeprefix(b"\xef\xbb\xbf"))
    command = refused.value.remedy.replace("python", sys.executable, 1)
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    [item] = uploads.read((tmp_path / "answers.jsonl").read_bytes(), "answers.jsonl", PAIRS).whole().items
    assert item.responses == ("good", "bad, or worse")
    with pytest.raises(DataError, match=r"all\.json: one list in JSON") as refused:
        uploads.read(b' [\n{"prompt": "p"}]', "all.json", TaskSettings(kind="demonstrate"))
    assert "all.jsonl" in refused.value.remedy


def test_the_items_in_the_documentation_can_be_imported(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs/feedback.md").read_text(encoding="utf-8").split("### Items of your own")[1].split("\n## ")[0]
    example = page.split("```json\n")[1].split("```")[0]
    read = uploads.read(example.encode(), "feedback.md", PAIRS).whole()
    assert [(item.practice, item.gold is not None, item.priority) for item in read.items] == [
        (True, True, 0.0),
        (False, True, 0.0),
        (False, False, 2.0),
    ]
    assert read.items[0].explanation and read.items[1].models == ("sft", "ppo") and not read.left_out
    db = Database.open(tmp_path / "f.db")
    projects.make_project(db, "p")
    assert projects.take_in(db, projects.make_task(db, "p", "t", PAIRS), read.items).new == 3
    db.close()
    for answer in re.findall(r'`(\{"kind".*?\})`', page):
        assert ANSWER.validate_json(answer).kind in answer
    fields = [re.findall("`([a-z]+)`", row.split("|")[1]) for row in page.split("|---|---|---|\n")[1].split("\n\n")[0].splitlines()]
    values = {"responses": ["a", "b"], "places": [1, 2], "score": 3, "priority": 1.0}
    made = [uploads.record_of(json.dumps({name: values.get(name, name) for name in row}).encode(), "row") for row in fields]
    assert [type(record).__name__ for record in made] == ["Item", "Response", "Ranking", "Ranking", "Rating", "Demonstration", "Item"]
