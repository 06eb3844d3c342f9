"""What the drivers of all families share when they command: one at a time, and what an answer amounts to."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Generic, Protocol, TypeVar

from drivers.driver import (
    AuthenticationFailed,
    CommandRefused,
    DriverError,
    Receipt,
    RestorePoint,
    Said,
    Timings,
    Unsupported,
)
from drivers.reading import Address, PowerMode

WITHIN_MINUTES = Timings(sleep_within_s=180.0, wake_within_s=900.0, sleep_from_s=120.0)
"""Of a stock Antminer, and of firmware that nobody has timed."""
PREPARED_FOR_S = 5.0
"""Long enough to store an order with its restore point, short enough for nobody to have set the machine otherwise."""
Found = TypeVar("Found")
_CLEAR = (AuthenticationFailed, CommandRefused, Unsupported)
"""Errors that are an answer, however late: the machine will not."""


async def receipt(sending: Awaitable[str]) -> Receipt:
    """Send the one request that changes something, and say what came back.

    `sending` returns the machine's words. Raises what means that it was not accepted; whatever else happens
    after it left is `SILENT`.
    """
    try:
        words = await sending
    except DriverError as error:
        if isinstance(error, _CLEAR) or not error.sent:
            raise
        return Receipt(said=Said.SILENT, detail=f"{error.kind}: {error.detail}")
    return Receipt(said=Said.OK, detail=words)


@contextmanager
def before_sending() -> Iterator[None]:
    """What fails inside fails before the command itself is sent, whatever else was."""
    try:
        yield
    except DriverError as error:
        error.sent = False
        raise


class Prepared(Generic[Found]):
    """What `restore_point` found out about a machine, for the one command that follows within seconds: the machine is
    asked once for both. Any other command asks anew."""

    __slots__ = ("_found", "_until_s")

    def __init__(self) -> None:
        self._found: Found | None = None
        self._until_s = 0.0

    def keep(self, found: Found) -> None:
        """It was found just now."""
        self._found, self._until_s = found, time.monotonic() + PREPARED_FOR_S

    def take(self) -> Found | None:
        """What was found, once; None if that was too long ago."""
        found, self._found = self._found, None
        return found if time.monotonic() < self._until_s else None


class Control(Protocol):
    """How one machine is commanded, and what it takes; the methods are those of `Driver`."""

    @property
    def timings(self) -> Timings:
        """How long after a command its effect may be waited for."""

    @property
    def power_modes(self) -> frozenset[PowerMode]:
        """What `set_power_mode` takes."""

    async def restore_point(self) -> RestorePoint:
        """What to put back."""

    async def sleep(self) -> Receipt:
        """Stop."""

    async def wake(self, point: RestorePoint) -> Receipt:
        """Start as before."""

    async def set_power_mode(self, mode: PowerMode) -> Receipt:
        """Mine in another of its modes."""


class Commanded:
    """Mixed into every driver: its commands, one at a time. Without a control it can only be read."""

    def __init__(
        self, address: Address, control: Control | None, outdated: Callable[[], None], why_not: str = ""
    ) -> None:
        """`outdated` is called after a command: what was remembered between readings may be no longer so."""
        self._where = address
        self._control = control
        self._outdated = outdated
        self._why_not = why_not
        self._turn = asyncio.Lock()

    @property
    def timings(self) -> Timings:
        """How long after a command its effect may be waited for."""
        return WITHIN_MINUTES if self._control is None else self._control.timings

    @property
    def can_sleep(self) -> bool:
        """Whether there is a way to put it to sleep."""
        return self._control is not None

    @property
    def power_modes(self) -> frozenset[PowerMode]:
        """What `set_power_mode` takes."""
        return frozenset() if self._control is None else self._control.power_modes

    async def restore_point(self) -> RestorePoint:
        """Read what `wake` would have to put back. Raises `DriverError`."""
        async with self._turn:  # what is found while a command is under way serves no other
            return await self._required().restore_point()

    async def sleep(self) -> Receipt:
        """Tell the machine to stop hashing. Raises `DriverError` if it did not accept that."""
        async with self._commanding() as control:
            return await control.sleep()

    async def wake(self, point: RestorePoint) -> Receipt:
        """Tell the machine to hash again as `point` says. Raises `DriverError` if it did not accept that."""
        async with self._commanding() as control:
            return await control.wake(point)

    async def set_power_mode(self, mode: PowerMode) -> Receipt:
        """Tell the machine to mine in another mode. Raises `DriverError` if it did not accept that."""
        if mode not in self.power_modes:
            raise Unsupported(self._where, f"cannot be set to the mode {mode}")
        async with self._commanding() as control:
            return await control.set_power_mode(mode)

    @asynccontextmanager
    async def _commanding(self) -> AsyncIterator[Control]:
        async with self._turn:
            try:
                yield self._required()
            finally:
                self._outdated()

    def _required(self) -> Control:
        if self._control is None:
            raise Unsupported(self._where, self._why_not)
        return self._control
