"""Which loss a stage has."""

from typing import Any

from handrail.inspector.arithmetic import PolicyGradient
from handrail.inspector.folders import finite
from handrail.inspector.lines import Method
from handrail.inspector.server.imitation import Imitation
from handrail.inspector.server.preference import Preference
from handrail.inspector.server.ranking import Ranking
from handrail.inspector.server.relaxed import Relaxed
from handrail.inspector.server.supervised import Supervised
from handrail.inspector.terms import Rules


def method(stage: str, config: dict[str, Any], step: int, line: dict[str, Any]) -> Method | None:
    """How the loss of a stage comes about at a step with this line of metrics; None for a stage whose loss is not written out."""
    match stage:
        case "sft":
            return Supervised()
        case "reward":
            return Ranking(config)
        case "ppo" | "reinforce":
            return PolicyGradient(Rules.of(stage, config), step, finite(line.get("penalty")) or 0.0)
        case "dpo":
            return Preference(config)
        case "best_of_n":
            return Imitation(config)
        case "relaxed":
            return Relaxed(config)
    return None
