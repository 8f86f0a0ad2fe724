"""Mistakes that somebody could make, each small enough to be overlooked, and the tests that must not let it pass.

`gate.py` beside this file plants them.  Whoever changes a line that stands here changes it here too.
"""

from faults.gate import Fault

ORACLE, STATEMENTS, PADDING = "test_algo_oracle.py", "test_algo_statements.py", "test_algo_padding.py"
FORMULAS = f"{STATEMENTS} {PADDING} {ORACLE}"
PREFERENCE = "test_algo_preference.py"
BASIC = "test_models_basic.py"
PLACES = "test_oracle_transformer.py::test_the_expected_update_is_the_gradient_of_the_objective"
GRADIENT = f"{BASIC}::test_gradients_of_log_probability_and_entropy_are_exact"
START = f"{BASIC}::test_a_critic_from_a_reward_model_starts_as_its_score"
GREEDY = "test_rollout_exact.py::test_greedy_tokens_are_those_of_generate_with_fewer_slots_than_prompts"
ROWS = "test_rollout_exact.py::test_a_row_depends_on_its_prompt_and_seed_alone"
LOOP = "test_oracle_loop.py::test_the_expected_update_is_the_gradient_of_the_objective"
CREDIT = "test_oracle_loop.py::test_rescaled_rewards_keep_their_sum_and_whitened_advantages_leave_the_critic_its_returns"
ON_POLICY = "test_recipes_loop.py::test_the_first_inner_step_is_on_policy_and_step_0_is_the_reference"
ENDS = "test_rollout_engine.py::test_an_end_token_ends_and_stays_and_a_cut_is_no_end"
LAW = "test_rollout_law.py"
RESUME = "test_recipes_resume.py::test_killed_and_started_again_a_recipe_ends_the_same[4-ppo]"

RETURN_K1 = "    return logp - logp_ref\n"

ADVANTAGE = [
    Fault(
        "padding leaks into GAE",
        "rewards and values behind a response are carried into its advantages",
        "algo/advantage.py",
        "rewards, values = torch.where(mask, rewards, 0), torch.where(mask, values, 0)",
        "mask = torch.ones_like(mask)",
        FORMULAS,
    ),
    Fault(
        "padding multiplied by zero",
        "masked by a product, which leaves NaN where NaN was",
        "algo/advantage.py",
        "rewards, values = torch.where(mask, rewards, 0), torch.where(mask, values, 0)",
        "rewards, values = rewards * mask, values * mask",
        PADDING,
    ),
    Fault(
        "GAE without the bootstrap",
        "a response that was cut is worth nothing beyond its last token",
        "algo/advantage.py",
        "torch.where(last, bootstrap[:, None], after)",
        "after",
        FORMULAS,
    ),
    Fault(
        "bootstrap on the last column",
        "the value after the last token goes to the last column of the batch",
        "algo/advantage.py",
        "== mask.sum(1, keepdim=True) - 1",
        "== mask.shape[1] - 1",
        FORMULAS,
    ),
    Fault(
        "GAE without lambda",
        "the sum over errors decays by gamma alone",
        "algo/advantage.py",
        "gamma * lam * carry",
        "gamma * carry",
        FORMULAS,
    ),
    Fault(
        "returns without the value",
        "the critic learns advantages",
        "algo/advantage.py",
        "return advantage, advantage + values",
        "return advantage, advantage",
        FORMULAS,
    ),
    Fault(
        "reward on the last column",
        "the score of a short response stands on its padding",
        "algo/advantage.py",
        "(rows, lengths - 1)",
        "(rows, torch.full_like(lengths, mask.shape[1] - 1))",
        FORMULAS,
    ),
    Fault(
        "score replaces the divergence",
        "the last token costs nothing",
        "algo/advantage.py",
        "accumulate=True",
        "accumulate=False",
        FORMULAS,
    ),
    Fault(
        "wrong sign of KL",
        "leaving the reference is rewarded",
        "algo/advantage.py",
        "-beta * kl.detach()",
        "beta * kl.detach()",
        FORMULAS,
    ),
    Fault(
        "divergence in the reward with a gradient",
        "the reward is differentiated",
        "algo/advantage.py",
        "-beta * kl.detach()",
        "-beta * kl",
        STATEMENTS,
    ),
]

