"""`hashcost whatif`: reads a site or an inventory, and prints scenarios, models and the merit order, or data."""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from agent.config import Config
from agent.errors import UsageError
from agent.lots import Lot, lots_of_csv, lots_of_views
from agent.status import PLAIN_WIDTH
from agent.store import Reader, StoreError
from agent.summary import number
from agent.whatif import ModelLine, Outcome, Prices, Step, assess, grid, merit_order, model_lines, prices_of

MOST_SCENARIOS = 200
_BAR = 40
_LIMITS = {
    "btc_usd": (1.0, 1e8, "USD for a bitcoin"),
    "difficulty": (1e12, 1e17, "the network's difficulty; 149.3 trillion is 149.3T"),
    "fees_btc": (0.0, 50.0, "BTC of fees in a block"),
    "price_usd_per_kwh": (-0.5, 5.0, "USD/kWh; 6 cents are 0.06"),
}
_USUAL: Mapping[str, Sequence[str]] = {
    "btc_usd": ("-30%", "-20%", "-10%", "+10%", "+20%"),
    "difficulty": ("+5%", "+10%", "+20%"),
    "fees_btc": ("0",),
    "price_usd_per_kwh": ("-20%", "-10%", "+10%", "+20%"),
}
"""The scenarios that are shown when none is asked for, one change each."""
_LABELS = {"btc_usd": "BTC", "difficulty": "difficulty", "fees_btc": "fees", "price_usd_per_kwh": "power"}


class WhatIfError(UsageError):
    """A scenario that makes no sense, or nothing to reckon it with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked: changes as they were typed (`80000`, `-20%`, `155T`) by field of `Prices`."""

    changes: Mapping[str, Sequence[str]]
    halving: bool = False
    growth_per_month: float = 0.0
    machine_price_usd_per_ths: float | None = None
    inventory: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Base:
    """The machines and the prices now, and where they come from, in words."""

    lots: Sequence[Lot]
    prices: Prices
    source: str
    at: datetime | None
    unknown: int = 0


def print_whatif(question: Question, config: Config, database: Path, *, as_json: bool) -> None:
    """Print what the scenarios do to the site. Raises `UsageError` where nothing is known of it."""
    base = _base(question, config, database)
    now, outcomes = _assessed(question, base)
    models = model_lines(base.lots, base.prices, growth_per_month=question.growth_per_month)
    steps = merit_order(base.lots, base.prices)
    if as_json:
        data = _as_data(base, now, outcomes, models, steps)
        sys.stdout.write(json.dumps(data) + "\n")
        return
    console = Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)
    console.print(_draw(base, now, outcomes, models, steps))


def assess_site(question: Question, config: Config, database: Path) -> tuple[Outcome, list[Outcome]]:
    """What a site does now and in each scenario. Raises `UsageError` where nothing is known of it."""
    return _assessed(question, _base(question, config, database))


def _assessed(question: Question, base: _Base) -> tuple[Outcome, list[Outcome]]:
    scenarios = _scenarios(question, base.prices)
    return assess(base.lots, base.prices), [assess(base.lots, prices, name) for name, prices in scenarios]


# -- what there is to reckon with --------------------------------------------------------------------------


def _base(question: Question, config: Config, database: Path) -> _Base:
    machine_price = question.machine_price_usd_per_ths or config.economics.machine_price_usd_per_ths
    if question.inventory is None:
        base = _of_database(database)
    else:
        lots = lots_of_csv(question.inventory, config.terms_book().site)
        prices, source, at = _prices(config, database)
        base = _Base(lots=lots, prices=prices, source=source, at=at)
    lots = [_priced(lot, machine_price) for lot in base.lots]
    return replace(base, lots=lots)


def _priced(lot: Lot, machine_price_usd_per_ths: float | None) -> Lot:
    return replace(lot, terms=replace(lot.terms, machine_price_usd_per_ths=machine_price_usd_per_ths))


