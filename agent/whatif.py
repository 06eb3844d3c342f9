"""What other prices would do to a site: pure functions of its machines, by the lot, and of a market.

now = Prices(...)
assess(lots, now)                          what the site earns, and who is under break-even
assess(lots, now.changed(btc_usd=...))     the same at another price
model_lines(lots, now), merit_order(lots, now)
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any

from agent import economics
from agent.lots import Lot
from agent.market.quote import HashpriceInputs, Market

DAYS_PER_MONTH = 365.25 / 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices(HashpriceInputs):
    """What a scenario is about: the inputs of hashprice, and the site's power price in USD/kWh."""

    price_usd_per_kwh: float

    @property
    def days_to_halving(self) -> float:
        """Days at ten minutes a block."""
        return economics.days_to_halving(self.height + 1)

    def changed(self, **changes: float) -> "Prices":
        """The same but for what is named."""
        return replace(self, **changes)  # type: ignore[arg-type]  # the height is never among them

    def after_halving(self) -> "Prices":
        """The same with the next subsidy."""
        return replace(self, height=self.height + economics.BLOCKS_PER_HALVING)


def prices_of(market: Market) -> Prices | None:
    """The prices of a market; None while one of them is unknown."""
    quote, price = market.hashprice, market.price_usd_per_kwh
    if quote is None or price is None:
        return None
    return Prices(
        btc_usd=quote.btc_usd,
        difficulty=quote.difficulty,
        fees_btc=quote.fees_btc,
        height=quote.height,
        price_usd_per_kwh=price,
    )


def margin_usd_per_day(lot: Lot, prices: Prices) -> float:
    """Gross margin of a whole lot while it runs."""
    revenue = lot.paid_phs * prices.hashprice_usd_per_ph_day
    return revenue - lot.energy_kwh_per_day * _price(lot, prices)


def decision_margin_usd_per_day(lot: Lot, prices: Prices) -> float:
    """What running a whole lot earns over sleeping, with what a programme would pay for sleeping."""
    saved = _price(lot, prices) + lot.terms.credit_usd_per_kwh
    return lot.paid_phs * prices.hashprice_usd_per_ph_day - lot.avoidable_kwh_per_day * saved


def _price(lot: Lot, prices: Prices) -> float:
    own = lot.terms.price_usd_per_kwh
    return prices.price_usd_per_kwh if own is None else own


