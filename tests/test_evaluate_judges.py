"""Judges, and the promise of reward functions: never a silent zero."""

import math
import time

import pytest

from handrail.errors import ConfigError, RewardError
from handrail.evaluate import FunctionJudge, RewardFunction, load_function, total
from handrail.records import Message, Prompt

PROMPTS = [Prompt.of("first"), Prompt.of("second"), Prompt.of("third")]
ASKED = [[{"role": "user", "content": p.text}] for p in PROMPTS]
RESPONSES = ["a", "bb", "ccc"]


def write(folder, body: str) -> str:
    path = folder / "rewards.py"
    path.write_text(body)
    return f"{path}:score"


def test_a_function_from_a_file_and_from_a_module(tmp_path):
    spec = write(tmp_path, "def score(prompts, responses):\n    return [len(r) for r in responses]\n")
    assert load_function(spec)(ASKED, RESPONSES) == [1.0, 2.0, 3.0]
    assert load_function("textwrap:dedent").name == "textwrap:dedent"


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("no-colon", "names no function"),
        (":score", "names no function"),
        ("missing.py:score", "there is no file missing.py"),
        ("no_such_module_here:score", "cannot be imported"),
        ("math:no_such", "there is no 'no_such'"),
        ("math:pi", "is a float and cannot be called"),
    ],
)
def test_a_spec_that_names_no_function(spec, says):
    with pytest.raises(ConfigError, match=says) as caught:
        load_function(spec)
    assert caught.value.exit_code == 2


def test_a_file_that_cannot_be_imported(tmp_path):
    with pytest.raises(ConfigError, match="SyntaxError"):
        load_function(write(tmp_path, "def score(:\n"))
    with pytest.raises(ConfigError, match="it defines other"):
        load_function(write(tmp_path, "def other(prompts, responses):\n    return []\n"))


@pytest.mark.parametrize(
    ("returned", "sample", "says"),
    [
        ([1.0, None, 2.0], 1, "returned None for sample 1"),
        ([1.0, 2.0, math.nan], 2, "returned nan for sample 2"),
        ([math.inf, 1.0, 2.0], 0, "returned inf for sample 0"),
        ([1.0, "2", 3.0], 1, "returned '2' for sample 1"),
        ([1.0, 2.0], 2, "returned 2 values for 3 responses, from sample 2"),
        ([1.0] * 4, 2, "returned 4 values for 3 responses"),
        (None, 0, "returned None for samples 0 to 2"),
        (1.0, 0, "returned 1.0 for samples 0 to 2"),
        ([{"a": 1.0}, {"a": math.nan}, {"a": 1.0}], 1, "sample 1 as its part 'a'"),
        ([{"a": 1.0}, {}, {"a": 1.0}], 1, "no parts at all for sample 1"),
    ],
)
def test_a_broken_promise_names_sample_and_prompt(returned, sample, says):
    with pytest.raises(RewardError, match=says) as caught:
        RewardFunction(lambda prompts, responses: returned, "mine")(ASKED, RESPONSES)
    assert PROMPTS[sample].id in caught.value.found
    assert caught.value.found.startswith("mine ")
    assert caught.value.allowed and caught.value.remedy


def test_what_raises_is_found_and_named():
    def score(prompts, responses):
        return [1 / (len(r) - 2) for r in responses]

    with pytest.raises(RewardError, match=r"raised ZeroDivisionError.* on sample 1") as caught:
        RewardFunction(score, "mine")(ASKED, RESPONSES)
    assert PROMPTS[1].id in caught.value.found
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_function_that_calls_exit_does_not_hang():
    def score(prompts, responses):
        raise SystemExit(3)

    with pytest.raises(RewardError, match="raised SystemExit"):
        RewardFunction(score, "mine", attempts=1, seconds=5)(ASKED, RESPONSES)


def test_it_is_asked_again_before_the_run_fails():
    calls = []

    def score(prompts, responses):
        calls.append(len(responses))
        if len(calls) < 3:
            raise ConnectionError("busy")
        return [1.0] * len(responses)

    # Each failure also asks about samples one by one, to name the one that raises.
    assert RewardFunction(score, "mine", attempts=3)(ASKED, RESPONSES) == [1.0] * 3


def test_what_hangs_is_left_after_its_time():
    started = time.monotonic()
    with pytest.raises(RewardError, match=r"no answer after 0[.]05 s for samples 0 to 2"):
        RewardFunction(lambda p, r: time.sleep(30), "slow", attempts=2, seconds=0.05)(ASKED, RESPONSES)
    assert time.monotonic() - started < 5


def test_after_a_hang_the_next_answer_is_the_right_one():
    calls = []

    def score(prompts, responses):
        calls.append(1)
        if len(calls) == 1:
            time.sleep(0.3)
            return [-1.0] * len(responses)
        return [2.0] * len(responses)

    function = RewardFunction(score, "late", attempts=2, seconds=0.1)
    assert function(ASKED, RESPONSES) == [2.0] * 3
    time.sleep(0.4)  # the late answer of the call that was left
    assert function(ASKED, RESPONSES) == [2.0] * 3


def test_a_function_sees_whole_conversations():
    prompt = Prompt(messages=(Message(role="system", content="s"), Message(role="user", content="u")))
    seen = []

    def score(prompts, responses):
        seen.extend(prompts)
        return [0.0]

    FunctionJudge(score).score([prompt], ["r"])
    assert seen == [[{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]]


def test_named_parts_and_their_total():
    def score(prompts, responses):
        return [{"right": 1, "polite": len(r)} for r in responses]

    judge = FunctionJudge(score)
    assert judge.name == "score"
    assert judge.score(PROMPTS, RESPONSES) == [2.0, 3.0, 4.0]
    assert judge.parts(PROMPTS, RESPONSES)[1] == {"right": 1.0, "polite": 2.0}
    assert total({"total": 5.0, "bonus": 1.0}) == 5.0
    assert FunctionJudge(lambda p, r: [0.5]).parts(PROMPTS[:1], ["x"]) == [{"total": 0.5}]
    assert judge.score([], []) == []


def test_tensors_and_arrays_are_lists_of_numbers():
    torch = pytest.importorskip("torch")
    assert FunctionJudge(lambda p, r: torch.arange(3)).score(PROMPTS, RESPONSES) == [0.0, 1.0, 2.0]
