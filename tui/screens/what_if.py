"""What other prices would do to this site, beside what is now."""

from collections.abc import Iterable, Sequence
from typing import ClassVar

from rich.console import Group
from rich.table import Table
from rich.text import Text
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.widget import Widget
from textual.widgets import Static

from agent.lots import Lot
from agent.summary import counted
from agent.whatif import Outcome, Prices, assess, model_lines, prices_of
from tui.bindings import WHAT_IF, bindings
from tui.screens.base import SiteScreen
from tui.source import AgentState, SiteState
from tui.widgets.slider import Slider

TERA = 1e12
LEAST = 0.01
"""No scenario is about a bitcoin, or a difficulty, of nothing."""
PRESET_BTC_USD = (83_000.0, 60_000.0, 120_000.0)


class WhatIfScreen(SiteScreen):
    """Four sliders, and two columns: now, and there."""

    WHERE = WHAT_IF
    BINDINGS: ClassVar[list[BindingType]] = [*bindings(WHAT_IF)]

    def __init__(self) -> None:
        super().__init__()
        self._sliders = {
            "btc_usd": Slider("BTC price", "USD", id="btc", decimals=0, lowest_share=LEAST),
            "difficulty": Slider("difficulty", "T", id="difficulty", decimals=2, lowest_share=LEAST),
            "fees_btc": Slider("fees", "BTC/block", id="fees", decimals=3, lowest_step=0.001),
            "price_usd_per_kwh": Slider(
                "power price", "USD/kWh", id="power", decimals=4, lowest_step=0.0005, lowest=-0.5
            ),
        }
        self._body = Static(id="outcome")
        self._asked: object = None
        self._lots: tuple[Sequence[Lot], int] = ((), 0)
        self._preset: str | None = None
        self._halved = False
        self._drawn: object = None

    def content(self) -> Iterable[Widget]:
        """Sliders above, the outcome below."""
        yield from self._sliders.values()
        yield VerticalScroll(self._body, id="page")

    def on_mount(self) -> None:
        """The first slider has the keys; Tab goes to the next."""
        self._sliders["btc_usd"].focus()

    def draw(self, state: SiteState, agent: AgentState) -> None:
        """What is now, and what would be."""
        if self._asked is not state.snapshot.picture:
            self._asked = state.snapshot.picture
            self.load(self._ask)
        now = prices_of(state.snapshot.picture.market)
        if now is None:
            self._drawn = None
            self._body.update("a price is not known now, so nothing can be compared with it")
            return
        for name, slider in self._sliders.items():
            slider.begin(getattr(now, name) / (TERA if name == "difficulty" else 1.0))
        there = self._scenario(now)
        lots, unknown = self._lots
        what = (self._lots, now, there, self._preset)
        if what == self._drawn:
            return
        self._drawn = what
        note = (
            Text(
                f"without {counted(unknown, 'machine')} of which it is not known what running does", "yellow"
            )
            if unknown
            else Text()
        )
        name = self._preset or "there"
        self._body.update(
            Group(compared(assess(lots, now), assess(lots, there, name)), note, by_model(lots, now, there))
        )

    def _scenario(self, now: Prices) -> Prices:
        changes = {
            name: slider.value for name, slider in self._sliders.items() if slider.value != slider.began
        }
        if "difficulty" in changes:
            changes["difficulty"] *= TERA
        there = now.changed(**changes)
        return there.after_halving() if self._halved else there

    async def _ask(self) -> None:
        await self.fetch(self.site.source.lots(), self._take)

    def _take(self, lots: tuple[Sequence[Lot], int]) -> None:
        self._lots = lots

    def on_slider_moved(self) -> None:
        """Somebody moved one."""
        self._preset = None
        self.refresh_site()

    def action_reset(self) -> None:
        """All as it is now."""
        self._preset, self._halved = None, False
        for slider in self._sliders.values():
            slider.set(slider.began)
        self.refresh_site()

    def action_preset(self) -> None:
        """The next of the scenarios that are asked for most."""
        names = list(self._presets())
        place = names.index(self._preset) + 1 if self._preset in names else 0
        self.action_reset()
        if place < len(names):
            name = names[place]
            self._preset = name
            changes = self._presets()[name]
            self._halved = not changes
            for which, value in changes.items():
                self._sliders[which].set(value)
        self.refresh_site()

    def _presets(self) -> dict[str, dict[str, float]]:
        presets: dict[str, dict[str, float]] = {
            f"BTC ${price:,.0f}": {"btc_usd": price} for price in PRESET_BTC_USD
        }
        state = self.site.state
        forecast = None if state is None else state.snapshot.prices.get("forecast")
        if forecast is not None:
            presets["next retarget"] = {"difficulty": forecast["difficulty"] / TERA}
        return {**presets, "next halving": {}}


def compared(now: Outcome, there: Outcome) -> Table:
    """The two side by side, and the difference."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
    for heading in ("", "now", there.name, "difference"):
        table.add_column(heading, justify="left" if not heading else "right")
    rows: tuple[tuple[str, float, float, str], ...] = (
        ("hashprice, USD/PH/day", now.hashprice_usd_per_ph_day, there.hashprice_usd_per_ph_day, ".2f"),
        ("machines under break-even", now.under_breakeven, there.under_breakeven, ".0f"),
        ("kW under break-even", now.under_kw, there.under_kw, ",.1f"),
        ("USD/day if all of it runs", now.running_usd_per_day, there.running_usd_per_day, ",.2f"),
        ("USD/day if those sleep", now.curtailed_usd_per_day, there.curtailed_usd_per_day, ",.2f"),
    )
    for label, one, other, form in rows:
        change = other - one
        table.add_row(
            label, f"{one:{form}}", f"{other:{form}}", f"{change:+{form}}" if abs(change) > 5e-5 else ""
        )
    return table


def by_model(lots: Sequence[Lot], now: Prices, there: Prices) -> Table:
    """Each model now and there, the least efficient first."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
    table.add_column("\nmodel")
    for heading in ("\nmachines", "\nJ/TH", "USD/day each\nnow", "\nthere"):
        table.add_column(heading, justify="right")
    after = {(line.model, line.efficiency_j_per_th): line for line in model_lines(lots, there)}
    for line in model_lines(lots, now):
        then = after.get((line.model, line.efficiency_j_per_th))
        table.add_row(
            line.model,
            str(line.machines),
            f"{line.efficiency_j_per_th:.1f}",
            _margin(line.margin_usd_per_day),
            Text("-") if then is None else _margin(then.margin_usd_per_day),
        )
    return table


def _margin(value: float) -> Text:
    return Text(f"{value:+.2f}", "red" if value < 0 else "green")
