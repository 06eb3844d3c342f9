"""The plain-terminal picture of a site: a table of all machines and the totals under it, or the same as data."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from rich.console import Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from agent import economics
from agent.appraisal import Terms
from agent.market.quote import Market
from agent.policy import Action
from agent.view import MachineView, Picture, SiteTotals, totals
from drivers.reading import PowerSource, RunState

STATE_STYLE = {
    RunState.MINING: "green",
    RunState.RAMPING: "cyan",
    RunState.ASLEEP: "blue",
    RunState.STOPPED: "red",
    RunState.UNKNOWN: "yellow",
}
ACTION_STYLE = {
    Action.RUN: "green",
    Action.CURTAIL: "bold red",
    Action.RESTORE: "bold cyan",
    Action.STAY_ASLEEP: "blue",
    Action.HOLD: "yellow",
}
_UNKNOWN = "-"


def as_data(picture: Picture, *, notes: Sequence[str] = ()) -> dict[str, Any]:
    """The picture as plain data for `--json`: market, machines worst margin first, totals."""
    return {
        "at": picture.market.at.isoformat(),
        "market": market_as_data(picture.market, picture.terms),
        "machines": [view_as_data(view) for view in picture.views],
        "totals": asdict(totals(picture.views)),
        "notes": list(notes),
    }


def market_as_data(market: Market, terms: Terms) -> dict[str, Any]:
    """Prices with their sources and what follows from them alone."""
    hashprice, power = market.hashprice, market.power
    return {
        "hashprice_usd_per_ph_day": market.hashprice_usd_per_ph_day,
        "hashprice_source": hashprice and hashprice.source,
        "difficulty": hashprice and hashprice.difficulty,
        "height": hashprice and hashprice.height,
        "fees_btc": hashprice and hashprice.fees_btc,
        "btc_usd": hashprice and hashprice.btc_usd,
        "price_usd_per_kwh": market.price_usd_per_kwh,
        "price_source": power and power.source,
        "breakeven_efficiency_j_per_th": breakeven_efficiency(market, terms),
        "days_to_halving": hashprice and economics.days_to_halving(hashprice.height + 1),
    }


def breakeven_efficiency(market: Market, terms: Terms) -> float | None:
    """J/TH above which a machine loses money at these prices and terms."""
    return economics.breakeven_efficiency_j_per_th(
        hashprice_usd_per_ph_day=market.hashprice_usd_per_ph_day,
        price_usd_per_kwh=market.price_usd_per_kwh,
        fee=terms.fee,
        reject=terms.reject,
        overhead=terms.overhead,
    )


def view_as_data(view: MachineView) -> dict[str, Any]:
    """One machine as plain data; times as ISO-8601 UTC."""
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in asdict(view).items()
    }


def draw(
    picture: Picture, *, notes: Sequence[str] = (), rows: int | None = None, width: int | None = None
) -> RenderableType:
    """The whole picture for a terminal of `width` columns; `rows` limits the table to the worst machines and says how
    many are left."""
    shown = picture.views[:rows]
    hidden = len(picture.views) - len(shown)
    return Group(
        *header_lines(picture.market, picture.terms),
        fleet_table(shown, width),
        *([Text(f"... and {hidden} machines with better margins", style="dim")] if hidden else []),
        *total_lines(totals(picture.views)),
        *(Text(note, style="yellow") for note in notes),
    )


def header_lines(market: Market, terms: Terms) -> list[Text]:
    """Prices with their sources, and the efficiency that they break even at."""
    hashprice, price = market.hashprice_usd_per_ph_day, market.price_usd_per_kwh
    first = Text.assemble(
        ("hashprice ", "bold"),
        f"{number(hashprice, 2)} USD/PH/day ({'unknown' if market.hashprice is None else market.hashprice.source})",
        ("   power ", "bold"),
        f"{number(price, 4)} USD/kWh ({'unknown' if market.power is None else market.power.source})",
        ("   break-even ", "bold"),
        f"{number(breakeven_efficiency(market, terms), 1)} J/TH",
    )
    quote = market.hashprice
    if quote is None:
        return [first]
    return [
        first,
        Text(
            f"from difficulty {quote.difficulty / 1e12:.2f}T, height {quote.height}, fees {quote.fees_btc:g} BTC/block,"
            f" BTC ${quote.btc_usd:,.0f}; {economics.days_to_halving(quote.height + 1):.0f} days to the halving",
            style="dim",
        ),
    ]


COLUMNS: tuple[tuple[str, JustifyMethod], ...] = (
    ("machine", "left"),
    ("model", "left"),
    ("state", "left"),
    ("TH/s", "right"),
    ("W", "right"),
    ("W from", "left"),
    ("J/TH", "right"),
    ("revenue", "right"),
    ("cost", "right"),
    ("margin", "right"),
    ("strike", "right"),
    ("recommendation", "left"),
)
"""Headings of the fleet table and how their cells are set. Money is USD/day, strike USD/kWh."""
_FIRST_TO_GO = ("W from", "revenue", "cost", "strike", "J/TH", "model", "TH/s", "W")
_GAP = 2


def fleet_table(views: Sequence[MachineView], width: int | None = None) -> Table:
    """All machines, in the order given; in a narrow terminal whole columns go, the least needed first."""
    rows = [cells(view) for view in views]
    shown = _fitting(rows, width)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, _GAP, 0, 0))
    for index in shown:
        heading, justify = COLUMNS[index]
        table.add_column(heading, justify=justify, no_wrap=True)
    for row in rows:
        table.add_row(*(row[index] for index in shown))
    return table


def _fitting(rows: Sequence[Sequence[Text]], width: int | None) -> list[int]:
    """The columns to show, by index."""
    widths = {
        heading: _GAP + max(len(heading), *(row[index].cell_len for row in rows), 0)
        for index, (heading, _) in enumerate(COLUMNS)
    }
    for heading in _FIRST_TO_GO:
        if width is None or sum(widths.values()) <= width + _GAP:
            break
        del widths[heading]
    return [index for index, (heading, _) in enumerate(COLUMNS) if heading in widths]


def cells(view: MachineView) -> list[Text]:
    """One machine's row of the fleet table."""
    margin = view.margin_usd_per_day
    values = (
        (view.address, ""),
        (view.model, ""),
        (view.run_state.value, STATE_STYLE[view.run_state]),
        (number(view.hashrate_ths, 1), ""),
        (number(view.power_w, 0), ""),
        (_UNKNOWN if view.power_source is PowerSource.UNKNOWN else view.power_source.value, "dim"),
        (number(view.efficiency_j_per_th, 1), ""),
        (number(view.revenue_usd_per_day, 2), ""),
        (number(view.energy_cost_usd_per_day, 2), ""),
        (number(margin, 2, sign=True), "" if margin is None else "red" if margin < 0 else "green"),
        (number(view.strike_price_usd_per_kwh, 4), ""),
        (view.recommendation, ACTION_STYLE[view.action]),
    )
    return [
        Text(text, style, justify=justify)
        for (text, style), (_, justify) in zip(values, COLUMNS, strict=True)
    ]


def total_lines(site: SiteTotals) -> list[Text]:
    """What the site does, loses, and could save."""
    states = ", ".join(f"{count} {state}" for state, count in sorted(site.by_state.items()))
    curtail = f"{site.to_curtail} machines, {site.to_curtail_kw:.1f} kW to curtail"
    if site.to_curtail_marginal_kw:
        curtail += f" ({site.to_curtail_marginal_kw:.1f} kW of it marginal)"
    return [
        Text.assemble(
            ("site ", "bold"),
            f"{site.machines} machines ({states})   {site.power_kw:.1f} kW   {site.hashrate_phs:.3f} PH/s   "
            f"margin {site.margin_usd_per_day:+.2f} USD/day",
        ),
        Text.assemble(
            ("under break-even ", "bold"),
            (f"{site.under_breakeven} machines lose {site.lost_usd_per_day:.2f} USD/day", "red"),
            f"   {curtail}, saves {site.avoidable_usd_per_day:.2f} USD/day",
        ),
    ]


def number(value: float | None, decimals: int, *, sign: bool = False) -> str:
    """A number for a person; unknown is a dash, never a zero."""
    if value is None:
        return _UNKNOWN
    return f"{value:+.{decimals}f}" if sign else f"{value:.{decimals}f}"
