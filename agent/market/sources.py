"""Where the inputs of hashprice are asked for: one function a source, from its documented answers to observations.

Each knows the traps of its own source (zeros with HTTP 200, prices of -1, numbers as texts, units by the TH); what
is merely implausible is for the consensus to judge.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent.fetch import Fetcher, Page, SourceError
from agent.market.consensus import Kind, Observation

BLOCKS = 144
"""Blocks that fees are averaged over, as pools do."""
SATOSHI = 1e8


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A source as it is configured. Its secret is read when it is needed, and shown by nothing."""

    name: str
    url: str
    username: str = ""
    secret: Callable[[], str] | None = None
    cookie_file: Path | None = None


Ask = Callable[[Fetcher, Endpoint], Awaitable[list[Observation]]]


def number(value: Any, what: str) -> float:
    """A number, as such or as text. Raises `SourceError`."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise SourceError("malformed", f"{what} is {type(value).__name__}, not a number")
    try:
        found = float(value)
    except (ValueError, OverflowError) as error:
        raise SourceError("malformed", f"{what} is {value!r:.40}, not a number") from error
    if not math.isfinite(found):
        raise SourceError("malformed", f"{what} is {found}")
    return found


def known(value: Any, what: str) -> float:
    """A number over zero; 0 and -1 are how sources say that they do not know."""
    found = number(value, what)
    if found <= 0:
        raise SourceError("unknown", f"{what} is {found:g}: the source does not know")
    return found


def at(data: Any, *path: str | int) -> Any:
    """What lies at a path of keys. Raises `SourceError` that names it."""
    for key in path:
        try:
            data = data[key]
        except (KeyError, IndexError, TypeError) as error:
            raise SourceError("malformed", f"no {'.'.join(map(str, path))} in the answer") from error
    return data


def stamp(seconds: float, fetched_at: datetime) -> datetime:
    """A source's own time, as far as it makes sense: none comes from the future."""
    try:
        return min(datetime.fromtimestamp(seconds, UTC), fetched_at)
    except (OverflowError, OSError, ValueError):
        return fetched_at


def _told(source: str, page: Page, **values: float) -> list[Observation]:
    return [
        Observation(kind=Kind[name.upper()], value=value, source=source, observed_at=page.fetched_at)
        for name, value in values.items()
    ]


# -- tickers ------------------------------------------------------------------------------------------


async def coinbase(fetcher: Fetcher, to: Endpoint) -> list[Observation]:
    """`data.amount`, a text."""
    page = await fetcher.get(f"{to.url}/v2/prices/BTC-USD/spot")
    return _told(to.name, page, price=known(at(page.json(), "data", "amount"), "data.amount"))


async def kraken(fetcher: Fetcher, to: Endpoint) -> list[Observation]:
    """`result`, one key whatever it is called, `c[0]`; errors come with HTTP 200."""
    page = await fetcher.get(f"{to.url}/0/public/Ticker?pair=XBTUSD")
    data = page.json()
    if errors := at(data, "error"):
        raise SourceError("unknown", f"it says {errors!r:.80}")
    result = at(data, "result")
    if not isinstance(result, dict) or not result:
        raise SourceError("malformed", "result has no pair")
    pair = next(iter(result.values()))
    return _told(to.name, page, price=known(at(pair, "c", 0), "c[0]"))


async def bitstamp(fetcher: Fetcher, to: Endpoint) -> list[Observation]:
    """`last` and its own `timestamp`, texts."""
    page = await fetcher.get(f"{to.url}/api/v2/ticker/btcusd/")
    data = page.json()
    observed_at = stamp(number(at(data, "timestamp"), "timestamp"), page.fetched_at)
    price = known(at(data, "last"), "last")
    return [Observation(kind=Kind.PRICE, value=price, source=to.name, observed_at=observed_at)]


async def gemini(fetcher: Fetcher, to: Endpoint) -> list[Observation]:
    """`last`, a text."""
    page = await fetcher.get(f"{to.url}/v1/pubticker/BTCUSD")
    return _told(to.name, page, price=known(at(page.json(), "last"), "last"))


