"""What one machine is worth at this minute's prices: an operating point, a market and the site's terms."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from agent import economics
from agent.market.quote import Market
from drivers.reading import PowerSource


class Basis(StrEnum):
    """Where the running point of an appraisal comes from, best first."""

    LIVE = "live"
    """The machine is mining, and this is what it measured."""
    BASELINE = "baseline"
    """What it did when it last ran: the median of its own mining readings."""
    EXPECTED = "expected"
    """The miner's own expected hashrate at nameplate efficiency."""
    NAMEPLATE = "nameplate"
    """The model's nameplate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningPoint:
    """What a machine does while it runs: TH/s at wall watts, and how well that is known.

    `power_error` is the half-width of the error band as a fraction of the watts.
    """

    hashrate_ths: float
    power_w: float
    power_source: PowerSource
    power_error: float
    basis: Basis
    as_of: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What stands between hashprice and a machine's margin at this site.

    `fee` is pool plus firmware fee and `reject` the share of rejected work, both as fractions; `overhead` the
    avoidable overhead factor on energy; `sleep_power_w` the watts reckoned for a machine that sleeps;
    `machine_price_usd_per_ths` only serves payback days. `credit_usd_per_kwh` is what a programme pays for each
    kWh that sleeping saves: it moves the decision, and is no part of the margin while running.
    `price_usd_per_kwh` is what a machine's energy costs where that is not the site's price.
    """

    fee: float = 0.0
    reject: float = 0.0
    overhead: float = 1.0
    sleep_power_w: float = 40.0
    machine_price_usd_per_ths: float | None = None
    credit_usd_per_kwh: float = 0.0
    price_usd_per_kwh: float | None = None

    def price(self, market: Market) -> float | None:
        """What a kWh of this machine costs now, USD; None while nobody knows."""
        return market.price_usd_per_kwh if self.price_usd_per_kwh is None else self.price_usd_per_kwh


@dataclass(frozen=True, slots=True, kw_only=True)
class Appraisal:
    """Money of one machine, as if it ran now. None is unknown: no point to reckon from, or no price.

    `margin_error_usd_per_day` is what the error band of the watts is worth; a decision margin inside it is
    *marginal*.
    """

    point: RunningPoint | None
    efficiency_j_per_th: float | None
    revenue_usd_per_day: float | None
    energy_cost_usd_per_day: float | None
    margin_usd_per_day: float | None
    decision_margin_usd_per_day: float | None
    margin_error_usd_per_day: float | None
    hashcost_usd_per_ph_day: float | None
    strike_price_usd_per_kwh: float | None
    breakeven_hashprice_usd_per_ph_day: float | None
    payback_days: float | None

    @property
    def is_marginal(self) -> bool:
        """The sign of the decision margin is not certain."""
        margin, error = self.decision_margin_usd_per_day, self.margin_error_usd_per_day
        return margin is not None and error is not None and abs(margin) <= error


def appraise(point: RunningPoint | None, market: Market, terms: Terms) -> Appraisal:
    """Appraise one machine. Pure; unknown in, unknown out."""
    hashrate_ths = None if point is None else point.hashrate_ths
    power_w = None if point is None else point.power_w
    hashprice, price = market.hashprice_usd_per_ph_day, terms.price(market)
    saved = None if price is None else price + terms.credit_usd_per_kwh
    fee, reject, overhead, sleep_power_w = terms.fee, terms.reject, terms.overhead, terms.sleep_power_w

    efficiency = economics.efficiency_j_per_th(hashrate_ths=hashrate_ths, power_w=power_w)
    revenue = economics.revenue_usd_per_day(
        hashrate_ths=hashrate_ths, hashprice_usd_per_ph_day=hashprice, fee=fee, reject=reject
    )
    cost = economics.energy_cost_usd_per_day(power_w=power_w, price_usd_per_kwh=price, overhead=overhead)
    margin = None if revenue is None or cost is None else revenue - cost
    machine_price = terms.machine_price_usd_per_ths
    strike = economics.strike_price_usd_per_kwh(
        hashrate_ths=hashrate_ths,
        power_w=power_w,
        sleep_power_w=sleep_power_w,
        hashprice_usd_per_ph_day=hashprice,
        fee=fee,
        reject=reject,
        overhead=overhead,
    )
    return Appraisal(
        point=point,
        efficiency_j_per_th=efficiency,
        revenue_usd_per_day=revenue,
        energy_cost_usd_per_day=cost,
        margin_usd_per_day=margin,
        decision_margin_usd_per_day=economics.decision_margin_usd_per_day(
            hashrate_ths=hashrate_ths,
            power_w=power_w,
            sleep_power_w=sleep_power_w,
            hashprice_usd_per_ph_day=hashprice,
            price_usd_per_kwh=saved,
            fee=fee,
            reject=reject,
            overhead=overhead,
        ),
        margin_error_usd_per_day=None if cost is None or point is None else abs(cost) * point.power_error,
        hashcost_usd_per_ph_day=economics.hashcost_usd_per_ph_day(
            efficiency_j_per_th=efficiency, price_usd_per_kwh=price, overhead=overhead
        ),
        strike_price_usd_per_kwh=None if strike is None else strike - terms.credit_usd_per_kwh,
        breakeven_hashprice_usd_per_ph_day=economics.breakeven_hashprice_usd_per_ph_day(
            hashrate_ths=hashrate_ths,
            power_w=power_w,
            sleep_power_w=sleep_power_w,
            price_usd_per_kwh=saved,
            fee=fee,
            reject=reject,
            overhead=overhead,
        ),
        payback_days=economics.payback_days(
            machine_price_usd=(
                None if machine_price is None or hashrate_ths is None else machine_price * hashrate_ths
            ),
            margin_usd_per_day=margin,
        ),
    )
