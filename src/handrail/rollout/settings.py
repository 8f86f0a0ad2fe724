"""How responses are sampled."""

from typing import Annotated

from pydantic import Field

from handrail.config import Settings


class Sampling(Settings):
    """The law that responses are drawn from, and where they stop.  The defaults are the policy's own law.

    Filters act in this order: temperature, `top_k`, `top_p`.
    """

    temperature: float = Field(default=1.0, ge=0, allow_inf_nan=False)  # divides the logits; 0 takes the likeliest token
    top_k: int = Field(default=0, ge=0)  # only the k likeliest tokens; 0 is all
    top_p: float = Field(default=1.0, gt=0, le=1)  # the fewest likeliest tokens whose mass reaches p
    max_new_tokens: int = Field(default=64, ge=1)  # tokens of a response, the end token included
    # A response ends with the token that completes one of these; that token stays whole, whatever follows in it.
    stop: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