# -- the chain ----------------------------------------------------------------------------------------


async def mempool(fetcher: Fetcher, to: Endpoint) -> list[Observation]:
    """mempool.space, or one's own. While its node is down it answers zeros; its price may be an hour old, so
    it is no ticker."""
    tip = await fetcher.get(f"{to.url}/api/blocks/tip/height")
    rate = await fetcher.get(f"{to.url}/api/v1/mining/hashrate/3d")
    rewards = await fetcher.get(f"{to.url}/api/v1/mining/reward-stats/{BLOCKS}")
    adjustment = await fetcher.get(f"{to.url}/api/v1/difficulty-adjustment")
    prices = await fetcher.get(f"{to.url}/api/v1/prices")
    stats = rewards.json()
    first, last = (number(at(stats, name), name) for name in ("startBlock", "endBlock"))
    if last - first + 1 != BLOCKS:
        raise SourceError("malformed", f"reward-stats is about {last - first + 1:g} blocks, not {BLOCKS}")
    fees = number(at(stats, "totalFee"), "totalFee") / SATOSHI / BLOCKS
    change = number(at(adjustment.json(), "difficultyChange"), "difficultyChange") / 100
    found = [
        *_told(to.name, tip, height=known(tip.text().strip(), "tip height")),
        *_told(to.name, rate, difficulty=known(at(rate.json(), "currentDifficulty"), "currentDifficulty")),
        *_told(to.name, rewards, fees=fees),
        *_told(to.name, adjustment, retarget=change),
    ]
    price = number(at(prices.json(), "USD"), "USD")
    return [*found, *_told(to.name, prices, price=price)] if price > 0 else found


@dataclass(slots=True)
class BitcoinCore:
    """A node of one's own, by RPC. The fees of a block never change: each is asked for once."""

    _fees: dict[int, float] = field(default_factory=dict)

    async def __call__(self, fetcher: Fetcher, to: Endpoint) -> list[Observation]:
        """Difficulty, height and mean fees. Raises `SourceError` while it syncs."""
        auth = await asyncio.to_thread(_rpc_login, to)
        (info,), page = await self._call(fetcher, to, auth, [("getblockchaininfo", [])])
        chain = at(info, "chain")
        blocks, headers = (number(at(info, name), name) for name in ("blocks", "headers"))
        if chain != "main":
            raise SourceError("syncing", f"it is on chain {chain!r:.20} and not on main")
        if at(info, "initialblockdownload") or headers - blocks > 2:
            raise SourceError("syncing", f"it has {blocks:g} of {headers:g} blocks")
        await self._learn_fees(fetcher, to, auth, int(blocks))
        return _told(
            to.name,
            page,
            difficulty=known(at(info, "difficulty"), "difficulty"),
            height=blocks,
            fees=sum(self._fees.values()) / len(self._fees),
        )

    async def _learn_fees(self, fetcher: Fetcher, to: Endpoint, auth: tuple[str, str], tip: int) -> None:
        wanted = range(max(0, tip - BLOCKS + 1), tip + 1)
        missing = [height for height in wanted if height not in self._fees]
        fields = ["height", "subsidy", "totalfee", "time"]
        calls: list[tuple[str, list[Any]]] = [("getblockstats", [height, fields]) for height in missing]
        answers = (await self._call(fetcher, to, auth, calls))[0] if calls else []
        for height, stats in zip(missing, answers, strict=True):
            if number(at(stats, "height"), "height") != height:
                raise SourceError("malformed", f"getblockstats {height} answers about another block")
            self._fees[height] = number(at(stats, "totalfee"), "totalfee") / SATOSHI
        self._fees = {height: self._fees[height] for height in wanted}

    async def _call(
        self, fetcher: Fetcher, to: Endpoint, auth: tuple[str, str], calls: list[tuple[str, list[Any]]]
    ) -> tuple[list[Any], Page]:
        """Several calls in one request; answers in the order of the calls."""
        payload = [
            {"jsonrpc": "1.0", "id": index, "method": method, "params": parameters}
            for index, (method, parameters) in enumerate(calls)
        ]
        page = await fetcher.post(to.url, payload, auth=auth)
        answers = page.json()
        if not isinstance(answers, list) or len(answers) != len(calls):
            raise SourceError("malformed", "not one answer a call")
        by_id = {at(answer, "id"): answer for answer in answers}
        results = []
        for index, (method, _) in enumerate(calls):
            answer = by_id.get(index)
            if answer is None or answer.get("error") is not None:
                raise SourceError("unknown", f"{method}: {answer and answer['error']!r:.80}")
            results.append(at(answer, "result"))
        return results, page


