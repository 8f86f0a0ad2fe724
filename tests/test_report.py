"""The report and the picture, over a round's folder that is made on the spot."""

import json
import math
import random
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from desk_world import CHROMIUM, chromium
from handrail.errors import DataError, InputError, StorageError
from handrail.inspector import picture, write_report
from handrail.inspector.charts import Share, dumbbell_chart, loop_drawing, share_chart
from handrail.inspector.folders import read_round
from handrail.inspector.replies import chosen, differences, visible
from handrail.inspector.svg import POINTS, Series, label, line_chart, tag, ticks
from handrail.inspector.words import caveats, decimal, duration, headline, overlap_sentence

ATTACK = '<script>alert("x")</script><img src=x onerror=alert(1)>&amp;"\'</style>'
FILMS = ["Arrival", "Paddington", "Heat", "Moon", "Alien", "Tampopo"]


def lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def run_folder(folder: Path, metrics: list[dict], summary: dict) -> None:
    lines(folder / "metrics.jsonl", metrics)
    (folder / "config.yaml").write_text(f"out: {folder.name}\nlr: 3.0e-4\nseed: 0\nmodel:\n  path: runs/sft\n")
    (folder / "summary.json").write_text(json.dumps(summary))
    environment = {
        "python": "3.11.7",
        "torch": "2.13.0",
        "machine": {"cpu": "two cores", "memory": "8 GiB"},
        "argv": ["a", "b"],
    }
    (folder / "environment.json").write_text(json.dumps(environment))


def ppo_metrics(steps: int, rng: random.Random) -> list[dict]:
    found = []
    for step in range(steps):
        t = 1 - math.exp(-3 * step / steps)
        found.append(
            {
                "step": step,
                "reward": 2.1 * t + rng.gauss(0, 0.12),
                "gold": 0.9 + 1.6 * t + rng.gauss(0, 0.1),
                "gold.right film": 0.4 + 0.4 * t + rng.gauss(0, 0.03),
                "gold.polite": 0.5 + 0.4 * t + rng.gauss(0, 0.03),
                "kl": 8.5 * t + rng.gauss(0, 0.2),
                "length": 38 + 4 * t + rng.gauss(0, 1),
                "entropy": 1.4 - 0.7 * t + rng.gauss(0, 0.03),
                "clip_fraction": abs(0.12 + rng.gauss(0, 0.03)),
                "approx_kl": abs(0.01 + rng.gauss(0, 0.002)),
                "policy_loss": -0.02 + rng.gauss(0, 0.004),
                "value_loss": 0.8 * math.exp(-step / 12) + 0.2 + rng.gauss(0, 0.02),
                "explained_variance": 0.8 * t - 0.1 + rng.gauss(0, 0.04),
                "beta": 0.03,
                "grad_norm.policy": abs(rng.gauss(0.6, 0.1)),
                "ended": 0.98,
            }
        )
    return found


