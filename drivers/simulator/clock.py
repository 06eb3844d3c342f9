"""The site's clock: simulated time runs `speed` times as fast as the monotonic clock."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class SimClock:
    """`utc = epoch + (monotonic - started_s) * speed`. `monotonic` can be replaced in tests."""

    epoch: datetime
    started_s: float
    speed: float
    monotonic: Callable[[], float] = time.monotonic

    def seconds(self) -> float:
        """Simulated seconds since the site started."""
        return (self.monotonic() - self.started_s) * self.speed

    def utc(self) -> datetime:
        """Simulated time, aware UTC."""
        return self.at(self.seconds())

    def at(self, sim_s: float) -> datetime:
        """The simulated time of a moment given in seconds since the start."""
        return self.epoch + timedelta(seconds=sim_s)
