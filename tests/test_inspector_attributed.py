"""Where scores come from, token by token, on the page and in the report; and what else both draw: stages, marks, formulas."""

import json
import random
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from fastapi.testclient import TestClient

from handrail.errors import DataError
from handrail.inspector import attributed, frontier, rewarded, write_report
from handrail.inspector.attributed import Pair, Response, by_word, drawn, few, read_attributions, words
from handrail.inspector.folders import read_round
from handrail.inspector.formula import formula
from handrail.inspector.seconds import rest, spent
from handrail.inspector.server.app import create_app
from handrail.inspector.slide import traced
from handrail.inspector.svg import Mark, Series, line_chart
from handrail.inspector.timeline import timeline
from test_report import Page, lines, make_round, ppo_metrics

HOSTILE = '<script>alert("x")</script>\u202e'


def response(*cells: tuple[str, float | None], score: float = 1.0, baseline: float = 0.25) -> Response:
    return Response([token for token, _ in cells], [added for _, added in cells], score, baseline)


GOOD = response(("Sor", 0.1), ("ry", 0.2), (" you", 0.3), (" !", 0.15), ("", 0.05), ("<|end|>", None))
BAD = response((" you", -0.2), (" go", -0.1), ("<|end|>", None), score=-0.2)
PAIR = Pair("mistake", "A film?", "", GOOD, BAD)


def test_a_word_has_what_its_tokens_add_and_what_only_frames_is_none():
    found = dict(by_word(GOOD))
    assert found == pytest.approx({"Sorry": 0.3, "you": 0.3, "!": 0.15})
    halves = dict(by_word(response(("a b", 0.4), ("", 0.2), ("é", 0.1))))
    assert halves == pytest.approx({"a": 0.2, "bé": 0.5}), (
        "a token over two words is shared by letters, half a letter goes with its other half"
    )


def test_words_are_summed_over_every_response_once():
    gained, lost = words([PAIR, Pair("drawn", "A film?", "", GOOD, BAD), Pair("drawn", "Another", "", GOOD, BAD)])
    assert [one.word for one in gained] == ["sorry", "!", "you"] and [one.word for one in lost] == ["go"]
    by = {one.word: (one.count, one.total) for one in [*gained, *lost]}
    assert by["sorry"] == (2, pytest.approx(0.6)) and by["you"] == (4, pytest.approx(0.2)) and by["go"] == (2, pytest.approx(-0.2))


def test_every_criterion_counts_in_the_words():
    helpful, short = (Pair("drawn", "A film?", name, GOOD, BAD) for name in ("helpful", "short"))
    gained, _ = words([helpful, short, helpful])
    assert {one.word: (one.count, one.total) for one in gained}["sorry"] == (2, pytest.approx(0.6))


def test_few_are_of_every_kind_in_turn():
    pairs = [Pair(why, str(n), "", GOOD, BAD) for why in ("mistake", "right", "drawn") for n in range(8)]
    assert [(p.why, p.prompt) for p in few(pairs, 4)] == [("mistake", "0"), ("mistake", "1"), ("right", "0"), ("drawn", "0")]
    assert len(few(pairs[:3], 6)) == 3 and few([], 6) == []


def test_a_pair_is_drawn_with_its_sums_on_one_scale():
    shown = str(drawn(PAIR))
    assert "Margin +1.200 = 0.000 between the baselines, which differ in length, +1.100 between the tokens, missed by 0.100." in shown
    assert "score +1.000" in shown and "baseline +0.250, tokens +0.800, missed by 0.050" in shown
    assert (
        '<span class="tok up s10" title="+0.300"> you</span>' in shown and '<span class="tok down s7" title="−0.200"> you</span>' in shown
    )
    assert 'class="tok frame"' in shown and "−0.300 to +0.300" in shown
    long = response(*[("a ", 0.1)] * (attributed.MOST + 7))
    assert "… and 7 tokens more" in str(drawn(Pair("right", "", "", long, BAD)))
    hidden = str(drawn(Pair(HOSTILE, HOSTILE, HOSTILE, response((HOSTILE, 0.1)), BAD)))
    assert "<script" not in hidden and "\u202e" not in hidden and "⟨U+202E⟩" in hidden