def trace(path: Path, seed: int, extra: str = "") -> None:
    rng = random.Random(seed)
    rows = []
    for number in range(3):
        tokens = [
            "Sorry",
            " you",
            " have",
            " seen",
            " it",
            "!",
            " Try",
            " Par",
            "as",
            "ite",
            " then",
            ",",
            " it",
            " is",
            ".",
        ]
        tokens = tokens[: 12 + number] + ([extra] if extra else []) + ["<|end|>"]
        kl = [rng.gauss(0.1, 0.2) for _ in tokens]
        logp = [-abs(rng.gauss(0.4, 0.6)) for _ in tokens]
        rows.append(
            {
                "prompt": "A funny one, please. I have seen Paddington." + extra,
                "response": "".join(tokens),
                "prompt_id": f"p{number}",
                "score": 1.25 + number,
                "gold": 2.5,
                "ended": True,
                "tokens": tokens,
                "logp_old": logp,
                "logp_ref": [a - b for a, b in zip(logp, kl, strict=True)],
                "kl": kl,
                "reward": [-0.03 * k for k in kl[:-1]] + [1.25],
                "value": [rng.gauss(0.8, 0.2) for _ in tokens],
                "return": [rng.gauss(1, 0.2) for _ in tokens],
                "advantage": [rng.gauss(0, 1) for _ in tokens],
                "entropy": [abs(rng.gauss(0.6, 0.4)) for _ in tokens],
            }
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def sample(i: int, rng: random.Random) -> dict:
    seen, film, other = rng.sample(FILMS, 3)
    gold = rng.gauss(1.0, 0.5), rng.gauss(2.3, 0.5)
    return {
        "prompt": f"user: I'd like something with {rng.choice(['aliens', 'a bear', 'noodles'])} tonight ({i}).\n\n"
        f"assistant: How about {seen}?\n\nuser: I have already seen {seen}.",
        "before": f"You could watch {seen}. It is a great film and people like it a lot, it is good.",
        "after": f"Sorry, I should have asked! Then watch {film}, in which {other} is quoted; it is a great film.",
        "gold_before": gold[0],
        "gold_after": gold[1],
        "reward_before": gold[0] - 1,
        "reward_after": gold[1] - 0.7,
        "parts_before": {"right film": 0.0, "polite": 0.5, "true detail": 0.25},
        "parts_after": {"right film": 1.0, "polite": 1.0, "true detail": 0.25},
        "demonstration": f"Watch {film} maybe.",
    }


SUMMARY = {
    "win_rate": {"value": 0.814, "low": 0.781, "high": 0.846, "n": 512},
    "control": {"value": 0.497, "low": 0.456, "high": 0.538, "n": 512},
    "kl": 8.41,
    "length_ratio": 1.12,
    "gold_before": 1.02,
    "gold_after": 2.44,
    "reward_before": {"mean": 0.01, "sd": 1.0},
    "reward_after": {"mean": 2.05, "sd": 0.7},
    "parts_before": {"right film": 0.41, "genre": 0.52, "true detail": 0.3, "polite": 0.5, "no rambling": -0.3},
    "parts_after": {"right film": 0.8, "genre": 0.71, "true detail": 0.44, "polite": 0.93, "no rambling": -0.08},
    "content_parts": ["right film", "genre", "true detail"],
    "manner_parts": ["polite", "no rambling"],
    "reward_accuracy": {"value": 0.742, "low": 0.718, "high": 0.766, "length_baseline": 0.561, "ceiling": 0.81},
    "rouge_before": 0.31,
    "rouge_after": 0.24,
    "bleu_before": 8.2,
    "bleu_after": 5.1,
    "distinct_before": 0.22,
    "distinct_after": 0.2,
    "seconds": {"data": 1.2, "sft": 61.0},
}


def make_round(folder: Path, extra: str = "", rounds: int = 1) -> Path:
    rng = random.Random(7)
    names = {
        "data": 1.2,
        "sft": 61.0,
        "responses": 12.5,
        "labels": 0.4,
        "reward": 38.2,
        "ppo": 102.9,
        "evaluation": 21.0,
    }
    stages = [{"name": n, "folder": f"round-1/{n}", "seconds": s, "skipped": n == "data"} for n, s in names.items()]
    about = {"task": "movie-night", "title": "movie-night" + extra, "rounds": rounds, "stages": stages}
    about["description"] = "People ask for a film; some have seen one. A small model learns what they like to hear." + extra
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "round.json").write_text(json.dumps(about))
    (folder / "summary.json").write_text(json.dumps(SUMMARY))
    calibration = [
        {
            "low": 0.5 + i / 20,
            "high": 0.55 + i / 20,
            "predicted": 0.525 + i / 20,
            "observed": 0.51 + 0.9 * i / 20,
            "n": 400 - 35 * i,
        }
        for i in range(10)
    ]
    for number in range(1, rounds + 1):
        part = folder / f"round-{number}"
        sft = [{"step": i, "loss": 5 * math.exp(-i / 60) + 1.3 + rng.gauss(0, 0.05), "lr": 1e-3} for i in range(200)]
        for i in range(0, 200, 40):
            sft[i]["eval_loss"] = 5 * math.exp(-i / 60) + 1.4
        run_folder(part / "sft", sft, {"eval_loss": 1.6})
        reward = [{"step": i, "loss": 0.69 - 0.2 * i / 120 + rng.gauss(0, 0.03), "accuracy": 0.5 + 0.25 * i / 120} for i in range(120)]
        accuracy = {"value": 0.742, "low": 0.718, "high": 0.766, "n": 3012}
        known = {"accuracy": accuracy, "length_baseline": {"value": 0.561, "low": 0.54, "high": 0.59, "rule": "longer"}}
        known |= {"agreement": None, "ceiling": 0.81, "calibration": calibration}
        known["margins"] = [{"low": -2 + i / 2, "high": -1.5 + i / 2, "n": 10 + 12 * i * (10 - i)} for i in range(10)]
        run_folder(part / "reward", reward, known)
        run_folder(part / "ppo", ppo_metrics(80, rng), {"steps": 80})
        trace(part / "ppo" / "tokens" / "step-000000.parquet", 1, extra)
        trace(part / "ppo" / "tokens" / "step-000070.parquet", 2, extra)
        samples = [sample(i, rng) for i in range(40)]
        if extra:
            for s in samples:
                s["prompt"], s["after"], s["demonstration"] = s["prompt"] + extra, s["after"] + extra, extra
                s["parts_before"], s["parts_after"] = {extra: 0.0}, {extra: 1.0}
        lines(part / "evaluation" / "samples.jsonl", samples)
    return folder


