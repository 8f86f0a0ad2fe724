"""The two built-in tasks, made by seeded generators, with simulated labellers; no torch."""

from handrail.tasks import movie_night, short_version
from handrail.tasks.labellers import Labeller, ceiling, crew, label
from handrail.tasks.task import Task

TASKS: dict[str, Task] = {task.name: task for task in (movie_night.TASK, short_version.TASK)}


def spoken(judge: str) -> str:
    """What a judge is called before people: the gold function of a task is the taste of its labellers."""
    return "the labellers' true taste" if judge in {task.gold_function for task in TASKS.values()} else judge


__all__ = ["TASKS", "Labeller", "Task", "ceiling", "crew", "label", "spoken"]
