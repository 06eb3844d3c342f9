"""Raw clients for the simulated machines' protocols, and plain machines without a network."""

import asyncio
import json
import multiprocessing
import os
import struct
import warnings
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

import pytest

from drivers.reading import Family
from drivers.simulator import namespace
from drivers.simulator.machine import SimulatedMachine
from drivers.simulator.site import Site, SiteSpec
from tests import loops

EPOCH = datetime(2026, 3, 10, 6, 0, tzinfo=UTC)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import pyasic  # noqa: F401 - once, with its own warnings kept out of the tests


class Clients:
    """One request each, on a connection of its own, with bytes as they came."""

    @staticmethod
    async def tcp(address: str, port: int, request: bytes, *, timeout_s: float = 5.0) -> bytes:
        """Send, and read until the machine closes."""
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(address, port)
            try:
                writer.write(request)
                return await reader.read()
            finally:
                writer.close()

    @classmethod
    async def rpc(cls, address: str, command: str, **more: Any) -> dict[str, Any]:
        """A cgminer-style request."""
        answer = await cls.tcp(address, 4028, json.dumps({"command": command, **more}).encode())
        return json.loads(answer.rstrip(b"\x00\n"))

    @staticmethod
    async def v3(address: str, command: str, param: Any = None, **more: Any) -> dict[str, Any]:
        """A Whatsminer V3 frame."""
        async with asyncio.timeout(60):
            reader, writer = await asyncio.open_connection(address, 4433)
            try:
                frame = json.dumps({"cmd": command, "param": param, **more}).encode()
                writer.write(struct.pack("<I", len(frame)) + frame)
                (length,) = struct.unpack("<I", await reader.readexactly(4))
                return json.loads(await reader.readexactly(length))
            finally:
                writer.close()


@pytest.fixture
def clients() -> type[Clients]:
    """Raw clients."""
    return Clients


@pytest.fixture
def pick() -> Callable[..., SimulatedMachine]:
    """Find a machine of a site by family and conditions."""

    def find(
        site: Site, family: Family | None = None, where: Callable[[SimulatedMachine], bool] = lambda _: True
    ) -> SimulatedMachine:
        return next(m for m in site.machines if family in {None, m.family} and where(m))

    return find


class Hand:
    """A monotonic clock that is moved by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def still() -> Callable[..., tuple[Site, Hand]]:
    """A site that does not listen, at speed 1, with a clock moved by hand."""

    def build(**spec: Any) -> tuple[Site, Hand]:
        hand = Hand()
        site = Site(SiteSpec(**{"speed": 1.0, **spec}), epoch=EPOCH, monotonic=hand)
        return site, hand

    return build


def _in_a_child(work: Callable[[], Any]) -> Any:
    ours, theirs = multiprocessing.Pipe(duplex=False)
    pid = os.fork()
    if pid == 0:
        try:
            theirs.send((work(), None))
        except BaseException as error:  # noqa: BLE001 - the parent judges
            theirs.send((None, repr(error)))
        finally:
            os._exit(0)
    theirs.close()
    try:
        result, error = ours.recv()
    finally:
        ours.close()
        os.waitpid(pid, 0)
    if error is not None:
        pytest.fail(f"in the child process: {error}")
    return result


@pytest.fixture
def in_a_child() -> Callable[[Callable[[], Any]], Any]:
    """Run something in a process of its own, and give back what it returned."""
    return _in_a_child


@pytest.fixture
def run_isolated() -> Callable[[Callable[[], Coroutine[Any, Any, None]]], None]:
    """Run a coroutine function on a loopback of its own, where every port is free. Skips where that is not allowed."""

    def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        def isolated() -> str | None:
            try:
                namespace.isolate()
            except OSError as error:
                return str(error)
            loops.run(work())
            return None

        reason = _in_a_child(isolated)
        if reason is not None:
            pytest.skip(reason)

    return run
