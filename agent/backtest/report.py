"""`hashcost backtest`: reads histories, machines and policies, and prints the comparison, or writes it as data."""

import csv
import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from agent.backtest.chart import chart, png, svg, terminal
from agent.backtest.comparison import CLAIRVOYANT, Comparison, Line, classes, compare, overlap
from agent.backtest.series import (
    History,
    hashprice_history,
    power_history,
    recorded_hashprice,
    recorded_power,
)
from agent.config import Config, load
from agent.curtailment import CurtailmentPolicy
from agent.errors import UsageError
from agent.export import cell, refuse_unwritable, write_atomically
from agent.learned import learned, with_learned_costs
from agent.lots import Lot, lots_of_csv, lots_of_views
from agent.status import PLAIN_WIDTH
from agent.store import Reader
from agent.summary import number

AGENT = "agent"
"""What the policy of the configuration is called."""
POWER, HASHPRICE = "power_price_usd_per_kwh", "hashprice_usd_per_ph_day"
_RECORDED = {POWER: (recorded_power, "--prices"), HASHPRICE: (recorded_hashprice, "--hashprice")}
MOST_MS = 2**53
COLUMNS = (
    "model", "machines", "efficiency_j_per_th", "switching_cost_usd", "delay_min", "policy", "net_usd", "gain_usd",
    "share_of_clairvoyant", "hours_off", "cycles", "cycles_per_machine", "worst_day", "worst_day_usd",
)  # fmt: skip
"""Of the CSV: a row for each policy on each model, and on the fleet, whose model is empty."""


class BacktestError(UsageError):
    """A backtest that makes no sense."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked. Files of prices, machines and policies; delays in minutes. Without a file of prices those are
    replayed that the agent recorded."""

    prices: Path | None
    hashprice: Path | None
    inventory: Path | None
    policies: Sequence[Path]
    start: datetime | None
    end: datetime | None
    delay_min: float
    delays_min: Sequence[float]
    switching_cost_usd: float | None
    csv: Path | None
    chart: Path | None = None


def parse_delays(text: str) -> list[float]:
    """Minutes, separated by commas. Raises `BacktestError`."""
    try:
        delays = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        delays = [-1.0]
    if not all(0 <= delay <= 1440 for delay in delays):
        raise BacktestError(
            f"--delays {text!r}: minutes from 0 to 1440, separated by commas, such as 0,5,10,15"
        )
    return sorted(set(delays))


def print_backtest(question: Question, config: Config, database: Path, *, as_json: bool) -> None:
    """Run and print. Raises `UsageError` for files that cannot be used."""
    if question.chart is not None:
        refuse_other_pictures(question.chart)
    for file in (question.csv, question.chart):
        if file is not None:
            refuse_unwritable(file)
    lots = _lots(question, config, database)
    past = overlap(
        _recorded(database, POWER) if question.prices is None else power_history(question.prices),
        _recorded(database, HASHPRICE)
        if question.hashprice is None
        else hashprice_history(question.hashprice),
        question.start,
        question.end,
    )
    comparison = compare(
        past,
        lots,
        _policies(question, config, database),
        delay_min=question.delay_min,
        delays_min=question.delays_min,
    )
    if question.csv is not None:
        write_atomically(question.csv, to_csv(comparison))
    if question.chart is not None:
        shapes = chart(comparison)
        write_atomically(question.chart, png(shapes) if _is_png(question.chart) else svg(shapes))
    if as_json:
        sys.stdout.write(json.dumps(as_data(comparison)) + "\n")
        return
    console = Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)
    console.print(draw(comparison))


def _is_png(file: Path) -> bool:
    return file.suffix.lower() == ".png"


def refuse_other_pictures(file: Path) -> None:
    """Raise `BacktestError` for a chart that cannot be drawn."""
    if _is_png(file) and find_spec("PIL") is None:
        raise BacktestError(
            f"--chart {file}: a PNG needs pillow, which is not installed: pip install 'hashcost[charts]'; "
            "an SVG needs nothing"
        )
    if file.suffix.lower() not in {".png", ".svg"}:
        raise BacktestError(f"--chart {file}: is named .svg or .png, which says what it is to be")