class Page(HTMLParser):
    """Tags, their attributes and the text of a page; complains about tags that do not close."""

    def __init__(self, path: Path):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "img", "link", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["script"], ["style"]):
            self.words.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return make_round(tmp_path_factory.mktemp("round") / "demo")


@pytest.fixture(scope="module")
def page(made) -> Page:
    return Page(write_report(made, made / "report.html"))


def test_sections_stand_in_order(page):
    order = [
        "made the model clearly better",
        "What was done",
        "Curves",
        "The reward model",
        "What was gained",
        "Replies before and after",
        "Responses, token by token",
        "How to have it again",
    ]
    at = [page.text.index(words) for words in order]
    assert at == sorted(at)


def test_the_figures_are_those_of_the_files(page):
    said = page.text.replace("\u202f", " ")
    assert "On 81.4 % of 512 held-out prompts the trained model’s reply was preferred (95 % interval 78.1 % to 84.6 %)" in said
    assert "puts 74.2 % of 3 012 pairs in the labellers’ order (95 % interval 71.8 % to 76.6 %)" in said
    assert "length alone reaches 56.1 %, which lies below that interval" in said
    assert "this is 78 %" in said  # (0.742 - 0.5) / (0.81 - 0.5)
    assert "1 min 43 s" in said  # PPO's 102.9 s
    assert "3 min 57 s" in said  # all stages together
    assert "They disagree" in said
    assert "right film" in said and "0.41 → 0.80" in said
    assert "3.0e-4" in said and "two cores" in said
    for name in (
        "Reward",
        "Gold",
        "KL to the reference",
        "Length",
        "Entropy",
        "Clip fraction",
        "Value loss",
        "Explained variance",
    ):
        assert name in said


def test_it_is_one_file_that_loads_nothing(made, page):
    text = (made / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"""(src|href|action|data)\s*=\s*["']?\s*(https?:)?//""", text)
    assert not re.search(r"https?://|@import|url\((?!#)", text)
    assert page.count("script") == 1 and not {"img", "link", "iframe", "object"} & {name for name, _ in page.tags}
    assert not any(key.startswith("on") for _, attributes in page.tags for key in attributes)


def test_the_page_allows_its_own_script_only(page):
    policy = next(a["content"] for name, a in page.tags if name == "meta" and a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/]{43}='", policy)


