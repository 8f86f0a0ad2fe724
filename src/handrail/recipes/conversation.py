"""Conversations that go on: the policy answers, a partner replies as the user, the policy answers again.

Each of the policy's turns is a row of its own, whose prompt is the conversation so far; what the partner says is part of
later prompts and never of a response.  A turn's return holds what later turns earn: see `carry_over`.
"""

from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from pydantic import Field, model_validator
from torch import Tensor

from handrail.batch import Rollout
from handrail.config import Settings
from handrail.data import Codec
from handrail.evaluate import PartnerFunction
from handrail.models import LanguageModel, ModelSettings, load_tokenizer
from handrail.parallel import Parallel
from handrail.recipes.parts import derive, fingerprint, native_engine, source_of
from handrail.records import Message, Prompt
from handrail.rollout import Engine, Sampling

SWAPPED = {"user": "assistant", "assistant": "user"}


class PartnerSettings(Settings):
    """Who speaks as the user after the policy's first answer: exactly one of function and model."""

    function: str = Field("", description="file.py:name, given conversations, returns what the user says next in each; '' ends one")
    model: ModelSettings | None = Field(None, description="a model that plays the user")
    persona: str = Field("", description="model: the system message that tells it whom to play")
    sampling: Sampling = Sampling()
    turns: int = Field(3, ge=2, description="of the policy, at most")
    reward: Literal["last", "each"] = Field("last", description="score the last turn of a conversation, or each")

    @model_validator(mode="after")
    def _one(self) -> "PartnerSettings":
        if bool(self.function) == bool(self.model):
            raise ValueError("give exactly one of partner.function and partner.model")
        return self


class Partner(Protocol):
    """Speaks as the user."""

    def reply(self, conversations: list[Prompt], answers: list[str], seeds: list[int]) -> list[str]:
        """What the user says after each answer; an empty text ends the conversation."""
        ...


class Scripted:
    """A function of the user's own."""

    def __init__(self, function: str):
        self.function, self.parallel = PartnerFunction(function), Parallel.joined()

    def reply(self, conversations: list[Prompt], answers: list[str], seeds: list[int]) -> list[str]:
        return self.parallel.first(lambda: self.function.replies(conversations, answers))


class Played:
    """A model that plays the user: it sees the conversation with the roles exchanged."""

    def __init__(self, settings: PartnerSettings):
        assert settings.model
        self.codec = Codec(load_tokenizer(settings.model))
        self.model = LanguageModel.load(settings.model).freeze()
        self.engine = native_engine(self.codec)
        self.persona, self.sampling = settings.persona, settings.sampling

    def reply(self, conversations: list[Prompt], answers: list[str], seeds: list[int]) -> list[str]:
        encoded = [self.codec.encode_prompt(self.exchanged(c, answer)) for c, answer in zip(conversations, answers, strict=True)]
        room = self.model.context - self.sampling.max_new_tokens
        fits = [i for i, ids in enumerate(encoded) if len(ids) <= room]  # the partner has nothing to say to what it cannot read
        self.engine.sync(self.model)
        rollout = self.engine.generate([encoded[i] for i in fits], [seeds[i] for i in fits], self.sampling)
        said = dict(zip(fits, (self.codec.decode(ids).strip() for ids in rollout.responses()), strict=True))
        return [said.get(i, "") for i in range(len(conversations))]

    def exchanged(self, conversation: Prompt, answer: str) -> Prompt:
        """The conversation as the partner sees it: what it said before is its own, the answer is asked of it."""
        turns = [m for m in conversation.messages if m.role != "system"]
        swapped = [Message(role=SWAPPED[m.role], content=m.content) for m in turns] + [Message(role="user", content=answer)]
        opening = [Message(role="user", content="Begin.")]  # templates want a user's message first, and here that is not the partner's
        system = [Message(role="system", content=self.persona)] if self.persona else []
        return Prompt(messages=tuple(system + opening + swapped))


def partner_inputs(settings: PartnerSettings) -> dict[str, str]:
    """Fingerprint of the partner."""
    return {"partner": fingerprint(settings.model.path) if settings.model else source_of(settings.function)}


def make_partner(settings: PartnerSettings) -> Partner:
    """The object that the settings name."""
    return Scripted(settings.function) if settings.function else Played(settings)


@dataclass
class Conversations:
    """The turns of a batch: first turns of all conversations first, in their order, then the second ones, and so on."""

    rollouts: list[Rollout] = field(default_factory=list)
    prompts: list[Prompt] = field(default_factory=list)  # of each row: the conversation so far
    number: list[int] = field(default_factory=list)  # of each row's conversation, which is the row of its first turn
    following: list[int] = field(default_factory=list)  # the row of the next turn, -1 after the last

    def rollout(self) -> Rollout:
        """All rows."""
        width, longest = max(r.ids.shape[1] for r in self.rollouts), max(r.logp.shape[1] for r in self.rollouts)
        columns = [
            {
                "ids": torch.nn.functional.pad(r.ids, (0, width - r.ids.shape[1])),
                "logp": torch.nn.functional.pad(r.logp, (0, longest - r.logp.shape[1])),
            }
            for r in self.rollouts
        ]
        whole = [r.tensors() | wide for r, wide in zip(self.rollouts, columns, strict=True)]
        return Rollout(**{name: torch.cat([rows[name] for rows in whole]) for name in whole[0]})


