"""What a built-in task is: a world that writes prompts and demonstrations, and a gold score that reads them."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from handrail.errors import InputError
from handrail.records import Demonstration, Prompt, Ranking

Conversation = list[dict]  # {"role": ..., "content": ...}, the last one the user's
PATIENCE = 2_000  # draws in a row that give nothing new, until the world counts as used up


@dataclass(frozen=True)
class Task:
    """A made world whose truth is known.

    Attributes:
        name: as on the command line.
        description: one paragraph for a reader of the report.
        instructions: what labellers are told.
        content_parts, manner_parts: the names of the gold's parts, in two groups.
        examples: rankings of two responses that show what is preferred.
        gold_function: where `gold_parts` can be found by name, "module:function".
        draw_prompt: writes one prompt; its meta tells `draw_response` what the person wants.
        draw_response: writes one demonstration of mixed quality.
        gold_parts: the parts of the gold for each prompt and response, from the text alone.
    """

    name: str
    description: str
    instructions: str
    content_parts: tuple[str, ...]
    manner_parts: tuple[str, ...]
    examples: tuple[Ranking, ...]
    gold_function: str
    draw_prompt: Callable[[random.Random], Prompt]
    draw_response: Callable[[random.Random, Prompt], str]
    gold_parts: Callable[[list[Conversation], list[str]], list[dict[str, float]]]

    def demonstrations(self, n: int, seed: int, exclude: frozenset[str] = frozenset()) -> list[Demonstration]:
        """`n` demonstrations of mixed quality, with distinct prompts none of whose texts is in `exclude`.

        Raises InputError when the world cannot give that many.
        """
        rng = random.Random(f"{self.name}/responses/{seed}")
        return [
            Demonstration(prompt=prompt, response=self.draw_response(rng, prompt), author="simulated")
            for prompt in self._distinct(n, f"{self.name}/demonstrations/{seed}", exclude)
        ]

    def prompts(self, n: int, seed: int, exclude: frozenset[str] = frozenset()) -> list[Prompt]:
        """`n` prompts with distinct texts, none of them in `exclude`.

        Raises InputError when the world cannot give that many.
        """
        return self._distinct(n, f"{self.name}/prompts/{seed}", exclude)

    def parts(self, prompt: Prompt, response: str) -> dict[str, float]:
        """The named parts of the gold score of one response, in reward."""
        conversation = [{"role": m.role, "content": m.content} for m in prompt.messages]
        return self.gold_parts([conversation], [response])[0]

    def gold(self, prompt: Prompt, response: str) -> float:
        """The hidden preference: the sum of `parts`, in reward."""
        return sum(self.parts(prompt, response).values())

    def _distinct(self, n: int, stream: str, exclude: frozenset[str]) -> list[Prompt]:
        if n < 0:
            raise InputError(f"{n} prompts of the task '{self.name}'", "a number that is not negative")
        rng, seen, drawn, misses = random.Random(stream), set(exclude), list[Prompt](), 0
        while len(drawn) < n:
            prompt = self.draw_prompt(rng)
            text = prompt.text
            misses = misses + 1 if text in seen else 0
            if misses > PATIENCE:
                raise InputError(
                    f"{n:,} distinct prompts of the task '{self.name}', with {len(exclude):,} texts excluded",
                    f"about {len(drawn):,} is all that its world can give",
                    "ask for fewer",
                )
            if not misses:
                seen.add(text)
                drawn.append(prompt)
        return drawn
