"""Several processes at one work, as torchrun would start them, but forked from this one, which has everything loaded."""

import os
import signal
import socket
import traceback
from collections.abc import Callable
from pathlib import Path

import torch


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(world: int, work: Callable[[], object], prepare: Callable[[int], object] = lambda rank: None) -> list[int]:
    """The numbers of `world` processes that do the work together; `prepare` is called in each before, with its rank."""
    port, children = free_port(), []
    for rank in range(world):
        child = os.fork()
        if child == 0:
            os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            _do(work, prepare, rank)
        children.append(child)
    return children


def _do(work: Callable[[], object], prepare: Callable[[int], object], rank: int) -> None:
    status = 1
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        prepare(rank)
        work()
        status = 0
    except SystemExit as end:
        status = int(str(end.code))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def ends(children: list[int]) -> list[int]:
    """The exit status of each process, or minus the signal that killed it."""
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def together(world: int, work: Callable[[], object], prepare: Callable[[int], object] = lambda rank: None) -> list[int]:
    """Start them and wait for them all."""
    return ends(start(world, work, prepare))


def found(world: int, folder: Path, work: Callable[[], object]) -> list:
    """What the work gives in each process."""
    folder.mkdir(parents=True, exist_ok=True)

    def kept() -> None:
        torch.save(work(), folder / f"{world}-{os.environ['RANK']}.pt")

    assert together(world, kept) == [0] * world
    return [torch.load(folder / f"{world}-{rank}.pt", weights_only=False) for rank in range(world)]