def _of_database(database: Path) -> _Base:
    with Reader(database) as reader:
        conditions, at = reader.conditions(), reader.last_round_at()
        prices = None if conditions is None else prices_of(conditions[0])
        if conditions is None or prices is None:
            raise WhatIfError(
                f"{database}: holds no prices yet; is `hashcost run` running? --inventory FILE reckons without it"
            )
        lots, unknown = lots_of_views(reader.latest(), conditions[0], reader.terms())
    if not lots:
        raise WhatIfError(f"{database}: of no machine is it known what it does; --inventory FILE names some")
    return _Base(
        lots=lots, prices=prices, source=f"the agent's last round, {database}", at=at, unknown=unknown
    )


def _prices(config: Config, database: Path) -> tuple[Prices, str, datetime | None]:
    """The agent's prices where there is one, else the fixed numbers of the configuration."""
    try:
        with Reader(database) as reader:
            conditions, at = reader.conditions(), reader.last_round_at()
        prices = None if conditions is None else prices_of(conditions[0])
        if prices is not None:
            return prices, f"the agent's last round, {database}", at
    except StoreError:  # there need not be an agent
        pass
    price = config.power.terms_of_contract().marginal_usd_per_kwh(config.power.price_usd_per_kwh)
    prices = Prices(**config.market.fixed(), price_usd_per_kwh=price)
    return prices, "the fixed numbers of the configuration", None


# -- scenarios ---------------------------------------------------------------------------------------------


def _scenarios(question: Question, now: Prices) -> list[tuple[str, Prices]]:
    """What was asked for, every combination; else the usual ones. Raises `WhatIfError`."""
    if any(question.changes.values()):
        asked = {field: _values(field, texts, now) for field, texts in question.changes.items()}
        if math.prod(len(values) or 1 for values in asked.values()) > MOST_SCENARIOS:
            raise WhatIfError(f"more than {MOST_SCENARIOS} combinations; ask for fewer at a time")
        found = grid(now, asked)
    elif question.halving:
        found = [("", now)]
    else:
        single = [grid(now, {field: _values(field, texts, now)}) for field, texts in _USUAL.items()]
        return [*(each for several in single for each in several), ("halving", now.after_halving())]
    if not question.halving:
        return found
    return [(f"{name}, halving" if name else "halving", prices.after_halving()) for name, prices in found]


def _values(field: str, texts: Sequence[str], now: Prices) -> list[tuple[str, float]]:
    return [(f"{_LABELS[field]} {text}", _value(field, text, now)) for text in texts]


def _value(field: str, text: str, now: Prices) -> float:
    least, most, meaning = _LIMITS[field]
    before: float = getattr(now, field)
    plain = text.strip().replace(",", "").removeprefix("$")
    try:
        if plain.endswith("%"):
            value = before + abs(before) * float(plain.removesuffix("%")) / 100
        elif field == "difficulty" and plain.upper().endswith("T"):
            value = float(plain[:-1]) * 1e12
        else:
            value = float(plain)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise WhatIfError(f"{_LABELS[field]} {text!r}: write {meaning}, or a change such as +10%")
    return value


# -- as data, and for a person -------------------------------------------------------------------------------


def _as_data(
    base: _Base, now: Outcome, outcomes: Sequence[Outcome], models: Sequence[ModelLine], steps: Sequence[Step]
) -> dict[str, Any]:
    return {
        "at": base.at and base.at.isoformat(),
        "source": base.source,
        "unknown_machines": base.unknown,
        "days_to_halving": base.prices.days_to_halving,
        "now": now.as_data(now),
        "scenarios": [outcome.as_data(now) for outcome in outcomes],
        "models": [asdict(line) for line in models],
        "merit_order": [asdict(step) for step in steps],
    }


def _draw(
    base: _Base, now: Outcome, outcomes: Sequence[Outcome], models: Sequence[ModelLine], steps: Sequence[Step]
) -> RenderableType:
    return Group(
        *_head(base, now),
        Text(),
        scenario_table(now, outcomes),
        Text(),
        model_table(models),
        Text(),
        *merit_chart(steps, now.hashprice_usd_per_ph_day),
    )


