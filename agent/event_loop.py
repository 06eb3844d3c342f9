"""The event loop that the agent runs on: uvloop, on which a reading costs a third less CPU; and how what a person
watches is told to end."""

import asyncio
import contextlib
import signal
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any, TypeVar

import uvloop

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """As `asyncio.run`."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


@contextlib.contextmanager
def heeding() -> Iterator[Sequence[signal.Signals]]:
    """While this lasts SIGTERM and SIGHUP end what is inside as Ctrl-C does, and that is no error. Gives those that are
    heeded, for `until_told`: nohup has one ignored; a script has Ctrl-C ignored in its background, but not SIGTERM."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    heeded = [
        number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL
    ]
    for number in heeded:
        signal.signal(number, interrupt)
    with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
        yield heeded


async def until_told(main: Coroutine[Any, Any, T], heeded: Sequence[signal.Signals]) -> T:
    """Run to its end, or until one of these signals, which cancels it once."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine that runs is in one
    told = False

    def cancel() -> None:
        nonlocal told
        if not told:
            told = True
            task.cancel()

    for number in heeded:
        asyncio.get_running_loop().add_signal_handler(number, cancel)
    return await main
