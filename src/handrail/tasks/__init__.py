"""The two built-in tasks, made by seeded generators, with simulated labellers; no torch."""

from handrail.tasks import movie_night, short_version
from handrail.tasks.labellers import Labeller, ceiling, crew, label
from handrail.tasks.task import Task

TASKS: dict[str, Task] = {task.name: task for task in (movie_night.TASK, short_version.TASK)}

__all__ = ["TASKS", "Labeller", "Task", "ceiling", "crew", "label"]
