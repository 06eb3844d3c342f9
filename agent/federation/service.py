"""`hashcost fleet run`: the fleet's database, kept up from the stream until it is told to stop."""

import asyncio
import contextlib
import logging
import signal
from pathlib import Path

from agent import notify
from agent.config import Config
from agent.federation.collector import Collector, stream_of
from agent.federation.fleet_database import FleetDatabase
from agent.supervision import supervise

log = logging.getLogger("hashcost")


def run_fleet(config: Config, directory: Path) -> None:
    """Run until SIGTERM or SIGINT, for a configuration that names servers. Raises `FleetError` for a directory that
    cannot be used."""
    fleet = config.fleet
    stream = stream_of(
        str(fleet.org),
        replicas=fleet.stream_replicas,
        megabytes=fleet.stream_mb,
        days=fleet.stream_days,
    )
    database = FleetDatabase(directory)
    try:
        asyncio.run(_until_stopped(Collector(fleet.connection("fleet"), stream, database)))
    finally:
        database.close()


async def _until_stopped(collector: Collector) -> None:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    log.info("event=started")
    notify.tell(notify.READY)
    async with asyncio.TaskGroup() as group:
        work = group.create_task(supervise("fleet", collector.run))
        await stopping.wait()
        notify.tell(notify.STOPPING)
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work
    log.info("event=stopped")
