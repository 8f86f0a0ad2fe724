"""What sampling alone reaches: the best of n responses of the starting model by the reward model, and how good it truly is."""

import hashlib
import json
from pathlib import Path

import torch

from handrail.algo.regression import best_of_n_kl, best_of_n_mean
from handrail.data import Codec, load_prompts, within_context
from handrail.evaluate import FunctionJudge, RewardModelJudge
from handrail.models import LanguageModel, ModelSettings, ScalarModel, load_tokenizer
from handrail.pipeline.settings import Round, stage_settings
from handrail.pipeline.stages import files, write
from handrail.recipes.parts import fingerprint
from handrail.recipes.sample import draw


def yardstick(cfg: Round, best_of: list[int], count: int, out: Path) -> None:
    """For each n the mean score and its KL by the formula, into the file `out` unless it is there, made of the same."""
    settings = stage_settings(cfg, Path(cfg.out))[0]
    evaluation, reward = settings["evaluate"], settings["reward"]
    made_of = [fingerprint(evaluation.before.path), fingerprint(reward.out), files(Path(evaluation.prompts.path)), best_of, count]
    identity = hashlib.sha256(json.dumps([*made_of, evaluation.sampling.model_dump(), cfg.seed]).encode()).hexdigest()
    if out.exists() and json.loads(out.read_text()).get("identity") == identity:
        return
    codec = Codec(load_tokenizer(evaluation.before), cfg.template)
    policy = LanguageModel.load(evaluation.before).freeze()
    prompts = load_prompts(evaluation.prompts).records
    prompts, _ = within_context(codec, prompts, policy.context - evaluation.sampling.max_new_tokens)
    prompts, most = prompts[:count], max(best_of)
    rollout, _ = draw(policy, codec, prompts, most, evaluation.sampling, cfg.seed + 10**6)
    model = RewardModelJudge(ScalarModel.load(ModelSettings(path=reward.out)).freeze(), codec)
    by_model = torch.tensor(model.score(rollout.sequences)).view(len(prompts), most)
    scores = {"reward": by_model}
    if evaluation.function:
        asked, texts = [p for p in prompts for _ in range(most)], [codec.decode(ids) for ids in rollout.responses()]
        scores["gold"] = torch.tensor(FunctionJudge(evaluation.function).score(asked, texts)).view(len(prompts), most)
    rows = [
        {"n": n, "kl": best_of_n_kl(n), **{name: float(best_of_n_mean(by_model, values, n).mean()) for name, values in scores.items()}}
        for n in sorted({1, *best_of})
    ]
    write(out, {"identity": identity, "prompts": len(prompts), "responses": most, "rows": rows})
