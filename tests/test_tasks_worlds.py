"""The worlds of the built-in tasks: deterministic, distinct, plentiful, and without torch."""

import os
import subprocess
import sys
import time

import pytest

from handrail.errors import InputError
from handrail.records import Prompt
from handrail.tasks import TASKS, Task
from handrail.tasks.task import PATIENCE

NAMES = sorted(TASKS)


@pytest.fixture(params=NAMES)
def task(request) -> Task:
    return TASKS[request.param]


def test_both_tasks_are_there():
    assert NAMES == ["movie-night", "short-version"]
    assert all(task.name == name for name, task in TASKS.items())


def test_same_seed_same_world_and_another_seed_another(task):
    assert task.demonstrations(40, 3) == task.demonstrations(40, 3)
    assert task.demonstrations(40, 3) != task.demonstrations(40, 4)
    assert task.prompts(40, 3) == task.prompts(40, 3)
    assert task.prompts(40, 3) != task.prompts(40, 4)


def test_fewer_are_the_first_of_more(task):
    assert task.demonstrations(60, 0)[:20] == task.demonstrations(20, 0)
    assert task.prompts(60, 0)[:20] == task.prompts(20, 0)


def test_the_world_does_not_depend_on_the_process(task):
    code = f"from handrail.tasks import TASKS; print(TASKS[{task.name!r}].demonstrations(3, 5)[2].to_json())"
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert run.stdout.strip() == task.demonstrations(3, 5)[2].to_json()


def test_the_room_does_not_import_torch():
    code = "import handrail.tasks, sys; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_prompts_are_distinct_strings_and_none_is_excluded(task):
    used = frozenset(d.prompt.text for d in task.demonstrations(3000, 0))
    prompts = task.prompts(3000, 1, used)
    texts = {prompt.text for prompt in prompts}
    assert len(used) == len(texts) == 3000
    assert not used & texts


def test_exclude_is_obeyed_where_it_bites(task):
    first = [prompt.text for prompt in task.prompts(50, 9)]
    again = [prompt.text for prompt in task.prompts(50, 9, frozenset(first[:10]))]
    assert not set(first[:10]) & set(again)
    assert again[:40] == first[10:]


def test_tens_of_thousands_of_prompts_quickly(task):
    start = time.process_time()
    assert len(task.demonstrations(10_000, 0)) == 10_000
    assert time.process_time() - start < 10  # measured at 0.4 s; only a wrong order of growth reaches this


def test_a_world_that_is_used_up_says_so():
    two = Task(**{**vars(TASKS["movie-night"]), "draw_prompt": lambda rng: Prompt.of(rng.choice(("a", "b")))})
    assert {p.text for p in two.prompts(2, 0)} == {"a", "b"}
    with pytest.raises(InputError, match="about 2 is all"):
        two.prompts(3, 0)
    with pytest.raises(InputError, match="about 1 is all"):
        two.prompts(2, 0, frozenset({"a"}))
    with pytest.raises(InputError, match="not negative"):
        two.prompts(-1, 0)
    assert PATIENCE > 100


def test_sizes_stay_small(task):
    demonstrations = task.demonstrations(3000, 2)
    prompt_words = [len(d.prompt.text.split()) for d in demonstrations]
    reply_words = [len(d.response.split()) for d in demonstrations]
    assert max(prompt_words) <= 60
    assert max(reply_words) <= 42
    assert sum(reply_words) / len(reply_words) < 25
    distinct = {w.strip(".,!?:") for d in demonstrations for w in (d.prompt.text + " " + d.response).split()}
    assert len(distinct) <= 300


def test_examples_agree_with_the_gold(task):
    assert task.examples
    for example in task.examples:
        better, worse = example.responses
        assert example.places == (1, 2)
        assert task.gold(example.prompt, better) > task.gold(example.prompt, worse) + 1
