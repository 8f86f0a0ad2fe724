"""Functions of the user that score responses, held to their promise: one finite number, or named parts, a response."""

import importlib
import importlib.util
import math
import queue
import sys
import threading
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from handrail.errors import ConfigError, RewardError
from handrail.records import Prompt

Messages = list[dict[str, str]]
Value = float | dict[str, float]
Check = Callable[[Any, int, Messages], Any]  # (what the function says of a sample, its number, its prompt)

ALLOWED = "a reward function returns a list: for each response one finite number, or a dict of named finite numbers"


def total(value: Value) -> float:
    """One number from what a reward function says of a response: the number, the part "total", or the sum of parts."""
    if isinstance(value, dict):
        return value["total"] if "total" in value else math.fsum(value.values())
    return value


def load_function(spec: str, attempts: int = 3, seconds: float = 600.0) -> "RewardFunction":
    """The function that "module:function" or "file.py:function" names, checked at every call.

    Raises ConfigError where there is no such file, module or function, or it cannot be called.
    """
    place, _, attribute = spec.rpartition(":")
    if not place or not attribute:
        raise ConfigError(
            f"'{spec}' names no function",
            "a function is named as module:function or as file.py:function",
            "for example rewards.py:score",
        )
    module = _from_file(Path(place), spec) if place.endswith(".py") else _from_name(place, spec)
    if not hasattr(module, attribute):
        known = [k for k, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module.__name__]
        defined = f"it defines {', '.join(known) or 'no function'}"
        raise ConfigError(f"{spec}: there is no '{attribute}' in {place}", defined)
    function = getattr(module, attribute)
    if not callable(function):
        raise ConfigError(
            f"{spec}: '{attribute}' is a {type(function).__name__} and cannot be called",
            "a reward function takes (prompts, responses) and returns one number a response",
        )
    return RewardFunction(function, spec, attempts, seconds)


def _from_file(path: Path, spec: str) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"{spec}: there is no file {path}", "", f"the path is read from {Path.cwd()}")
    name = f"handrail_function_{sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None and found.loader is not None  # the suffix .py always has a loader
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up here
    try:
        found.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ConfigError(f"{spec}: {path} cannot be imported: {type(error).__name__}: {error}") from error
    return module


