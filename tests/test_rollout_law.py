"""O8: what is sampled follows the law that is claimed, and the filters are what they are called."""

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from handrail.config import validate
from handrail.errors import ConfigError
from handrail.models import LanguageModel
from handrail.rollout import NativeEngine, Sampling
from handrail.rollout.sampling import draw, row_uniforms
from rollout_models import law_after

V, END, STEPS = 5, 4, 3
LAWS = [
    Sampling(temperature=0.5, max_new_tokens=STEPS),
    Sampling(temperature=1.0, max_new_tokens=STEPS),
    Sampling(temperature=2.0, max_new_tokens=STEPS),
    Sampling(top_k=3, max_new_tokens=STEPS),
    Sampling(top_p=0.9, max_new_tokens=STEPS),
    Sampling(temperature=2.0, top_k=4, top_p=0.8, max_new_tokens=STEPS),
]


def by_definition(logits: Tensor, sampling: Sampling) -> Tensor:
    """[V] probabilities of one law, token by token."""
    p = (logits.double() / sampling.temperature).softmax(-1)
    order = sorted(range(len(p)), key=lambda i: -float(p[i]))
    kept = order[: sampling.top_k] if sampling.top_k else order
    mass = sum(float(p[i]) for i in kept)
    nucleus, reached = [], 0.0
    for i in kept:
        if reached < sampling.top_p:
            nucleus.append(i)
        reached += float(p[i]) / mass
    law = torch.zeros(len(p), dtype=torch.float64)
    law[nucleus] = p[nucleus] / p[nucleus].sum()
    return law


def tiny() -> LlamaForCausalLM:
    torch.manual_seed(3)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    hf = LlamaForCausalLM(LlamaConfig(vocab_size=V, max_position_embeddings=16, pad_token_id=0, **sizes)).eval()
    for parameter in hf.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.4)
    return hf


def enumerate_law(hf: LlamaForCausalLM, prompt: list[int], sampling: Sampling) -> dict[tuple[int, ...], float]:
    """Every possible response and its probability."""
    law, open_ends = {}, {(): 1.0}
    while open_ends:
        grown = {}
        for prefix, mass in open_ends.items():
            step = by_definition(law_after(hf, prompt, [*prefix, 0])[-1], sampling)
            for token, p in enumerate(step.tolist()):
                if p > 0:
                    done = token == END or len(prefix) + 1 == STEPS
                    (law if done else grown)[(*prefix, token)] = mass * p
        open_ends = grown
    return law


@pytest.mark.parametrize("sampling", LAWS, ids=lambda s: f"T{s.temperature}-k{s.top_k}-p{s.top_p}")
def test_counts_of_whole_responses_pass_a_chi_square_test(sampling):
    hf, prompt, count = tiny(), [1, 2], 4000
    engine = NativeEngine(None, [END], slots=1000)
    engine.sync(LanguageModel(hf))
    rollout = engine.generate([prompt] * count, list(range(count)), sampling)
    law, counts = enumerate_law(hf, prompt, sampling), {}
    for response, logp in zip(rollout.responses(), rollout.logp.sum(1).tolist(), strict=True):
        counts[tuple(response)] = counts.get(tuple(response), 0) + 1
        assert logp == pytest.approx(torch.tensor(law[tuple(response)]).log().item(), abs=1e-4)
    rare = [y for y, p in law.items() if p * count < 5]  # pooled: the test needs five expected in a cell
    cells = [(counts.get(y, 0), p * count) for y, p in law.items() if p * count >= 5]
    pooled = sum(law[y] for y in rare) * count
    if pooled >= 5:
        cells.append((sum(counts.get(y, 0) for y in rare), pooled))
    statistic = sum((seen - expected) ** 2 / expected for seen, expected in cells)
    chance = torch.special.gammaincc(torch.tensor((len(cells) - 1) / 2.0), torch.tensor(statistic / 2))
    assert len(cells) > 5 and float(chance) > 1e-3


