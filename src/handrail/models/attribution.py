"""Which tokens of a response a reward model's score comes from."""

import inspect
from collections.abc import Callable

import torch
from torch import Tensor

from handrail.algo.attribution import integrated_gradients, path_nodes, straight_path
from handrail.batch import Sequences
from handrail.errors import ModelError
from handrail.models.scalar import ScalarModel

STEPS = 64  # places on the path from the baseline to the response


def mean_embedding(model: ScalarModel, tokens: Tensor) -> Tensor:
    """[D] the mean of these tokens' embeddings, [N] int64: one that stands for none of them."""
    ids, counts = tokens.to(model.device).unique(return_counts=True)
    with torch.no_grad():
        return (counts.float() @ model.forward.embed(ids).float()) / counts.sum()


def token_attributions(
    model: ScalarModel,
    sequences: Sequences,
    varied: Tensor,
    neutral: Tensor,
    criterion: Tensor,
    steps: int = STEPS,
    done: Callable[[int], None] = lambda count: None,
) -> tuple[Tensor, Tensor, Tensor]:
    """What each token of a response adds to its score, by integrated gradients.

    The path leads from the same prompt and as many tokens, of which those that vary are all `neutral`, to the response.
    Whatever makes the score, be it one head, a criterion's or the harshest of several, is differentiated as it is.

    Args:
        model: with dropout off.
        varied: [B, T] bool, which tokens of the responses vary; the others stay, and get 0.
        neutral: [B, D] an embedding for each, such as `mean_embedding`.
        criterion: [B] int64, by which of the model's criteria each response is scored.
        steps: places on the path.
        done: is told how many responses are done.

    Returns:
        [B, T] score; [B] scores of the responses; [B] scores of the baselines.

    Raises ModelError for a model that cannot be given embeddings.
    """
    if "inputs_embeds" not in inspect.signature(model.forward.module.forward).parameters:
        raise ModelError(f"{type(model.hf).__name__} takes no embeddings", "a model whose forward has inputs_embeds")
    sequences, varied = sequences.to(model.device), varied.to(model.device)
    found, ends = torch.zeros(varied.shape, device=model.device), torch.zeros(2, len(sequences), device=model.device)
    for row, (start, stop) in enumerate(zip(sequences.prompt_lengths.tolist(), sequences.lengths.tolist(), strict=True)):
        one = sequences[row : row + 1]
        one = Sequences(one.ids[:, :stop], one.prompt_lengths, one.lengths)
        with torch.no_grad():
            inputs = model.forward.embedded(one)[0].float()
        gives_way = torch.nn.functional.pad(varied[row, : stop - start], (start, 0))
        baseline = torch.where(gives_way[:, None], neutral[row].to(inputs), inputs)
        tokens, ends[:, row] = along(model, one, inputs, baseline, int(criterion[row]), steps)
        found[row, : stop - start] = tokens[start:]
        done(row + 1)
    return found, ends[0], ends[1]


def along(model: ScalarModel, one: Sequences, inputs: Tensor, baseline: Tensor, criterion: int, steps: int) -> tuple[Tensor, Tensor]:
    """[L] what each of one sequence's tokens adds on the path from the baseline to its inputs, [L, D]; [2] scores at end and start."""
    dtype, at_once = model.forward.embed(one.ids[:, :1]).dtype, max(1, model.forward.tokens // len(inputs))

    def score(points: Tensor) -> Tensor:
        count = len(points)
        many = Sequences(one.ids.expand(count, -1), one.prompt_lengths.expand(count), one.lengths.expand(count))
        outputs = model.read_heads(model.forward.last(points.to(dtype), many))
        return model.by_criterion(outputs)[:, criterion]

    places, weights = (x.to(inputs) for x in path_nodes(steps))
    found = torch.zeros(len(inputs), device=inputs.device)
    for at, weight in zip(places.split(at_once), weights.split(at_once), strict=True):
        with torch.enable_grad():
            points = straight_path(inputs, baseline, at).requires_grad_()
            (gradients,) = torch.autograd.grad(score(points).sum(), points)
        found += integrated_gradients(gradients, weight, inputs, baseline)
    with torch.no_grad():
        return found, torch.cat([score(end[None]) for end in (inputs, baseline)]).float()