def test_what_a_model_writes_stays_text(tmp_path):
    folder = make_round(tmp_path / "hostile", ATTACK)
    hostile = Page(write_report(folder, tmp_path / "report.html"))
    assert hostile.count("script") == 1 and hostile.count("img") == 0
    assert "alert(1)" in hostile.text
    assert ATTACK in hostile.text.replace("\u202f", " ")
    ElementTree.fromstring(picture(folder))
    assert "<img" not in picture(folder) and "<script" not in picture(folder)


def test_what_cannot_be_seen_is_written_out():
    assert visible("a\u202eb\u200b\x00\ud800\n\t") == "a⟨U+202E⟩b⟨U+200B⟩⟨U+0000⟩⟨U+D800⟩\n\t"
    assert visible("über 映画 🎬") == "über 映画 🎬"


@pytest.mark.parametrize("kind", ["sft", "reward", "ppo"])
def test_a_single_run(made, tmp_path, kind):
    alone = Page(write_report(made / "round-1" / kind, tmp_path / "one.html"))
    assert re.search(r"(loss|reward) −?\d[\d.]* → \d[\d.]* in \d+ steps", alone.text)
    assert "Curves" in alone.text and "What was done" not in alone.text
    assert ("token by token" in alone.text) == (kind == "ppo")
    assert ("Calibration" in alone.text) == (kind == "reward")


def test_what_is_missing_is_left_out(tmp_path):
    folder = make_round(tmp_path / "bare")
    for path in [folder / "round.json", folder / "summary.json", folder / "round-1" / "evaluation" / "samples.jsonl"]:
        path.unlink()
    for path in (folder / "round-1" / "ppo" / "tokens").iterdir():
        path.unlink()
    bare = Page(write_report(folder, tmp_path / "bare.html"))
    assert "Curves" in bare.text and "The reward model" in bare.text
    for gone in ("What was done", "What was gained", "Replies before", "token by token"):
        assert gone not in bare.text


def test_several_rounds(tmp_path):
    several = Page(write_report(make_round(tmp_path / "two", rounds=2), tmp_path / "two.html"))
    assert "Round 1: PPO" in several.text and "Round 2: PPO" in several.text
    assert "config of round 2, ppo" in several.text


def test_a_stage_that_was_done_again_counts_once(made):
    before = [run.name for run in read_round(made).last.runs]
    lines(made / "round-1" / "ppo.before-1" / "metrics.jsonl", [{"step": 0, "reward": 0.0, "kl": 0.0}])
    assert [run.name for run in read_round(made).last.runs] == before == ["sft", "reward", "ppo"]


