"""The agent as a service: logs, signals, reload of the configuration, and signs of life to the service manager."""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from agent import event_loop, membership, notify
from agent.config import Config, ConfigError
from agent.curtailment import Mode
from agent.limits import LimitError, allow_files
from agent.service import Agent
from agent.store import UnusableStoreError
from agent.supervision import Pulse, supervise

if TYPE_CHECKING:
    from agent.federation.lease import Lease

log = logging.getLogger("hashcost")

_JOURNAL_PRIORITY = {logging.ERROR: "<3>", logging.WARNING: "<4>", logging.INFO: "<6>", logging.DEBUG: "<7>"}


class _JournalFormatter(logging.Formatter):
    """The journal stamps lines itself, and takes their priority from the front of each."""

    def format(self, record: logging.LogRecord) -> str:
        priority = _JOURNAL_PRIORITY.get(record.levelno, "<3>")
        return "\n".join(priority + line for line in super().format(record).splitlines())


def setup_logging(*, quiet: bool = False) -> None:
    """Log to stderr, one key=value line a transition; `quiet` leaves only what a person must know."""
    handler = logging.StreamHandler()
    journal = "JOURNAL_STREAM" in os.environ
    handler.setFormatter(
        _JournalFormatter("%(message)s")
        if journal
        else logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    )
    log.handlers[:] = [handler]
    log.propagate = False
    log.setLevel(logging.ERROR if quiet else logging.INFO)


def run_until_stopped(config: Config, database: Path, socket: Path, *, reload: Callable[[], Config]) -> None:
    """Run the agent until SIGTERM or SIGINT, then stop cleanly: open reads are dropped, baselines written, commands
    that are being sent left to be verified by the next start. SIGHUP has the configuration loaded anew with `reload`:
    a bad one is refused and the old one stays. Raises `LimitError` where the host allows too few sockets."""
    allow_files(config)
    event_loop.run(_Daemon(config, database, socket, reload).run())


class _Daemon:
    def __init__(self, config: Config, database: Path, socket: Path, reload: Callable[[], Config]) -> None:
        self._config = config
        self._database = database
        self._socket = socket
        self._reload = reload
        self._told = asyncio.Event()
        self._stopping = asyncio.Event()
        self._tasks = asyncio.TaskGroup()
        self._lease: Lease | None = None
        self._leasing: asyncio.Task[None] | None = None
        self._tenure_changed = self._new_fleet = self._to_reload = False

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop)
        loop.add_signal_handler(signal.SIGHUP, self._on_reload)
        async with self._tasks:
            self._claim()
            while not self._stopping.is_set():
                self._tenure_changed = False
                async with self._agent() as agent:
                    log.info(
                        "event=started database=%s machines=%d stands_by=%s",
                        self._database, len(agent.fleet), agent.stands_by,
                    )  # fmt: skip
                    notify.tell(notify.READY, notify.status(f"{len(agent.fleet)} machines known"))
                    await self._run(agent)
                    if self._stopping.is_set():
                        notify.tell(notify.STOPPING)
                await self._claim_anew_if_told()
            await self._give_back()
        log.info("event=stopped")

    def _claim(self) -> None:
        """Want the machines, where others may have them: for as long as agents of this configuration follow each
        other."""
        self._lease = membership.lease(self._config, self._on_tenure)
        if self._lease is not None:
            self._leasing = self._tasks.create_task(supervise("lease", self._lease.run))

    async def _claim_anew_if_told(self) -> None:
        """Another configuration of the fleet is another claim; so is any, where the last came to nothing for want of a
        database."""
        if self._new_fleet or self._lease is None:
            self._new_fleet = False
            await self._give_back()
            self._claim()

    async def _give_back(self) -> None:
        """Want them no more; no agent runs."""
        if self._leasing is not None:
            self._leasing.cancel()
            await asyncio.wait([self._leasing])
        self._lease = self._leasing = None

    def _on_tenure(self) -> None:
        self._tenure_changed = True
        self._told.set()

    def _on_reload(self) -> None:
        self._to_reload = True
        self._told.set()

    @contextlib.asynccontextmanager
    async def _agent(self) -> AsyncIterator[Agent]:
        """The agent; one that only observes, and remembers nothing, where its database is damaged or locked away."""
        async with contextlib.AsyncExitStack() as stack:
            try:
                agent = await stack.enter_async_context(
                    Agent(self._config, self._database, socket=self._socket, tenure=self._lease)
                )
            except UnusableStoreError as error:
                await self._give_back()
                log.error("event=storage_failed detail=%r mode=observe", str(error))  # noqa: TRY400 - the disk's fault
                directory = stack.enter_context(TemporaryDirectory(prefix="hashcost-observing-"))
                agent = await stack.enter_async_context(
                    Agent(
                        _observing(self._config),
                        Path(directory) / "hashcost.db",
                        socket=self._socket,
                        storage_problem=f"{error}; only observing, until the next reload or start",
                    )
                )
            yield agent

    def _on_stop(self) -> None:
        self._stopping.set()
        self._told.set()

    async def _run(self, agent: Agent) -> None:
        """Run one agent until it is to stop, or to be followed by one with another configuration."""
        async with asyncio.TaskGroup() as group:
            work = [group.create_task(agent.run()), group.create_task(_tell_alive(agent.pulse))]
            await self._until_told()
            for task in work:
                task.cancel()

    async def _until_told(self) -> None:
        """Until the agent is to stop or to be followed by another; a configuration that cannot be used is refused. A
        change of the machines' owner while agents followed each other may be told without being one any more."""
        while True:
            await self._told.wait()
            self._told.clear()
            if self._stopping.is_set():
                return
            if self._to_reload:
                self._to_reload = False
                if await self._take_new_configuration():
                    return
            if self._tenure_changed:
                return

    async def _take_new_configuration(self) -> bool:
        notify.tell(notify.reloading())
        try:
            new = await asyncio.to_thread(self._reload)
            allow_files(new)
        except (ConfigError, LimitError) as error:
            for problem in str(error).splitlines():
                log.error("event=reload_refused problem=%r", problem)  # noqa: TRY400 - a mistake of a person's
            notify.tell(notify.READY, notify.status("the new configuration was refused, the old one stays"))
            return False
        self._new_fleet = new.fleet != self._config.fleet
        self._config = new
        log.info("event=reloaded")
        return True


def _observing(config: Config) -> Config:
    """The same configuration in mode observe."""
    curtailment = config.curtailment.model_copy(update={"mode": Mode.OBSERVE})
    return config.model_copy(update={"curtailment": curtailment})


async def _tell_alive(pulse: Pulse) -> None:
    """Tell the service manager that we are alive for as long as every loop makes progress; say it once when one does
    not, and once when it does again."""
    wanted_s = notify.watchdog_s()
    late: list[str] = []
    while True:
        before, late = late, pulse.late()
        for name in sorted(set(late) - set(before)):
            log.error("event=loop_late loop=%s", name)
        for name in sorted(set(before) - set(late)):
            log.info("event=loop_back loop=%s", name)
        if not late:
            notify.tell(notify.ALIVE)
        await asyncio.sleep(5.0 if wanted_s is None else min(5.0, wanted_s / 4))
