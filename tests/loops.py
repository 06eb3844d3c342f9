"""An event loop whose time does not depend on how fast the host is."""

import asyncio
import selectors
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Idle(selectors.DefaultSelector):
    """Counts the seconds that were spent waiting, each wait at most as long as it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.idle_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        began_s = time.monotonic()
        ready = super().select(timeout)
        waited_s = time.monotonic() - began_s
        self.idle_s += waited_s if timeout is None else min(waited_s, timeout)
        return ready


class IdleTimeLoop(asyncio.SelectorEventLoop):
    """Its clock runs only while it has nothing to do. Where both ends of a connection live on it, a host that is busy,
    or stands still for a second, makes no deadline pass that would not have passed on a fast one."""

    def __init__(self) -> None:
        self._idle = _Idle()
        super().__init__(self._idle)

    def time(self) -> float:
        """Seconds spent waiting since the loop was made."""
        return self._idle.idle_s


def run(work: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` on such a loop."""
    with asyncio.Runner(loop_factory=IdleTimeLoop) as runner:
        return runner.run(work)
