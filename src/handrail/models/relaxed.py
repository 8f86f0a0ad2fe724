"""A response whose tokens are mixtures: the policy's whole law at each place, and a reward model that reads mixtures."""

import torch
from torch import Tensor

from handrail.batch import Sequences
from handrail.errors import ModelError
from handrail.models.language import LanguageModel
from handrail.models.scalar import ScalarModel


def token_logits(policy: LanguageModel, sequences: Sequences, temperature: float = 1.0) -> Tensor:
    """[B, T, V] the logits that each response token was drawn from, over `temperature`; zeros beyond each response."""
    sequences = sequences.to(policy.device)
    found: Tensor | None = None
    for read in policy.scored(sequences):
        with policy.forward.precision():
            logits = policy.project(read.output).float() / temperature
        if found is None:
            found = logits.new_zeros(*sequences.mask.shape, logits.shape[-1])
        found = found.index_put((read.rows, read.columns + 1 - sequences.prompt_lengths[read.rows]), logits)
    assert found is not None, "a batch has rows"
    return found


def relaxed_score(model: ScalarModel, sequences: Sequences, choice: Tensor) -> Tensor:
    """[B] the score of responses whose tokens are given as mixtures, which carry its gradient.

    Each place of the response is read as the mean of the tokens' embeddings; the prompt as it is.

    Args:
        model: a reward model over the policy's vocabulary.
        sequences: the prompts, and how long each response is.
        choice: [B, T, V]; one-hot rows give `model.score(sequences)`.

    Raises ModelError for a model that makes more of a token than its row of the embedding matrix.
    """
    if getattr(model.hf.config, "is_encoder_decoder", False):
        raise ModelError(f"{type(model.hf).__name__} reads the prompt with an encoder", "a decoder-only model")
    sequences = sequences.to(model.device)
    table = embedding_table(model)
    if choice.shape[-1] > len(table):
        raise ModelError(f"mixtures of {choice.shape[-1]} tokens, and a reward model that knows {len(table)}", "one vocabulary for both")
    with torch.no_grad():
        inputs = table[sequences.ids]
    place = torch.arange(inputs.shape[1], device=inputs.device)
    own = (place >= sequences.prompt_lengths[:, None]) & (place < sequences.lengths[:, None])
    mixed = (choice.to(table.dtype) @ table[: choice.shape[-1]])[sequences.mask]
    inputs = inputs.masked_scatter(own[..., None], mixed)
    return model.read(model.forward.last(inputs, sequences))


def embedding_table(model: ScalarModel) -> Tensor:
    """[V, H] what the trunk reads for each token.  Raises ModelError where that is not a table."""
    embed = model.hf.get_input_embeddings()
    table: Tensor = embed.weight  # type: ignore[union-attr, assignment]
    probe = torch.arange(min(8, len(table)), device=table.device)
    with torch.no_grad():
        if not torch.equal(embed(probe), table[probe]):
            raise ModelError(f"{type(model.hf).__name__} does more with a token than look it up", "a model with a plain embedding matrix")
    return table
