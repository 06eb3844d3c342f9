"""What every screen begins with: may we trust it, do we earn, and what the agent may do. Four lines at most."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rich.console import Group
from rich.text import Text
from textual.widgets import Static

from agent.market.quote import PriceState
from agent.summary import STATE_STYLE, breakeven_efficiency, counted, number, span
from agent.view import SiteTotals
from drivers.reading import RunState
from tui.charts import sparkline
from tui.glyphs import Glyphs, glyphs
from tui.source import AgentState, SiteState

BADGES: Mapping[str, tuple[str, str]] = {
    "observe": (" OBSERVE ", "black on cyan"),
    "recommend": (" RECOMMEND ", "black on yellow"),
    "auto": (" AUTO ", "black on green"),
}
HELD = (" HELD ", "bold white on red")
CLOSED = (" CLOSED ", "bold white on blue")
DOWN = (" AGENT DOWN ", "bold white on red")
NO_ANSWER = (" NO ANSWER ", "bold white on red")
OPERATE = (" OPERATE ", "bold black on magenta")
SPARK = 12
HOURS = 24.0


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a line; those with the highest rank go first when there is no room."""

    text: Text
    rank: int = 0


def line(parts: Sequence[Part], width: int, gap: str = "   ") -> Text:
    """As many of the pieces as fit, in their order."""
    kept = list(parts)
    while len(kept) > 1 and sum(part.text.cell_len for part in kept) + len(gap) * (len(kept) - 1) > width:
        kept.remove(max(kept, key=lambda part: part.rank))
    text = Text(gap).join([part.text for part in kept])
    text.truncate(width, overflow="ellipsis")
    return text


class SiteHeader(Static):
    """The header; `show` it the site whenever that is known anew."""

    def __init__(self, *, operate: bool, site: str | None = None) -> None:
        super().__init__(id="header")
        self._site = site
        self._operate = operate
        self._glyphs = glyphs()
        self._shown: tuple[SiteState, AgentState, datetime] | None = None

    def show(self, state: SiteState, agent: AgentState, now: datetime) -> None:
        """Draw it."""
        self._shown = state, agent, now
        self._draw()

    def on_resize(self) -> None:
        """Another width has room for other things."""
        self._draw()

    def _draw(self) -> None:
        if self._shown is not None and self.size.width > 2:
            lines = header(
                *self._shown, self._glyphs, self.size.width, operate=self._operate, site_name=self._site
            )
            self.update(Group(*lines))


def header(
    state: SiteState,
    agent: AgentState,
    now: datetime,
    shown: Glyphs,
    width: int,
    *,
    operate: bool,
    site_name: str | None = None,
) -> list[Text]:
    """The lines for a terminal of that width. A site of a fleet has a name."""
    snapshot = state.snapshot
    site = state.totals
    lines = [
        line(
            [
                *([] if site_name is None else [Part(Text(site_name, "bold"))]),
                *_trust(state, agent, now, site, shown, operate=operate),
            ],
            width,
        ),
        line(_prices(state, now, shown), width),
        line(_money(state, site, shown), width),
    ]
    doubts = [f"{doubt}; the agent only proposes" for doubt in snapshot.prices.get("doubts", ())]
    if doubts:
        lines.append(line([Part(Text(f"prices: {'; '.join(doubts)}", "yellow"))], width))
    return lines


def mode_badges(state: SiteState, agent: AgentState) -> list[tuple[str, str]]:
    """What the agent may do now. A hold and an agent that is down cannot be overlooked."""
    says: Mapping[str, Any] = agent.says or {}
    held = says.get("held", state.held)
    mode = says.get("mode", state.mode)
    badges = [HELD] if held else []
    badges += [CLOSED] if says.get("closed") else []
    badges += [BADGES[mode]] if mode in BADGES else []
    if agent.says is not None or not agent.silence:
        return badges
    return [DOWN if agent.is_down else NO_ANSWER, *badges]