KL = [
    Fault(
        "k1 clamped",
        "a token that the reference likes better costs nothing",
        "algo/kl.py",
        RETURN_K1,
        "    return (logp - logp_ref).clamp(min=0)\n",
        FORMULAS,
    ),
    Fault(
        "k3 of the other direction",
        "the ratio is that of the policy to the reference",
        "algo/kl.py",
        "log_ratio = logp_ref - logp",
        "log_ratio = logp - logp_ref",
        FORMULAS,
    ),
    Fault(
        "exact divergence of the other direction",
        "KL(ref || pi) for KL(pi || ref)",
        "algo/kl.py",
        "(logp.exp() * (logp - logp_ref)).sum(-1)",
        "(logp_ref.exp() * (logp_ref - logp)).sum(-1)",
        ORACLE,
    ),
    Fault(
        "adaptive beta upside down",
        "beta falls when the policy is too far away",
        "algo/control.py",
        "kl / target - 1",
        "target / kl - 1",
        STATEMENTS,
    ),
    Fault(
        "adaptive beta without its bound",
        "one strange batch throws beta about",
        "algo/control.py",
        "min(max(kl / target - 1, -0.2), 0.2)",
        "kl / target - 1",
        STATEMENTS,
    ),
]

OBJECTIVE = [
    Fault(
        "min and max swapped in the clip",
        "the clip lets go where it should hold",
        "algo/objective.py",
        "-torch.minimum(plain, bounded)",
        "-torch.maximum(plain, bounded)",
        FORMULAS,
    ),
    Fault(
        "clip without the minimum",
        "a policy that went too far is not pulled back",
        "algo/objective.py",
        "-torch.minimum(plain, bounded)",
        "-bounded",
        FORMULAS,
    ),
    Fault(
        "bounds of the clip exchanged",
        "clip_low above and clip_high below",
        "algo/objective.py",
        "ratio.clamp(1 - clip_low, 1 + clip_high)",
        "ratio.clamp(1 - clip_high, 1 + clip_low)",
        STATEMENTS,
    ),
    Fault(
        "ratio upside down",
        "the old policy over the new",
        "algo/objective.py",
        "torch.where(mask, logp - logp_old, 0)",
        "torch.where(mask, logp_old - logp, 0)",
        FORMULAS,
    ),
    Fault(
        "length mean for sum",
        "tokens of long responses weigh less",
        "algo/objective.py",
        "loss = masked_mean(-torch.minimum(plain, bounded), mask, count)",
        "loss = (torch.where(mask, -torch.minimum(plain, bounded), 0).sum(1) / mask.sum(1)).sum() / count",
        FORMULAS,
    ),
    Fault(
        "end of sequence masked out",
        "the last token of each response, its end, is never learned",
        "algo/objective.py",
        "    log_ratio = torch.where(mask",
        "    mask = mask & torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], 1)\n    log_ratio = torch.where(mask",
        FORMULAS,
    ),
    Fault(
        "count of the slice",
        "each slice of a minibatch is divided by its own tokens",
        "algo/objective.py",
        "loss = masked_mean(-torch.minimum(plain, bounded), mask, count)",
        "loss = masked_mean(-torch.minimum(plain, bounded), mask)",
        FORMULAS,
    ),
    Fault(
        "clip fraction of everything clamped",
        "tokens whose gradient is whole are counted",
        "algo/objective.py",
        "(bounded < plain)",
        "(bounded != plain)",
        STATEMENTS,
    ),
    Fault(
        "value clip takes the smaller error",
        "the critic's loss lets go where it should hold",
        "algo/value.py",
        "torch.maximum(",
        "torch.minimum(",
        STATEMENTS,
    ),
]

STATS = [
    Fault(
        "whitening over padding",
        "zeros behind short responses pull the mean",
        "algo/stats.py",
        "    _, centred, variance = _moments(x, mask)\n    return centred *",
        "    _, centred, variance = _moments(torch.where(mask, x, 0), torch.ones_like(mask))\n    return mask * centred *",
        FORMULAS,
    ),
    Fault(
        "whitening of each row",
        "a response's advantage against itself",
        "algo/stats.py",
        "    mean = masked_mean(x, mask)\n",
        "    mean = torch.where(mask, x, 0).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)\n",
        STATEMENTS,
    ),
    Fault(
        "rescaled rewards lose their mean",
        "whether rewards are good or bad is forgotten",
        "algo/stats.py",
        "torch.rsqrt(variance + floor) + mean",
        "torch.rsqrt(variance + floor)",
        STATEMENTS,
    ),
]

