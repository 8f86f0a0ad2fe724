"""The variants of the reward model as they are run: losses, labellers, ratings, ensembles, criteria, and PPO on them."""

import json
import math
import signal
from pathlib import Path

import pytest
import torch

from handrail.cli.results import learnt
from handrail.data import Source, load_rankings, ranking_batch, write_records
from handrail.errors import ConfigError
from handrail.evaluate import RewardModelJudge
from handrail.inspector import write_report
from handrail.models import ModelSettings, ScalarModel
from handrail.models.forward import Forward, Read
from handrail.recipes import ppo, reward
from handrail.recipes.reward_parts import Reward, build, resampled, shares
from handrail.records import Ranking, Rating, places_of
from killing import assert_same_run
from recipe_runs import World, in_child, make_world, metrics
from test_algo_rankings import pairs_by_hand, plackett_luce_by_hand
from test_recipes_loop import first_gradient

LORA = {"rank": 4, "alpha": 8.0}
ENSEMBLE = {"heads": 3, "combine": {"rule": "mean_minus_std", "k": 0.5}}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    """The usual one, with the same rankings as ratings, and with a second criterion: the shorter one is the better."""
    world = make_world(tmp_path_factory.mktemp("world"))
    rankings = load_rankings(Source(path=str(world.folder / "rankings.jsonl"))).records
    both: list[Ranking] = []
    ratings: list[Rating] = []
    for r in rankings:
        shorter = places_of([-len(response) for response in r.responses])
        both.append(r.model_copy(update={"criterion": "helpful"}))
        both.append(Ranking(prompt=r.prompt, responses=r.responses, places=shorter, criterion="concise", labeller="bob"))
        scores = [6 - 1.5 * place for place in r.places]
        ratings += [Rating(prompt=r.prompt, response=x, score=s) for x, s in zip(r.responses, scores, strict=True)]
    write_records(world.folder / "criteria.jsonl", both)
    write_records(world.folder / "ratings.jsonl", ratings)
    return world


def data(world: World, name: str) -> dict:
    return {"data": {"path": str(world.folder / f"{name}.jsonl")}}


@pytest.fixture(scope="module")
def models(world) -> dict[str, str]:
    """Reward models to practise on, by name."""
    made = {
        "ensemble": ENSEMBLE,
        "criteria": data(world, "criteria"),
        "both": data(world, "criteria") | {"heads": 2, "model": {"lora": LORA}},
    }
    for name, over in made.items():
        reward.run(world.reward(world.folder / name, over | {"epochs": 2}))
    return {name: str(world.folder / name) for name in made}


def first_loss(cfg: Reward) -> tuple[float, float]:
    """The loss of the first batch as the recipe takes it, and by scalar code from the same numbers of the heads."""
    parts, _ = build(cfg)
    parts.model.hf.eval()
    rows = reward.shuffled(len(parts.train), cfg.batch_size, 0, cfg.seed)
    rankings = [parts.train[i] for i in rows]
    batch = ranking_batch(parts.codec, rankings, parts.model.context)
    found = reward.gradient(cfg, parts, batch, rows)[0]["loss"]
    with torch.no_grad():
        last, mean = (x.double() for x in reward.readings(parts.model, batch.sequences))
    criteria = sorted({r.criterion for r in parts.train})
    total = 0.0
    for n, r in enumerate(rankings):
        at = batch.index[n][batch.mask[n]]
        lead = [cfg.margin_per_point * s for s in r.scores] or [0.0] * len(r.responses)
        for member in range(cfg.heads):
            head = criteria.index(r.criterion) * cfg.heads + member
            share = resampled(cfg.seed, member, r.id) if cfg.heads > 1 else 1
            for numbers, weight in ((last, 1.0), (mean, cfg.token_weight)):
                scores = [x - a for x, a in zip(numbers[at, head].tolist(), lead, strict=True)]
                if cfg.loss == "pairs":
                    loss = pairs_by_hand(scores, list(r.places), r.margin, cfg.label_smoothing)
                else:
                    loss = plackett_luce_by_hand(scores, list(r.places), r.margin)
                total += weight * share * r.weight * loss / (cfg.heads * sum(x.weight for x in rankings))
            centre = float(last[at, head].mean()) ** 2 / (cfg.heads * len(rankings))
            total += cfg.centring * centre
    return found, total