def _rpc_login(to: Endpoint) -> tuple[str, str]:
    """User and password, from the node's cookie or the configuration. Raises `SourceError`."""
    if to.cookie_file is not None:
        try:
            user, _, password = to.cookie_file.read_text(encoding="ascii").strip().partition(":")
        except (OSError, UnicodeDecodeError) as error:
            raise SourceError("not_configured", f"cookie {to.cookie_file} cannot be read") from error
        return user, password
    return to.username, _secret(to)


def _secret(to: Endpoint) -> str:
    try:
        return "" if to.secret is None else to.secret()
    except ValueError as error:
        raise SourceError("not_configured", str(error)) from error


# -- published figures --------------------------------------------------------------------------------


async def luxor(fetcher: Fetcher, to: Endpoint) -> list[Observation]:
    """Hashprice Index, REST v1: `data.priceUSD` by the PH/s, with a key."""
    headers = {"X-Hi-Api-Key": await asyncio.to_thread(_secret, to)}
    page = await fetcher.get(f"{to.url}/v1/hashrateindex/hashprice/current?hashunit=PHS", headers=headers)
    return _told(to.name, page, index=known(at(page.json(), "data", "priceUSD"), "data.priceUSD"))


async def braiins(fetcher: Fetcher, to: Endpoint) -> list[Observation]:
    """`hash_price` is USD by the TH/s and day, and `difficulty` the network's."""
    stats = await fetcher.get(f"{to.url}/api/v1.0/hashrate-stats")
    chain = await fetcher.get(f"{to.url}/api/v1.0/difficulty-stats")
    price = known(at(stats.json(), "hash_price"), "hash_price") * 1000
    difficulty = known(at(chain.json(), "difficulty"), "difficulty")
    return [*_told(to.name, stats, index=price), *_told(to.name, chain, difficulty=difficulty)]


async def blockchain_info(fetcher: Fetcher, to: Endpoint) -> list[Observation]:
    """`/stats`: difficulty and height; its prices and fees come in units that do not say what they are."""
    page = await fetcher.get(f"{to.url}/stats?format=json")
    data = page.json()
    return _told(
        to.name,
        page,
        difficulty=known(at(data, "difficulty"), "difficulty"),
        height=known(at(data, "n_blocks_total"), "n_blocks_total"),
    )


def known_sources() -> Mapping[str, Ask]:
    """Every source by name, each with a memory of its own where it has one."""
    return {
        "bitcoin_core": BitcoinCore(),
        "mempool": mempool,
        "coinbase": coinbase,
        "kraken": kraken,
        "bitstamp": bitstamp,
        "gemini": gemini,
        "luxor": luxor,
        "braiins": braiins,
        "blockchain_info": blockchain_info,
    }


DEFAULT_URLS: Mapping[str, str] = {
    "bitcoin_core": "http://127.0.0.1:8332",
    "mempool": "https://mempool.space",
    "coinbase": "https://api.coinbase.com",
    "kraken": "https://api.kraken.com",
    "bitstamp": "https://www.bitstamp.net",
    "gemini": "https://api.gemini.com",
    "luxor": "https://api.hashrateindex.com",
    "braiins": "https://insights.braiins.com",
    "blockchain_info": "https://blockchain.info",
}
KEYLESS = ("mempool", "coinbase", "kraken", "bitstamp", "gemini", "braiins", "blockchain_info")
"""Asked unless the configuration says otherwise."""
