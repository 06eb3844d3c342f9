"""Metrics of a fleet: each site with the sums that the site's own agent tells, and what became of messages."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from agent.database import StoreError
from agent.exposition import Exposition
from agent.federation.fleet_database import State, read_state
from agent.federation.overview import SiteView, site_views
from agent.publisher import MetricsFile
from agent.view import totals
from drivers.driver import utc_now
from drivers.reading import RunState

log = logging.getLogger("hashcost")

RENDER_EVERY_S = 5.0


def fleet_metrics_text(sites: Sequence[SiteView], state: State) -> str:
    """The page. Of a site that is silent nothing is told but that."""
    page = Exposition()
    up = page.gauge(
        "site_up", "Whether it is known how a site is: 1, or 0 if it has told nothing for too long."
    )
    age = page.gauge("site_age_seconds", "Since a site's last round, by its own clock.")
    for site in sites:
        up.set(float(site.is_current), site=site.site)
        if site.stored is not None:
            age.set(site.stored.age.total_seconds(), site=site.site)
        if site.is_current:
            _site(page, site)
    page.counter("fleet_messages_taken_total", "Messages of sites that were taken.").set(state.taken)
    page.gauge("fleet_messages_double", "Messages that came twice since the start.").set(state.doubles)
    page.gauge("fleet_messages_missing", "Holes in what sites told, since the start.").set(state.holes)
    refused = page.counter("fleet_messages_refused_total", "Messages that were refused, by site.")
    for name, count in state.refused.items():
        refused.set(count, site=name)
    return page.text()


def _site(page: Exposition, site: SiteView) -> None:
    assert site.stored is not None  # noqa: S101 - it is current
    sums = totals(site.stored.picture.views)
    machines = page.gauge("machines", "Machines by site and what they do.")
    for state in RunState:
        machines.set(sums.by_state.get(state.value, 0), site=site.site, state=state.value)
    for name, description, value in (
        ("power_kw", "Load by site, kW.", sums.power_kw),
        ("hashrate_phs", "Hashrate by site, PH/s.", sums.hashrate_phs),
        ("margin_usd_per_day", "Gross margin of what mines by site, USD/day.", sums.margin_usd_per_day),
        ("lost_usd_per_day", "What machines under break-even lose by site, USD/day.", sums.lost_usd_per_day),
        ("under_breakeven_machines", "Machines that mine under break-even by site.", sums.under_breakeven),
        ("hashprice_usd_per_ph_day", "Hashprice that a site reckons with, USD/PH/day.",
         site.stored.picture.market.hashprice_usd_per_ph_day),
        ("power_price_usd_per_kwh", "Power price that a site reckons with, USD/kWh.",
         site.stored.picture.market.price_usd_per_kwh),
    ):  # fmt: skip
        page.gauge(name, description).set(value, site=site.site)


class FleetMetrics:
    """The page of a fleet, made anew every so often, and the file if there is to be one."""

    def __init__(
        self, directory: Path, file: MetricsFile | None, now: Callable[[], datetime] = utc_now
    ) -> None:
        self.text = ""
        self._problem = ""
        self._directory = directory
        self._file = file
        self._now = now

    async def run(self) -> None:
        """Keep it up until cancelled. While the fleet cannot be read nothing is told of it."""
        while True:
            try:
                await asyncio.to_thread(self._render)
                self._problem = ""
            except StoreError as error:
                if not self._problem:
                    log.warning("event=metrics_unknown detail=%r", str(error))
                self.text, self._problem = "", str(error)
                await asyncio.to_thread(self._publish)
            await asyncio.sleep(RENDER_EVERY_S)

    def _render(self) -> None:
        self.text = fleet_metrics_text(site_views(self._directory, self._now()), read_state(self._directory))
        self._publish()

    def _publish(self) -> None:
        if self._file is not None:
            self._file.write(self.text)
