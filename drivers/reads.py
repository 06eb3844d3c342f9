"""What the drivers of all families share: the deadline, the slow schedule, the run state, the identity check."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

from drivers.connection import Endpoint
from drivers.driver import NoAnswer, ReadOptions, WrongMachine
from drivers.reading import Address, Identity, PowerMode, RunState

FULL_SHARE = 0.9
"""A machine below this share of its expected hashrate, soon after its start, is still ramping."""
RISING_SHARE = 0.8
REDUCED_SHARE = 0.7
"""A lower mode hashes at 70 % of the expected hashrate or more."""
_REDUCED_MODES = {PowerMode.LOW, PowerMode.HIGH_EFFICIENCY}


@asynccontextmanager
async def deadline(address: Address, seconds: float) -> AsyncIterator[None]:
    """Everything inside is done within `seconds` or closed and reported as `NoAnswer`."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise NoAnswer(address, f"no complete reading within {seconds:g} s") from error


def endpoint(address: Address, port: int, options: ReadOptions, *, share: float = 1.0) -> Endpoint:
    """One port of a machine; `share` shortens the time for what a reading can do without."""
    return Endpoint(
        name=str(address),
        host=address.host,
        port=port,
        connect_s=options.connect_s * share,
        call_s=options.call_s * share,
        max_bytes=options.max_bytes,
    )


WIND_DOWN_S = 180.0
"""Every family is down this long after it was told to sleep, averaged rates included. What hashes then, mines."""


class WindDown:
    """For how long a machine has said that it was told to sleep, as seen in its readings."""

    def __init__(self) -> None:
        self._since: datetime | None = None

    def seconds(self, told_to_sleep: bool | None, now: datetime) -> float:
        """Seconds since the first reading in a row that said so; 0 for the first, and while it does not."""
        if not told_to_sleep:
            self._since = None
            return 0.0
        if self._since is None:
            self._since = now
        return (now - self._since).total_seconds()


class Due:
    """When something slow is to be done again. Due at first."""

    def __init__(self) -> None:
        self._at = float("-inf")

    def now(self) -> bool:
        """Whether it is time."""
        return time.monotonic() >= self._at

    def again_in(self, seconds: float) -> None:
        """Not before then."""
        self._at = time.monotonic() + seconds

    def again_within(self, seconds: float) -> None:
        """At some moment of the second half of that time: what a whole site did in one round after the start is not to
        fall into one round again."""
        self.again_in(seconds * random.uniform(0.5, 1.0))


def check_identity(address: Address, known: Identity, *, mac: str | None, serial: str | None) -> None:
    """Raise `WrongMachine` if what a machine says about itself contradicts who it was."""
    if mac and known.mac and mac != known.mac:
        raise WrongMachine(address, f"is {mac}, not {known.mac}; scan again")
    if serial and known.serial and serial != known.serial and not (mac and mac == known.mac):
        raise WrongMachine(address, f"has serial {serial}, not {known.serial}; scan again")


def run_state(
    *,
    hashrate_ths: float | None,
    expected_ths: float | None,
    told_to_sleep: bool | None,
    uptime_s: int | None,
    ramp_s: float,
    previous_ths: float | None = None,
    tuning: bool = False,
    power_mode: PowerMode | None = None,
    told_for_s: float = 0.0,
) -> RunState:
    """What a machine does, by evidence.

    Asleep needs both: it says that it was told to, and it does not hash. Told to sleep and hashing it winds
    down, or its averaged rate does: ramping. So is being below 90 % of what its mode lets expect within
    `ramp_s` of its start, or still climbing, or saying that it tunes. Without an answer about sleep, not hashing is
    unknown: asleep or broken. `told_for_s` is how long it has said that it was told: firmware that takes the order and
    mines on is mining.
    """
    if hashrate_ths is None:
        return RunState.UNKNOWN
    young = uptime_s is not None and uptime_s < ramp_s
    if hashrate_ths <= 0:
        return _idle_state(told_to_sleep, young)
    full_share = FULL_SHARE * (REDUCED_SHARE if power_mode in _REDUCED_MODES else 1.0)
    below = expected_ths is not None and hashrate_ths < full_share * expected_ths
    rising = previous_ths is not None and 0 <= previous_ths < RISING_SHARE * hashrate_ths
    winding_down = told_to_sleep and told_for_s < WIND_DOWN_S
    changing = winding_down or tuning or (below and (young or rising))
    return RunState.RAMPING if changing else RunState.MINING


def _idle_state(told_to_sleep: bool | None, young: bool) -> RunState:
    if told_to_sleep is None:
        return RunState.UNKNOWN
    if told_to_sleep:
        return RunState.ASLEEP
    return RunState.RAMPING if young else RunState.STOPPED
