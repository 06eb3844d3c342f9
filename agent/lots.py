"""Machines by the lot: what one of them does while it runs, and under whose terms. From a CSV, or from stored views.

InventoryError       a list of machines that cannot be used; the message names the file and the row
"""

import csv
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from agent import economics
from agent.appraisal import Terms
from agent.errors import UsageError
from agent.market.quote import Market
from agent.view import MachineView
from drivers.catalogue import nameplate
from drivers.reading import MachineId, RunState

MOST_MACHINES = 1_000_000
MOST_THS, MOST_W = 10_000.0, 100_000.0
"""More than any machine does; a number above is in another unit."""
COLUMNS = ("model", "count", "hashrate_ths", "power_w", "sleep_power_w", "price_usd_per_kwh")
"""Of an inventory CSV. `model` is needed; the count is 1 and the rest the catalogue's and the site's if empty."""


class InventoryError(UsageError):
    """A list of machines cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lot:
    """`count` machines that are alike: TH/s and wall watts of one while it runs, and the terms that it runs under."""

    model: str
    count: int
    hashrate_ths: float
    power_w: float
    terms: Terms

    @property
    def efficiency_j_per_th(self) -> float:
        """J/TH."""
        return self.power_w / self.hashrate_ths

    @property
    def power_kw(self) -> float:
        """What all of them draw."""
        return self.power_w * self.count / 1000

    @property
    def paid_phs(self) -> float:
        """PH/s of all of them that are paid for, after fees and rejects: USD/day for each USD/PH/day of hashprice."""
        revenue = economics.revenue_usd_per_day(
            hashrate_ths=self.hashrate_ths,
            hashprice_usd_per_ph_day=1.0,
            fee=self.terms.fee,
            reject=self.terms.reject,
        )
        assert revenue is not None  # noqa: S101 - both factors are known
        return revenue * self.count

    @property
    def energy_kwh_per_day(self) -> float:
        """Energy of all of them while they run, with overhead: USD/day for each USD/kWh."""
        return self._kwh_per_day(self.power_w)

    @property
    def avoidable_kwh_per_day(self) -> float:
        """What of it sleep saves."""
        return self._kwh_per_day(self.power_w - self.terms.sleep_power_w)

    def _kwh_per_day(self, power_w: float) -> float:
        cost = economics.energy_cost_usd_per_day(
            power_w=power_w, price_usd_per_kwh=1.0, overhead=self.terms.overhead
        )
        assert cost is not None  # noqa: S101 - both factors are known
        return cost * self.count


# -- from the agent's database -----------------------------------------------------------------------


def lots_of_views(
    views: Iterable[MachineView], market: Market, terms: Mapping[MachineId, Terms]
) -> tuple[list[Lot], int]:
    """A lot for each machine whose running point is known, and how many machines have none.

    The point is the one that the view was appraised by: what it measured while it mines, else what its revenue and
    efficiency were reckoned from. `terms` are those of each machine.
    """
    lots, unknown = [], 0
    for view in views:
        lot = _lot_of_view(view, market, terms.get(view.machine_id, Terms()))
        if lot is None:
            unknown += 1
        else:
            lots.append(lot)
    return lots, unknown


def _lot_of_view(view: MachineView, market: Market, terms: Terms) -> Lot | None:
    efficiency = view.efficiency_j_per_th
    hashrate_ths = (
        view.hashrate_ths if view.run_state is RunState.MINING else _appraised_ths(view, market, terms)
    )
    if not efficiency or not hashrate_ths or view.implausible is not None:
        return None
    lot = Lot(
        model=view.model,
        count=1,
        hashrate_ths=hashrate_ths,
        power_w=efficiency * hashrate_ths,
        terms=terms,
    )
    return replace(lot, terms=replace(terms, credit_usd_per_kwh=_credit(view, market, lot)))


def _appraised_ths(view: MachineView, market: Market, terms: Terms) -> float | None:
    """H = R * 1000 / (h * (1-f) * (1-q))."""
    hashprice, revenue = market.hashprice_usd_per_ph_day, view.revenue_usd_per_day
    if not hashprice or revenue is None:
        return None
    return revenue * 1000 / (hashprice * (1 - terms.fee) * (1 - terms.reject))


def _credit(view: MachineView, market: Market, lot: Lot) -> float:
    """What a programme pays for a kWh saved: what the decision margin has beyond the price. It is stored nowhere else.

    D = R - A * (p + c), so c = (R - D) / A - p.
    """
    price, revenue, worth = (
        lot.terms.price(market),
        view.revenue_usd_per_day,
        view.decision_margin_usd_per_day,
    )
    if price is None or revenue is None or worth is None or lot.avoidable_kwh_per_day <= 0:
        return 0.0
    credit = (revenue - worth) / lot.avoidable_kwh_per_day - price
    return credit if credit > 1e-6 else 0.0


# -- from a CSV ----------------------------------------------------------------------------------------


def lots_of_csv(path: Path, terms: Terms) -> list[Lot]:
    """The lots of an inventory: a CSV with the header `model,count` and, where the catalogue does not know better,
    `hashrate_ths,power_w,sleep_power_w,price_usd_per_kwh`. Raises `InventoryError`."""
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InventoryError(f"{path}: cannot be read as a CSV ({error})") from error
    columns = set(rows[0]) if rows else set()
    if "model" not in columns:
        raise InventoryError(
            f"{path}: no machines; it needs the header model,count and a line for each model"
        )
    if unknown := sorted(str(name) for name in columns - set(COLUMNS)):
        raise InventoryError(f"{path}: unknown column {unknown[0]!r}; known are {', '.join(COLUMNS)}")
    lots = []
    for number, row in enumerate(rows, start=2):
        try:
            lots.append(_lot_of_row(row, terms))
        except ValueError as error:
            raise InventoryError(f"{path}: line {number}: {error}") from error
    if sum(lot.count for lot in lots) > MOST_MACHINES:
        raise InventoryError(f"{path}: more than {MOST_MACHINES:,} machines")
    return lots


def _lot_of_row(row: Mapping[str, str | None], terms: Terms) -> Lot:
    model = (row["model"] or "").strip()
    if not model:
        raise ValueError("model is empty")
    count = _number(row, "count", least=1, most=MOST_MACHINES)
    if count is not None and count != int(count):
        raise ValueError(f"count is {count:g}, which is no number of machines")
    hashrate_ths = _number(row, "hashrate_ths", least=0.1, most=MOST_THS)
    power_w = _number(row, "power_w", least=1.0, most=MOST_W)
    if hashrate_ths is None or power_w is None:
        plate = nameplate(model, expected_hashrate_ths=hashrate_ths)
        if plate is None:
            raise ValueError(f"{model} is not in the catalogue: give its hashrate_ths and power_w")
        hashrate_ths = hashrate_ths or plate.hashrate_ths
        power_w = power_w or hashrate_ths * plate.efficiency_j_per_th
    sleep_power_w = _number(row, "sleep_power_w", least=0.0, most=1000.0)
    price = _number(row, "price_usd_per_kwh", least=-0.5, most=1.0)
    own = replace(
        terms,
        sleep_power_w=terms.sleep_power_w if sleep_power_w is None else sleep_power_w,
        price_usd_per_kwh=terms.price_usd_per_kwh if price is None else price,
    )
    return Lot(model=model, count=int(count or 1), hashrate_ths=hashrate_ths, power_w=power_w, terms=own)


def _number(row: Mapping[str, str | None], column: str, *, least: float, most: float) -> float | None:
    """The cell's number, None if it is empty. Raises `ValueError` naming the column."""
    text = (row.get(column) or "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{column} is {text!r:.40}, which is no number") from None
    if not math.isfinite(value) or not least <= value <= most:
        raise ValueError(f"{column} is {value:g}, outside of {least:g} to {most:g}")
    return value
