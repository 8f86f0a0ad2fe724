"""What happens when a number stops being one."""

import logging
import math
from typing import TYPE_CHECKING, Any

from handrail.errors import NonFiniteError

if TYPE_CHECKING:
    from torch import Tensor

    from handrail.track.run import Run

logger = logging.getLogger(__name__)


class Guard:
    """Says whether a step may be taken.  After `limit` bad steps in a row it raises NonFiniteError."""

    def __init__(self, limit: int, run: "Run | None" = None):
        self.limit = limit
        self._run = run
        self._in_a_row = 0

    def ok(self, step: int, values: dict[str, float], batch: "dict[str, Tensor] | None" = None) -> bool:
        """True if all `values` are finite.  If not, `batch` is kept for replay and the optimiser must not step."""
        bad = {name: value for name, value in values.items() if not math.isfinite(value)}
        if not bad:
            self._in_a_row = 0
            return True
        self._in_a_row += 1
        shown = ", ".join(f"{name} = {value}" for name, value in bad.items())
        logger.warning("step %d: %s; no update (%d in a row, limit %d)", step, shown, self._in_a_row, self.limit)
        kept = self._run.keep_batch(step, batch) if self._run is not None and batch is not None else None
        if self._in_a_row >= self.limit:
            raise NonFiniteError(
                f"step {step}: {shown}, the last of {self._in_a_row} such steps in a row",
                f"fewer than {self.limit} in a row",
                "lower the learning rate, or look into the batch" + (f" kept in {kept}" if kept else ""),
            )
        return False

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"in_a_row": self._in_a_row}

    def load_state(self, state: dict[str, Any]) -> None:
        self._in_a_row = state["in_a_row"]