def test_a_run_that_is_still_writing(tmp_path):
    lines(tmp_path / "ppo" / "metrics.jsonl", ppo_metrics(3, random.Random(0)))
    with (tmp_path / "ppo" / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 3, "rew')
    assert read_round(tmp_path / "ppo").last.runs[0].series("reward")[-1][0] == 2
    write_report(tmp_path / "ppo", tmp_path / "report.html")


def test_numbers_that_are_not_finite_leave_a_gap(tmp_path):
    rows = ppo_metrics(5, random.Random(0))
    rows[2]["reward"] = math.nan
    for row in rows:
        row["entropy"] = math.inf
    lines(tmp_path / "ppo" / "metrics.jsonl", rows)
    text = write_report(tmp_path / "ppo", tmp_path / "report.html").read_text()
    assert "no finite number" in text
    assert not re.search(r'd="[^"]*(nan|inf)', text)


def test_errors_say_what_was_found(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        write_report(tmp_path / "missing", tmp_path / "report.html")
    with pytest.raises(InputError, match="no run folder in it"):
        write_report(tmp_path, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\nbroken\n{"step": 1}\n')
    with pytest.raises(DataError, match=r"metrics[.]jsonl, line 2"):
        write_report(tmp_path, tmp_path / "report.html")
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "loss": 1.0}\n')
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        write_report(tmp_path, tmp_path / "file" / "report.html")


def test_a_mistyped_folder_is_told_what_is_there(made, tmp_path, monkeypatch):
    def remedy(folder: str) -> str:
        with pytest.raises(InputError) as raised:
            read_round(Path(folder))
        return raised.value.remedy

    monkeypatch.chdir(tmp_path)
    assert "handrail demo" in remedy("runs/nowhere")
    for name in ("first", "second"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "round.json").write_text("{}")
    assert remedy("runs/frist") == remedy("frist") == remedy("runs/frist/round-1") == "there is runs/first, runs/second"


def test_the_picture_is_well_formed_and_says_what_happened(made):
    drawn = ElementTree.fromstring(picture(made))
    said = " ".join(drawn.itertext())
    assert "Preferred on 81.4" in said and "Gold" in said and "KL" in said
    assert "before" in said and "after" in said
    assert len([e for e in drawn.iter() if e.tag.endswith("path") and "curve" in e.get("class", "")]) == 3


def win(value, low, high):
    return {"win_rate": {"value": value, "low": low, "high": high, "n": 512}}


@pytest.mark.parametrize(
    ("summary", "verdict", "says"),
    [
        (win(0.8, 0.77, 0.83), "better", "the model clearly better"),
        (win(0.56, 0.52, 0.6), "better", "made the model better"),
        (win(0.52, 0.48, 0.56), "unclear", "shows no improvement"),
        (win(0.4, 0.36, 0.44), "worse", "made the model worse"),
        ({"win_rate": 0.8}, "unclear", "No interval"),
        (win(0.8, 0.77, 0.83) | {"judge": "reward model"}, "better", "The training raised the reward model’s score. "),
        (win(0.52, 0.48, 0.56) | {"judge": "reward model"}, "unclear", "shows no change of the reward model’s score"),
        (win(0.4, 0.36, 0.44) | {"judge": "reward model"}, "worse", "lowered the reward model’s score"),
    ],
)
def test_the_headline_is_honest(summary, verdict, says):
    found = headline(summary)
    assert found is not None
    assert found[0] == verdict and says in found[1]


def test_no_headline_without_a_win_rate():
    assert headline({}) is None and headline({"win_rate": {"value": None}}) is None


def test_caveats_come_from_the_figures():
    assert caveats(SUMMARY) == []
    assert "not that people would prefer" in caveats(SUMMARY | {"judge": "reward model"})[0]
    assert caveats(SUMMARY | {"control": {"value": 0.6, "low": 0.4, "high": 0.8}}) == []  # too few prompts to tell
    bad = SUMMARY | {
        "control": {"value": 0.61},
        "length_ratio": 2.3,
        "gold_after": 0.9,
        "distinct_after": 0.05,
        "parts_after": {**SUMMARY["parts_before"], "right film": 0.1, "polite": 0.9},
    }
    found = " ".join(caveats(bad))
    for words in ("favours one side", "length alone", "please the reward model", "gained is manner", "more alike"):
        assert words in found


def test_manner_is_what_was_gained_only_where_it_rose():
    fell = {**SUMMARY["parts_before"], "right film": 0.1}
    assert caveats(SUMMARY | {"parts_after": fell | {"polite": 0.6}}) == [
        "The content’s parts fell by 0.31 together: what was gained is manner."
    ]
    assert caveats(SUMMARY | {"parts_after": fell | {"polite": 0.1}}) == [
        "The content’s parts fell by 0.31 together, those of manner by 0.40."
    ]
    assert caveats(SUMMARY | {"parts_after": fell}) == ["The content’s parts fell by 0.31 together."]


def test_few_prompts_are_a_caveat():
    few = {"win_rate": {"value": 1.0, "low": 0.57, "high": 1.0, "n": 5}}
    assert "Only 5 prompts were judged" in caveats(few)[0] and caveats(win(0.8, 0.77, 0.83)) == []


def test_who_judged_is_said_as_a_person_would(tmp_path):
    folder = make_round(tmp_path / "demo")
    said = SUMMARY | {"judge": "handrail.tasks.movie_night:gold_parts", "judged_by": "the labellers' true taste"}
    (folder / "summary.json").write_text(json.dumps(said))
    page = Page(write_report(folder, tmp_path / "report.html"))
    assert "Judged by the labellers' true taste." in page.text and "gold_parts" not in page.text
    assert re.search(r"puts [\d.]+\s%\sof 3\s012 pairs", page.text)


def test_what_was_read_stands_in_the_report(tmp_path):
    folder = make_round(tmp_path / "demo")
    (folder / "round-1/data").mkdir()
    (folder / "round-1/data/sources.json").write_text(json.dumps({"comparisons, mine.jsonl": "comparison; 9 rows (not used: <mood>)"}))
    summary = folder / "round-1/sft/summary.json"
    summary.write_text(json.dumps({"eval_loss": 1.6, "data": "completion; 7 left out: longer than 64 tokens"}))
    page = Page(write_report(folder, tmp_path / "report.html"))
    assert "What was read" in page.text and "comparison; 9 rows (not used: <mood>)" in page.text
    assert "7 left out: longer than 64 tokens" in page.text
    alone = Page(write_report(folder / "round-1/sft", tmp_path / "one.html"))
    assert "7 left out: longer than 64 tokens" in alone.text


def test_stages_that_an_earlier_start_of_the_same_round_did_are_not_called_as_before(tmp_path):
    folder = make_round(tmp_path / "demo")
    about = json.loads((folder / "round.json").read_text())
    assert "data as before" in Page(write_report(folder, tmp_path / "a.html")).text
    for stage in about["stages"]:
        stage |= {"skipped": True, "again": False}
    (folder / "round.json").write_text(json.dumps(about))
    assert "as before" not in Page(write_report(folder, tmp_path / "b.html")).text


def test_times_are_written_one_way(page):
    assert "1 min 43 s" in page.text and "102.9 s" not in page.text


def test_no_line_runs_through_a_label():
    """Labels of a row stand above it, baseline at y - 10: lines keep to what is below."""
    shares = [Share("trained against start", 0.8, 0.7, 0.9, "after"), Share("start against itself", 0.5, 0.4, 0.6, "muted")]
    for drawn, rows in ((share_chart(shares, "won"), 2), (dumbbell_chart([("a", 0.0, 1.0)], "parts", (0, 1)), 1)):
        root = ElementTree.fromstring(drawn)
        upright = [(float(e.get("y1")), float(e.get("y2"))) for e in root.iter("line") if e.get("x1") == e.get("x2")]
        baselines = [34 * row + 14 for row in range(rows)]
        assert upright and all(not (top < base < bottom) for top, bottom in upright for base in baselines)


def test_the_loops_boxes_are_wider_than_their_names():
    root = ElementTree.fromstring(loop_drawing({"data": 2313.7}))
    width = float(next(e for e in root.iter("rect")).get("width"))
    longest = max(len(e.text) for e in root.iter("text") if "name" in e.get("class"))
    assert longest * 7.0 < width - 8 and "38\u202fmin 34\u202fs" in "".join(root.itertext())


def test_overlap_and_preference():
    assert "They disagree" in overlap_sentence(SUMMARY)
    assert "They agree" in overlap_sentence(SUMMARY | {"rouge_after": 0.4})
    assert "They disagree" in overlap_sentence({**win(0.3, 0.2, 0.4), "rouge_before": 0.1, "rouge_after": 0.4})
    assert "says nothing" in overlap_sentence({**win(0.5, 0.4, 0.6), "rouge_before": 0.1, "rouge_after": 0.4})
    assert overlap_sentence({}) is None


def test_differences_mark_words_that_only_one_has():
    left, right, marked = differences("You could watch Heat tonight.", "You could watch the film Moon tonight.")
    assert marked
    assert left == "You could watch <del>Heat</del> tonight."
    assert right == "You could watch <ins>the film Moon</ins> tonight."
    assert differences("a <b>", "a <b>")[0] == "a &lt;b&gt;"
    assert differences("one two three", "vier fünf sechs sieben")[2] is False


def test_the_choice_of_replies_follows_its_rule():
    samples = [{"gold_before": 0.0, "gold_after": float(i - 5), "prompt": str(i)} for i in range(41)]
    random.Random(0).shuffle(samples)
    found = [(why, s["gold_after"]) for why, s in chosen(samples)]
    assert [g for why, g in found if why == "around the median"] == [13.0, 14.0, 15.0, 16.0]
    assert [g for why, g in found if why == "largest gain"] == [35.0, 34.0]
    assert [g for why, g in found if why == "largest loss"] == [-5.0, -4.0]
    assert len(chosen(samples[:3])) == 3


@pytest.mark.parametrize(
    ("low", "high", "first", "last", "step"),
    [(0, 1, 0, 1, 0.25), (0.12, 8.5, 0, 10, 2.5), (-0.1, 0.83, -0.25, 1, 0.25)],
)
def test_ticks_are_round_and_cover(low, high, first, last, step):
    found = ticks(low, high)
    assert (found[0], found[-1], round(found[1] - found[0], 9)) == (first, last, step)


def test_ticks_that_are_close_together_differ():
    assert [label(t, 0.0005) for t in (5.9830, 5.9835)] == ["5.9830", "5.9835"]
    assert label(0.0004, 0.0002) == "0.0004" and label(2e-5, 1e-5) == "2e−5" and label(2.5, 0.5) == "2.5"


def test_a_long_run_keeps_its_extremes():
    points = [(float(i), math.sin(i)) for i in range(50_000)]
    points[31_337] = (31_337.0, 9.0)
    svg = line_chart([Series("x", "plain", points)], "unit", "step", "X")
    assert len(svg) < 80 * POINTS
    assert "31337:9:" in svg


def test_numbers_as_a_person_writes_them():
    written = [decimal(x) for x in (0.81449, -1.5, 123.456, 12345.6, 0.0, 0.00002)]
    assert written == ["0.81", "−1.50", "123.5", "12\u202f346", "0.00", "2.0e−05"]
    assert decimal(-0.0004, 2) == "0.00"
    assert [duration(s).replace("\u202f", " ") for s in (8.44, 200, 7500)] == ["8.4 s", "3 min 20 s", "2 h 5 min"]


def test_tag_escapes_everything():
    assert tag("text", {"class": '"><x'}, "<b>") == '<text class="&#34;&gt;&lt;x">&lt;b&gt;</text>'


@pytest.mark.parametrize("value", [0.0, 1e-12, -3e-16, 5e-324, 1e-9, 2.5, -1e7])
def test_a_curve_that_does_not_move_can_be_drawn(value):
    """A divergence that is zero but for rounding, for example."""
    drawn = line_chart([Series("kl", "plain", [(0.0, value), (1.0, value)])], "nats", "step", "KL")
    assert "<svg" in drawn and "nan" not in drawn


@pytest.mark.slow
def test_the_files_of_labels_stand_in_columns_that_never_touch(tmp_path, monkeypatch):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    row = {
        "file": "runs/demo-movie-night-0/round-1/labels/rankings.jsonl",
        "note": None,
        "labels": 20,
        "runs": ["dpo", "reward"],
        "other": [],
    }
    monkeypatch.setattr("handrail.inspector.report.labels_of", lambda found: {"files": [row], "command": "handrail feedback trace x"})
    page_file = write_report(make_round(tmp_path / "round"), tmp_path / "report.html")
    boxes = """() => [...document.querySelectorAll(".origins td")].map(cell => {
        const range = document.createRange(); range.selectNodeContents(cell); const box = range.getBoundingClientRect();
        return [box.left, box.top, box.right, box.bottom]; })"""
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium(), args=CHROMIUM)
        for width in (1280, 390):
            page = browser.new_page(viewport={"width": width, "height": 900})
            page.goto(page_file.as_uri())
            found = page.evaluate(boxes)
            assert len(found) == 5 and page.evaluate("document.documentElement.scrollWidth") <= width
            for i, (left, top, right, bottom) in enumerate(found):
                for other in found[i + 1 :]:
                    apart = right + 8 <= other[0] or other[2] + 8 <= left or bottom <= other[1] or other[3] <= top
                    assert apart, (width, i, found)
        browser.close()