def test_the_model_s_own_generation_config_is_not_asked():
    hf, prompts, seeds = tiny(), [[1, 2], [3]] * 8, list(range(16))
    engine = NativeEngine(None, [END])
    engine.sync(LanguageModel(hf))
    plain = engine.generate(prompts, seeds, Sampling(max_new_tokens=8))
    hf.generation_config.update(temperature=0.1, top_k=1, top_p=0.1, max_new_tokens=2, eos_token_id=2, suppress_tokens=[0])
    assert torch.equal(engine.generate(prompts, seeds, Sampling(max_new_tokens=8)).ids, plain.ids)
    assert int(plain.response_lengths.max()) == 8


@pytest.mark.parametrize("sampling", LAWS, ids=lambda s: f"T{s.temperature}-k{s.top_k}-p{s.top_p}")
def test_draw_inverts_the_cumulative_law(sampling):
    logits = 2 * torch.randn(7, generator=torch.Generator().manual_seed(5))
    law = by_definition(logits, sampling)
    grid = (torch.arange(20_000) + 0.5) / 20_000
    tokens, logp = draw(logits.expand(len(grid), -1), grid, sampling)
    share = torch.bincount(tokens, minlength=7) / len(grid)
    torch.testing.assert_close(share.double(), law, atol=1e-4, rtol=0)
    torch.testing.assert_close(logp.double(), law.log()[tokens], atol=1e-5, rtol=0)


@pytest.mark.parametrize("sampling", LAWS[:1] + LAWS[3:])
def test_a_token_without_mass_is_never_drawn_even_at_the_edges(sampling):
    logits = torch.randn(4, 5000, generator=torch.Generator().manual_seed(6))
    logits[:, :10] = logits[:, -10:] = -torch.inf
    for edge in (0.0, 1 - 2**-24, 1.0):
        tokens, logp = draw(logits, torch.full((4,), edge), sampling)
        assert ((tokens >= 10) & (tokens < 4990)).all() and logp.isfinite().all()


def test_each_token_owns_its_step_of_the_cumulative_law_from_the_left_edge_on():
    tokens, _ = draw(torch.zeros(4, 4), torch.tensor([0.0, 0.25, 0.5, 0.75]), Sampling())
    assert tokens.tolist() == [0, 1, 2, 3]


def test_log_probabilities_over_a_large_vocabulary_stay_exact():
    logits = 3 * torch.randn(8, 50_000, generator=torch.Generator().manual_seed(7))
    tokens, logp = draw(logits, torch.rand(8, generator=torch.Generator().manual_seed(8)), Sampling())
    exact = torch.log_softmax(logits.double(), -1).gather(1, tokens[:, None])[:, 0]
    torch.testing.assert_close(logp.double(), exact, atol=1e-5, rtol=0)


def test_greedy_takes_the_likeliest_and_is_certain_of_it():
    logits = torch.randn(6, 9)
    tokens, logp = draw(logits, torch.rand(6), Sampling(temperature=0.0))
    assert torch.equal(tokens, logits.argmax(-1)) and (logp == 0).all()


def test_a_row_s_stream_is_its_seed_s_alone():
    assert torch.equal(row_uniforms(7, 100)[:33], row_uniforms(7, 33))
    streams = [tuple(row_uniforms(seed, 4).tolist()) for seed in (0, 1, 2**32, 2**32 + 1, 2**63, -1)]
    assert len(set(streams)) == len(streams)
    x = row_uniforms(11, 100_000)
    assert x.dtype == torch.float32 and float(x.min()) >= 0 and float(x.max()) < 1
    assert abs(float(x.mean()) - 0.5) < 5e-3


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"stop": [""]}, "stop"),
        ({"temprature": 1.0}, "did you mean 'temperature'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong, named):
    with pytest.raises(ConfigError, match=named):
        validate(Sampling, wrong, "test.yaml")
