"""What the drivers of all families share when they command: one at a time, and what an answer amounts to."""

import asyncio
from collections.abc import Awaitable
from typing import Protocol

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

WITHIN_MINUTES = Timings(sleep_within_s=180.0, wake_within_s=900.0)
"""Of a stock Antminer, and of firmware that nobody has timed."""
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


class Control(Protocol):
    """How one machine is commanded; the methods are those of `Driver`."""

    timings: Timings

    async def restore_point(self) -> RestorePoint:
        """What to put back."""

    async def sleep(self) -> Receipt:
        """Stop."""

    async def wake(self, point: RestorePoint) -> Receipt:
        """Start as before."""

    async def set_power_mode(self, mode: PowerMode) -> Receipt:
        """Mine in another mode."""


class NoControl:
    """A machine that can only be read."""

    timings = WITHIN_MINUTES

    def __init__(self, address: Address, why: str) -> None:
        self._address = address
        self._why = why

    async def restore_point(self) -> RestorePoint:
        """Raises `Unsupported`."""
        raise Unsupported(self._address, self._why)

    async def sleep(self) -> Receipt:
        """Raises `Unsupported`."""
        raise Unsupported(self._address, self._why)

    async def wake(self, point: RestorePoint) -> Receipt:
        """Raises `Unsupported`."""
        raise Unsupported(self._address, self._why)

    async def set_power_mode(self, mode: PowerMode) -> Receipt:
        """Raises `Unsupported`."""
        raise Unsupported(self._address, self._why)


class Commanded:
    """Mixed into every driver: its commands, one at a time."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._turn = asyncio.Lock()

    @property
    def timings(self) -> Timings:
        """How long after a command its effect may be waited for."""
        return self._control.timings

    async def restore_point(self) -> RestorePoint:
        """Read what `wake` would have to put back. Raises `DriverError`."""
        return await self._control.restore_point()

    async def sleep(self) -> Receipt:
        """Tell the machine to stop hashing. Raises `DriverError` if it did not accept that."""
        async with self._turn:
            return await self._control.sleep()

    async def wake(self, point: RestorePoint) -> Receipt:
        """Tell the machine to hash again as `point` says. Raises `DriverError` if it did not accept that."""
        async with self._turn:
            return await self._control.wake(point)

    async def set_power_mode(self, mode: PowerMode) -> Receipt:
        """Tell the machine to mine in another mode. Raises `DriverError` if it did not accept that."""
        async with self._turn:
            return await self._control.set_power_mode(mode)
