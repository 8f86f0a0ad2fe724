"""`handrail show tokens` against what the recipes really sample in their first step."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from handrail.cli import app
from handrail.data import write_records
from handrail.recipes import best_of_n, ppo, reinforce, relaxed
from handrail.records import Prompt, Rating
from handrail.tasks import TASKS
from recipe_runs import World, make_world

LETTER = "def score(prompts, responses):\n    return [response.count('e') / 4 for response in responses]\n"


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    """With prompts some of which leave no room for a response."""
    made = make_world(tmp_path_factory.mktemp("world"))
    prompts = [p for n, p in enumerate(TASKS["movie-night"].prompts(9, 5)) for p in (p, Prompt.of(f"{n} " + "a long story, " * 40))]
    write_records(made.folder / "prompts.jsonl", prompts)
    rated = [Rating(prompt=p, response=text, score=float(n)) for n, p in enumerate(prompts[::2]) for text in ("Metropolis.", "Alien.")]
    write_records(made.folder / "ratings.jsonl", rated)
    return made


def shown(stage: str, cfg, tmp_path) -> list[dict]:
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump(cfg.model_dump(mode="json")), encoding="utf-8")
    done = CliRunner().invoke(app, ["show", "tokens", str(file), "--stage", stage, "--json", "--rows", "0"])
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)["rows"]


def ids(rows: list[dict]) -> list[list[int]]:
    return [[token["id"] for token in row["tokens"]] for row in rows]


def prompts_of(rollout) -> list[list[int]]:
    return [row[:stop] for row, stop in zip(rollout.ids.tolist(), rollout.prompt_lengths.tolist(), strict=True)]


def test_reinforce_is_shown_with_every_response_of_a_prompt(world, tmp_path):
    cfg = world.reinforce(tmp_path / "run", {"batch_size": 12, "responses": 4})
    rows = shown("reinforce", cfg, tmp_path)
    parts, _ = reinforce.build(cfg)
    assert ids(rows) == prompts_of(parts.source.act(parts.policy, 0)[0]) and len(rows) == 12
    assert [row["heading"] for row in rows[3:5]] == ["prompt 1 of 3, response 4 of 4", "prompt 2 of 3, response 1 of 4"]
    assert not any(token["trained"] for row in rows for token in row["tokens"])


def test_best_of_n_is_shown_with_its_n_responses(world, tmp_path):
    cfg = world.best_of_n(tmp_path / "run")
    parts, _ = best_of_n.build(cfg)
    rows = shown("best_of_n", cfg, tmp_path)
    assert ids(rows) == prompts_of(best_of_n.act(cfg, parts, 0).rollout) and len(rows) == 4 * 3


def test_ppo_and_relaxed_are_shown_without_the_prompts_that_are_left_out(world, tmp_path):
    cfg = world.ppo(tmp_path / "run")
    parts, _ = ppo.build(cfg)
    rows = shown("ppo", cfg, tmp_path)
    assert ids(rows) == prompts_of(ppo.act(cfg, parts, 0)[0]) and rows[0]["heading"] == "prompt 1 of 8"
    other = world.relaxed(tmp_path / "relaxed", {"seed": 3})
    built, _ = relaxed.build(other)
    assert {tuple(row) for row in ids(shown("relaxed", other, tmp_path))} <= {tuple(prompt) for prompt in built.prompt_ids}


def test_rated_responses_are_shown_as_what_is_learned_from(world, tmp_path):
    over = {"prompts": None, "reward": None, "ratings": {"path": str(world.folder / "ratings.jsonl")}}
    over |= {"objective": {"kind": "ppo_clip"}, "baseline": {"kind": "moving_average"}}
    cfg = world.reinforce(tmp_path / "run", over)
    rows = shown("reinforce", cfg, tmp_path)
    parts, _ = reinforce.build(cfg)
    rollout, numbers = parts.source.act(parts.policy, 0)
    whole = [row[:stop] for row, stop in zip(rollout.ids.tolist(), rollout.lengths.tolist(), strict=True)]
    assert ids(rows) == whole
    assert [sum(token["trained"] for token in row["tokens"]) for row in rows] == rollout.response_lengths.tolist()
    assert rows[0]["heading"] == f"response 1 of 8, rated {parts.source.ratings[numbers[0]].score:g}"
