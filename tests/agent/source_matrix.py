"""Has every simulated source fail in every way while the others tell the truth, and writes down what came of it."""

from collections.abc import Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from agent.clock import Clock
from agent.fetch import Fetcher
from agent.market.live import LiveHashprice
from agent.market.quote import HashpriceQuote
from agent.market.sources import Endpoint
from agent.simulated.prices import LUXOR_KEY, RPC_PASSWORD, RPC_USER, SimulatedPrices, TrueMarket
from agent.simulated.web import SourceFault

START = datetime(2026, 2, 1, 12, tzinfo=UTC)
TIMEOUT_S = 0.4
SOURCES = (
    "bitcoin_core", "mempool", "coinbase", "kraken", "bitstamp", "gemini", "luxor", "braiins", "blockchain_info",
)  # fmt: skip
Key = tuple[str, SourceFault]


class HandClock:
    """Aware UTC that stands still until it is moved."""

    def __init__(self, at: datetime = START) -> None:
        self.at = at

    def __call__(self) -> datetime:
        return self.at

    def forward(self, **step: float) -> None:
        self.at += timedelta(**step)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """`source` is what the failing source came to: its values, or the kind of its failure. `moved` is by what fraction
    the hashprice is off the truth, `automatic` whether the agent may act on it."""

    source: str
    moved: float | None
    automatic: bool
    detail: str


def keys() -> Iterator[Key]:
    """Every source with every fault."""
    for source in SOURCES:
        for fault in SourceFault:
            yield source, fault


def endpoints(prices: SimulatedPrices, names: tuple[str, ...] = SOURCES) -> list[Endpoint]:
    """The simulated sources as they are configured."""
    secrets = {"bitcoin_core": RPC_PASSWORD, "luxor": LUXOR_KEY}
    return [
        Endpoint(
            name=name,
            url=prices.server.url(name),
            username=RPC_USER if name == "bitcoin_core" else "",
            secret=(lambda name=name: secrets[name]) if name in secrets else None,
        )
        for name in names
    ]


@asynccontextmanager
async def site_of_sources(clock: HandClock, names: tuple[str, ...] = SOURCES, **market):
    """Simulated prices, and the live hashprice on them, asked by hand."""
    prices = SimulatedPrices(TrueMarket(began_at=START, **market), clock)
    async with prices.server, Fetcher(Clock(now=clock), timeout_s=TIMEOUT_S) as fetcher:
        yield prices, LiveHashprice(endpoints(prices, names), fetcher)


async def ask_all(live: LiveHashprice) -> None:
    for source in live._sources:
        await live._ask(source)


async def collect() -> dict[Key, Cell]:
    """The whole matrix. Every cell begins with all sources heard and believed."""
    cells = {}
    clock = HandClock()
    async with (
        site_of_sources(clock) as (prices, _),
        Fetcher(Clock(now=clock), timeout_s=TIMEOUT_S) as fetcher,
    ):
        for source, fault in keys():
            live = LiveHashprice(endpoints(prices), fetcher)
            prices.server.faults.clear()
            await ask_all(live)
            await live.quote(clock())
            clock.forward(minutes=5)
            prices.server.faults[source] = fault
            await ask_all(live)
            quote = await live.quote(clock())
            cells[source, fault] = _cell(live, source, quote, prices.market.hashprice(clock()))
    return cells


def _cell(live: LiveHashprice, source: str, quote: HashpriceQuote | None, truth: float) -> Cell:
    status = next(each for each in live.statuses() if each.name == source)
    return Cell(
        source="told" if status.failure is None else status.failure.partition(":")[0],
        moved=None if quote is None else quote.hashprice_usd_per_ph_day / truth - 1,
        automatic=quote is not None and quote.automatic,
        detail="" if quote is None else quote.detail,
    )


HEAD = """# Sources of hashprice and their failures

What happens when one source fails or lies while the others tell the truth. The simulated sources wrote this
(`tests/agent/test_source_matrix.py`); with `HASHCOST_WRITE_DOCS=1` in the environment the same test writes it anew.

*Source*: `told` means that its answer made sense by itself; everything else is the kind of its failure, which the
log has once. *Hashprice off by*: how far the consensus is from the truth. *Acts*: whether the agent may still act on
it by itself; where it may not, it goes on recommending.

| source | fault | source | hashprice off by | acts |
|---|---|---|---|---|
"""


def document(cells: Mapping[Key, Cell]) -> str:
    """The matrix as Markdown."""
    return HEAD + "".join(_line(key, cells[key]) for key in keys())


def _line(key: Key, cell: Cell) -> str:
    moved = "-" if cell.moved is None else f"{abs(cell.moved):.1%}"
    acts = "yes" if cell.automatic else "no"
    return f"| {key[0]} | {key[1].value} | `{cell.source}` | {moved} | {acts} |\n"
