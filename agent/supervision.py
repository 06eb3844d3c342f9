"""What goes on for months: loops restarted with backoff when they fail, and watched for making progress; bad states
that are told once."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any

log = logging.getLogger("hashcost")

RESTART_AFTER_S = (1.0, 60.0)
FIRST_PROGRESS_S = 300.0
"""How long a loop may take from its start to its first sign of progress."""


@dataclass(slots=True, kw_only=True)
class _Loop:
    progress_at_s: float
    due_at_s: float
    failures: int = 0
    error: str | None = None


class Spell:
    """A bad state that is told when it begins and when it is over. It is over when it was well so many times in a row,
    so that what comes and goes is told once as well."""

    def __init__(self, well_in_row: int) -> None:
        self._well_in_row = well_in_row
        self._well = well_in_row

    def look(self, *, bad: bool) -> bool:
        """Take in how it is now; whether that is news."""
        was_on = self.is_on
        self._well = 0 if bad else self._well + 1
        return self.is_on is not was_on

    @property
    def is_on(self) -> bool:
        """Whether it has begun, and is not over."""
        return self._well < self._well_in_row


class Pulse:
    """When each loop last made progress, and by when it has to again. Times by a monotonic clock."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._loops: dict[str, _Loop] = {}

    def watch(self, name: str) -> None:
        """Expect progress of a loop from now on; a loop that is watched already gets no more time."""
        now_s = self._clock()
        self._loops.setdefault(name, _Loop(progress_at_s=now_s, due_at_s=now_s + FIRST_PROGRESS_S))

    def beat(self, name: str, *, next_within_s: float) -> None:
        """A loop made progress, and will again within that time."""
        self.watch(name)
        loop, now_s = self._loops[name], self._clock()
        loop.progress_at_s, loop.due_at_s, loop.error = now_s, now_s + next_within_s, None

    def failed(self, name: str, error: Exception) -> None:
        """A loop ended with an error and is started again; its time runs on."""
        self.watch(name)
        self._loops[name].failures += 1
        self._loops[name].error = repr(_innermost(error))

    def late(self) -> list[str]:
        """The loops that should have made progress by now."""
        now_s = self._clock()
        return sorted(name for name, loop in self._loops.items() if now_s > loop.due_at_s)

    def as_data(self) -> dict[str, dict[str, Any]]:
        """Each loop: seconds since its last progress, whether that is too long, failures, and the error it is in."""
        now_s, late = self._clock(), self.late()
        return {
            name: {
                "progress_age_s": round(now_s - loop.progress_at_s, 1),
                "late": name in late,
                "failures": loop.failures,
                "error": loop.error,
            }
            for name, loop in self._loops.items()
        }


def _innermost(error: Exception) -> Exception:
    """What went wrong inside a task group."""
    while isinstance(error, ExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    return error


def heed_cancel() -> None:
    """Raise `CancelledError` if this task was cancelled and what it waited for swallowed that. `asyncio.wait_for` does,
    before Python 3.12, where what it waits for comes at that moment; so do libraries."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def pause(event: asyncio.Event, at_most_s: float) -> None:
    """Until that happens, but not for longer."""
    with suppress(TimeoutError):
        async with asyncio.timeout(at_most_s):
            await event.wait()


async def supervise(
    name: str,
    loop: Callable[[], Awaitable[None]],
    *,
    pulse: Pulse | None = None,
    restart_after_s: tuple[float, float] = RESTART_AFTER_S,
) -> None:
    """Run a loop for ever: when it fails, start it again, waiting twice as long each time up to the longest wait; a
    run that outlives the longest wait starts over with the shortest. Each kind of error is said once until a run has
    outlived the longest wait, and that is said then. Cancelled it ends, however the loop takes that."""
    shortest_s, longest_s = restart_after_s
    wait_s = shortest_s
    told: set[type[Exception]] = set()
    if pulse is not None:
        pulse.watch(name)
    while True:
        began = monotonic()
        recovers = asyncio.get_running_loop().call_later(longest_s, _recovered, name, told)
        try:
            await loop()
        except Exception as error:
            heed_cancel()  # what fails on its way out is not started again
            if (kind := type(_innermost(error))) not in told:
                log.exception("event=loop_failed loop=%s restart_after_s=%g", name, wait_s)
            told.add(kind)
            if pulse is not None:
                pulse.failed(name, error)
        finally:
            recovers.cancel()
        heed_cancel()
        if monotonic() - began > longest_s:
            wait_s = shortest_s
        await asyncio.sleep(wait_s)
        wait_s = min(2 * wait_s, longest_s)


def _recovered(name: str, told: set[type[Exception]]) -> None:
    """It runs on; what fails from now on is said again."""
    if told:
        log.info("event=loop_recovered loop=%s", name)
        told.clear()
