"""A terminal on a stored site, for tests: opened, read and waited for."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from textual.pilot import Pilot

from tests.agent.builders import at, eventually, market, stored_site
from tui.app import HashcostApp
from tui.source import Source

WIDE, MEDIUM, NARROW = (200, 60), (120, 40), (80, 24)


def poll(database, *machines, ago=timedelta(), **changes):
    """Store a round of machines as if it were polled just now."""
    now = datetime.now(UTC) - ago
    return stored_site(database, *at(now, machines), market=market(at=now, **changes))


@asynccontextmanager
async def opened(
    database, size=WIDE, *, socket=None, operate=False, clock=None
) -> AsyncIterator[Pilot[None]]:
    """The terminal, driven without one."""
    source = Source(database, socket) if clock is None else Source(database, socket, clock=clock)
    app = HashcostApp(source, operate=operate)
    async with app.run_test(size=size, notifications=True) as pilot:
        yield pilot


def text(pilot) -> str:
    """What is on the screen."""
    lines = pilot.app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip) for strip in lines)


async def until(pilot, condition: Callable[[], bool]) -> None:
    """Wait for something, looking seldom: to look costs as much as to draw."""
    await eventually(condition, pause_s=0.05)
    await pilot.pause()


async def shows(pilot, *words: str) -> None:
    """Wait until all of it is on the screen; then fail with the screen."""
    try:
        await until(pilot, lambda: all(word in text(pilot) for word in words))
    except TimeoutError:
        screen = text(pilot)
        assert [word for word in words if word not in screen] == [], screen
