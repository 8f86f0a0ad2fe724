"""The run folder: what a run began with, its numbers, traces and checkpoints; `Run` writes, `read_run` reads."""

from handrail.track.checkpoint import Saved
from handrail.track.guard import Guard
from handrail.track.run import Run
from handrail.track.sinks import Tracker
from handrail.track.storage import require_space
from handrail.track.view import RunView, read_run

__all__ = ["Guard", "Run", "RunView", "Saved", "Tracker", "read_run", "require_space"]
