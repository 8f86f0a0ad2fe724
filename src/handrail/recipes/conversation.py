"""Conversations that go on: the policy answers, a partner replies as the user, the policy answers again.

Each of the policy's turns is a row of its own, whose prompt is the conversation so far; what the partner says is part of
later prompts and never of a response.  A turn's return holds what later turns earn: see `carry_over`.
"""

from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from pydantic import Field, model_validator

from handrail.batch import Rollout
from handrail.config import Settings
from handrail.data import Codec
from handrail.evaluate import PartnerFunction
from handrail.models import LanguageModel, ModelSettings, load_tokenizer
from handrail.recipes.parts import derive
from handrail.records import Message, Prompt
from handrail.rollout import Engine, NativeEngine, Sampling

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
        self.function = PartnerFunction(function)

    def reply(self, conversations: list[Prompt], answers: list[str], seeds: list[int]) -> list[str]:
        return self.function.replies(conversations, answers)


class Played:
    """A model that plays the user: it sees the conversation with the roles exchanged."""

    def __init__(self, settings: PartnerSettings):
        assert settings.model
        self.codec = Codec(load_tokenizer(settings.model))
        self.model = LanguageModel.load(settings.model).freeze()
        self.engine = NativeEngine(self.codec.tokenizer, self.codec.end_ids)
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
