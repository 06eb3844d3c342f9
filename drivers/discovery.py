"""Scans addresses for machines: a cheap TCP probe of all, then identification of those that answer.

What the finds mean for an inventory is compared by `reconcile` (drivers/inventory.py).
"""

import asyncio
import contextlib
import importlib
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from drivers.addresses import AddressError, is_ipv4, parse_targets
from drivers.connection import failure
from drivers.driver import DriverError, OutOfSockets, ReadOptions, Unreachable
from drivers.inventory import Finding, FindingKind, KnownMachine, reconcile
from drivers.reading import Address, Identity
from drivers.transport import CGMINER_PORT, WHATSMINER_V3_PORT

__all__ = [
    "AddressError",
    "Finding",
    "FindingKind",
    "KnownMachine",
    "ScanFailure",
    "ScanProgress",
    "ScanResult",
    "parse_targets",
    "reconcile",
    "scan",
]

WEB_PORT = 80
MINER_PORTS = (CGMINER_PORT, WHATSMINER_V3_PORT, WEB_PORT)
PROBE_S = 1.0
CONCURRENCY = 200
IDENTIFY_LIMIT = 30
"""pyasic finds none of 300 machines when it asks all of them at once, and all of 1000 with 30 in flight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanProgress:
    """How far a scan is, in addresses."""

    total: int
    probed: int
    identified: int
    found: int
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanFailure:
    """An address where something answers that could not be identified. `kind` is a `DriverError.kind`."""

    address: Address
    kind: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanResult:
    """What a scan found, in the order of the addresses. `silent` counts those where nothing listens."""

    found: tuple[tuple[Address, Identity], ...]
    failures: tuple[ScanFailure, ...]
    silent: int


async def scan(
    addresses: Sequence[Address],
    *,
    options: ReadOptions,
    concurrency: int = CONCURRENCY,
    identify_limit: int = IDENTIFY_LIMIT,
    probe_s: float = PROBE_S,
    progress: Callable[[ScanProgress], None] | None = None,
    options_at: Callable[[Address], ReadOptions] | None = None,
) -> ScanResult:
    """Find the machines among `addresses`.

    Up to `concurrency` addresses are probed at a time (three sockets each, `probe_s` to connect), and up to
    `identify_limit` identified. Names are looked up, and found machines have the address and not the name.
    `options_at` says how an address is asked that has a login of its own; it is given the number, never the name.
    Raises `OutOfSockets` if this host cannot open sockets: a scan that could not look has found nothing out.
    """
    run = _Scan(addresses, options_at or (lambda _: options), probe_s, concurrency, progress)
    with _one_error():
        async with asyncio.TaskGroup() as askers:
            for _ in range(identify_limit):
                askers.create_task(run.ask())
            async with asyncio.TaskGroup() as probers:
                for _ in range(min(concurrency, len(addresses))):
                    probers.create_task(run.probe())
            for _ in range(identify_limit):
                await run.answering.put(None)
    return run.result()


class _Scan:
    """One scan: workers that probe feed workers that ask."""

    def __init__(
        self,
        addresses: Sequence[Address],
        options_at: Callable[[Address], ReadOptions],
        probe_s: float,
        backlog: int,
        progress: Callable[[ScanProgress], None] | None,
    ) -> None:
        self.answering: asyncio.Queue[tuple[int, Address, list[int]] | None] = asyncio.Queue(maxsize=backlog)
        self._total = len(addresses)
        self._waiting = iter(enumerate(addresses))
        self._options_at = options_at
        self._probe_s = probe_s
        self._report = progress
        self._progress = ScanProgress(total=self._total, probed=0, identified=0, found=0, failed=0)
        self._found: dict[int, tuple[Address, Identity]] = {}
        self._failures: dict[int, ScanFailure] = {}

    async def probe(self) -> None:
        """Probe addresses until none is left."""
        for index, address in self._waiting:
            try:
                target = await _resolved(address)
                ports = await _open_ports(target, self._probe_s)
            except OutOfSockets:
                raise
            except DriverError as error:
                self._fail(index, address, error)
                self._count(probed=1)
                continue
            self._count(probed=1)
            if ports:
                await self.answering.put((index, target, ports))

    async def ask(self) -> None:
        """Identify what answers until nothing more comes. Brings in pyasic, which parsing addresses must not
        cost (70 MB), and which takes a second that the loop must not wait."""
        identify = (await asyncio.to_thread(importlib.import_module, "drivers.identify")).identify
        while (item := await self.answering.get()) is not None:
            index, address, ports = item
            try:
                who = await identify(address, ports, self._options_at(address))
                self._found[index] = (address, who)
                self._count(identified=1, found=1)
            except OutOfSockets:
                raise
            except DriverError as error:
                self._fail(index, address, error)
                self._count(identified=1)

    def result(self) -> ScanResult:
        """Everything, in the order of the addresses."""
        return ScanResult(
            found=tuple(self._found[index] for index in sorted(self._found)),
            failures=tuple(self._failures[index] for index in sorted(self._failures)),
            silent=self._total - len(self._found) - len(self._failures),
        )

    def _fail(self, index: int, address: Address, error: DriverError) -> None:
        self._failures[index] = ScanFailure(address=address, kind=error.kind, detail=error.detail)
        self._count(failed=1)

    def _count(self, **more: int) -> None:
        sums = {name: getattr(self._progress, name) + count for name, count in more.items()}
        self._progress = replace(self._progress, **sums)
        if self._report is not None:
            self._report(self._progress)


@contextlib.contextmanager
def _one_error() -> Iterator[None]:
    """The only error that leaves a worker is `OutOfSockets`; out of its group, once."""
    try:
        yield
    except* OutOfSockets as group:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        error = first
    else:
        return
    raise error


async def _resolved(address: Address) -> Address:
    """The address with an IPv4 number for a name. Raises `DriverError` if nobody knows the name."""
    if is_ipv4(address.host):
        return address
    try:
        found = await asyncio.get_running_loop().getaddrinfo(address.host, None, family=socket.AF_INET)
    except OSError as error:
        raise Unreachable(address, f"unknown name: {error}") from error
    return replace(address, host=str(found[0][4][0]))


async def _open_ports(address: Address, probe_s: float) -> list[int]:
    """Which of the ports take a connection."""
    ports = (address.port,) if address.port is not None else MINER_PORTS
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_is_open(address, port, probe_s)) for port in ports]
    return [port for port, task in zip(ports, tasks, strict=True) if task.result()]


async def _is_open(address: Address, port: int, probe_s: float) -> bool:
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
            async with asyncio.timeout(probe_s):
                await asyncio.get_running_loop().sock_connect(probe, (address.host, port))
            return True
    except OSError as error:
        reason = failure(str(address), port, error)
        if isinstance(reason, OutOfSockets):
            raise reason from error
        return False