@pytest.mark.parametrize(
    ("name", "over"),
    [
        ("rankings", {"loss": "plackett_luce"}),
        ("rankings", {"label_smoothing": 0.2}),
        ("rankings", {"heads": 3}),
        ("rankings", {"heads": 2, "loss": "plackett_luce", "micro_tokens": 64}),
        ("criteria", {"labeller_weights": {"bob": 0.25}}),
        ("criteria", {"heads": 2, "label_smoothing": 0.1, "token_weight": 0.0}),
        ("ratings", {"margin_per_point": 0.4}),
        ("ratings", {"margin_per_point": 0.4, "loss": "plackett_luce"}),
    ],
)
def test_the_loss_is_that_of_scalar_code(world, tmp_path, name, over):
    found, wanted = first_loss(world.reward(tmp_path / "run", data(world, name) | over))
    assert found == pytest.approx(wanted, rel=1e-5)


VARIANTS = {
    "plackett_luce": ("rankings", {"loss": "plackett_luce"}),
    "smoothed": ("rankings", {"label_smoothing": 0.1}),
    "ratings": ("ratings", {"margin_per_point": 0.5}),
    "ensemble": ("rankings", ENSEMBLE),
    "both": ("criteria", {"heads": 2, "labeller_weights": {"bob": 0.5}, "combine": {"weights": {"concise": 0.5, "helpful": 1.0}}}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_variant_killed_and_started_again_ends_the_same(world, tmp_path, variant):
    name, over = VARIANTS[variant]
    over = data(world, name) | over
    assert in_child(world.work("reward", tmp_path / "whole", over)) == 0
    work = world.work("reward", tmp_path / "killed", over)
    assert in_child(work, "reward:4") == -signal.SIGKILL
    assert in_child(work) == 0
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    summaries = [json.loads((tmp_path / run / "summary.json").read_text()) for run in ("killed", "whole")]
    assert summaries[0] == summaries[1]
    for file in (tmp_path / "whole/model").glob("*.safetensors"):
        assert file.read_bytes() == (tmp_path / "killed/model" / file.name).read_bytes()


@pytest.mark.parametrize("variant", ["plackett_luce", "both"])
def test_micro_batches_change_nothing(world, tmp_path, monkeypatch, variant):
    name, over = VARIANTS[variant]
    over = data(world, name) | over | {"max_grad_norm": 1e9}
    grads = [first_gradient(monkeypatch, world.work("reward", tmp_path / f"{n}", over | {"micro_tokens": n})) for n in (64, 100_000)]
    biggest = max(float(g.abs().max()) for g in grads[1].values())
    for gradient in grads[0]:
        assert float((grads[0][gradient] - grads[1][gradient]).abs().max()) < 1e-5 * max(1.0, biggest), gradient


def test_a_head_learns_from_its_own_criterion_and_its_own_resample(world, tmp_path):
    cfg = world.reward(tmp_path / "run", data(world, "criteria") | {"heads": 2, "centring": 0.0, "batch_size": 1})
    parts, _ = build(cfg)
    for row in range(len(parts.train)):
        parts.optimizer.clear()
        reward.gradient(cfg, parts, ranking_batch(parts.codec, [parts.train[row]], parts.model.context), [row])
        moved = parts.model.head.weight.grad.abs().amax(1) > 0
        own = parts.train[row].criterion == "helpful"
        assert moved.tolist() == [
            *(parts.share[row] > 0).logical_and(torch.tensor(not own)),
            *(parts.share[row] > 0).logical_and(torch.tensor(own)),
        ]
    assert {0.0, 1.0, 2.0} <= set(parts.share.flatten().tolist())


def test_a_resample_is_poisson_and_follows_from_the_ranking_alone():
    drawn = [resampled(0, member, f"{ranking:016x}") for ranking in range(4000) for member in range(3)]
    for count in range(5):
        share = math.exp(-1) / math.factorial(count)
        assert drawn.count(count) / len(drawn) == pytest.approx(share, abs=4 * math.sqrt(share / len(drawn)))
    assert resampled(0, 0, "0123456789abcdef") == resampled(0, 0, "0123456789abcdef")
    assert [resampled(s, 0, f"{r:016x}") for s in (0, 1) for r in range(40)][:40] != [resampled(1, 0, f"{r:016x}") for r in range(40)]


def test_resamples_do_not_depend_on_the_order_of_rankings(world):
    rankings = load_rankings(Source(path=str(world.folder / "rankings.jsonl"))).records
    assert torch.equal(shares(rankings[::-1], 4, 7), shares(rankings, 4, 7).flip(0))
    assert torch.equal(shares(rankings, 1, 7), torch.ones(len(rankings), 1))


def test_labellers_weigh_what_they_are_given(world, tmp_path):
    parts, _ = build(world.reward(tmp_path / "a", data(world, "criteria") | {"labeller_weights": {"bob": 3}}))
    assert {(r.labeller == "bob", r.weight) for r in parts.train} == {(True, 3.0), (False, 1.0)}
    names = load_rankings(Source(path=str(world.folder / "rankings.jsonl"))).records
    everybody = dict.fromkeys(sorted({r.labeller for r in names}), 0.0)
    with pytest.raises(ConfigError, match="no ranking by 'helpful' is left"):
        build(world.reward(tmp_path / "b", data(world, "criteria") | {"labeller_weights": everybody}))
    with pytest.raises(ConfigError, match="0 rankings to train on"):
        build(world.reward(tmp_path / "c", {"labeller_weights": everybody}))


@pytest.mark.parametrize(
    ("name", "over", "said"),
    [
        ("criteria", {"labeller_weights": {"bib": 1.0}}, "no ranking is by 'bib'(.|\n)*did you mean 'bob'"),
        ("rankings", {"margin_per_point": 0.5}, "no ranking of .* has scores"),
        ("rankings", {"combine": {"rule": "minimum"}}, "no ensemble"),
        ("rankings", {"combine": {"weights": {"helpful": 1.0}}}, "one criterion"),
        ("mixed", {}, "16 rankings name no criterion, 32 are by concise, helpful"),
        ("tied", {"loss": "plackett_luce"}, "13 responses"),
    ],
)
def test_settings_that_the_data_cannot_follow_are_refused(world, tmp_path, name, over, said):
    rankings = {n: load_rankings(Source(path=str(world.folder / f"{n}.jsonl"))).records for n in ("rankings", "criteria")}
    write_records(world.folder / "mixed.jsonl", rankings["rankings"] + rankings["criteria"])
    many = Ranking(prompt=rankings["rankings"][0].prompt, responses=tuple(map(str, range(14))), places=(1, *[2] * 13))
    write_records(world.folder / "tied.jsonl", [many, *rankings["rankings"]])
    other = {}
    if name == "tied":  # the tie is to train on, whichever prompts are held out
        write_records(world.folder / "other.jsonl", rankings["rankings"][1:])
        other = {"test": {"path": str(world.folder / "other.jsonl")}}
    with pytest.raises(ConfigError, match=said):
        build(world.reward(tmp_path / "run", data(world, name) | over | other))
    assert not (tmp_path / "run").exists()


def test_smoothing_is_for_pairs(world, tmp_path):
    with pytest.raises(ValueError, match=r"label_smoothing 0\.1 is for loss: pairs"):
        world.reward(tmp_path / "run", {"loss": "plackett_luce", "label_smoothing": 0.1})


def test_a_test_by_other_criteria_is_refused(world, tmp_path):
    over = data(world, "criteria") | {"test": {"path": str(world.folder / "rankings.jsonl")}}
    with pytest.raises(ConfigError, match="rankings by ''"):
        build(world.reward(tmp_path / "run", over))


# --- what the summary says ---


def test_the_held_out_rankings_are_read_once(world, tmp_path, monkeypatch):
    read, whole = [], ScalarModel.head_scores
    monkeypatch.setattr(ScalarModel, "head_scores", lambda model, rows: (read.append(len(rows)), whole(model, rows))[1])
    run = reward.run(world.reward(tmp_path / "run", {"epochs": 1}))
    rankings = [json.loads(line) for line in (run.folder / "verdicts.jsonl").read_text().splitlines()]
    assert run.summary["test_rankings"] == len(rankings) > 1
    assert read == [8, sum(len(ranking["responses"]) for ranking in rankings)], "those that it is normalised on, then those"


@pytest.mark.parametrize("name", ["ensemble", "criteria", "both"])
def test_the_attributions_that_it_leaves_are_of_the_verdicts_and_add_up(models, name):
    folder = Path(models[name])
    verdicts, pairs = (
        [json.loads(line) for line in (folder / f"{x}.jsonl").read_text().splitlines()] for x in ("verdicts", "attributions")
    )
    told = {
        (v["prompt_id"], v["criterion"], text): score for v in verdicts for text, score in zip(v["responses"], v["scores"], strict=True)
    }
    assert 0 < len(pairs) <= 24
    for pair in pairs:
        for one in (pair["better"], pair["worse"]):
            assert one["tokens"][-1] == "<|end|>" and one["attributions"][-1] is None and None not in one["attributions"][:-1]
            text = "".join(one["tokens"][:-1])
            assert told[pair["prompt_id"], pair["criterion"], text] == pytest.approx(one["score"], abs=1e-3)
            gap = one["score"] - one["baseline"]
            assert sum(one["attributions"][:-1]) == pytest.approx(gap, abs=0.02 + 0.05 * abs(gap))
        gap = pair["better"]["score"] - pair["worse"]["score"]
        assert {"mistake": gap < 0, "right": gap > 0, "drawn": True}[pair["why"]]
    for why, sign in (("mistake", 1), ("right", -1)):
        units = {v["criterion"]: v["unit"] for v in verdicts}
        gaps = [sign * units[p["criterion"]] * (p["better"]["score"] - p["worse"]["score"]) for p in pairs if p["why"] == why]
        assert gaps == pytest.approx(sorted(gaps), abs=1e-3), "the surest first"


def test_a_model_that_reads_more_than_embeddings_leaves_none_and_says_so(world, tmp_path, monkeypatch):
    last = Forward.last
    monkeypatch.setattr(
        Forward, "last", lambda self, inputs, rows: Read((read := last(self, inputs, rows)).output + 1, read.rows, read.columns)
    )
    run = reward.run(world.reward(tmp_path / "run", {"epochs": 1}))
    assert run.finished and (run.folder / "attributions.jsonl").read_text() == ""
    assert "no attributions: " in (run.folder / "log.txt").read_text()


def test_the_summary_tells_of_every_head_and_every_criterion(models):
    found = {name: json.loads((Path(folder) / "summary.json").read_text()) for name, folder in models.items()}
    for summary in found.values():
        untied = summary["accuracy"]["n"]
        assert sum(b["n"] for b in summary["margins"]) == untied
        wrong = sum(b["n"] for b in summary["margins"] if b["high"] <= 0)
        assert summary["accuracy"]["value"] == pytest.approx(1 - wrong / untied)
    assert "criteria" not in found["ensemble"] and "disagreement" not in found["criteria"]
    assert len(found["ensemble"]["heads"]) == 3 and len(found["both"]["heads"]) == 4
    assert [(h["criterion"], h["member"]) for h in found["both"]["heads"]] == [(c, m) for c in ("concise", "helpful") for m in (0, 1)]
    assert all(h["accuracy"]["n"] > 0 and h["std"] > 0 and h["calibration"] for h in found["both"]["heads"])
    for name in ("criteria", "both"):
        by = found[name]["criteria"]
        assert list(by) == ["concise", "helpful"] and sum(c["accuracy"]["n"] for c in by.values()) == found[name]["accuracy"]["n"]
        right = sum(c["accuracy"]["value"] * c["accuracy"]["n"] for c in by.values())
        assert found[name]["accuracy"]["value"] == pytest.approx(right / found[name]["accuracy"]["n"])
        assert found[name]["combination"]["weights"] == {"concise": 1.0, "helpful": 1.0}
        assert found[name]["combination"]["accuracy"]["n"] == found[name]["accuracy"]["n"]
    for name in ("ensemble", "both"):
        pairs = found[name]["disagreement"]
        assert pairs["n"] == found[name]["accuracy"]["n"] and 0 <= pairs["unanimous"] <= 1
        assert pairs["mistakes"] == pytest.approx((1 - found[name]["accuracy"]["value"]) * pairs["n"])


def test_the_report_and_the_command_line_tell_of_criteria_and_disagreement(models, tmp_path):
    page = write_report(Path(models["both"]), tmp_path / "report.html").read_text(encoding="utf-8")
    assert all(words in page for words in ("by concise", "by helpful", "of the held-out pairs alike", "Margins", "ordered wrongly"))
    said = learnt("reward", Path(models["both"]))
    assert "By criterion: concise " in said and "Its heads agree about " in said
    alone = learnt("reward", Path(models["ensemble"]))
    assert "criterion" not in alone and "Its heads agree about " in alone


def test_a_judge_goes_by_the_combination_that_the_model_was_trained_to(world, models):
    model = ScalarModel.load(ModelSettings(path=models["ensemble"])).freeze()
    parts, _ = build(world.reward(world.folder / "unused"))
    ranking = parts.test[0]
    judge = RewardModelJudge(model, parts.codec)
    sequences = ranking_batch(parts.codec, [ranking], model.context).sequences
    found = judge.score(sequences)
    with torch.no_grad():
        heads = model.head_scores(sequences)
    reference = by_rule(model.heads.normalised(model.heads.reference), ENSEMBLE["combine"])
    wanted = (by_rule(heads, ENSEMBLE["combine"]) - reference.mean()) / reference.std(correction=0)
    assert found == pytest.approx(wanted.tolist(), rel=1e-4, abs=1e-4)


def test_criteria_that_contradict_each_other_are_learned_side_by_side(world, tmp_path):
    rankings = load_rankings(Source(path=str(world.folder / "rankings.jsonl"))).records
    turned = [r.model_copy(update={"places": tuple(4 - place for place in r.places), "criterion": "down"}) for r in rankings]
    write_records(world.folder / "opposed.jsonl", [r.model_copy(update={"criterion": "up"}) for r in rankings] + turned)
    cfg = world.reward(tmp_path / "run", data(world, "opposed") | {"epochs": 12, "lr": 3e-3, "run": {"save_every": 100}})
    reward.run(cfg)
    model = ScalarModel.load(ModelSettings(path=str(tmp_path / "run"))).freeze()
    parts, _ = build(cfg)
    learned = [r for r in parts.train if r.criterion == "up"]
    batch = ranking_batch(parts.codec, learned, model.context)
    with torch.no_grad():
        down, up = model.head_scores(batch.sequences).T
    places = [(batch.index[row, i], batch.index[row, j]) for row, r in enumerate(learned) for i, j in r.pairs()]
    right = [(float(up[i] > up[j]), float(down[i] < down[j])) for i, j in places]
    assert all(sum(head) / len(right) > 0.85 for head in zip(*right, strict=True))


# --- PPO on them ---

PPO = [
    ("ensemble", {"combine": {"rule": "mean"}}),
    ("ensemble", {"combine": {"rule": "minimum"}}),
    ("ensemble", {"combine": {"rule": "mean_minus_std", "k": 2.0}}),
    ("ensemble", {}),
    ("criteria", {"combine": {"weights": {"concise": -1.0, "helpful": 1.0}}}),
    ("both", {"combine": {"rule": "minimum", "weights": {"concise": 1.0, "helpful": 2.0}}}),
]


def by_rule(scores: torch.Tensor, combine: dict) -> torch.Tensor:
    """[B] unnormalised, for one criterion."""
    found = []
    for row in scores.double().tolist():
        mean = sum(row) / len(row)
        std = math.sqrt(sum((x - mean) ** 2 for x in row) / len(row))
        found.append({"mean": mean, "minimum": min(row), "mean_minus_std": mean - combine.get("k", 1.0) * std}[combine["rule"]])
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize(("name", "over"), PPO)
def test_ppo_is_paid_by_the_combination(world, models, tmp_path, name, over):
    settings = {"steps": 2, "reward": {"model": models[name], "cut": "bootstrap", **over}}
    cfg = world.ppo(tmp_path / "ppo", settings)
    parts, _ = ppo.build(cfg)
    parts.eval()
    rollout, prompts = ppo.act(cfg, parts, 0)
    _, components = parts.reward(rollout, [parts.answers.prompts[i] for i in prompts], [""] * len(rollout))
    model = ScalarModel.load(ModelSettings(path=models[name])).freeze()
    with torch.no_grad():
        heads = model.head_scores(rollout.sequences)
    if name == "ensemble":
        combine = over.get("combine", ENSEMBLE["combine"])
        reference = by_rule(model.heads.normalised(model.heads.reference), combine)
        wanted = (by_rule(heads, combine) - reference.mean()) / reference.std(correction=0)
        torch.testing.assert_close(components["reward_model"].double(), wanted, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(components["reward_spread"], heads.std(1, correction=0))
    else:
        assert {"reward.concise", "reward.helpful"} <= components.keys() and ("reward_spread" in components) == (name == "both")
        weights = over["combine"]["weights"]
        total = sum(weights[c] * components[f"reward.{c}"] for c in ("concise", "helpful"))
        slope = torch.stack([total, components["reward_model"]]).double()
        assert float(torch.corrcoef(slope)[0, 1]) == pytest.approx(1, abs=1e-5)
    line = metrics(ppo.run(cfg))[0]
    assert line["reward_model"] == pytest.approx(float(components["reward_model"].mean()), abs=1e-4)
    assert all(line[key] == pytest.approx(float(value.mean()), abs=1e-4) for key, value in components.items())
    assert parts.critic.head.weight.shape == (1, 32)


def test_the_critic_begins_with_the_score_that_the_mean_gives(world, models, tmp_path):
    for name, over in (
        ("ensemble", {"combine": {"rule": "mean"}}),
        ("criteria", {"combine": {"weights": {"concise": 3.0, "helpful": 1.0}}}),
    ):
        cfg = world.ppo(tmp_path / name, {"reward": {"model": models[name], "cut": "bootstrap", **over}})
        parts, _ = ppo.build(cfg)
        parts.eval()
        rollout, prompts = ppo.act(cfg, parts, 0)
        verdict = ppo.judge(parts, rollout, prompts)
        torch.testing.assert_close(verdict.after, verdict.components["reward_model"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("roles", ["one_trunk", "one_trunk_shared"])
def test_on_one_trunk_with_criteria_and_members(world, models, tmp_path, roles):
    over = {"reward": {"model": models["both"], "combine": {"rule": "minimum"}}, "policy": {"lora": LORA}}
    work = world.work("ppo", tmp_path / "whole", over | {"roles": roles, "steps": 4})
    assert in_child(work) == 0
    killed = world.work("ppo", tmp_path / "killed", over | {"roles": roles, "steps": 4})
    assert in_child(killed, "ppo:2") == -signal.SIGKILL and in_child(killed) == 0
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    separate = ppo.build(world.ppo(tmp_path / "separate", {"reward": over["reward"]}))[0]
    cfg = world.ppo(tmp_path / "trunk", over | {"roles": roles})
    parts, _ = ppo.build(cfg)
    parts.eval()
    rollout, _ = ppo.act(cfg, parts, 0)
    with torch.no_grad():
        scores = [p.reward.model.score(rollout.sequences) for p in (parts, separate)]
    torch.testing.assert_close(*scores, atol=1e-4, rtol=0)


def test_combining_without_a_reward_model_or_in_a_way_that_it_has_not_is_refused(world, models, tmp_path):
    with pytest.raises(ValueError, match="there is none"):
        world.ppo(tmp_path / "a", {"reward": {"model": "", "function": "f.py:f", "combine": {"rule": "minimum"}}})
    for name, combine in (("criteria", {"rule": "minimum"}), ("ensemble", {"weights": {"helpful": 1.0}})):
        with pytest.raises(ConfigError, match=r"combine\."):
            ppo.build(world.ppo(tmp_path / "b", {"reward": {"model": models[name], "combine": combine}}))
