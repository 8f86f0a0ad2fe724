"""The losses that are written out: what each of them says of a response, and which one a stage has."""

from collections.abc import Callable
from typing import Any, Protocol

from handrail.inspector.folders import finite
from handrail.inspector.server.arithmetic import PolicyGradient
from handrail.inspector.server.imitation import Imitation
from handrail.inspector.server.lines import Beside, Block
from handrail.inspector.server.preference import Preference
from handrail.inspector.server.ranking import Ranking
from handrail.inspector.server.relaxed import Relaxed
from handrail.inspector.server.supervised import Supervised
from handrail.inspector.server.terms import Row, Rules


class Method(Protocol):
    """The loss of a step, from its run's settings and its traced responses.  `group` are those that are learned from together."""

    @property
    def logged(self) -> tuple[str, ...]:
        """What the run logs of a step that `sums` says again."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The columns of a trace that `sums` and `beside` are made from."""

    def missing(self, row: Row) -> str:
        """Why this response's loss cannot be written out; "" where it can."""

    def passes(self, row: Row) -> list[dict[str, Any]]:
        """Of each pass over the response, or member of an ensemble: in words what there is to know of it."""

    def coloured(self, row: Row) -> dict[str, list[Any]]:
        """Numbers of each token by name, a list a pass."""

    def beside(self, row: Row, group: list[Row]) -> list[Beside]:
        """The responses that this one is weighed against, itself among them."""

    def written(self, row: Row, group: list[Row], at: int, number: int) -> list[Block]:
        """How the loss comes about, for token `at` in pass `number`."""

    def sums(self, rows: list[Row]) -> dict[str, Any]:
        """What the run logs, added up over the step's traced responses; `whole` where none is missing, `updates` how many there were."""


def method(stage: str, config: dict[str, Any], step: int, line: dict[str, Any]) -> Method | None:
    """The loss of a stage at a step with this line of metrics; None for a stage whose loss is not written out."""
    if stage in ("ppo", "reinforce"):
        return PolicyGradient(Rules.of(stage, config), step, finite(line.get("penalty")) or 0.0)
    made: dict[str, Callable[[dict[str, Any]], Method]] = {"sft": Supervised, "reward": Ranking, "dpo": Preference}
    made |= {"best_of_n": Imitation, "relaxed": Relaxed}
    return made[stage](config) if stage in made else None
