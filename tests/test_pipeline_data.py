"""What a round makes of the user's own files."""

import json

from handrail.config import validate
from handrail.data import Source, load_demonstrations, load_prompts, load_rankings, split_by_prompt
from handrail.pipeline import Round, make_data, stage_settings


def test_no_demonstration_has_a_prompt_that_tests_the_reward_model_or_the_policy(tmp_path):
    rows = [{"prompt": f"question {i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(40)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"path": str(tmp_path / "pairs.jsonl")}
    given = {"out": str(tmp_path / "round"), "data": {"demonstrations": source, "comparisons": source}, "reward": {"held_out": 0.25}}
    cfg = validate(Round, given, "test")
    reward = stage_settings(cfg, tmp_path / "round")[0]["reward"]
    folder = tmp_path / "data"
    folder.mkdir()
    make_data(cfg, folder, reward)

    def texts(records):
        return {(r.prompt if hasattr(r, "prompt") else r).text for r in records}

    demonstrations = texts(load_demonstrations(Source(path=str(folder / "demonstrations.jsonl"))).records)
    rankings = load_rankings(Source(path=str(folder / "rankings.jsonl"))).records
    held_out = texts(load_prompts(Source(path=str(folder / "held_out.jsonl"))).records)
    train, test = split_by_prompt(rankings, reward.held_out, reward.seed)  # as the reward stage will split them
    assert len(held_out) == 4 and len(test) == 9 and len(train) == 27
    assert demonstrations == texts(train)
    assert not held_out & texts(rankings)


def test_ratings_are_rankings_with_their_scores(tmp_path):
    rows = [
        {"prompt": f"question {i}", "response": f"{word} {i}", "score": score} for i in range(40) for word, score in (("a", 1), ("b", 4.5))
    ]
    (tmp_path / "ratings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"path": str(tmp_path / "ratings.jsonl")}
    cfg = validate(
        Round, {"out": str(tmp_path / "round"), "model": {"path": "somewhere"}, "data": {"comparisons": source, "prompts": source}}, "test"
    )
    folder = tmp_path / "data"
    folder.mkdir()
    make_data(cfg, folder, stage_settings(cfg, tmp_path / "round")[0]["reward"])
    rankings = load_rankings(Source(path=str(folder / "rankings.jsonl"))).records
    assert len(rankings) == 36 and {(r.places, r.scores) for r in rankings} == {((2, 1), (1.0, 4.5))}