def _lots(question: Question, config: Config, database: Path) -> list[Lot]:
    if question.inventory is not None:
        return classes(lots_of_csv(question.inventory, config.terms_book().site))
    with Reader(database) as reader:
        conditions = reader.conditions()
        lots = [] if conditions is None else lots_of_views(reader.latest(), conditions[0], reader.terms())[0]
    if not lots:
        raise BacktestError(
            f"{database}: of no machine is it known what it does; --inventory FILE names some"
        )
    return classes(lots)


def _recorded(database: Path, column: str) -> History:
    """What the agent itself recorded of a price, in the database and in the archive of old days."""
    cut, option = _RECORDED[column]
    with Reader(database) as reader:
        history = cut(
            (row["from_ms"] / 1000, row["until_ms"] / 1000, row[column])
            for row in reader.price_stretches(0, MOST_MS)
        )
    if not history.starts:
        raise BacktestError(f"{database}: holds no prices of its own yet; {option} FILE names some")
    return history


def _policies(question: Question, config: Config, database: Path) -> Mapping[str, CurtailmentPolicy]:
    """The configuration's own, or those of other files, by their names; with what the agent has learned."""
    found = {path.stem: load(path).policy() for path in question.policies} or {AGENT: config.policy()}
    if len(found) < len(question.policies):
        raise BacktestError("--policy: two files have the same name, by which they are told apart")
    if question.switching_cost_usd is None:
        if question.inventory is not None:
            return found
        return {name: with_learned_costs(policy, learned(database, policy)) for name, policy in found.items()}
    cost = question.switching_cost_usd
    return {
        name: replace(policy, switching_cost_usd=cost, switching_cost_by_model={})
        for name, policy in found.items()
    }


# -- as data ---------------------------------------------------------------------------------------------------


def as_data(comparison: Comparison) -> dict[str, Any]:
    """All of it as plain data."""
    return {
        "start": comparison.start.isoformat(),
        "end": comparison.end.isoformat(),
        "hours": comparison.hours,
        "gap_hours": comparison.gap_hours,
        "delay_min": comparison.delay_min,
        "policies": [line.as_data() for line in comparison.lines],
        "delays": [
            {"delay_min": each.delay_min, "policies": [line.as_data() for line in each.lines]}
            for each in comparison.delays
        ],
        "usd_per_five_minutes": {name: comparison.usd_per_five_minutes(name) for name in _judged(comparison)},
        "classes": [
            {
                "model": each.lot.model,
                "machines": each.lot.count,
                "hashrate_ths": each.lot.hashrate_ths,
                "power_w": each.lot.power_w,
                "efficiency_j_per_th": each.lot.efficiency_j_per_th,
                "switching_cost_usd": each.switching_cost_usd,
                "policies": [line.as_data() for line in each.lines],
            }
            for each in comparison.classes
        ],
    }


