"""Prices and where they come from; and how much of the site lies under them: the merit order."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, ClassVar

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.widget import Widget
from textual.widgets import Static

from agent import economics
from agent.explain import printable
from agent.lots import Lot
from agent.market.quote import PriceState
from agent.summary import breakeven_efficiency, counted, number, span
from agent.whatif import Step, merit_order, prices_of
from tui.bindings import MARKET, bindings
from tui.charts import bar, sparkline
from tui.glyphs import Glyphs, glyphs
from tui.screens.base import SiteScreen
from tui.source import AgentState, SiteState

STATE_STYLES = {
    "live": "green",
    "fixed": "green",
    "held": "yellow",
    "quarantined": "bold red",
    "missing": "bold red",
}
TERA = 1e12
MOST_STEPS = 40


class MarketScreen(SiteScreen):
    """One page."""

    WHERE = MARKET
    BINDINGS: ClassVar[list[BindingType]] = [*bindings(MARKET)]

    def __init__(self) -> None:
        super().__init__()
        self._body = Static(id="market")
        self._glyphs = glyphs()
        self._asked: object = None
        self._lots: tuple[Sequence[Lot], int] | None = None

    def content(self) -> Iterable[Widget]:
        """It is scrolled."""
        yield VerticalScroll(self._body, id="page")

    def on_mount(self) -> None:
        """Keys scroll the page."""
        self.query_one("#page").focus()

    def on_resize(self) -> None:
        """Bars are as wide as there is room."""
        self.refresh_site()

    def draw(self, state: SiteState, agent: AgentState) -> None:
        """All of it; the machines are asked for once for each picture."""
        if self._asked is not state.snapshot.picture:
            self._asked = state.snapshot.picture
            self.load(self._ask)
        width = max(40, self.size.width - 4)
        self._body.update(Group(*page(state, self._lots, self._glyphs, width, self.site.source.clock())))

    async def _ask(self) -> None:
        await self.fetch(self.site.source.lots(), self._take)

    def _take(self, lots: tuple[Sequence[Lot], int]) -> None:
        self._lots = lots


def page(
    state: SiteState, lots: tuple[Sequence[Lot], int] | None, shown: Glyphs, width: int, now: datetime
) -> Iterator[RenderableType]:
    """The page, part by part."""
    yield from _efficiency(state, shown)
    prices = state.snapshot.prices
    told_at = prices.get("at")
    grown = now - datetime.fromisoformat(told_at) if told_at else timedelta()
    yield Text("\nnumbers", "bold underline")
    yield _figures(prices, grown, stale=grown > state.snapshot.validity)
    if prices.get("sources"):
        yield Text("\nsources", "bold underline")
        yield _sources(prices["sources"], stale=grown > state.snapshot.validity)
    if lots is not None:
        yield from _merit(state, *lots, shown, width)


def _efficiency(state: SiteState, shown: Glyphs) -> Iterator[Text]:
    """Break-even efficiency now, over the day, and after the next retarget."""
    market, terms = state.snapshot.picture.market, state.snapshot.picture.terms
    now = breakeven_efficiency(market, terms)
    yield Text.assemble(
        ("break-even efficiency ", "bold"),
        f"{number(now, 1)} J/TH now   ",
        ("last day ", "dim"),
        (sparkline(state.history.breakeven_efficiency_j_per_th, shown), "cyan"),
    )
    forecast = state.snapshot.prices.get("forecast")
    if forecast is not None:
        then = economics.breakeven_efficiency_j_per_th(
            hashprice_usd_per_ph_day=forecast["hashprice_usd_per_ph_day"],
            price_usd_per_kwh=market.price_usd_per_kwh,
            fee=terms.fee,
            reject=terms.reject,
            overhead=terms.overhead,
        )
        yield Text(
            f"{number(then, 1)} J/TH after the next retarget, in {forecast['blocks']} blocks: "
            f"{forecast['hashprice_usd_per_ph_day']:.2f} USD/PH/day ({forecast['source']})"
        )
    quote = market.hashprice
    if quote is not None:
        yield Text(f"{economics.days_to_halving(quote.height + 1):.0f} days to the halving", "dim")


def _figures(prices: Mapping[str, Any], grown: timedelta, *, stale: bool) -> Table:
    """`grown` is how long ago all of this was written down; what is stale is not acted on."""
    table = _table("number", "value", "state", "acted on", "age", "source", "note")
    for each in prices.get("figures", ()):
        value = "-" if each["value"] is None else _value(each["value"])
        table.add_row(
            each["name"], value, _state(each["state"], stale=stale), _acted(each["automatic"] and not stale),
            _age(each["age_s"], grown),
            printable(each["source"] or "-"), printable(each["detail"]),
        )  # fmt: skip
    power = prices.get("power")
    if power is not None:
        table.add_row(
            "price_usd_per_kwh", f"{power['price_usd_per_kwh']:.5f}", _state(power["state"], stale=stale),
            _acted(power["automatic"] and not stale), _age(power["age_s"], grown), printable(power["source"]),
            "" if power["market_usd_per_kwh"] is None else f"the market says {power['market_usd_per_kwh']:.5f}",
        )  # fmt: skip
    return table


def _sources(sources: Sequence[Mapping[str, Any]], *, stale: bool) -> Table:
    """As they were when the agent last told of them, which may be long ago."""
    table = _table("source", "state", "answered, UTC", "what")
    for each in sources:
        failure, answered_at = each["failure"], each["answered_at"]
        if failure is not None:
            state = Text("failing", "bold red")
        elif answered_at is None:
            state = Text("not asked yet", "dim")
        else:
            state = Text("answered then", "yellow") if stale else Text("answers", "green")
        table.add_row(
            printable(each["name"]),
            state,
            "never" if answered_at is None else f"{datetime.fromisoformat(answered_at):%d %b %H:%M:%S}",
            printable(each["values"] if failure is None else failure),
        )
    return table


def _merit(
    state: SiteState, lots: Sequence[Lot], unknown: int, shown: Glyphs, width: int
) -> Iterator[RenderableType]:
    prices = prices_of(state.snapshot.picture.market)
    yield Text("\nmerit order: kW by what their hashes cost, against what hashes pay", "bold underline")
    if prices is None or not lots:
        yield Text("prices or machines are not known well enough", "yellow")
        return
    steps = merit_order(lots, prices)
    total = steps[-1].cumulative_kw
    under = sum(step.power_kw for step in steps if not step.earns)
    share = f"{under / total:.0%}" if total else "-"
    yield Text(
        f"{under:,.1f} of {total:,.1f} kW ({share}) under water", "bold red" if under else "bold green"
    )
    room = max(10, width - 66)
    most = max(step.power_kw for step in steps)
    yield Text(f"{'model':<20} {'J/TH':>5}  {'hashcost USD/PH/day':>19}  {'kW':>9}", "dim", no_wrap=True)
    drawn = False
    for step in steps[:MOST_STEPS]:
        if not step.earns and not drawn:
            drawn = True
            yield _waterline(prices.hashprice_usd_per_ph_day, shown, width)
        yield _step(step, most, room, shown)
    if not drawn:
        yield _waterline(prices.hashprice_usd_per_ph_day, shown, width)
    if len(steps) > MOST_STEPS:
        yield Text(f"... and {len(steps) - MOST_STEPS} more steps", "dim")
    if unknown:
        yield Text(
            f"without {counted(unknown, 'machine')} of which it is not known what running does", "yellow"
        )


def _waterline(hashprice: float, shown: Glyphs, width: int) -> Text:
    label = f" hashprice {hashprice:.2f} USD/PH/day "
    return Text(
        shown.line * 4 + label + shown.line * max(0, width - len(label) - 4), "bold cyan", no_wrap=True
    )


def _step(step: Step, most: float, room: int, shown: Glyphs) -> Text:
    return Text.assemble(
        f"{printable(step.model)[:20]:<20} {step.efficiency_j_per_th:5.1f}  {step.hashcost_usd_per_ph_day:19.2f}  "
        f"{step.power_kw:9,.1f} ",
        ("earns " if step.earns else "loses ", "green" if step.earns else "red"),
        (bar(step.power_kw / most if most else 0.0, room, shown), "green" if step.earns else "red"),
        no_wrap=True,
    )


def _value(value: float) -> str:
    return f"{value / TERA:.2f}T" if value >= TERA else f"{value:,.10g}"


def _state(name: str, *, stale: bool) -> Text:
    if stale and name == PriceState.LIVE:
        return Text("live then", "yellow")
    return Text(name, STATE_STYLES.get(name, ""))


def _acted(automatic: bool) -> Text:
    return Text("yes", "green") if automatic else Text("no", "yellow")


def _age(age_s: float | None, grown: timedelta) -> str:
    return "-" if age_s is None else span(timedelta(seconds=age_s) + grown)


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for heading in headings:
        wide = heading in {"what", "note"}
        least = {"number": 18, "value": 10, "state": 7, "acted on": 8, "age": 5}.get(heading)
        table.add_column(heading, no_wrap=not wide, min_width=least)
    return table
