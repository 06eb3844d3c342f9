"""A program on a pseudo-terminal: bytes in, bytes out, a size, and a hangup that it does not survive."""

import asyncio
import contextlib
import fcntl
import os
import signal
import struct
import termios
from collections.abc import Callable, Mapping, Sequence
from typing import Self

MAX_COLUMNS, MAX_ROWS = 1000, 500
"""Larger is no screen, but an attempt to have the program fill the memory."""
USUAL_SIZE = (80, 24)
LEAVES_WITHIN_S = 3.0
_CHUNK_BYTES = 64 * 1024


class PseudoTerminal:
    """One process in a session of its own, whose terminal we are.

    `on_blocked` and `on_ready` say when it takes no more input for a while, and when it does again.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        output: asyncio.StreamReader,
        screen: asyncio.ReadTransport,
        keys: asyncio.WriteTransport,
        master: int,
    ) -> None:
        self._process = process
        self._output = output
        self._screen = screen
        self._keys = keys
        self._master = master

    @classmethod
    async def start(
        cls,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str],
        size: tuple[int, int],
        on_blocked: Callable[[], None],
        on_ready: Callable[[], None],
    ) -> Self:
        """Start a program on a new terminal of so many columns and rows. Raises `OSError`."""
        master, slave = os.openpty()
        try:
            _resize(master, size)
            process = await asyncio.create_subprocess_exec(
                *arguments, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
            )
        except BaseException:
            os.close(master)
            raise
        finally:
            os.close(slave)
        try:
            return await cls._connected(process, master, _Keys(on_blocked, on_ready))
        except BaseException:
            os.close(master)
            await _killed(process)
            raise

    @classmethod
    async def _connected(cls, process: asyncio.subprocess.Process, master: int, keys: "_Keys") -> Self:
        loop = asyncio.get_running_loop()
        output = asyncio.StreamReader(limit=_CHUNK_BYTES)
        screen, _ = await loop.connect_read_pipe(lambda: _Drawn(output), os.fdopen(os.dup(master), "rb", 0))
        typing, _ = await loop.connect_write_pipe(lambda: keys, os.fdopen(os.dup(master), "wb", 0))
        return cls(process, output, screen, typing, master)

    async def read(self) -> bytes:
        """What it draws next; empty once it has left its terminal."""
        return await self._output.read(_CHUNK_BYTES)

    def write(self, keys: bytes) -> None:
        """Type."""
        if not self._keys.is_closing():
            self._keys.write(keys)

    def resize(self, size: tuple[int, int]) -> None:
        """Tell it that its window has so many columns and rows now."""
        if self._master >= 0:
            _resize(self._master, size)
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGWINCH)  # it has no controlling terminal that would

    def hang_up(self) -> None:
        """Take the terminal away, as a dropped connection does."""
        if self._master < 0:
            return
        os.close(self._master)
        self._master = -1
        self._keys.abort()
        self._screen.close()

    async def gone(self) -> int:
        """Its exit status. What does not leave a terminal that hung up is made to, and so is what nobody waits for."""
        try:
            async with asyncio.timeout(LEAVES_WITHIN_S):
                return await self._process.wait()
        except TimeoutError:
            return await _killed(self._process)
        except asyncio.CancelledError:
            await _killed(self._process)
            raise


async def _killed(process: asyncio.subprocess.Process) -> int:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return await process.wait()


class _Drawn(asyncio.StreamReaderProtocol):
    """A pseudo-terminal says by an error that nobody is at its other end; what was drawn before still counts."""

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(None)


class _Keys(asyncio.BaseProtocol):
    def __init__(self, on_blocked: Callable[[], None], on_ready: Callable[[], None]) -> None:
        self._on_blocked = on_blocked
        self._on_ready = on_ready

    def pause_writing(self) -> None:
        self._on_blocked()

    def resume_writing(self) -> None:
        self._on_ready()


def _resize(master: int, size: tuple[int, int]) -> None:
    columns, rows = size if min(size) > 0 else USUAL_SIZE
    window = struct.pack("4H", min(rows, MAX_ROWS), min(columns, MAX_COLUMNS), 0, 0)
    fcntl.ioctl(master, termios.TIOCSWINSZ, window)
