"""Loops that fail are started again, and loops that make no progress are found out."""

import asyncio
from contextlib import suppress
from itertools import pairwise

import pytest

from agent.supervision import FIRST_PROGRESS_S, Pulse, supervise
from tests.agent.builders import eventually


async def started(loop, count, **options):
    """When `loop` was started under the supervisor, `count` times."""
    starts = []

    async def counted():
        starts.append(asyncio.get_running_loop().time())
        await loop()

    supervised = asyncio.ensure_future(supervise("test", counted, **options))
    async with asyncio.timeout(60):
        while len(starts) < count:
            await asyncio.sleep(0.002)
    supervised.cancel()
    with pytest.raises(asyncio.CancelledError):
        await supervised
    return [later - sooner for sooner, later in pairwise(starts)]


async def broken():
    raise ValueError("a bug")


async def test_a_loop_that_fails_is_started_again_after_twice_as_long_each_time():
    waits = await started(broken, 5, restart_after_s=(0.05, 0.1))
    assert all(wait > 0.99 * least for wait, least in zip(waits, [0.05, 0.1, 0.1, 0.1], strict=True))
    assert waits[-1] < 0.4


async def test_that_a_loop_fails_is_said_once_of_each_kind_and_that_it_runs_on_once(lines):
    kinds = iter([ValueError, ValueError, OSError, ValueError, OSError, None, ValueError])
    recovered = asyncio.Event()

    async def until_the_error():
        if (kind := next(kinds, None)) is None:
            await recovered.wait()
            kind = OSError
        raise ExceptionGroup("tasks", [kind("a bug")])

    supervised = asyncio.ensure_future(supervise("test", until_the_error, restart_after_s=(0.01, 0.2)))
    await eventually(lambda: lines("event=loop_recovered"))
    assert [line.split()[0] for line in lines("event=loop_")] == [
        "event=loop_failed", "event=loop_failed", "event=loop_recovered",
    ]  # fmt: skip
    recovered.set()
    await eventually(lambda: len(lines("event=loop_failed")) == 4)
    supervised.cancel()
    with pytest.raises(asyncio.CancelledError):
        await supervised
    assert lines("event=loop_recovered") == ["event=loop_recovered loop=test"]


async def test_a_loop_that_fails_when_it_is_cancelled_is_not_started_again(lines):
    running = asyncio.Event()

    async def clumsy():
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("it could not clean up")

    supervised = asyncio.ensure_future(supervise("test", clumsy, restart_after_s=(60, 60)))
    await running.wait()
    supervised.cancel()
    done, _ = await asyncio.wait([supervised], timeout=30)
    supervised.cancel()
    assert done
    assert supervised.cancelled()


async def test_a_loop_that_swallows_its_cancellation_and_ends_is_not_started_again():
    starts = 0

    async def deaf():
        nonlocal starts
        starts += 1
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    supervised = asyncio.ensure_future(supervise("test", deaf, restart_after_s=(60, 60)))
    await eventually(lambda: starts)
    supervised.cancel()
    done, _ = await asyncio.wait([supervised], timeout=30)
    supervised.cancel()
    assert done
    assert supervised.cancelled()
    assert starts == 1


async def test_a_failed_loop_is_logged_with_what_happened(caplog):
    await started(broken, 1, restart_after_s=(5, 5))
    assert "ValueError: a bug" in caplog.text
    assert "restart_after_s=5" in caplog.text


async def test_a_loop_that_ran_long_is_started_again_soon():
    calls = 0

    async def sometimes_long():
        nonlocal calls
        calls += 1
        if calls == 4:
            await asyncio.sleep(0.45)
        raise ValueError

    waits = await started(sometimes_long, 5, restart_after_s=(0.02, 0.4))
    assert waits[2] >= 0.08
    assert waits[3] - 0.45 < 0.15


async def test_a_loop_that_just_ends_is_started_again_too():
    async def done():
        return

    assert len(await started(done, 3, restart_after_s=(0.01, 0.01))) == 2


class Seconds:
    """A monotonic clock that stands still until it is moved."""

    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s


def test_a_loop_is_late_once_its_time_for_progress_is_over():
    clock = Seconds()
    pulse = Pulse(clock)
    pulse.beat("poll", next_within_s=90.0)
    clock.now_s += 90.0
    assert pulse.late() == []
    clock.now_s += 0.1
    assert pulse.late() == ["poll"]
    pulse.beat("poll", next_within_s=90.0)
    assert pulse.late() == []


def test_a_loop_that_never_shows_progress_is_late_too_however_often_it_is_started():
    clock = Seconds()
    pulse = Pulse(clock)
    pulse.watch("scan")
    for _ in range(10):
        clock.now_s += FIRST_PROGRESS_S / 9
        pulse.failed("scan", ValueError("no"))
        pulse.watch("scan")
    assert pulse.late() == ["scan"]


def test_what_a_loop_is_in_can_be_seen_until_it_makes_progress_again():
    clock = Seconds()
    pulse = Pulse(clock)
    pulse.failed("control", ExceptionGroup("tasks", [ValueError("socket gone")]))
    clock.now_s += 2.0
    assert pulse.as_data() == {
        "control": {"progress_age_s": 2.0, "late": False, "failures": 1, "error": "ValueError('socket gone')"}
    }
    pulse.beat("control", next_within_s=60.0)
    assert pulse.as_data()["control"] == {"progress_age_s": 0.0, "late": False, "failures": 1, "error": None}


async def test_the_supervisor_reports_failures_and_expects_progress_from_the_start():
    pulse = Pulse()
    await started(broken, 2, restart_after_s=(0.01, 0.01), pulse=pulse)
    assert pulse.as_data()["test"]["failures"] >= 1
    assert pulse.as_data()["test"]["error"] == "ValueError('a bug')"
