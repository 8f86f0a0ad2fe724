"""What a recipe asks of whatever samples responses."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from handrail.batch import Rollout
from handrail.rollout.settings import Sampling

if TYPE_CHECKING:
    from handrail.models import LanguageModel


class Engine(Protocol):
    """Samples responses.  Where it runs and how it is batched changes nothing but speed."""

    def sync(self, policy: "LanguageModel") -> None:
        """From now on sample from `policy` as its weights are at each `generate`; nothing computed before is used."""

    def generate(
        self,
        prompts: list[list[int]],
        seeds: list[int],
        sampling: Sampling,
        progress: Callable[[int], None] | None = None,
    ) -> Rollout:
        """One response to each of `prompts`, in their order.

        A row depends on its own prompt, seed and the policy alone, not on the rows beside it.  `ended` is True where
        the response ended by itself, with an end token or a stop string, and False where `max_new_tokens` or the
        context cut it.  End tokens and the tokens of a stop string are part of the response.  `logp` is under the law
        that was sampled from, temperature and filters included; greedy decoding is certain of its token, so it is 0.

        `progress` is called with the number of finished rows whenever it grows.
        """
