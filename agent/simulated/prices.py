"""What the simulated sources tell: one true market that moves with the clock, in each source's own words and units."""

import base64
import json
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from agent.simulated.web import Handler, Request, SimulatedSources, SourceFault

RPC_USER, RPC_PASSWORD = "agent", "not-a-secret"
LUXOR_KEY = "simulated-key"
BLOCK_S = 600.0
BLOCKS = 144
_FACTORS = {
    SourceFault.TIMES_100: 100.0,
    SourceFault.TIMES_1000: 1000.0,
    SourceFault.THOUSANDTH: 0.001,
    SourceFault.ZEROS: 0.0,
}


@dataclass(kw_only=True)
class TrueMarket:
    """The market as it is. It begins at the numbers given, and moves a little from there."""

    began_at: datetime
    seed: int = 7
    difficulty: float = 149.30e12
    height: int = 927_000
    fees_btc: float = 0.0269
    btc_usd: float = 92_870.0
    restless: float = 0.004
    """How far the price swings, as a fraction."""
    difficulty_change: float = 0.018
    """At the next retarget."""

    def price(self, now: datetime) -> float:
        """BTC/USD."""
        hours = (now - self.began_at).total_seconds() / 3600
        phase = random.Random(self.seed).uniform(0, math.tau)
        waves = (math.sin(hours * each + phase) - math.sin(phase) for each in (0.9, 2.3, 7.1))
        return self.btc_usd * (1 + self.restless * sum(waves) / 3)

    def tip(self, now: datetime) -> int:
        """Height of the chain's tip."""
        return self.height + max(0, int((now - self.began_at).total_seconds() / BLOCK_S))

    def hashprice(self, now: datetime) -> float:
        """USD/PH/day, as an index would publish it."""
        blocks = 86400e15 / (self.difficulty * 2**32)
        subsidy = (5_000_000_000 >> (self.tip(now) + 1) // 210_000) / 1e8
        return float(blocks * (subsidy + self.fees_btc) * self.price(now))


class SimulatedPrices:
    """Every source of the market, telling the truth unless a fault is set."""

    def __init__(self, market: TrueMarket, clock: Callable[[], datetime]) -> None:
        self.market = market
        self._clock = clock
        self.server = SimulatedSources(self._handlers())

    def _handlers(self) -> Mapping[str, Handler]:
        return {
            "coinbase": self._coinbase,
            "kraken": self._kraken,
            "bitstamp": self._bitstamp,
            "gemini": self._gemini,
            "mempool": self._mempool,
            "bitcoin_core": self._bitcoin_core,
            "luxor": self._luxor,
            "braiins": self._braiins,
            "blockchain_info": self._blockchain_info,
        }

    def urls(self) -> dict[str, str]:
        """The base address of each source."""
        return {name: self.server.url(name) for name in self._handlers()}

    def _told(self, source: str, value: Callable[[datetime], float]) -> float:
        """A value as this source has it now, lies included."""
        fault = self.server.faults.get(source)
        if fault is SourceFault.MINUS_ONE:
            return -1.0
        now = self._clock()
        if fault is SourceFault.YESTERDAY:
            return value(now - timedelta(days=1)) * 0.93
        return value(now) * (1.0 if fault is None else _FACTORS.get(fault, 1.0))

    def _stamp(self, source: str) -> int:
        ahead = 3600 if self.server.faults.get(source) is SourceFault.CLOCK_AHEAD else 0
        return int(self._clock().timestamp()) + ahead

    def _difficulty(self, source: str) -> float:
        return self._told(source, lambda _: self.market.difficulty)

    def _coinbase(self, request: Request) -> Any:
        if request.path != "/v2/prices/BTC-USD/spot":
            return None
        amount = self._told("coinbase", self.market.price)
        return {"data": {"amount": f"{amount:.2f}", "base": "BTC", "currency": "USD"}}

    def _kraken(self, request: Request) -> Any:
        if request.path != "/0/public/Ticker":
            return None
        if (
            self.server.faults.get("kraken") is SourceFault.MINUS_ONE
        ):  # its way of saying that it does not know
            return {"error": ["EService:Unavailable"]}
        last = f"{self._told('kraken', self.market.price) * 1.0003:.1f}"
        return {"error": [], "result": {"XXBTZUSD": {"a": [last, "1", "1.000"], "c": [last, "0.01"]}}}

    def _bitstamp(self, request: Request) -> Any:
        if request.path != "/api/v2/ticker/btcusd/":
            return None
        last = self._told("bitstamp", self.market.price) * 0.9996
        return {"last": f"{last:.0f}", "timestamp": str(self._stamp("bitstamp")), "volume": "900.1"}

    def _gemini(self, request: Request) -> Any:
        if request.path != "/v1/pubticker/BTCUSD":
            return None
        last = self._told("gemini", self.market.price)
        return {"last": f"{last:.2f}", "volume": {"timestamp": self._stamp("gemini") * 1000}}

    def _mempool(self, request: Request) -> Any:
        tip = self.market.tip(self._clock())
        if self.server.faults.get("mempool") is SourceFault.ZEROS:
            tip = 0
        fees = self._told("mempool", lambda _: self.market.fees_btc)
        answers: dict[str, Any] = {
            "/api/blocks/tip/height": str(tip),
            "/api/v1/mining/hashrate/3d": {
                "currentHashrate": self.market.difficulty * 2**32 / 600,
                "currentDifficulty": self._difficulty("mempool"),
            },
            f"/api/v1/mining/reward-stats/{BLOCKS}": {
                "startBlock": tip - BLOCKS + 1,
                "endBlock": tip,
                "totalReward": "0",
                "totalFee": str(round(fees * BLOCKS * 1e8)),
                "totalTx": "500000",
            },
            "/api/v1/difficulty-adjustment": {
                "difficultyChange": self.market.difficulty_change * 100,
                "remainingBlocks": 2016 - (tip + 1) % 2016,
            },
            "/api/v1/prices": {
                "time": self._stamp("mempool"),
                "USD": round(self._told("mempool", self.market.price)),
            },
        }
        return answers.get(request.path)

    def _bitcoin_core(self, request: Request) -> Any:
        login = base64.b64encode(f"{RPC_USER}:{RPC_PASSWORD}".encode()).decode()
        if request.headers.get("authorization") != f"Basic {login}":
            return None
        return [self._rpc(call) for call in json.loads(request.body)]

    def _rpc(self, call: Mapping[str, Any]) -> dict[str, Any]:
        result: Any = None
        tip = self.market.tip(self._clock())
        syncing = self.server.faults.get("bitcoin_core") is SourceFault.ZEROS
        if call["method"] == "getblockchaininfo":
            result = {
                "chain": "main",
                "blocks": tip - (5000 if syncing else 0),
                "headers": tip,
                "difficulty": self._difficulty("bitcoin_core") or self.market.difficulty,
                "initialblockdownload": syncing,
            }
        elif call["method"] == "getblockstats":
            height = call["params"][0]
            fees = round(self.market.fees_btc * 1e8)
            result = {"height": height, "subsidy": 312_500_000, "totalfee": fees, "time": 1_700_000_000}
        error = None if result is not None else {"code": -32601, "message": "Method not found"}
        return {"result": result, "error": error, "id": call["id"]}

    def _luxor(self, request: Request) -> Any:
        if request.path != "/v1/hashrateindex/hashprice/current":
            return None
        if request.headers.get("x-hi-api-key") != LUXOR_KEY:
            return None
        price = self._told("luxor", self.market.hashprice)
        return {"data": {"priceUSD": price, "priceBTC": 0.00042, "timestamp": self._clock().isoformat()}}

    def _braiins(self, request: Request) -> Any:
        answers = {
            "/api/v1.0/hashrate-stats": {
                "hash_price": self._told("braiins", self.market.hashprice) / 1000,
                "hash_value": 4.2e-7,
            },
            "/api/v1.0/difficulty-stats": {"difficulty": self._difficulty("braiins")},
            "/api/v1.0/price-stats": {"price": self._told("braiins", self.market.price)},
        }
        return answers.get(request.path)

    def _blockchain_info(self, request: Request) -> Any:
        if request.path != "/stats":
            return None
        return {
            "difficulty": self._difficulty("blockchain_info"),
            "n_blocks_total": self.market.tip(self._clock()),
            "market_price_usd": self.market.price(self._clock()),
            "timestamp": self._stamp("blockchain_info") * 1000,
        }
