"""The agent's time: the wall clock, or a simulated site's clock that runs faster."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import monotonic


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Aware UTC time, and how many of its seconds pass in a second of waiting."""

    now: Callable[[], datetime] = _utc_now
    speed: float = 1.0
    monotonic_s: Callable[[], float] = monotonic
    """The host's seconds, which nobody sets back or forward; `speed` makes this clock's of them."""


def simulated_clock(*, utc: datetime, monotonic_s: float, speed: float) -> Clock:
    """The clock of a simulated site: it showed `utc` when this host's monotonic clock showed `monotonic_s`."""

    def now() -> datetime:
        return utc + timedelta(seconds=(monotonic() - monotonic_s) * speed)

    return Clock(now=now, speed=speed)
