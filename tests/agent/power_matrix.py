"""Has every simulated power market fail in every way, and writes down what the agent makes of it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from agent.clock import Clock
from agent.config.power import PowerSection
from agent.feeds import power_source
from agent.fetch import Fetcher
from agent.market.quote import PowerPriceQuote
from agent.simulated.power import AGILE, POINT, SimulatedPower, TruePower
from agent.simulated.web import SourceFault
from agent.tariff.live import LiveTariff
from tests.agent.source_matrix import TIMEOUT_S, HandClock

START = datetime(2026, 2, 2, 18, 17, tzinfo=UTC)
FEEDS = ("comed", "ercot", "nord_pool", "octopus", "miso", "nyiso", "json", "csv")
OWN = {
    "comed": {},
    "ercot": {"location": POINT, "password_env": "ERCOT_KEY"},
    "nord_pool": {"location": POINT, "currency_usd": 1.0},
    "octopus": {"location": AGILE, "currency_usd": 1.0},
    "miso": {"location": POINT},
    "nyiso": {"location": POINT},
    "json": {"pointer": "/now/price", "time_pointer": "/now/from", "interval_s": 300.0},
    "csv": {"interval_s": 300.0},
}
Key = tuple[str, SourceFault | None]


def section(power: SimulatedPower, feed: str, **changes) -> PowerSection:
    """A feed as it is configured."""
    return PowerSection(kind="feed", feed=feed, url=power.server.url(feed), **{**OWN[feed], **changes})


@dataclass(frozen=True, kw_only=True)
class Cell:
    """`source` is `told` or the kind of the failure; `quote` what the agent believes right after, `later` an hour on
    with the fault still there."""

    source: str
    truth: float
    quote: PowerPriceQuote | None
    later: PowerPriceQuote | None


def keys() -> Iterator[Key]:
    """Every feed, sound and with every fault."""
    for feed in FEEDS:
        for fault in (None, *SourceFault):
            yield feed, fault


async def collect() -> dict[Key, Cell]:
    """The whole matrix. Every cell begins with a feed that was heard five minutes ago."""
    cells = {}
    clock = HandClock(START)
    power = SimulatedPower(TruePower(), clock)
    async with power.server, Fetcher(Clock(now=clock), timeout_s=TIMEOUT_S) as fetcher:
        for feed, fault in keys():
            clock.at = START
            power.server.faults.clear()
            live = power_source(section(power, feed), fetcher, Clock(now=clock))
            assert isinstance(live, LiveTariff)
            await live.ask(clock())
            clock.forward(minutes=5)
            if fault is not None:
                power.server.faults[feed] = fault
            await live.ask(clock())
            failure, quote = live.status.failure, await live.quote(clock())
            settlement = section(power, feed).settlement()
            truth = power.truth.mean(clock() - (clock() - EPOCH) % settlement, settlement)
            clock.forward(hours=1)
            await live.ask(clock())
            cells[feed, fault] = Cell(
                source="told" if failure is None else failure.partition(":")[0],
                truth=truth,
                quote=quote,
                later=await live.quote(clock()),
            )
    return cells


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
HEAD = """# Feeds of the power price and their failures

What happens when a feed that was heard five minutes ago fails or lies. The simulated markets wrote this
(`tests/agent/test_power_matrix.py`); with `HASHCOST_WRITE_DOCS=1` in the environment the same test writes it anew.

*Source*: `told`, or the kind of the failure. *Price*: its state right after; `live` is acted on, `held` and
`quarantined` are only recommended on. *An hour later*: the same with the fault still there. Day-ahead prices were
published before, and stand for the whole day.

| feed | fault | source | price | an hour later |
|---|---|---|---|---|
"""


def document(cells: Mapping[Key, Cell]) -> str:
    """The matrix as Markdown."""
    return HEAD + "".join(_line(key, cells[key]) for key in keys())


def _line(key: Key, cell: Cell) -> str:
    feed, fault = key
    return f"| {feed} | {fault or 'none'} | `{cell.source}` | {_state(cell.quote)} | {_state(cell.later)} |\n"


def _state(quote: PowerPriceQuote | None) -> str:
    return "missing" if quote is None else quote.state.value