@pytest.mark.parametrize(
    "line", ['{"why": ', '{"why": "right"}', '{"why": "right", "prompt": "", "better": {"tokens": ["a"], "attributions": []}}', "[]"]
)
def test_attributions_that_are_damaged_are_told(tmp_path, line):
    assert read_attributions(tmp_path) == []
    (tmp_path / "attributions.jsonl").write_text(line + "\n")
    with pytest.raises(DataError, match=r"attributions\.jsonl"):
        read_attributions(tmp_path)


def test_a_text_may_hold_whatever_other_systems_end_lines_with(tmp_path):
    one = {"tokens": ["a\u2028b", "\x85"], "attributions": [0.1, None], "score": 0.5, "baseline": 0.4}
    line = {"why": "drawn", "prompt": "p\u2029q", "better": one, "worse": one}
    (tmp_path / "attributions.jsonl").write_text(json.dumps(line, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_attributions(tmp_path)[0].better.tokens == one["tokens"]
    verdict = {"prompt": "p\u2029q", "responses": ["a\u2028b", "c"], "places": [1, 2], "scores": [1.0, 0.0]}
    (tmp_path / "verdicts.jsonl").write_text(json.dumps(verdict, ensure_ascii=False) + "\n", encoding="utf-8")
    assert rewarded.read_verdicts(tmp_path) == [verdict]


# --- where the seconds went ---


def step(time: float, **parts: float) -> dict:
    return {"time": time, "memory_mib": 9.0, "step": 0} | parts


def test_the_rest_is_what_a_steps_parts_leave_of_the_time_since_the_one_before():
    timing = [
        step(10.0, act=1.0, improve=2.0),
        step(15.0, act=1.0, improve=3.0),
        step(500.0, act=1.0, improve=2.0),
        step(502.0, improve=3.0),
    ]
    assert rest(timing) == [None, 1.0, None, 0.0], "the run stood still before the third; clocks that disagree give no time back"
    assert spent(timing) == {"sampling": 3.0, "learning": 10.0, "the rest": 1.0}
    assert spent([]) == {}


def test_stages_stand_one_after_another_and_are_divided_by_what_their_steps_took(tmp_path):
    folder = make_round(tmp_path / "round")
    lines(folder / "round-1/ppo/timing.jsonl", [step(100.0 + 2 * i, act=1.0, judge=0.5, improve=0.25) for i in range(41)])
    lines(folder / "round-1/sft/timing.jsonl", [step(100.0 + 2 * i, improve=2.0) for i in range(400)])  # of several starts
    found = timeline(read_round(folder))
    assert found is not None
    rows = {row.name: row for row in found.rows}
    assert rows["sft"].start == 1.2 and rows["ppo"].start == pytest.approx(sum(row.seconds or 0 for row in found.rows[:5]))
    assert rows["ppo"].parts == pytest.approx({"sampling": 41.0, "judging": 20.5, "learning": 10.25, "the rest": 10.0, "all else": 21.15})
    assert rows["sft"].parts == {"all else": 61.0}
    bars = found.bars(rows["ppo"])
    assert bars[0][1:3] == ("sampling", pytest.approx(100 * rows["ppo"].start / found.total))
    assert sum(bar[3] for row in found.rows for bar in found.bars(row)) == pytest.approx(100)
    page = Page(write_report(folder, tmp_path / "report.html"))
    assert "sampling 41.0" in page.text and page.count("li") > 4
    alone = Page(write_report(folder / "round-1/ppo", tmp_path / "alone.html"))
    assert "Where the 1\u202fmin 22\u202fs of its steps went" in alone.text.replace(" min", "\u202fmin").replace(" s of", "\u202fs of")


# --- findings, formulas, tokens ---


def test_a_finding_is_marked_at_its_step_and_nowhere_else():
    series = [Series("reward", "reward", [(float(i), float(i)) for i in range(10, 20)])]
    marks = [
        Mark(14, "1", "1: kl runaway, from step 14", "bad"),
        Mark(14, "2", "2: <b>", "warn"),
        Mark(3, "3", "before what is shown", "info"),
    ]
    shown = str(line_chart(series, "reward", "step", "Reward", marks=marks))
    assert shown.count('class="finding') == 1 and "1: kl runaway, from step 14; 2: &lt;b&gt;" in shown and ">1,2</text>" in shown
    assert "before what is shown" not in shown


def test_a_formula_is_set_as_it_looks():
    assert formula("A_t = δ_t + γλ A_{t+1}") == (
        '<span class="formula"><i>A</i><sub><i>t</i></sub> = <i>δ</i><sub><i>t</i></sub> + <i>γλ</i> <i>A</i><sub><i>t</i>+1</sub></span>'
    )
    assert formula("(V − 1)^2 10^{−8}") == '<span class="formula">(<i>V</i> − 1)<sup>2</sup> 10<sup>−8</sup></span>'
    assert formula("log π_{old}(y)") == '<span class="formula">log <i>π</i><sub>old</sub>(<i>y</i>)</span>'
    assert "<i>A\u0302</i><sub>" in formula("A\u0302_t") and "&lt;script&gt;" in formula("1 <script>").replace("<i>", "").replace(
        "</i>", ""
    )


def test_the_best_and_the_worst_response_are_shown_and_the_way_of_one_token(tmp_path):
    folder = make_round(tmp_path / "round")
    (run,) = (one for one in read_round(folder).last.runs if one.kind == "ppo")
    best, worst = traced(run)
    assert (best.score, worst.score, best.step) == (3.25, 1.25, 70) and not worst.derived
    rows = pyarrow.parquet.read_table(run.traces[-1]).to_pylist()
    advantage = next(row for row in rows if row["score"] == 3.25)["advantage"]
    assert abs(advantage[best.chosen]) == max(map(abs, advantage))
    assert best.derived[0].title == "Divergence" and "Clip" not in [part.title for part in best.derived], "the trace has no passes"


def test_a_long_run_makes_no_long_report(tmp_path):
    folder, rng = make_round(tmp_path / "round"), random.Random(0)
    long = [line | {f"further.{k}": rng.gauss(0, 1) for k in range(20)} for line in ppo_metrics(1500, rng)]
    lines(folder / "round-1/ppo/metrics.jsonl", long)
    token = {"tokens": ["word "] * 1000, "attributions": [0.1] * 1000, "score": 1.0, "baseline": 0.0}
    pair = {"why": "mistake", "prompt": "p " * 9000, "better": token, "worse": token}
    lines(folder / "round-1/reward/attributions.jsonl", [pair] * 24)
    verdict = {"prompt": "p " * 9000, "responses": ["a " * 5000, "b " * 5000], "places": [1, 2], "scores": [0.0, 1.0]}
    lines(folder / "round-1/reward/verdicts.jsonl", [verdict] * 20)
    page = write_report(folder, tmp_path / "report.html")
    assert page.stat().st_size < 2 * 2**20
    text = Page(page).text
    assert "Gao et al. 2023" in text and "How far it paid to go" in text and "6 of 24 pairs" in text
    assert page.read_text().count("fill dim c2") <= frontier.DOTS


def test_attributions_stand_in_the_report_and_on_the_page(tmp_path):
    folder = make_round(tmp_path / "runs")
    one = {"tokens": ["I", " win", HOSTILE], "attributions": [0.1, 0.4, None], "score": 0.5, "baseline": 0.0}
    lines(folder / "round-1/reward/attributions.jsonl", [{"why": "right", "prompt": "Who?", "better": one, "worse": one | {"score": 0.1}}])
    (folder / "round-1/reward/inputs.json").write_text(json.dumps({"stage": "reward", "inputs": {}}))
    answer = TestClient(create_app(folder), base_url="http://127.0.0.1").get("/reward/round-1/reward")
    assert answer.status_code == 200
    for page in (answer.text, Path(write_report(folder, tmp_path / "report.html")).read_text()):
        assert "length stands in the baseline" in page
        assert "Which tokens the score comes from" in page and '<span class="tok up s10" title="+0.400"> win</span>' in page
        assert HOSTILE not in page and "\u202e" not in page
