"""The plain-terminal picture of a site: a table of all machines and the totals under it, or the same as data."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from rich.console import Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from agent import economics
from agent.appraisal import Terms
from agent.decisions import DecisionRecord
from agent.market.quote import Market
from agent.policy import Action
from agent.rows import Event
from agent.view import MachineView, Picture, SiteTotals, totals
from drivers.reading import MachineId, PowerSource, RunState

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
_MOST_DOUBTS = 5


def as_data(
    picture: Picture,
    *,
    notes: Sequence[str] = (),
    decisions: Mapping[MachineId, DecisionRecord] | None = None,
) -> dict[str, Any]:
    """The picture as plain data for `--json`: market, machines worst margin first, with what the agent decided of each
    where that is known, totals."""
    machines = [view_as_data(view) for view in picture.views]
    if decisions is not None:
        for machine in machines:
            decided = decisions.get(machine["machine_id"])
            machine["decision"] = decided and decided.as_data()
    return {
        "at": picture.market.at.isoformat(),
        "market": market_as_data(picture.market, picture.terms),
        "machines": machines,
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
    columns = fitting(picture.views, width)
    shown = picture.views[:rows]
    return Group(
        *header_lines(picture.market, picture.terms),
        _table(shown, columns),
        *_rest_lines(picture.views[len(shown) :]),
        *_narrow_lines(columns),
        *total_lines(totals(picture.views)),
        *(Text(note, style="yellow") for note in notes),
    )


def _rest_lines(rest: Sequence[MachineView]) -> list[Text]:
    """How many machines the table leaves out; those without a margin are not among the better ones."""
    if not rest:
        return []
    unknown = sum(view.margin_usd_per_day is None for view in rest)
    return [
        Text(
            f"... and {len(rest)} more" + (f" ({unknown} of them without a margin)" if unknown else ""),
            style="dim",
        )
    ]


def doubt_lines(doubts: Sequence[Event], most: int = _MOST_DOUBTS) -> list[str]:
    """What a scan could not identify, tell apart or read: the first few, and how many more."""
    lines = [f"scan of {event.at:%H:%M} UTC: {event.kind}: {event.detail}" for event in doubts[:most]]
    more = len(doubts) - len(lines)
    return [*lines, f"... and {more} more doubts of that scan"] if more else lines


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


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the fleet table: its heading, how it is set, and a cell's text and style."""

    heading: str
    justify: JustifyMethod
    content: Callable[[MachineView], tuple[str, str]]

    def cell(self, view: MachineView) -> Text:
        """One machine's cell."""
        text, style = self.content(view)
        return Text(text, style, justify=self.justify)


def _margin(view: MachineView) -> tuple[str, str]:
    margin = view.margin_usd_per_day
    return number(margin, 2, sign=True), "" if margin is None else "red" if margin < 0 else "green"


def _source(view: MachineView) -> str:
    return _UNKNOWN if view.power_source is PowerSource.UNKNOWN else view.power_source.value


MACHINE = Column("machine", "left", lambda view: (view.address, ""))
MODEL = Column("model", "left", lambda view: (view.model, ""))
STATE = Column("state", "left", lambda view: (view.run_state.value, STATE_STYLE[view.run_state]))
HASHRATE = Column("TH/s", "right", lambda view: (number(view.hashrate_ths, 1), ""))
POWER = Column("W", "right", lambda view: (number(view.power_w, 0), ""))
POWER_SOURCE = Column("W from", "left", lambda view: (_source(view), "dim"))
EFFICIENCY = Column("J/TH", "right", lambda view: (number(view.efficiency_j_per_th, 1), ""))
REVENUE = Column("revenue", "right", lambda view: (number(view.revenue_usd_per_day, 2), ""))
COST = Column("cost", "right", lambda view: (number(view.energy_cost_usd_per_day, 2), ""))
MARGIN = Column("margin", "right", _margin)
STRIKE = Column("strike", "right", lambda view: (number(view.strike_price_usd_per_kwh, 4), ""))
RECOMMENDATION = Column(
    "recommendation", "left", lambda view: (view.recommendation, ACTION_STYLE[view.action])
)
COLUMNS = (
    MACHINE, MODEL, STATE, HASHRATE, POWER, POWER_SOURCE, EFFICIENCY, REVENUE, COST, MARGIN, STRIKE, RECOMMENDATION,
)  # fmt: skip
"""The fleet table. Money is USD/day, strike USD/kWh."""
_POWER_AND_SOURCE = Column("W", "right", lambda view: (f"{number(view.power_w, 0)} {_source(view)[0]}", ""))
_ACTION = Column("action", "left", lambda view: (view.action.value, ACTION_STYLE[view.action]))
_NARROWER: tuple[dict[Column, Column | None], ...] = (
    {POWER_SOURCE: None, POWER: _POWER_AND_SOURCE},
    {REVENUE: None},
    {COST: None},
    {STRIKE: None},
    {EFFICIENCY: None},
    {MODEL: None},
    {HASHRATE: None},
    {STATE: None},
    {RECOMMENDATION: _ACTION},
    {_POWER_AND_SOURCE: None},
)
"""What is given up, one after the other, until a table fits."""
_GAP = 2


