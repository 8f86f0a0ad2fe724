"""People's ratings as the reward: a batch of responses is put up in the feedback app, and the step waits for it.

In a Python file of yours:

    from handrail.feedback.ask import Ratings

    reward = Ratings("feedback.db", project="live")

and in the config `reward: {function: my_reward.py:reward, seconds: 86400}`.  A run that is killed while it waits
goes on waiting for the same responses when it is started again: what people said of them is in the store.
"""

import time
from collections.abc import Callable, Sequence

from handrail.errors import RunError
from handrail.feedback.kinds import Criterion, Item, Rated, TaskSettings
from handrail.feedback.store import Database, projects, review, snapshots
from handrail.feedback.store.snapshots import Rules
from handrail.records import Message, Prompt


class Ratings:
    """A reward function: prompts, as lists of {"role", "content"}, and responses in; one number a response out.

    The number is the mean over raters and criteria, scaled so that the middle of the scale is 0 and its ends are -1 and 1.
    The same response to the same prompt is rated once.

    Args:
        db: the app's store, a path or a URL.
        project: made where it is absent, with a task `ratings`; who is to rate is invited to it.
        instructions: markdown for the raters.
        criteria: the scales; one from 1 to 5 if none are given.
        overlap: raters for each response.
        patience: seconds to wait for a batch; then RunError, and the same command goes on.
        poll: seconds between looks at the store.
    """

    def __init__(
        self,
        db: str,
        project: str = "ratings",
        instructions: str = "How good is this response to the request?",
        criteria: Sequence[Criterion] = (Criterion(),),
        overlap: int = 1,
        patience: float = float("inf"),
        poll: float = 1.0,
        pause: Callable[[float], None] = time.sleep,
    ):
        self.db, self.project, self.patience, self.poll, self.pause = db, project, patience, poll, pause
        self.settings = TaskSettings(kind="rate", title="Ratings", instructions=instructions, criteria=tuple(criteria), overlap=overlap)

    def __call__(self, prompts: Sequence[Sequence[dict[str, str]]], responses: Sequence[str]) -> list[float]:
        """The ratings of these responses, waited for.  Raises InputError, RunError."""
        wanted = [as_item(messages, response) for messages, response in zip(prompts, responses, strict=True)]
        db = Database.open(self.db)
        try:
            task = self.task(db)
            asked = {projects.content_of(item): item for item in wanted}
            projects.take_in(db, task, list(asked.values()))
            found = self.rated(db, task, set(asked))
        finally:
            db.close()
        return [found[projects.content_of(item)] for item in wanted]

    def task(self, db: Database) -> projects.Task:
        """The task, made where it is absent."""
        if self.project not in {project["name"] for project in projects.all_projects(db)}:
            projects.make_project(db, self.project)
        there = {task.name: task for task in projects.all_tasks(db, self.project)}
        return there.get("ratings") or projects.make_task(db, self.project, "ratings", self.settings)

    def rated(self, db: Database, task: projects.Task, wanted: set[str]) -> dict[str, float]:
        """The mean rating of each item, by its content, once all have as many as are wanted."""
        until, seen, missing = time.monotonic() + self.patience, -1, len(wanted)
        while True:
            if (last := review.last_event(db, self.project)) != seen:
                seen, given = last, self.given(db, task, wanted)
                missing = sum(len(values) < task.settings.overlap for values in given.values())
                if not missing:
                    return {content: sum(values) / len(values) for content, values in given.items()}
            if time.monotonic() + self.poll > until:
                raise RunError(
                    f"{missing} of {len(wanted)} responses are not rated, project {self.project}",
                    f"all within {self.patience:g} s",
                    "when people have rated them, the same command goes on",
                )
            self.pause(self.poll)

    def given(self, db: Database, task: projects.Task, wanted: set[str]) -> dict[str, list[float]]:
        """The ratings so far of each item, by its content; what an adjudicator said stands for all of them."""
        found: dict[str, list[float]] = {content: [] for content in wanted}
        with db.read() as connection:
            asked = projects.settings_at(connection, task.id)
        for label in snapshots.labels(db, self.project, Rules(tasks=(task.name,))):
            content = projects.content_of(Item(prompt=label.prompt, responses=label.responses, models=label.models))
            if content in found:
                assert isinstance(label.answer, Rated)
                rating = scaled(label.answer, asked[label.revision].criteria)
                found[content] += [rating] * (task.settings.overlap if label.purpose == "adjudication" else 1)
        return found


def as_item(messages: Sequence[dict[str, str]], response: str) -> Item:
    """A response to be rated."""
    prompt = Prompt(messages=tuple(Message.model_validate(message) for message in messages))
    return Item(prompt=prompt, responses=(response,))


def scaled(answer: Rated, criteria: Sequence[Criterion]) -> float:
    """The mean over criteria, each from -1 at its low end to 1 at its high end."""
    (rating,) = answer.ratings
    return sum(2 * (rating[c.name] - c.low) / (c.high - c.low) - 1 for c in criteria) / len(criteria)