def _from_name(name: str, spec: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise ConfigError(
            f"{spec}: the module {name} cannot be imported: {type(error).__name__}: {error}",
            "a module that is installed, or that stands on PYTHONPATH",
            "a file is named with its suffix: file.py:function",
        ) from error


class RewardFunction:
    """A user's function f(prompts, responses) with its promise checked.  Calling it returns one value a response.

    What raises, hangs for more than `seconds` or returns something else is asked again, `attempts` times in all; then
    RewardError names the sample and its prompt.  Nothing is ever replaced by zero.

    Args:
        function: takes the prompts, each a list of {"role", "content"}, and as many responses.
        name: how messages call it.
        attempts: at least 1.
        seconds: for one call.
    """

    def __init__(self, function: Callable[..., Any], name: str, attempts: int = 3, seconds: float = 600.0):
        self.function, self.name, self.attempts, self.seconds = function, name, attempts, seconds
        self._worker: _Worker | None = None

    def __call__(self, prompts: Sequence[Messages], responses: Sequence[str]) -> list[Value]:
        """One finite number, or a dict of named finite numbers, for each response.  Raises RewardError."""
        return self._insist([prompts, responses], self._value)

    def of_tokens(self, prompts: Sequence[Messages], responses: Sequence[str], pieces: Sequence[list[str]]) -> list[list[float]]:
        """As many finite numbers as each response has tokens; the function is given their texts too.  Raises RewardError."""

        def checked(values: Any, index: int, prompt: Messages) -> list[float]:
            if hasattr(values, "tolist"):
                values = values.tolist()
            if not isinstance(values, list | tuple) or len(values) != len(pieces[index]):
                problem = f"returned {_shown(values)} for the {len(pieces[index])} tokens of sample {index}"
                raise self._error(problem, prompt, "return a list with one number a token, for each response")
            return [self._number(value, f", token {t}", index, prompt) for t, value in enumerate(values)]

        return self._insist([prompts, responses, pieces], checked)

    def of_conversations(self, conversations: Sequence[Messages]) -> list[str]:
        """A text for each conversation.  Raises RewardError."""

        def checked(said: Any, index: int, conversation: Messages) -> str:
            if not isinstance(said, str):
                problem = f"returned {_shown(said)} for conversation {index}"
                raise self._error(problem, conversation, "return a text, '' to end a conversation")
            return said

        return self._insist([conversations], checked)

    def _insist(self, samples: list[Sequence[Any]], check: Check) -> list[Any]:
        """The checked answer, asked for up to `attempts` times.  `samples` are parallel columns: prompts, responses, ..."""
        if not samples[0]:
            return []
        for _ in range(self.attempts - 1):
            try:
                return self._once(samples, check)
            except RewardError:
                continue
        return self._once(samples, check)

    def _once(self, samples: list[Sequence[Any]], check: Check) -> list[Any]:
        prompts = samples[0]
        done, outcome = self._ask(samples)
        if not done:
            raise self._error(
                f"no answer after {self.seconds:g} s for samples 0 to {len(prompts) - 1}",
                prompts[0],
                "look for a request without a timeout in it",
            )
        if isinstance(outcome, BaseException):
            index, error = self._culprit(samples, outcome)
            problem = f"raised {type(error).__name__}: {error} on sample {index}"
            raise self._error(problem, prompts[index], "run the function on this sample alone") from error
        return self._checked(outcome, prompts, check)

    def _ask(self, samples: list[Sequence[Any]]) -> tuple[bool, Any]:
        """(whether there was an answer in time, what was returned or raised)."""
        worker = self._worker or _Worker(self.function)
        self._worker = worker
        worker.work.put([[list(p) for p in samples[0]], *(list(column) for column in samples[1:])])
        try:
            return True, worker.done.get(timeout=self.seconds)
        except queue.Empty:
            self._worker = None  # the thread that hangs is left behind; it is a daemon
            return False, None

    def _culprit(self, samples: list[Sequence[Any]], error: BaseException) -> tuple[int, BaseException]:
        """The first sample that raises when it is asked about alone; the first of all where none does."""
        for index, sample in enumerate(zip(*samples, strict=True)):
            done, outcome = self._ask([[value] for value in sample])
            if done and isinstance(outcome, BaseException):
                return index, outcome
            if not done:
                break
        return 0, error

    def _checked(self, outcome: Any, prompts: Sequence[Messages], check: Check) -> list[Any]:
        if hasattr(outcome, "tolist"):  # an array or a tensor
            outcome = outcome.tolist()
        if not isinstance(outcome, list | tuple):
            problem = f"returned {_shown(outcome)} for samples 0 to {len(prompts) - 1}"
            raise self._error(problem, prompts[0], "return a list")
        if len(outcome) != len(prompts):
            index = min(len(outcome), len(prompts) - 1)
            problem = f"returned {len(outcome)} values for {len(prompts)} responses, from sample {index} on unclear"
            raise self._error(problem, prompts[index], "return one value a response, in their order")
        return [check(value, index, prompts[index]) for index, value in enumerate(outcome)]

    def _value(self, value: Any, index: int, prompt: Messages) -> Value:
        if isinstance(value, dict):
            if not value:
                raise self._error(f"returned no parts at all for sample {index}", prompt, "name at least one part")
            return {str(part): self._number(x, f" as its part '{part}'", index, prompt) for part, x in value.items()}
        return self._number(value, "", index, prompt)

    def _number(self, value: Any, part: str, index: int, prompt: Messages) -> float:
        try:
            number = None if value is None or isinstance(value, str | bytes) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = None
        if number is None or not math.isfinite(number):
            problem = f"returned {_shown(value)} for sample {index}{part}"
            raise self._error(problem, prompt, "give a response that cannot be scored the number that it deserves")
        return number

    def _error(self, problem: str, prompt: Messages, remedy: str) -> RewardError:
        return RewardError(f"{self.name} {problem} (prompt {_id(prompt)})", ALLOWED, remedy)


class _Worker:
    """One daemon thread that calls a function, so that a call which hangs can be left."""

    def __init__(self, function: Callable[..., Any]):
        self.work: queue.SimpleQueue = queue.SimpleQueue()
        self.done: queue.SimpleQueue = queue.SimpleQueue()
        threading.Thread(target=self._serve, args=(function,), daemon=True, name="reward-function").start()

    def _serve(self, function: Callable[..., Any]) -> None:
        while True:
            columns = self.work.get()
            try:
                outcome = function(*columns)
            except BaseException as error:  # handed to the caller, who raises; sys.exit() would end this thread unheard
                outcome = error
            self.done.put(outcome)


def _id(messages: Messages) -> str:
    asked = messages[:-1] if messages[-1]["role"] == "assistant" else messages
    return Prompt.model_validate({"messages": asked}).id


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