def to_csv(comparison: Comparison) -> str:
    """A row for each policy on each model and on the fleet, and for each delay; `.` decimals, empty for unknown."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for row in _rows(comparison):
        writer.writerow({name: cell(value) for name, value in row.items()})
    return text.getvalue()


def _rows(comparison: Comparison) -> Iterator[dict[str, Any]]:
    for each in comparison.classes:
        about = {
            "model": each.lot.model,
            "efficiency_j_per_th": each.lot.efficiency_j_per_th,
            "switching_cost_usd": each.switching_cost_usd,
            "delay_min": comparison.delay_min,
        }
        yield from (line.as_data() | about for line in each.lines)
    yield from (line.as_data() | {"delay_min": comparison.delay_min} for line in comparison.lines)
    for delayed in comparison.delays:
        yield from (line.as_data() | {"delay_min": delayed.delay_min} for line in delayed.lines)


def _judged(comparison: Comparison) -> list[str]:
    return [line.policy for line in comparison.delays[0].lines] if comparison.delays else []


# -- for a person ----------------------------------------------------------------------------------------------


def draw(comparison: Comparison) -> RenderableType:
    """The whole comparison for a terminal."""
    gaps = (
        f", and gaps of {comparison.gap_hours:.1f} h that count for nothing" if comparison.gap_hours else ""
    )
    parts: list[RenderableType] = [
        Text(
            f"{comparison.start:%Y-%m-%d %H:%M} to {comparison.end:%Y-%m-%d %H:%M} UTC, {comparison.hours:.0f} h"
            f"{gaps}; prices known {comparison.delay_min:g} minutes after the start of their interval"
        ),
        Text(),
        _policy_table(comparison),
    ]
    if comparison.delays:
        parts += [Text(), _delay_table(comparison)]
    parts += [Text(), *terminal(comparison), Text(), _month_table(comparison)]
    if len(comparison.classes) > 1:
        parts += [Text(), _class_table(comparison)]
    return Group(*parts)


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index else "left", no_wrap=True)
    return table


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"


def _policy_table(comparison: Comparison) -> Table:
    """Money in USD of the fleet over the whole time."""
    table = _table(
        "policy", "net USD", "to always-on", "of clairvoyant", "hours off", "cycles per machine", "worst day", "USD",
    )  # fmt: skip
    for line in comparison.lines:
        day, usd = line.result.worst_day
        table.add_row(
            line.policy,
            f"{line.net_usd:,.2f}",
            f"{line.result.gain_usd:+,.2f}",
            _percent(line.share),
            f"{line.result.hours_off / line.result.machines:,.1f}",
            f"{line.result.cycles_per_machine:.1f}",
            day,
            number(usd, 2, sign=True),
        )
    return table


def _delay_table(comparison: Comparison) -> Table:
    """What delay leaves of the clairvoyant's gain, and what five minutes of it cost."""
    judged = _judged(comparison)
    table = _table("known after", *(f"{name}{what}" for name in judged for what in ("", " USD", " cycles")))
    for each in comparison.delays:
        cells = [
            told
            for line in each.lines
            for told in (
                _percent(line.share),
                f"{line.result.gain_usd:+,.2f}",
                f"{line.result.cycles_per_machine:.1f}",
            )
        ]
        table.add_row(f"{each.delay_min:g} min", *cells)
    costs = [comparison.usd_per_five_minutes(name) for name in judged]
    if any(cost is not None for cost in costs):
        row = [told for cost in costs for told in ("", "-" if cost is None else f"{-cost:+,.2f}", "")]
        table.add_row("each 5 min", *row, style="bold")
    return table


def _month_table(comparison: Comparison) -> Table:
    """What each policy gained over always running in each month, USD of the fleet."""
    months = sorted({day[:7] for line in comparison.lines for day in line.result.daily_usd})
    table = _table("to always-on, USD", *(line.policy for line in comparison.lines))
    for month in months:
        sums = [
            sum(usd for day, usd in line.result.daily_usd.items() if day.startswith(month))
            for line in comparison.lines
        ]
        table.add_row(month, *(f"{usd:+,.2f}" for usd in sums))
    return table


def _class_table(comparison: Comparison) -> Table:
    """Each model: what could be gained, USD a machine, and what share of it each policy reached."""
    names = [line.policy for line in comparison.lines if line.policy != CLAIRVOYANT]
    table = _table("model", "machines", "J/TH", "K USD", "clairvoyant USD", *names)
    for each in comparison.classes:
        found = {line.policy: line for line in each.lines}
        best: Line = found[CLAIRVOYANT]
        table.add_row(
            each.lot.model,
            str(each.lot.count),
            number(each.lot.efficiency_j_per_th, 1),
            number(each.switching_cost_usd, 3),
            number(best.result.gain_usd / each.lot.count, 2, sign=True),
            *(_percent(found[name].share) for name in names),
        )
    return table