def converse(
    engine: Engine, codec: Codec, start: list[Prompt], partner: Partner, turns: int, room: int, seed: int, sampling: Sampling
) -> Conversations:
    """Up to `turns` turns of the policy in each conversation.

    One ends early where the partner says nothing more, where a turn was cut or is empty, and where the next prompt would
    have more than `room` tokens.
    """
    done, going, prompts = Conversations(), list(range(len(start))), dict(enumerate(start))
    for turn in range(turns):
        seeds = [derive(seed, "turn", turn, i) for i in going]
        rollout = engine.generate([codec.encode_prompt(prompts[i]) for i in going], seeds, sampling)
        row = len(done.number)
        done.rollouts.append(rollout)
        done.prompts += [prompts[i] for i in going]
        done.number += going
        done.following += [-1] * len(going)
        answers = [codec.decode(ids) for ids in rollout.responses()]
        open_ = [k for k, ended in enumerate(rollout.ended.tolist()) if ended and answers[k].strip()]
        if turn + 1 == turns or not open_:
            break
        own = [derive(seed, "partner", turn, i) for i in going]  # the policy's draws must tell nothing of the partner's
        replies = partner.reply([prompts[going[k]] for k in open_], [answers[k] for k in open_], [own[k] for k in open_])
        still = []
        for k, reply in zip(open_, replies, strict=True):
            longer = extended(prompts[going[k]], answers[k], reply)
            if reply.strip() and len(codec.encode_prompt(longer)) <= room:
                prompts[going[k]] = longer
                still.append(k)
        for place, k in enumerate(still):
            done.following[row + k] = len(done.number) + place
        going = [going[k] for k in still]
        if not going:
            break
    return done


def extended(conversation: Prompt, answer: str, reply: str) -> Prompt:
    """The conversation after the policy's answer and the user's reply."""
    said = (Message(role="assistant", content=answer), Message(role="user", content=reply))
    return conversation.model_copy(update={"messages": conversation.messages + said})


@dataclass(frozen=True)
class Turns:
    """What is known of a rollout's rows, each a turn of the policy."""

    prompts: list[Prompt]  # the conversation so far
    number: Tensor  # [B] int64, the row of the first turn of the conversation: the first D rows; of a single response, its own
    following: Tensor  # [B] int64, the row of the next turn, -1 after the last

    @property
    def conversations(self) -> int:
        """D."""
        return int(self.number.max()) + 1

    def total(self, reward: Tensor) -> Tensor:
        """[D] what each conversation earned, from [B] what each turn did."""
        return torch.zeros(self.conversations, dtype=reward.dtype, device=reward.device).index_add(0, self.number, reward)


class Answers:
    """Where fresh responses come from: one to each prompt, a conversation of one turn."""

    def __init__(self, codec: Codec, engine: Engine, prompts: list[Prompt], sampling: Sampling, seed: int):
        self.codec, self.engine, self.prompts, self.sampling, self.seed = codec, engine, prompts, sampling, seed
        self.ids = [codec.encode_prompt(p) for p in prompts]

    def act(self, policy: LanguageModel, chosen: list[int], step: int) -> tuple[Rollout, list[int]]:
        """A rollout on these prompts, and of each row the number that `turns` wants."""
        self.engine.sync(policy)
        seeds = [derive(self.seed, "rollout", step, row) for row in range(len(chosen))]
        return self.engine.generate([self.ids[i] for i in chosen], seeds, self.sampling).to(policy.device), chosen

    def turns(self, numbers: list[int], device: torch.device) -> Turns:
        """What is known of the rows of the rollout that came with these numbers."""
        alone = torch.arange(len(numbers), device=device)
        return Turns([self.prompts[i] for i in numbers], alone, torch.full_like(alone, -1))

    def earned(self, reward: Tensor, turns: Turns) -> Tensor:
        """[B] or [B, T] reward as the settings have it."""
        return reward

    def seen(self, turns: Turns) -> dict[str, Tensor]:
        """[D] figures of each conversation, for the log."""
        return {}


class Talks(Answers):
    """Conversations of the policy with a partner, one from each prompt, a turn a row."""

    def __init__(
        self,
        codec: Codec,
        engine: Engine,
        prompts: list[Prompt],
        sampling: Sampling,
        seed: int,
        settings: PartnerSettings,
        context: int,
    ):
        super().__init__(codec, engine, prompts, sampling, seed)
        self.settings, self.partner = settings, make_partner(settings)
        self.room, self.done = context - sampling.max_new_tokens, Conversations()

    def act(self, policy: LanguageModel, chosen: list[int], step: int) -> tuple[Rollout, list[int]]:
        self.engine.sync(policy)
        start, seed = [self.prompts[i] for i in chosen], derive(self.seed, "rollout", step)
        self.done = converse(self.engine, self.codec, start, self.partner, self.settings.turns, self.room, seed, self.sampling)
        return self.done.rollout().to(policy.device), self.done.number

    def turns(self, numbers: list[int], device: torch.device) -> Turns:
        number, following = (torch.tensor(x, device=device) for x in (numbers, self.done.following))
        return Turns(self.done.prompts, number, following)

    def earned(self, reward: Tensor, turns: Turns) -> Tensor:
        if self.settings.reward == "each":
            return reward
        return torch.where((turns.following < 0).view(-1, *[1] * (reward.ndim - 1)), reward, 0)

    def seen(self, turns: Turns) -> dict[str, Tensor]:
        return {"turns": torch.bincount(turns.number).float()}


def make_answers(
    partner: PartnerSettings | None, codec: Codec, engine: Engine, prompts: list[Prompt], sampling: Sampling, seed: int, context: int
) -> tuple[Answers, dict[str, str]]:
    """Single responses, or conversations with the partner where there is one; and its fingerprint."""
    if partner is None:
        return Answers(codec, engine, prompts, sampling, seed), {}
    return Talks(codec, engine, prompts, sampling, seed, partner, context), partner_inputs(partner)
