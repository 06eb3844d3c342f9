"""`hashcost whatif` of a fleet: the scenarios at every site, each with its own prices and terms, and their sums."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from agent.config import Config
from agent.errors import UsageError
from agent.federation.fleet_database import site_databases
from agent.federation.overview import PLAIN_WIDTH, site_views
from agent.summary import number
from agent.whatif import Outcome
from agent.whatif_report import Question, WhatIfError, assess_site

_SUMS = (
    "machines",
    "power_kw",
    "under_breakeven",
    "under_kw",
    "running_usd_per_day",
    "curtailed_usd_per_day",
)
_HEADINGS = ("under break-even", "kW", "all running", "to now", "they asleep", "to now", "sleep saves")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """Outcomes of one scenario at several sites, added up. See `Outcome`."""

    name: str
    machines: int
    power_kw: float
    under_breakeven: int
    under_kw: float
    running_usd_per_day: float
    curtailed_usd_per_day: float


def print_fleet_whatif(question: Question, config: Config, directory: Path, *, as_json: bool) -> None:
    """Print what the scenarios do to the sites of which it is known how they are. Raises `UsageError` if there is none,
    or if the scenarios make no sense."""
    if question.inventory is not None:
        raise WhatIfError("--inventory is a site of its own; name no fleet")
    databases = dict(site_databases(directory))
    current = [each.site for each in site_views(directory, datetime.now(UTC)) if each.is_current]
    left_out = {site: "nothing is known of it now" for site in databases if site not in current}
    found: dict[str, tuple[Outcome, list[Outcome]]] = {}
    for site in current:
        try:
            found[site] = assess_site(question, config, databases[site])
        except UsageError as error:
            left_out[site] = str(error)
    if not found:
        why = "; ".join(f"{site}: {reason}" for site, reason in left_out.items())
        raise WhatIfError(f"{directory}: no site to reckon with{f' ({why})' if why else ''}")
    now = _sum("now", [outcome for outcome, _ in found.values()])
    scenarios = [_sum(each[0].name, each) for each in zip(*(told for _, told in found.values()), strict=True)]
    if as_json:
        sys.stdout.write(json.dumps(_as_data(found, now, scenarios, left_out)) + "\n")
        return
    console = Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)
    console.print(_table("scenario", now, [now, *scenarios]))
    console.print()
    console.print(_table("site now", None, [_sum(site, [told[0]]) for site, told in found.items()]))
    for site, reason in left_out.items():
        console.print(Text(f"left out: {site}: {reason}", style="yellow"))


def _sum(name: str, outcomes: Sequence[Outcome]) -> Sum:
    return Sum(name=name, **{each: sum(getattr(outcome, each) for outcome in outcomes) for each in _SUMS})


def _as_data(
    found: Mapping[str, tuple[Outcome, list[Outcome]]],
    now: Sum,
    scenarios: Sequence[Sum],
    left_out: Mapping[str, str],
) -> dict[str, Any]:
    return {
        "now": _sum_as_data(now, now),
        "scenarios": [_sum_as_data(each, now) for each in scenarios],
        "sites": {
            site: {"now": before.as_data(before), "scenarios": [each.as_data(before) for each in told]}
            for site, (before, told) in found.items()
        },
        "left_out": dict(left_out),
    }


def _sum_as_data(each: Sum, now: Sum) -> dict[str, Any]:
    return {name: getattr(each, name) for name in ("name", *_SUMS)} | {
        "saved_usd_per_day": each.curtailed_usd_per_day - each.running_usd_per_day,
        "running_change_usd_per_day": each.running_usd_per_day - now.running_usd_per_day,
        "curtailed_change_usd_per_day": each.curtailed_usd_per_day - now.curtailed_usd_per_day,
    }


def _table(heading: str, now: Sum | None, rows: Sequence[Sum]) -> Table:
    """Money is USD/day."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for index, name in enumerate((heading, *_HEADINGS)):
        table.add_column(name, justify="right" if index else "left", no_wrap=True)
    for each in rows:
        changes = ["", ""]
        if now is not None and each is not now:
            changes = [
                number(each.running_usd_per_day - now.running_usd_per_day, 2, sign=True),
                number(each.curtailed_usd_per_day - now.curtailed_usd_per_day, 2, sign=True),
            ]
        table.add_row(
            each.name, str(each.under_breakeven), number(each.under_kw, 1),
            number(each.running_usd_per_day, 2, sign=True), changes[0],
            number(each.curtailed_usd_per_day, 2, sign=True), changes[1],
            number(each.curtailed_usd_per_day - each.running_usd_per_day, 2),
            style="bold" if each is now else "",
        )  # fmt: skip
    return table