def _head(base: _Base, now: Outcome) -> list[Text]:
    prices = base.prices
    when = "" if base.at is None else f" of {base.at:%Y-%m-%d %H:%M} UTC"
    lines = [
        Text(
            f"hashprice {now.hashprice_usd_per_ph_day:.2f} USD/PH/day, power {prices.price_usd_per_kwh:.4f} USD/kWh; "
            f"{now.machines} machines, {now.power_kw:.1f} kW while all run"
        ),
        Text(
            f"from difficulty {prices.difficulty / 1e12:.2f}T, fees {prices.fees_btc:g} BTC/block, "
            f"BTC ${prices.btc_usd:,.0f}; {prices.days_to_halving:.0f} days to the halving; "
            f"prices: {base.source}{when}",
            style="dim",
        ),
    ]
    if base.unknown:
        lines.append(Text(f"{base.unknown} machines are left out: what they do is not known", style="yellow"))
    return lines


def _empty_table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index else "left", no_wrap=True)
    return table


def scenario_table(now: Outcome, outcomes: Sequence[Outcome]) -> Table:
    """A row for each scenario beside now. Money is USD/day."""
    table = _empty_table(
        "scenario", "hashprice", "USD/kWh", "under break-even", "kW", "all running", "to now", "they asleep", "to now",
        "sleep saves",
    )  # fmt: skip
    for outcome in (now, *outcomes):
        is_now = outcome is now
        table.add_row(
            outcome.name,
            number(outcome.hashprice_usd_per_ph_day, 2),
            number(outcome.prices.price_usd_per_kwh, 4),
            str(outcome.under_breakeven),
            number(outcome.under_kw, 1),
            number(outcome.running_usd_per_day, 2, sign=True),
            "" if is_now else number(outcome.running_usd_per_day - now.running_usd_per_day, 2, sign=True),
            number(outcome.curtailed_usd_per_day, 2, sign=True),
            "" if is_now else number(outcome.curtailed_usd_per_day - now.curtailed_usd_per_day, 2, sign=True),
            number(outcome.saved_usd_per_day, 2),
            style="bold" if is_now else "",
        )
    return table


def model_table(models: Sequence[ModelLine]) -> Table:
    """A row for each model, the least efficient first. Money is USD/day of one machine; days are from now."""
    table = _empty_table(
        "model", "machines", "kW", "J/TH", "hashcost", "margin", "after halving", "strike", "break-even", "at BTC",
        "at difficulty", "under in days", "payback days",
    )  # fmt: skip
    for line in models:
        table.add_row(
            line.model,
            str(line.machines),
            number(line.power_kw, 1),
            number(line.efficiency_j_per_th, 1),
            number(line.hashcost_usd_per_ph_day, 2),
            Text(number(line.margin_usd_per_day, 2, sign=True), "red" if line.under_breakeven else "green"),
            number(line.margin_after_halving_usd_per_day, 2, sign=True),
            number(line.strike_price_usd_per_kwh, 4),
            number(line.breakeven_hashprice_usd_per_ph_day, 2),
            "-" if line.breakeven_btc_usd is None else f"${line.breakeven_btc_usd:,.0f}",
            "-" if line.breakeven_difficulty is None else f"{line.breakeven_difficulty / 1e12:.1f}T",
            "now" if line.under_in_days == 0 else number(line.under_in_days, 0),
            number(line.payback_days, 0),
        )
    return table


def merit_chart(steps: Sequence[Step], hashprice_usd_per_ph_day: float) -> list[Text]:
    """The merit order as bars of hashcost, cheapest first, with the hashprice as a line through them."""
    lines = [
        Text.assemble(
            ("merit order", "bold"),
            f"  USD/PH/day; the hashprice, {hashprice_usd_per_ph_day:.2f}, is the line |",
        )
    ]
    top = max([hashprice_usd_per_ph_day * 1.25, *(step.hashcost_usd_per_ph_day for step in steps)])
    mark = min(_BAR - 1, round(hashprice_usd_per_ph_day / top * _BAR))
    for step in steps:
        length = max(0, round(step.hashcost_usd_per_ph_day / top * _BAR))
        bar = ["█" if place < length else " " for place in range(_BAR)]
        bar[mark] = "|"
        lines.append(
            Text.assemble(
                f"{step.cumulative_kw:10.1f} kW  {step.hashcost_usd_per_ph_day:7.2f}  ",
                ("".join(bar), "green" if step.earns else "red"),
                f"  {step.machines} {step.model}, {step.efficiency_j_per_th:.1f} J/TH, {step.power_kw:.1f} kW",
            )
        )
    return lines
