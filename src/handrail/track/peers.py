"""Several processes at one run: the first writes, all know what came of it."""

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


class Peers(Protocol):
    """The processes that do a run together, as one of them sees them."""

    @property
    def rank(self) -> int:
        """Its number, from 0."""

    def first(self, work: Callable[[], T]) -> T:
        """What `work` gives or raises in the first process, which alone does it, for all."""

    def highest(self, number: int) -> int:
        """The highest number that one of them has."""


class Alone:
    """One process."""

    rank = 0

    def first(self, work: Callable[[], T]) -> T:
        return work()

    def highest(self, number: int) -> int:
        return number


class HasPeers(Protocol):
    """What does something together with others."""

    peers: Peers


S = TypeVar("S", bound=HasPeers)


def by_the_first(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """The method is carried out in the first process; all return what it returns there, or raise what it raises."""

    @functools.wraps(method)
    def together(self: S, *given: P.args, **named: P.kwargs) -> T:
        return self.peers.first(lambda: method(self, *given, **named))

    return together