REWARD = [
    Fault(
        "rankings upside down",
        "the reward model learns to like what people like least",
        "algo/preference.py",
        "torch.sign(places[:, second] - places[:, first])",
        "torch.sign(places[:, first] - places[:, second])",
        PREFERENCE,
    ),
    Fault(
        "a tie taken for a win",
        "the first of two equal responses wins",
        "algo/preference.py",
        "torch.where(better == 0, tied, decided)",
        "torch.where(better == 0, -logsigmoid(difference), decided)",
        PREFERENCE,
    ),
    Fault(
        "long rankings weigh more",
        "pairs are summed and not averaged",
        "algo/preference.py",
        "pair.sum(1) / both.sum(1).clamp(min=1)",
        "pair.sum(1)",
        PREFERENCE,
    ),
    Fault(
        "score not normalised",
        "the reward model's mean stays in its score",
        "models/scalar.py",
        "(raw.float() - self.mean) / self.std",
        "raw.float() / self.std",
        "test_recipes_loop.py::test_the_reward_model_has_mean_0_and_deviation_1_on_responses_of_the_model_it_starts_from",
    ),
    Fault(
        "score read one token early",
        "the head looks at the token before the last",
        "models/scalar.py",
        "forward(sequences, sequences.lengths - 1, sequences.lengths)]\n    found, rows =",
        "forward(sequences, sequences.lengths - 2, sequences.lengths - 1)]\n    found, rows =",
        START,
    ),
    Fault(
        "critic forgets the reward model's scale",
        "its first values are not the scores",
        "models/scalar.py",
        "model.head.weight /= other.std",
        "model.head.weight *= other.std",
        START,
    ),
]

MODELS = [
    Fault(
        "log-probabilities shifted by one",
        "a token is scored by what was read after it",
        "models/language.py",
        "return self.forward(sequences, sequences.prompt_lengths - 1, sequences.lengths - 1)",
        "return self.forward(sequences, sequences.prompt_lengths.clamp(max=sequences.lengths - 2), sequences.lengths - 1)",
        PLACES,
    ),
    Fault(
        "the token before is scored",
        "places and tokens do not belong together",
        "models/language.py",
        "tokens = ids[read.rows, read.columns + 1]",
        "tokens = ids[read.rows, read.columns]",
        PLACES,
    ),
    Fault(
        "temperature forgotten in the gradient",
        "the gradient is that of temperature 1",
        "models/language.py",
        "(g[:, None] / ctx.temperature for g in grads)",
        "(g[:, None] for g in grads)",
        GRADIENT,
    ),
    Fault(
        "gradient of the entropy with a wrong sign",
        "the bonus sharpens where it should flatten",
        "models/language.py",
        "grad_entropy * (law + spent[:, None])",
        "grad_entropy * (law - spent[:, None])",
        GRADIENT,
    ),
    Fault(
        "a prompt shared by others of its length",
        "sequences read the prompt of their neighbour",
        "models/grouping.py",
        "((ids[1:] == ids[:-1]) | answer[1:]).all(1)",
        "(prompts[1:] > 0)",
        f"{BASIC}::test_a_prompt_in_common_stands_in_the_row_once",
    ),
    Fault(
        "padding takes part in positions",
        "left-padded prompts begin at a later position",
        "rollout/native.py",
        "(column - first).clamp(min=0)",
        "(column - 0 * first)",
        GREEDY,
    ),
]

