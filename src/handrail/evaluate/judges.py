"""Who says which response is better: a Python function (a built-in task's gold is one) or a reward model."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import torch

from handrail.batch import Sequences
from handrail.evaluate.function import Messages, RewardFunction, load_function, total
from handrail.records import Prompt

if TYPE_CHECKING:  # importing a model costs seconds that a judge by function need not wait
    from handrail.data import Codec
    from handrail.models import ScalarModel


class Judge(Protocol):
    """Gives each response a score; the higher one is preferred."""

    name: str

    def score(self, prompts: list[Prompt], responses: list[str]) -> list[float]:
        """One finite number a response, in the order of `responses`."""
        ...


def messages(prompt: Prompt) -> Messages:
    """A prompt as the list of {"role", "content"} that functions of the user are given."""
    return [{"role": m.role, "content": m.content} for m in prompt.messages]


class FunctionJudge:
    """A function of the user as a judge.  `function` is a spec for `load_function`, or an object that can be called."""

    def __init__(self, function: str | Callable, name: str = "", attempts: int = 3, seconds: float = 600.0):
        if isinstance(function, RewardFunction):
            self.function = function
        elif isinstance(function, str):
            self.function = load_function(function, attempts, seconds)
        else:
            self.function = RewardFunction(function, name or getattr(function, "__name__", "the function"), attempts, seconds)
        self.name = name or self.function.name

    def parts(self, prompts: list[Prompt], responses: list[str]) -> list[dict[str, float]]:
        """The named parts of each score; {"total": score} where the function returns numbers.  Raises RewardError."""
        values = self.function([messages(p) for p in prompts], responses)
        return [v if isinstance(v, dict) else {"total": v} for v in values]

    def score(self, prompts: list[Prompt], responses: list[str]) -> list[float]:
        """The function's number, its part "total", or the sum of its parts.  Raises RewardError."""
        return [total(parts) for parts in self.parts(prompts, responses)]


class TokenFunction:
    """A function of the user that gives a number for each token.  `function` is a spec for `load_function`.

    It takes the prompts, the responses, and of each response the text of its tokens, the end token's included.
    """

    def __init__(self, function: str, attempts: int = 3, seconds: float = 600.0):
        self.function = load_function(function, attempts, seconds)

    def values(self, prompts: list[Prompt], responses: list[str], pieces: list[list[str]]) -> list[list[float]]:
        """As many finite numbers as tokens, for each response.  Raises RewardError."""
        return self.function.of_tokens([messages(p) for p in prompts], responses, pieces)


class PartnerFunction:
    """A function of the user that says what comes next in conversations.  `function` is a spec for `load_function`.

    It takes conversations, each a list of {"role", "content"} that ends with the assistant's message.
    """

    def __init__(self, function: str, attempts: int = 3, seconds: float = 600.0):
        self.function = load_function(function, attempts, seconds)

    def replies(self, conversations: list[Prompt], answers: list[str]) -> list[str]:
        """A text for each conversation after its answer.  Raises RewardError."""
        said = [[*messages(c), {"role": "assistant", "content": answer}] for c, answer in zip(conversations, answers, strict=True)]
        return self.function.of_conversations(said)


class RewardModelJudge:
    """A reward model as a judge; the score is the normalised one."""

    def __init__(self, model: "ScalarModel", codec: "Codec", name: str = "reward model"):
        self.model, self.codec, self.name = model, codec, name

    @torch.no_grad()
    def score(self, sequences: Sequences) -> list[float]:
        """The reward of each response, token by token as it was sampled, in standard deviations of the reference's responses.

        So it is scored in training.  Its text would not do: what is no whole character is read back as other tokens, and as more.
        """
        return self.model.score(sequences).tolist()

    @torch.no_grad()
    def log_odds(self, prompts: list[Prompt], responses: list[str]) -> torch.Tensor:
        """[N, C, M] the score of each member by each criterion, in the unit of the loss: a difference is a log-odds.

        A response is read as one that people have ranked would be: its text and the end token.
        """
        rows = [self.tokens(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
        heads = self.model.heads
        return heads.apart(self.model.head_scores(Sequences.of(rows)).cpu() * heads.std)

    def fits(self, prompt: Prompt, response: str) -> bool:
        """Whether the text of a response can be read with its prompt."""
        return sum(map(len, self.tokens(prompt, response))) <= self.model.context

    def tokens(self, prompt: Prompt, response: str) -> tuple[list[int], list[int]]:
        """Of a prompt, and of the text of a response with its end."""
        return self.codec.encode_prompt(prompt), self.codec.encode_response(response, end=True)