def fleet_table(views: Sequence[MachineView], width: int | None = None) -> Table:
    """All machines, in the order given; in a narrow terminal whole columns go, the least needed first."""
    return _table(views, fitting(views, width))


def _table(views: Iterable[MachineView], columns: Sequence[Column]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, _GAP, 0, 0))
    for column in columns:
        table.add_column(column.heading, justify=column.justify, no_wrap=True)
    for view in views:
        table.add_row(*(column.cell(view) for column in columns))
    return table


def fitting(views: Sequence[MachineView], width: int | None) -> list[Column]:
    """The columns that fit."""
    shown: list[Column] = list(COLUMNS)
    if width is None:
        return shown
    widths = {column: _width(column, views) for column in (*COLUMNS, _POWER_AND_SOURCE, _ACTION)}
    for step in _NARROWER:
        if sum(widths[column] for column in shown) <= width + _GAP:
            break
        changed = (step.get(column, column) for column in shown)
        shown = [column for column in changed if column is not None]
    return shown


def _width(column: Column, views: Sequence[MachineView]) -> int:
    return _GAP + max(len(column.heading), *(column.cell(view).cell_len for view in views), 0)


def _narrow_lines(columns: Sequence[Column]) -> list[Text]:
    """What a narrow table abbreviates and what it hides."""
    lines = []
    shown = {column.heading for column in columns}
    if _POWER_AND_SOURCE in columns:
        shown.add(POWER_SOURCE.heading)
        lines.append("W: m metered, r reported, c custom, n nameplate")
    hidden = [column.heading for column in COLUMNS if column.heading not in shown]
    if hidden:
        lines.append(f"hidden on this width: {', '.join(hidden)}")
    return [Text("; ".join(lines), style="dim")] if lines else []


def total_lines(site: SiteTotals) -> list[Text]:
    """What the site does, loses, and could save."""
    states = ", ".join(f"{count} {state}" for state, count in sorted(site.by_state.items()))
    curtail = f"{site.to_curtail} machines, {site.to_curtail_kw:.1f} kW to curtail"
    if site.to_curtail_marginal_kw:
        curtail += f" ({site.to_curtail_marginal_kw:.1f} kW of it marginal)"
    return [
        Text.assemble(
            ("site ", "bold"),
            f"{site.machines} machines ({states})   {_site_sums(site)}",
        ),
        Text.assemble(
            ("under break-even ", "bold"),
            (f"{site.under_breakeven} machines lose {site.lost_usd_per_day:.2f} USD/day", "red"),
            f"   {curtail}, saves {site.avoidable_usd_per_day:.2f} USD/day",
        ),
    ]


def _site_sums(site: SiteTotals) -> str:
    if site.machines and site.by_state.get(RunState.UNKNOWN.value) == site.machines:
        return "what it draws and earns is unknown"
    return f"{site.power_kw:.1f} kW   {site.hashrate_phs:.3f} PH/s   margin {site.margin_usd_per_day:+.2f} USD/day"


def number(value: float | None, decimals: int, *, sign: bool = False) -> str:
    """A number for a person; unknown is a dash, never a zero."""
    if value is None:
        return _UNKNOWN
    return f"{value:+.{decimals}f}" if sign else f"{value:.{decimals}f}"


def counted(count: int, what: str) -> str:
    """So many of something, or one."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def span(time: timedelta) -> str:
    """A length of time in the largest unit that still tells something; nothing is shorter than none."""
    seconds = max(0, int(time.total_seconds()))
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h"