def _trust(
    state: SiteState, agent: AgentState, now: datetime, site: SiteTotals, shown: Glyphs, *, operate: bool
) -> list[Part]:
    badges = Text(" ").join(Text(*badge) for badge in mode_badges(state, agent))
    if operate:
        badges = Text(" ").join([badges, Text(*OPERATE)])
    age = now - state.snapshot.polled_at
    stale = age > state.snapshot.validity
    seen = f"STALE: last poll {span(age)} ago" if stale else f"polled {span(age)} ago"
    counts = [
        (f"{shown.states[each]} {site.by_state[each.value]} {each.value}", STATE_STYLE[each])
        for each in RunState
        if site.by_state.get(each.value)
    ]
    problem = (agent.says or {}).get("storage_problem")
    return [
        Part(badges),
        *([Part(Text(f"DISK: {problem}", "bold red"), 1)] if problem else []),
        Part(Text(seen, "bold red" if stale else "dim"), 1),
        Part(Text(counted(site.machines, "machine")), 3),
        Part(Text("  ").join(Text(*count) for count in counts), 2),
    ]


def _prices(state: SiteState, now: datetime, shown: Glyphs) -> list[Part]:
    market, terms, history = state.snapshot.picture.market, state.snapshot.picture.terms, state.history
    hashprice, power = market.hashprice, market.power
    first = f"{number(market.hashprice_usd_per_ph_day, 2)} USD/PH/day"
    second = f"{number(market.price_usd_per_kwh, 4)} USD/kWh"
    of_hashprice = (
        "unknown"
        if hashprice is None
        else _origin(hashprice.source, hashprice.observed_at, now, hashprice.fixed)
    )
    of_power = (
        "unknown"
        if power is None
        else _origin(power.source, power.observed_at, now, power.fixed or power.valid_until is not None)
    )
    held = (
        ""
        if power is None or power.state in {PriceState.LIVE, PriceState.FIXED}
        else f", {power.state.value}"
    )
    return [
        Part(Text.assemble(("hashprice ", "bold"), first)),
        Part(Text(f"({of_hashprice})", "dim"), 2),
        Part(Text(sparkline(history.hashprice_usd_per_ph_day[-SPARK:], shown), "cyan"), 5),
        Part(Text.assemble(("power ", "bold"), second)),
        Part(Text(f"({of_power}{held})", "dim"), 3),
        Part(Text(sparkline(history.price_usd_per_kwh[-SPARK:], shown), "cyan"), 6),
        Part(
            Text.assemble(("break-even ", "bold"), f"{number(breakeven_efficiency(market, terms), 1)} J/TH"),
            4,
        ),
    ]


def _money(state: SiteState, site: SiteTotals, shown: Glyphs) -> list[Part]:
    if site.machines and site.by_state.get(RunState.UNKNOWN.value) == site.machines:
        return [Part(Text("what the site draws and earns is unknown", "bold yellow"))]
    now = site.margin_usd_per_day / HOURS
    followed = now + (site.avoidable_usd_per_day + state.gains_usd_per_day) / HOURS
    under = f"{site.under_breakeven} under break-even lose {site.lost_usd_per_day / HOURS:.2f} USD/h"
    return [
        Part(Text.assemble((f"{now:+.2f} USD/h", "bold red" if now < 0 else "bold green"))),
        Part(Text(f"{followed:+.2f} if followed", "green" if followed > now + 0.005 else "dim"), 2),
        Part(Text(under, "red" if site.under_breakeven else "dim"), 1),
        Part(Text(f"{site.power_kw:,.1f} kW"), 3),
        Part(Text(f"{site.hashrate_phs:,.3f} PH/s"), 4),
        Part(Text(sparkline(state.history.margin_usd_per_hour[-SPARK:], shown), "cyan"), 5),
    ]


def _origin(source: str, observed_at: datetime, now: datetime, fixed: bool) -> str:
    return source if fixed else f"{source}, {span(now - observed_at)} ago"