# -- scenarios -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A site under some prices. `running_usd_per_day` is its gross margin if everything runs, `curtailed_usd_per_day`
    if the machines under break-even sleep; `under_kw` is what those draw."""

    name: str
    prices: Prices
    hashprice_usd_per_ph_day: float
    machines: int
    power_kw: float
    under_breakeven: int
    under_kw: float
    running_usd_per_day: float
    curtailed_usd_per_day: float

    @property
    def saved_usd_per_day(self) -> float:
        """What sleep of the machines under break-even is worth."""
        return self.curtailed_usd_per_day - self.running_usd_per_day

    def as_data(self, now: "Outcome") -> dict[str, Any]:
        """As plain data, with the differences to `now`."""
        return asdict(self) | {
            "saved_usd_per_day": self.saved_usd_per_day,
            "running_change_usd_per_day": self.running_usd_per_day - now.running_usd_per_day,
            "curtailed_change_usd_per_day": self.curtailed_usd_per_day - now.curtailed_usd_per_day,
        }


def assess(lots: Sequence[Lot], prices: Prices, name: str = "now") -> Outcome:
    """What a site does under some prices."""
    worth = [decision_margin_usd_per_day(lot, prices) for lot in lots]
    running = math.fsum(margin_usd_per_day(lot, prices) for lot in lots)
    under = [lot for lot, margin in zip(lots, worth, strict=True) if margin < 0]
    return Outcome(
        name=name,
        prices=prices,
        hashprice_usd_per_ph_day=prices.hashprice_usd_per_ph_day,
        machines=sum(lot.count for lot in lots),
        power_kw=math.fsum(lot.power_kw for lot in lots),
        under_breakeven=sum(lot.count for lot in under),
        under_kw=math.fsum(lot.power_kw for lot in under),
        running_usd_per_day=running,
        curtailed_usd_per_day=running - math.fsum(margin for margin in worth if margin < 0),
    )


# -- models ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLine:
    """All machines of a model at the same power price. Money is USD/day of one machine.

    The break-even hashprice, BTC price and difficulty are where running is worth as much as sleeping, all else equal
    (None where no price of a bitcoin would be too low);
    `under_in_days` is when that is reached at the halving, or before it by the growth of difficulty that was assumed: 0
    if it is reached now, None if never. `payback_days` are at today's margin; None without a price of the machine, or
    if it earns nothing.
    """

    model: str
    machines: int
    power_kw: float
    efficiency_j_per_th: float
    price_usd_per_kwh: float
    hashcost_usd_per_ph_day: float
    margin_usd_per_day: float
    margin_after_halving_usd_per_day: float
    under_breakeven: int
    strike_price_usd_per_kwh: float | None
    breakeven_hashprice_usd_per_ph_day: float
    breakeven_btc_usd: float | None
    breakeven_difficulty: float | None
    under_in_days: float | None
    payback_days: float | None


def model_lines(lots: Iterable[Lot], prices: Prices, *, growth_per_month: float = 0.0) -> list[ModelLine]:
    """A line for each model and power price, the least efficient first. `growth_per_month` is the growth of difficulty
    as a fraction."""

    def key(lot: Lot) -> tuple[str, float]:
        return lot.model, _price(lot, prices)

    lines = [
        _model_line(list(group), prices, growth_per_month)
        for _, group in groupby(sorted(lots, key=key), key=key)
    ]
    return sorted(lines, key=lambda line: (-line.efficiency_j_per_th, line.model, line.price_usd_per_kwh))


def _model_line(lots: Sequence[Lot], prices: Prices, growth_per_month: float) -> ModelLine:
    machines = sum(lot.count for lot in lots)
    paid_phs = math.fsum(lot.paid_phs for lot in lots)
    hashing_phs = math.fsum(lot.hashrate_ths * lot.count for lot in lots) / 1000
    avoidable_kwh = math.fsum(lot.avoidable_kwh_per_day for lot in lots)
    price = _price(lots[0], prices)
    hashprice = prices.hashprice_usd_per_ph_day
    saved_usd = math.fsum(lot.avoidable_kwh_per_day * (price + lot.terms.credit_usd_per_kwh) for lot in lots)
    credit_usd = saved_usd - avoidable_kwh * price
    breakeven = saved_usd / paid_phs
    margin = math.fsum(margin_usd_per_day(lot, prices) for lot in lots) / machines
    after = prices.after_halving()
    return ModelLine(
        model=lots[0].model,
        machines=machines,
        power_kw=math.fsum(lot.power_kw for lot in lots),
        efficiency_j_per_th=math.fsum(lot.power_kw for lot in lots) / hashing_phs,
        price_usd_per_kwh=price,
        hashcost_usd_per_ph_day=math.fsum(lot.energy_kwh_per_day for lot in lots) * price / hashing_phs,
        margin_usd_per_day=margin,
        margin_after_halving_usd_per_day=math.fsum(margin_usd_per_day(lot, after) for lot in lots) / machines,
        under_breakeven=sum(lot.count for lot in lots if decision_margin_usd_per_day(lot, prices) < 0),
        strike_price_usd_per_kwh=(
            (paid_phs * hashprice - credit_usd) / avoidable_kwh if avoidable_kwh > 0 else None
        ),
        breakeven_hashprice_usd_per_ph_day=breakeven,
        breakeven_btc_usd=prices.btc_usd * breakeven / hashprice if breakeven > 0 else None,
        breakeven_difficulty=prices.difficulty * hashprice / breakeven if breakeven > 0 else None,
        under_in_days=_under_in_days(prices, breakeven, growth_per_month),
        payback_days=economics.payback_days(
            machine_price_usd=_machine_price_usd(lots, machines), margin_usd_per_day=margin
        ),
    )


def _machine_price_usd(lots: Sequence[Lot], machines: int) -> float | None:
    per_ths = [lot.terms.machine_price_usd_per_ths for lot in lots]
    known = [
        price * lot.hashrate_ths * lot.count
        for price, lot in zip(per_ths, lots, strict=True)
        if price is not None
    ]
    return math.fsum(known) / machines if len(known) == len(lots) else None


def _under_in_days(prices: Prices, breakeven: float, growth_per_month: float) -> float | None:
    """When hashprice falls under break-even: now, by growth of difficulty, at the halving, or by growth after it."""
    halving = prices.days_to_halving
    before = _days_of_growth(prices.hashprice_usd_per_ph_day, breakeven, growth_per_month)
    if before is not None and before <= halving:
        return before
    after = _days_of_growth(prices.after_halving().hashprice_usd_per_ph_day, breakeven, growth_per_month)
    return None if after is None else max(halving, after)


def _days_of_growth(hashprice: float, breakeven: float, growth_per_month: float) -> float | None:
    if breakeven >= hashprice:
        return 0.0
    if breakeven <= 0 or growth_per_month <= 0:
        return None
    return DAYS_PER_MONTH * math.log(hashprice / breakeven) / math.log1p(growth_per_month)


# -- merit order -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step of the merit order: kW that cost the same hashcost, and kW up to and with it. `earns` says that the
    hashprice pays for all of it."""

    model: str
    machines: int
    efficiency_j_per_th: float
    hashcost_usd_per_ph_day: float
    breakeven_hashprice_usd_per_ph_day: float
    power_kw: float
    cumulative_kw: float
    earns: bool


def merit_order(lots: Iterable[Lot], prices: Prices) -> list[Step]:
    """The site's capacity, cheapest hashes first: by model, power price and whole J/TH."""

    def key(lot: Lot) -> tuple[str, float, int]:
        return lot.model, _price(lot, prices), round(lot.efficiency_j_per_th)

    groups = [list(group) for _, group in groupby(sorted(lots, key=key), key=key)]
    lines = [_model_line(group, prices, 0.0) for group in groups]
    steps, total_kw = [], 0.0
    for line in sorted(lines, key=lambda each: (each.hashcost_usd_per_ph_day, each.model)):
        total_kw += line.power_kw
        steps.append(
            Step(
                model=line.model,
                machines=line.machines,
                efficiency_j_per_th=line.efficiency_j_per_th,
                hashcost_usd_per_ph_day=line.hashcost_usd_per_ph_day,
                breakeven_hashprice_usd_per_ph_day=line.breakeven_hashprice_usd_per_ph_day,
                power_kw=line.power_kw,
                cumulative_kw=total_kw,
                earns=line.under_breakeven == 0,
            )
        )
    return steps


def grid(now: Prices, changes: Mapping[str, Sequence[tuple[str, float]]]) -> list[tuple[str, Prices]]:
    """Every combination of changes, with its name: a mapping from a field of `Prices` to named values."""
    found = [("", now)]
    for field, values in changes.items():
        if values:
            found = [
                (f"{name}, {label}" if name else label, prices.changed(**{field: value}))
                for name, prices in found
                for label, value in values
            ]
    return found if len(found) > 1 or found[0][0] else []
