"""`hashcost fleet run`: the fleet's database, kept up from the stream until it is told to stop."""

import asyncio
import logging
import signal
from datetime import timedelta
from pathlib import Path

from agent import notify
from agent.config import Config, MetricsSection
from agent.federation.collector import Collector, stream_of
from agent.federation.fleet_database import FleetDatabase, settle
from agent.federation.metrics import FleetMetrics
from agent.publisher import MetricsFile, MetricsPage
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
    settle(directory, fleet.postgres)
    database = FleetDatabase(directory, keep=timedelta(days=fleet.keep_days))
    try:
        asyncio.run(
            _until_stopped(Collector(fleet.connection("fleet"), stream, database), config.metrics, directory)
        )
    finally:
        database.close()


async def _until_stopped(collector: Collector, told: MetricsSection, directory: Path) -> None:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    log.info("event=started")
    notify.tell(notify.READY)
    async with asyncio.TaskGroup() as group:
        work = [group.create_task(supervise("fleet", collector.run))]
        listen, textfile = told.address(), told.textfile
        if listen is not None or textfile is not None:
            metrics = FleetMetrics(directory, None if textfile is None else MetricsFile(Path(textfile)))
            work.append(group.create_task(supervise("metrics", metrics.run)))
        if listen is not None:
            page = MetricsPage(listen, lambda: metrics.text)
            work.append(group.create_task(supervise("metrics_page", page.run)))
        await stopping.wait()
        notify.tell(notify.STOPPING)
        for task in work:
            task.cancel()
    log.info("event=stopped")