ROLLOUT = [
    Fault(
        "truncation taken for an end",
        "a response that was cut says that it ended",
        "rollout/native.py",
        "        return row.ended or len(row.response) == row.room",
        "        row.ended = row.ended or len(row.response) == row.room\n        return row.ended",
        ENDS,
    ),
    Fault(
        "end of sequence dropped from responses",
        "the token that ends a response is not part of it",
        "rollout/native.py",
        "        return row.ended or len(row.response) == row.room",
        "        if row.ended:\n            row.response.pop(), row.logp.pop()\n        return row.ended or len(row.response) == row.room",
        ENDS,
    ),
    Fault(
        "dropout on while sampling",
        "the engine samples from another law each time",
        "rollout/native.py",
        "    model.eval()\n    try:",
        "    try:",
        "test_rollout_engine.py::test_dropout_is_off_inside_and_every_mode_is_restored",
    ),
    Fault(
        "one seed for all rows",
        "equal prompts get equal responses",
        "rollout/native.py",
        "row_uniforms(seeds[row.index], count)",
        "row_uniforms(seeds[rows[0].index], count)",
        ROWS,
    ),
    Fault(
        "draws follow the slot",
        "a row depends on who stands beside it",
        "rollout/native.py",
        "            self.uniforms[holes] = self.uniforms[movers]\n",
        "",
        ROWS,
    ),
    Fault(
        "temperature multiplies",
        "0.5 is hotter than 2",
        "rollout/sampling.py",
        "logits = logits / sampling.temperature",
        "logits = logits * sampling.temperature",
        LAW,
    ),
    Fault(
        "top-p without the token that reaches p",
        "the nucleus is one token short",
        "rollout/sampling.py",
        "before = mass.cumsum(-1) - mass",
        "before = mass.cumsum(-1)",
        LAW,
    ),
    Fault(
        "attention window forgotten while sampling",
        "the engine looks further back than the model",
        "rollout/native.py",
        "near = self._additive(seen & (far < self.window))",
        "near = self._additive(seen)",
        GREEDY,
    ),
]

DATA = [
    Fault(
        "responses without their end",
        "the model never learns to stop",
        "data/codec.py",
        "return self._text(text) + [self.end_id] * end",
        "return self._text(text)",
        "test_data_codec.py",
    ),
    Fault(
        "two beginnings of sequence",
        "one from the template and one of ours",
        "data/codec.py",
        "if starts and ids[:1] != [self._bos]:",
        "if starts:",
        "test_data_codec.py",
    ),
    Fault(
        "typed special tokens act",
        "a user who types the end token ends the turn",
        "data/codec.py",
        "split_special_tokens=True, verbose=False",
        "split_special_tokens=False, verbose=False",
        "test_data_codec.py",
    ),
    Fault(
        "prompts on both sides of the split",
        "records are held out one by one",
        "data/split.py",
        "    train = [record for record in records if prompt_of(record).text not in held]",
        "    train = list(records)",
        "test_data_batches.py",
    ),
]

