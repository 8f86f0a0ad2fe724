"""Settings that say which model, and how it is held.  Importing them costs nothing."""

from typing import Literal

from pydantic import Field, model_validator

from handrail.config import Settings


class NewModel(Settings):
    """The sizes of a model that starts from random weights, with a tokenizer trained on the data."""

    family: Literal["llama"] = "llama"
    hidden: int = Field(256, ge=8)
    layers: int = Field(3, ge=1)
    heads: int = Field(4, ge=1)
    intermediate: int | None = Field(None, ge=1, description="width of the feed-forward part; default 8/3 hidden")
    vocabulary: int = Field(1024, ge=264, description="at most; 256 bytes and the special tokens are always in it")
    context: int = Field(512, ge=8, description="tokens")
    tie_embeddings: bool = True

    @model_validator(mode="after")
    def _divides(self) -> "NewModel":
        if self.hidden % (2 * self.heads):
            raise ValueError(f"hidden {self.hidden} must be an even multiple of heads {self.heads}")
        return self

    @property
    def feed_forward(self) -> int:
        """`intermediate`, or 8/3 hidden rounded up to a multiple of 32."""
        return self.intermediate or -(-8 * self.hidden // (3 * 32)) * 32


class Lora(Settings):
    """Low-rank adapters beside frozen weights.  Hu et al. 2021."""

    rank: int = Field(16, ge=1)
    alpha: float = Field(32.0, gt=0, description="the update is scaled by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: list[str] | Literal["all-linear"] = "all-linear"


class Combine(Settings):
    """How the heads of a reward model become one score."""

    rule: Literal["mean", "minimum", "mean_minus_std"] = Field("mean", description="over the heads of an ensemble")
    k: float = Field(1.0, ge=0, description="of mean_minus_std: reward taken off for one of spread")
    weights: dict[str, float] = Field({}, description="of each criterion, {}: 1 each")


class ModelSettings(Settings):
    """Where a model comes from.  Exactly one of `path` and `new`."""

    path: str = Field("", description="run folder, folder with a model, or the name of one on the hub")
    revision: str = Field("", description="commit, tag or branch on the hub")
    trust_remote_code: bool = Field(False, description="run the model's own code; only together with a revision")
    new: NewModel | None = None
    lora: Lora | None = None
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of the weights")
    autocast: bool = Field(False, description="products in bfloat16")
    compile: bool = Field(False, description="fuse operations with torch.compile: half a minute first, then faster; needs a C++ compiler")
    gradient_checkpointing: bool = Field(False, description="less memory, a third more arithmetic")

    @model_validator(mode="after")
    def _one_origin(self) -> "ModelSettings":
        if bool(self.path) == bool(self.new):
            raise ValueError(f"give exactly one of path and new; {'both are' if self.path else 'neither is'} given")
        if self.compile and self.gradient_checkpointing:
            raise ValueError("give at most one of compile and gradient_checkpointing: what is compiled plans its own memory")
        return self
