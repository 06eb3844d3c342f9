"""`hashcost status` of a fleet: each site with its age and health, and what all of them do together."""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from agent.errors import UsageError
from agent.federation.fleet_database import State, read_state, site_databases
from agent.stored import StoredPicture, stored_picture
from agent.summary import market_as_data, number, span, total_lines, view_as_data
from agent.view import MachineView, totals
from drivers.reading import MachineId

PLAIN_WIDTH = 200
HEALTH_STYLE = {"ok": "green", "silent": "yellow", "unreadable": "red"}
_HEADINGS = (
    "site", "health", "age", "machines", "mining", "asleep", "unknown", "kW", "PH/s", "margin", "hashprice", "power",
    "to curtail", "kW to go",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteView:
    """One site; without a picture `problem` says why."""

    site: str
    stored: StoredPicture | None
    problem: str | None

    @property
    def is_current(self) -> bool:
        """Whether what is known of it still stands."""
        return self.stored is not None and not self.stored.is_stale

    @property
    def health(self) -> str:
        """One word: `ok`, `silent` (it has told nothing for too long), or `unreadable`."""
        if self.stored is None:
            return "unreadable"
        return "ok" if self.is_current else "silent"


def site_views(directory: Path, now: datetime) -> list[SiteView]:
    """Every site of the fleet, by name."""
    return [_site_view(site, database, now) for site, database in site_databases(directory)]


def _site_view(site: str, database: Path, now: datetime) -> SiteView:
    try:
        return SiteView(site=site, stored=stored_picture(database, now), problem=None)
    except UsageError as error:
        return SiteView(site=site, stored=None, problem=str(error))


def print_fleet(directory: Path, *, as_json: bool) -> None:
    """Print the fleet as it is known here."""
    now = datetime.now(UTC)
    sites, state = site_views(directory, now), read_state(directory)
    if as_json:
        sys.stdout.write(json.dumps(fleet_as_data(sites, state, now)) + "\n")
        return
    console = Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)
    console.print(draw_fleet(sites, state))


def fleet_as_data(sites: Sequence[SiteView], state: State, now: datetime) -> dict[str, Any]:
    """The fleet as plain data: sites, every machine with its site, and the sums over the sites that are current."""
    return {
        "at": now.isoformat(),
        "sites": [_site_as_data(site) for site in sites],
        "machines": [
            {"site": site.site, **view_as_data(view)}
            for site in sites
            if site.stored is not None
            for view in site.stored.picture.views
        ],
        "totals": asdict(totals(current_views(sites))),
        "stream": asdict(state),
    }


def _site_as_data(site: SiteView) -> dict[str, Any]:
    found: dict[str, Any] = {"site": site.site, "health": site.health, "problem": site.problem}
    if (stored := site.stored) is not None:
        found |= {
            "polled_at": stored.polled_at.isoformat(),
            "age_s": stored.age.total_seconds(),
            "market": market_as_data(stored.picture.market, stored.picture.terms),
            "totals": asdict(totals(stored.picture.views)),
        }
    return found


def draw_fleet(sites: Sequence[SiteView], state: State) -> RenderableType:
    """A line for each site, and the sums."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in _HEADINGS:
        table.add_column(heading, justify="left" if heading in _HEADINGS[:2] else "right", no_wrap=True)
    for site in sites:
        table.add_row(*_cells(site))
    return Group(table, *total_lines(totals(current_views(sites))), *notes(sites, state))


def _cells(site: SiteView) -> list[Text]:
    style = HEALTH_STYLE[site.health]
    if (stored := site.stored) is None:
        return [Text(site.site), Text(site.health, style)]
    sums = totals(stored.picture.views)
    states = (str(sums.by_state.get(state, 0)) for state in ("mining", "asleep", "unknown"))
    measured = ["-", "-", "-"]
    if site.is_current:
        measured = [
            f"{sums.power_kw:.1f}", f"{sums.hashrate_phs:.3f}", number(sums.margin_usd_per_day, 2, sign=True)
        ]  # fmt: skip
    market = stored.picture.market
    return [
        Text(site.site), Text(site.health, style), Text(span(stored.age)), Text(str(sums.machines)),
        *map(Text, states), *map(Text, measured),
        Text(number(market.hashprice_usd_per_ph_day, 2)), Text(number(market.price_usd_per_kwh, 4)),
        Text(str(sums.to_curtail)), Text(f"{sums.to_curtail_kw:.1f}"),
    ]  # fmt: skip


def notes(sites: Sequence[SiteView], state: State) -> list[Text]:
    """What is to be said of sites and messages besides."""
    said = [f"{site.site}: {site.problem}" for site in sites if site.problem is not None]
    silent = [site.site for site in sites if site.health == "silent"]
    if silent:
        said.append(f"not in the sums, since nothing is known of them now: {', '.join(silent)}")
    said += _shared(sites)
    said += [f"{site}: {count} messages refused" for site, count in sorted(state.refused.items())]
    return [Text(note, style="yellow") for note in said]


def _shared(sites: Sequence[SiteView]) -> list[str]:
    """Sites that know the same machine: the agents of both would command it."""
    known: dict[MachineId, list[str]] = {}
    for site in sites:
        for view in site.stored.picture.views if site.is_current and site.stored else ():
            known.setdefault(view.machine_id, []).append(site.site)
    shared = Counter(tuple(names) for names in known.values() if len(names) > 1)
    return [f"{' and '.join(names)} both have {count} machines" for names, count in sorted(shared.items())]


def current_views(sites: Sequence[SiteView]) -> list[MachineView]:
    """The machines of the sites of which it is known how they are."""
    return [view for site in sites if site.is_current and site.stored for view in site.stored.picture.views]