RECIPES = [
    Fault(
        "k3 in the reward",
        "the estimator that is never negative changes the objective",
        "recipes/ppo.py",
        "    kl = kl_k1(verdict.logp, verdict.logp_ref)\n    rewards =",
        "    ratio = verdict.logp_ref - verdict.logp\n    kl = torch.expm1(ratio) - ratio\n    rewards =",
        LOOP,
    ),
    Fault(
        "scoring at another temperature",
        "the policy samples at one temperature and is scored at 1",
        "recipes/ppo_parts.py",
        "        logp = policy.logp(sequences, cfg.sampling.temperature)\n        return logp, torch",
        "        logp = policy.logp(sequences)\n        return logp, torch",
        LOOP,
    ),
    Fault(
        "reference at another temperature",
        "the divergence is that of two different laws",
        "recipes/ppo.py",
        "logp_ref = parts.reference.logp(sequences, parts.temperature)",
        "logp_ref = parts.reference.logp(sequences)",
        LOOP,
    ),
    Fault(
        "dropout on",
        "the ratio of the first step is not 1",
        "recipes/ppo_parts.py",
        "            role.hf.eval()",
        "            role.hf.train()",
        f"{ON_POLICY} test_recipes_loop.py::test_dropout_is_off_for_every_role",
    ),
    Fault(
        "reference that learns",
        "policy and reference are one model",
        "recipes/ppo_parts.py",
        'reference = LanguageModel.load(cfg.policy.model_copy(update={"lora": None})).freeze()',
        "reference = policy",
        "test_recipes_loop.py::test_the_reference_and_the_reward_model_stay_bit_identical_and_the_policy_moves",
    ),
    Fault(
        "score and bootstrap both",
        "a response that was cut is paid twice",
        "recipes/rewards.py",
        "return torch.where(ended, score, 0)",
        "return score",
        "test_recipes_loop.py::test_responses_that_were_cut_are_penalised_or_bootstrapped",
    ),
    Fault(
        "a missing end is rewarded",
        "the penalty has the wrong sign",
        "recipes/rewards.py",
        "score - self.penalty * (~ended)",
        "score + self.penalty * (~ended)",
        LOOP,
    ),
    Fault(
        "count of each slice",
        "the size of a slice becomes a hyperparameter",
        "recipes/ppo.py",
        "part.advantage, part.mask, count, cfg.clip",
        "part.advantage, part.mask, part.mask.sum(), cfg.clip",
        "test_oracle_loop.py::test_slices_of_any_size_change_nothing",
    ),
    Fault(
        "one order for all epochs",
        "minibatches hold the same responses in every epoch",
        "recipes/ppo.py",
        'generator(cfg.seed, "minibatch", step, epoch)',
        'generator(cfg.seed, "minibatch", step)',
        "test_recipes_loop.py::test_each_response_is_used_epochs_times_and_every_epoch_has_its_own_order",
    ),
    Fault(
        "the same draws at every step",
        "responses are sampled with the same seeds again and again",
        "recipes/ppo.py",
        'derive(cfg.seed, "rollout", step, row)',
        'derive(cfg.seed, "rollout", row)',
        "test_oracle_loop.py::test_every_step_draws_anew",
    ),
    Fault(
        "divergence logged a token",
        "the logged divergence does not grow with length",
        "recipes/ppo.py",
        "kl = masked_mean(kl_k1(verdict.logp, verdict.logp_ref), mask, len(rollout))",
        "kl = masked_mean(kl_k1(verdict.logp, verdict.logp_ref), mask)",
        "test_recipes_loop.py::test_the_logged_divergence_is_that_of_the_models_read_one_row_at_a_time",
    ),
    Fault(
        "entropy bonus with a wrong sign",
        "the policy is rewarded for being sure",
        "recipes/ppo.py",
        "policy_loss - cfg.entropy_coef * bonus",
        "policy_loss + cfg.entropy_coef * bonus",
        "test_recipes_loop.py::test_value_clip_entropy_bonus_and_target_kl",
    ),
    Fault(
        "rewards whitened instead of rescaled",
        "whether rewards are good or bad on the whole is forgotten",
        "recipes/ppo.py",
        "rewards = rescale(rewards, mask)",
        "rewards = whiten(rewards, mask)",
        CREDIT,
    ),
    Fault(
        "whitening before the returns",
        "the critic learns whitened advantages",
        "recipes/ppo.py",
        "        advantage = whiten(advantage, mask)\n",
        "        advantage = whiten(advantage, mask)\n        returns = advantage + verdict.values\n",
        CREDIT,
    ),
    Fault(
        "moments forgotten on resume",
        "a resumed run begins with a fresh optimiser",
        "recipes/ppo.py",
        '        parts.optimizer.load_state(under("optimizer", saved.tensors))\n',
        "",
        RESUME,
    ),
    Fault(
        "beta forgotten on resume",
        "a resumed run begins with the first beta",
        "recipes/ppo.py",
        '        parts.divergence.beta = saved.state["beta"]\n',
        "",
        RESUME,
    ),
    Fault(
        "prompts learned by SFT",
        "the denominator counts prompts too",
        "recipes/sft.py",
        "batch.response_lengths.sum(), 0.0",
        "batch.lengths.sum(), 0.0",
        "test_recipes_loop.py::test_the_loss_of_sft_is_that_of_response_tokens_in_nats_a_token",
    ),
    Fault(
        "one gradient clip for all",
        "a large gradient of the critic stops the policy",
        "recipes/parts.py",
        "self.parallel.clip_grad(parameters.values(), self.max_grad_norm)",
        "self.parallel.clip_grad([p for _, p in self._named()], self.max_grad_norm)",
        "test_recipes_loop.py::test_each_group_of_weights_has_a_gradient_clip_of_its_own",
    ),
]

FAULTS = ADVANTAGE + KL + OBJECTIVE + STATS + REWARD + MODELS + ROLLOUT + DATA + RECIPES
