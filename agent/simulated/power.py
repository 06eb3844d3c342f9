"""What the simulated power markets tell: one true price that moves every five minutes, in each market's own words."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs
from zoneinfo import ZoneInfo

from agent.simulated.web import Handler, Request, SimulatedSources, SourceFault

FIVE_MINUTES, QUARTER, HALF_HOUR, HOUR = (timedelta(minutes=each) for each in (5, 15, 30, 60))
POINT = "HUB"
"""The settlement point, zone, area or node that every market has."""
AGILE = "E-1R-AGILE-24-10-01-C"
ERCOT_KEY = "simulated-key"
_FACTORS = {
    SourceFault.TIMES_100: 100.0,
    SourceFault.TIMES_1000: 1000.0,
    SourceFault.THOUSANDTH: 0.001,
}


@dataclass(frozen=True, kw_only=True)
class TruePower:
    """The price as it is, USD/kWh: a level, and a swing over the day."""

    level: float = 0.06
    swing: float = 0.02

    def price(self, moment: datetime) -> float:
        """That of the five minutes around a moment."""
        step = moment.timestamp() // FIVE_MINUTES.total_seconds()
        return round(self.level + self.swing * math.sin(step / 288 * math.tau), 5)

    def mean(self, start: datetime, length: timedelta) -> float:
        """Over several of them."""
        count = int(length / FIVE_MINUTES)
        return sum(self.price(start + index * FIVE_MINUTES) for index in range(count)) / count


class SimulatedPower:
    """Every market, telling the truth unless a fault is set. They publish each interval at its end, but for the
    day-ahead ones."""

    def __init__(self, truth: TruePower, clock: Callable[[], datetime]) -> None:
        self.truth = truth
        self._clock = clock
        self.ercot_account: tuple[str, str] | None = None
        """User and password, where a token is wanted beside the key."""
        self.ercot_token = "simulated-token"  # noqa: S105 - it is
        self.server = SimulatedSources(self._handlers())

    def _handlers(self) -> Mapping[str, Handler]:
        return {
            "comed": self._comed,
            "ercot": self._ercot,
            "ercot_token": self._ercot_token,
            "nord_pool": self._nord_pool,
            "octopus": self._octopus,
            "miso": self._miso,
            "nyiso": self._nyiso,
            "json": self._json,
            "csv": self._csv,
        }

    def _told(self, feed: str, price: float) -> float:
        fault = self.server.faults.get(feed)
        if fault is SourceFault.ZEROS:
            return 0.0
        if fault is SourceFault.MINUS_ONE:
            return -1.0
        return price * (1.0 if fault is None else _FACTORS.get(fault, 1.0))

    def _ends(self, feed: str, count: int = 24) -> list[datetime]:
        """The ends of the last intervals of five minutes, the last first. A feed that stopped yesterday tells those of
        yesterday."""
        now = self._clock()
        if self.server.faults.get(feed) is SourceFault.YESTERDAY:
            now -= timedelta(days=1)
        if self.server.faults.get(feed) is SourceFault.CLOCK_AHEAD:
            now += HOUR
        last = datetime.fromtimestamp(now.timestamp() // 300 * 300, UTC)
        return [last - index * FIVE_MINUTES for index in range(count)]

    def _comed(self, request: Request) -> Any:
        if request.path != "/api" or request.query.get("type") != "5minutefeed":
            return None
        return [
            {
                "millisUTC": str(int((end - FIVE_MINUTES).timestamp() * 1000)),
                "price": f"{self._told('comed', self.truth.price(end - FIVE_MINUTES)) * 100:.4f}",
            }
            for end in self._ends("comed")
        ]

    def _ercot_token(self, request: Request) -> Any:
        form = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
        wanted = {"grant_type": "password", "response_type": "id_token"}
        right = (form.get("username"), form.get("password")) == self.ercot_account
        if not right or not wanted.items() <= form.items() or "openid" not in form.get("scope", ""):
            return HTTPStatus.UNAUTHORIZED
        return {"id_token": self.ercot_token, "token_type": "Bearer", "expires_in": "3600"}

    def _ercot(self, request: Request) -> Any:
        if (
            self.ercot_account is not None
            and request.headers.get("authorization") != f"Bearer {self.ercot_token}"
        ):
            return HTTPStatus.UNAUTHORIZED
        if request.path != "/api/public-reports/np6-788-cd/lmp_node_zone_hub":
            return None
        if request.headers.get("ocp-apim-subscription-key") != ERCOT_KEY:
            return None
        zone = ZoneInfo("America/Chicago")
        rows = []
        for end in self._ends("ercot", 12):
            local = (end - FIVE_MINUTES).astimezone(zone)
            price = self._told("ercot", self.truth.price(end - FIVE_MINUTES)) * 1000
            rows.append([local.strftime("%Y-%m-%dT%H:%M:%S"), bool(local.fold), POINT, round(price, 3)])
        names = ("SCEDTimestamp", "repeatHourFlag", "settlementPoint", "LMP")
        return {"fields": [{"name": name} for name in names], "data": rows}

    def _nord_pool(self, request: Request) -> Any:
        if request.path != "/api/DayAheadPrices" or request.query.get("deliveryArea") != POINT:
            return None
        zone = ZoneInfo("Europe/Oslo")
        day = datetime.fromisoformat(request.query["date"]).replace(tzinfo=zone)
        if self.server.faults.get("nord_pool") is SourceFault.YESTERDAY:
            day -= timedelta(days=1)
        start, end = day.astimezone(UTC), (day + timedelta(days=1)).astimezone(UTC)
        rows = []
        while start < end:
            price = self._told("nord_pool", self.truth.mean(start, QUARTER)) * 1000
            rows.append(
                {
                    "deliveryStart": start.strftime("%Y-%m-%dT%H:%M:%SZ"),
                    "deliveryEnd": (start + QUARTER).strftime("%Y-%m-%dT%H:%M:%SZ"),
                    "entryPerArea": {POINT: round(price, 3)},
                }
            )
            start += QUARTER
        return {"currency": "EUR", "multiAreaEntries": rows}

    def _octopus(self, request: Request) -> Any:
        if not request.path.startswith(f"/v1/products/AGILE-24-10-01/electricity-tariffs/{AGILE}/"):
            return None
        since = datetime.fromisoformat(request.query["period_from"])
        if self.server.faults.get("octopus") is SourceFault.YESTERDAY:
            since -= timedelta(days=1)
        rows = []
        for index in reversed(range(8)):
            start = since + index * HALF_HOUR
            pence = self._told("octopus", self.truth.mean(start, HALF_HOUR)) * 100
            rows.append(
                {
                    "value_exc_vat": round(pence, 4),
                    "value_inc_vat": round(pence * 1.05, 4),
                    "valid_from": start.strftime("%Y-%m-%dT%H:%M:%SZ"),
                    "valid_to": (start + HALF_HOUR).strftime("%Y-%m-%dT%H:%M:%SZ"),
                }
            )
        return {"count": len(rows), "results": rows}

    def _miso(self, request: Request) -> Any:
        if not request.path.startswith("/MISORTWDDataBroker/"):
            return None
        start = self._ends("miso", 1)[0] - FIVE_MINUTES
        est = start - timedelta(hours=5)
        price = self._told("miso", self.truth.price(start)) * 1000
        node = {"name": POINT, "LMP": f"{price:.2f}", "MLC": "0", "MCC": "0"}
        table = {"HourAndMin": est.strftime("%H:%M"), "PricingNode": [node]}
        return {"LMPData": {"RefId": est.strftime("%d-%b-%Y - Interval %H:%M EST"), "FiveMinLMP": table}}

    def _nyiso(self, request: Request) -> Any:
        if not request.path.startswith("/public/csv/realtime/"):
            return None
        zone = ZoneInfo("America/New_York")
        lines = ['"Time Stamp","Name","PTID","LBMP ($/MWHr)","Marginal Cost Losses ($/MWHr)"']
        for end in reversed(self._ends("nyiso")):
            price = self._told("nyiso", self.truth.price(end - FIVE_MINUTES)) * 1000
            stamp = end.astimezone(zone).strftime("%m/%d/%Y %H:%M:%S")
            lines.append(f'"{stamp}","{POINT}",61752,{price:.2f},0.5')
        return "\r\n".join(lines)

    def _json(self, request: Request) -> Any:
        del request
        end = self._ends("json", 1)[0]
        price = self._told("json", self.truth.price(end - FIVE_MINUTES))
        return {"now": {"price": price, "from": (end - FIVE_MINUTES).isoformat()}}

    def _csv(self, request: Request) -> Any:
        del request
        lines = ["start,price"]
        for end in reversed(self._ends("csv")):
            price = self._told("csv", self.truth.price(end - FIVE_MINUTES))
            lines.append(f"{(end - FIVE_MINUTES).isoformat()},{price}")
        return "\n".join(lines)
