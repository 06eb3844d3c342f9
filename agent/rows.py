"""Between the agent's values and the store's rows: what is written of each, and how it is read back.

Times are integer milliseconds since 1970 UTC; None is NULL.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from operator import attrgetter, itemgetter
from typing import Any

from agent.appraisal import Basis, Terms
from agent.baseline import Baseline, Baselines, Conditions
from agent.fleet import Machine
from agent.market.quote import FIXED, HashpriceQuote, Market, PowerPriceQuote
from agent.policy import Action, Reason
from agent.view import MachineView, site_sums
from drivers.inventory import FindingKind
from drivers.reading import Address, Family, Identity, MachineId, PowerMode, PowerSource, RunState

MACHINE_COLUMNS = (
    "machine_id", "mac", "serial", "family", "make", "model", "firmware", "driver_class", "host", "port",
    "machine_group", "sleep_power_w", "first_seen_ms", "last_seen_ms",
)  # fmt: skip
BASELINE_COLUMNS = (
    "machine_id", "power_mode", "hashrate_ths", "power_w", "power_source", "power_error", "firmware",
    "boards_alive", "as_of_ms", "samples",
)  # fmt: skip
_PICTURE = (
    "hashrate_ths", "expected_hashrate_ths", "power_w", "chip_temp_c", "efficiency_j_per_th", "revenue_usd_per_day",
    "energy_cost_usd_per_day", "margin_usd_per_day", "decision_margin_usd_per_day", "hashcost_usd_per_ph_day",
    "strike_price_usd_per_kwh", "breakeven_hashprice_usd_per_ph_day", "payback_days",
)  # fmt: skip
"""Numbers of `MachineView` that have a column of the same name in `latest`."""
_WORDS = ("run_state", "power_source", "action", "reason")
_words_and_numbers = attrgetter(*(f"{name}._value_" for name in _WORDS), *_PICTURE[:-1])
LATEST_COLUMNS = (
    "machine_id", "at_ms", "seen_ms", "run_state", "failure", "implausible", "power_source", "power_mode", "basis",
    *_PICTURE, "action", "reason", "marginal", "change",
)  # fmt: skip
LATEST_AS_WRITTEN = (
    "machine_id", "change", "at_ms", "seen_ms", "power_mode", "basis", "marginal", *_WORDS, *_PICTURE, "failure",
    "implausible",
)  # fmt: skip
"""The columns with those last that are NULL for most machines, and that are then not written one by one: sqlite3 takes
five times as long for None as for a number."""
READING_COLUMNS = (
    "machine_id", "began_ms", "valid_ms", "run_state", "power_source", "quote_id", "ours", "hashrate_ths", "power_w",
    "power_mode", "chip_temp_c", "decision_margin_usd_per_day", "failure", "implausible", "running_ths",
    "running_power_w",
)  # fmt: skip
"""In the same sense."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingRow:
    """One stored reading with the prices and terms it was made under. `valid_ms` is how long it may stand for the
    time after it; `began_ms` is in milliseconds since 1970 UTC. A failed read has `run_state` unknown."""

    machine_id: MachineId
    began_ms: int
    valid_ms: int
    run_state: RunState
    implausible: str | None
    hashrate_ths: float | None
    power_w: float | None
    power_source: PowerSource
    ours: bool
    decision_margin_usd_per_day: float | None
    hashprice_usd_per_ph_day: float | None
    price_usd_per_kwh: float | None
    fee: float
    reject: float
    overhead: float
    power_mode: PowerMode | None = None
    own_price: bool = False
    """Its power price is the machine's own and not the site's."""
    running_ths: float | None = None
    running_power_w: float | None = None
    """What a machine that sleeps on our order does while it runs, as it was appraised."""
    credit_usd_per_kwh: float = 0.0
    chip_temp_c: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """A power price of the site in [start_ms, end_ms) as it was found out later, USD/kWh. One that somebody `corrected`
    by hand stands above what is published."""

    start_ms: int
    end_ms: int
    price_usd_per_kwh: float
    corrected: bool = False

    def overlaps(self, other: "Settled") -> bool:
        """Whether they are about a time in common."""
        return self.start_ms < other.end_ms and other.start_ms < self.end_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """A confirmed sleep or wake on our order, and what it cost."""

    at_ms: int
    sleeps: bool
    cost_usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineRow:
    """One machine of the inventory, as exports need it."""

    machine_id: MachineId
    mac: str | None
    ip: str
    make: str
    model: str
    firmware: str | None
    group: str
    sleep_power_w: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRow:
    """One poll round: how long it took and what became of its machines."""

    began_at: datetime
    took_s: float
    machines: int
    answered: int
    failed: int
    backed_off: int
    skipped_rounds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened once and should be found again."""

    at: datetime
    kind: str
    detail: str
    machine_id: MachineId | None = None

    @property
    def is_doubt(self) -> bool:
        """Of a scan's events: something that could not be identified, told apart or trusted."""
        return self.kind not in _NO_DOUBT


_NO_DOUBT = {f"machine_{kind.value}" for kind in (FindingKind.NEW, FindingKind.SAME, FindingKind.MOVED)}


def to_ms(moment: datetime) -> int:
    """Milliseconds since 1970 UTC of an aware datetime."""
    return round(moment.timestamp() * 1000)


def from_ms(milliseconds: int) -> datetime:
    """The aware UTC datetime of milliseconds since 1970."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def reading_row(machine: Machine, view: MachineView, quote_id: int, valid_ms: int) -> tuple[object, ...]:
    """A row of `readings` for a machine that has just been polled, in the order of `READING_COLUMNS`; it ends where
    the rest is NULL."""
    failure, reading = machine.failure, machine.reading
    if failure is not None:
        return (
            machine.machine_id, to_ms(failure.at), valid_ms, RunState.UNKNOWN.value, PowerSource.UNKNOWN.value,
            quote_id, int(machine.ours), *(None,) * 5, failure.kind,
        )  # fmt: skip
    assert reading is not None  # noqa: S101 - a polled machine has one or the other
    mode = reading.power_mode
    row = (
        machine.machine_id,
        to_ms(reading.began_at),
        valid_ms,
        reading.run_state._value_,  # of an enumeration of texts, at a third of the time of `value`
        reading.power_source._value_,
        quote_id,
        int(machine.ours),
        reading.hashrate_ths,
        reading.power_w,
        None if mode is None else mode._value_,
        reading.chip_temp_c if view.chip_temp_c is None else view.chip_temp_c,
        view.decision_margin_usd_per_day,
    )
    curtailed = machine.ours and reading.run_state is RunState.ASLEEP
    if not curtailed and reading.implausible is None:
        return row
    point = machine.running_point() if curtailed else None
    return (*row, None, reading.implausible, point and point.hashrate_ths, point and point.power_w)


def latest_row(view: MachineView, at_ms: int, change: int) -> tuple[object, ...]:
    """A row of `latest`, in the order of `LATEST_AS_WRITTEN`; it ends where the rest is NULL. `at_ms` is `view.at`,
    `change` the number of the change that writes it."""
    seen_at, mode, basis = view.seen_at, view.power_mode, view.basis
    row = (
        view.machine_id,
        change,
        at_ms,
        None if seen_at is None else to_ms(seen_at),
        None if mode is None else mode._value_,
        None if basis is None else basis._value_,
        int(view.marginal),
        *_words_and_numbers(view),
    )
    if view.failure is None and view.implausible is None:
        return row if view.payback_days is None else (*row, view.payback_days)
    return (*row, view.payback_days, view.failure, view.implausible)


_TOLD = itemgetter(*(LATEST_AS_WRITTEN.index(name) for name in LATEST_COLUMNS if name != "change"))


def as_told(latest: tuple[object, ...]) -> tuple[object, ...]:
    """A row of `latest` as it was written, in the order of `LATEST_COLUMNS` and without its change."""
    whole = (*latest, *(None,) * (len(LATEST_AS_WRITTEN) - len(latest)))
    return tuple(_TOLD(whole))


def view_of(row: dict[str, Any]) -> MachineView:
    """A row of `latest` joined with `machines`."""
    return MachineView(
        machine_id=MachineId(row["machine_id"]),
        mac=row["mac"],
        address=str(Address(host=row["host"], port=row["port"])),
        make=row["make"],
        model=row["model"],
        firmware=row["firmware"],
        group=row["machine_group"],
        at=from_ms(row["at_ms"]),
        seen_at=None if row["seen_ms"] is None else from_ms(row["seen_ms"]),
        run_state=RunState(row["run_state"]),
        failure=row["failure"],
        implausible=row["implausible"],
        power_source=PowerSource(row["power_source"]),
        power_mode=PowerMode(row["power_mode"]) if row["power_mode"] else None,
        basis=Basis(row["basis"]) if row["basis"] else None,
        action=Action(row["action"]),
        reason=Reason(row["reason"]),
        marginal=bool(row["marginal"]),
        **{name: row[name] for name in _PICTURE},
    )


def market_of(row: dict[str, Any], at: datetime) -> Market:
    """A row of `quotes`, as it still stood at `at`."""
    hashprice = power = None
    if row["hashprice_source"] is not None:
        hashprice = HashpriceQuote(
            difficulty=row["difficulty"],
            height=row["height"],
            fees_btc=row["fees_btc"],
            btc_usd=row["btc_usd"],
            source=row["hashprice_source"],
            observed_at=at,
            fixed=row["hashprice_source"] == FIXED,
        )
    if row["price_source"] is not None:
        power = PowerPriceQuote(
            price_usd_per_kwh=row["price_usd_per_kwh"],
            source=row["price_source"],
            observed_at=at,
            fixed=row["price_source"] == FIXED,
        )
    return Market(at=at, hashprice=hashprice, power=power)


_READING = tuple(field.name for field in fields(ReadingRow))
_RUN_STATES = {state.value: state for state in RunState}
_POWER_SOURCES = {source.value: source for source in PowerSource}


def reading_of(row: dict[str, Any]) -> ReadingRow:
    """A row of `readings` joined with `quotes`. A month of a site has millions: what is looked up is looked up once."""
    values = {name: row[name] for name in _READING}
    values["run_state"] = _RUN_STATES[row["run_state"]]
    values["power_source"] = _POWER_SOURCES[row["power_source"]]
    values["ours"] = bool(row["ours"])
    values["power_mode"] = PowerMode(row["power_mode"]) if row["power_mode"] else None
    values["own_price"] = bool(row["own_price"])
    return ReadingRow(**values)


def baseline_of(row: dict[str, Any]) -> Baseline:
    """A row of `baselines`."""
    return Baseline(
        power_mode=PowerMode(row["power_mode"]) if row["power_mode"] else None,
        hashrate_ths=row["hashrate_ths"],
        power_w=row["power_w"],
        power_error=row["power_error"],
        conditions=Conditions(
            firmware=row["firmware"],
            boards_alive=row["boards_alive"],
            power_source=PowerSource(row["power_source"]),
        ),
        as_of=from_ms(row["as_of_ms"]),
        samples=row["samples"],
    )


def machine_row(machine: Machine, terms: Terms) -> tuple[object, ...]:
    """A row of `machines`, in the order of `MACHINE_COLUMNS`."""
    identity = machine.identity
    return (
        machine.machine_id,
        identity.mac,
        identity.serial,
        identity.family.value,
        identity.make,
        identity.model,
        identity.firmware,
        identity.driver_class,
        machine.address.host,
        machine.address.port,
        machine.group,
        terms.sleep_power_w,
        to_ms(machine.first_seen_at),
        to_ms(machine.last_seen_at),
    )


def machine_of(row: dict[str, Any], baselines: list[Baseline]) -> Machine:
    """A machine of the inventory, as it was when the agent last stopped."""
    return Machine(
        machine_id=MachineId(row["machine_id"]),
        identity=Identity(
            family=Family(row["family"]),
            make=row["make"],
            model=row["model"],
            firmware=row["firmware"],
            mac=row["mac"],
            serial=row["serial"],
            driver_class=row["driver_class"],
        ),
        address=Address(host=row["host"], port=row["port"]),
        group=row["machine_group"],
        first_seen_at=from_ms(row["first_seen_ms"]),
        baselines=Baselines(baselines),
    )


def baseline_row(machine: Machine, baseline: Baseline) -> tuple[object, ...]:
    """A row of `baselines`, in the order of `BASELINE_COLUMNS`; an unknown power mode is the empty text."""
    return (
        machine.machine_id,
        baseline.power_mode.value if baseline.power_mode else "",
        baseline.hashrate_ths,
        baseline.power_w,
        baseline.conditions.power_source.value,
        baseline.power_error,
        baseline.conditions.firmware,
        baseline.conditions.boards_alive,
        to_ms(baseline.as_of),
        baseline.samples,
    )


ROUND_COLUMNS = (
    "began_ms", "took_ms", "machines", "answered", "failed", "backed_off", "skipped_rounds",
    "quote_id", "power_kw", "hashrate_phs", "margin_usd_per_day",
)  # fmt: skip


def round_values(row: RoundRow, quote_id: int, views: Sequence[MachineView]) -> tuple[object, ...]:
    """A row of `rounds`, in the order of `ROUND_COLUMNS`. The site's sums are NULL while too many machines are unknown
    for them to be the site's."""
    sums = site_sums(views)
    return (
        to_ms(row.began_at),
        round(row.took_s * 1000),
        row.machines,
        row.answered,
        row.failed,
        row.backed_off,
        row.skipped_rounds,
        quote_id,
        *((None, None, None) if sums is None else sums),
    )


OWN_TERMS = "own"
"""Source of a power price that is a machine's own and not the site's."""


def quote_values(market: Market, terms: Terms) -> tuple[object, ...]:
    """A row of `quotes` but for its id and time: two rounds with the same values share one row."""
    hashprice, power = market.hashprice, market.power
    return (
        hashprice and hashprice.difficulty,
        hashprice and hashprice.height,
        hashprice and hashprice.fees_btc,
        hashprice and hashprice.btc_usd,
        market.hashprice_usd_per_ph_day,
        hashprice and hashprice.source,
        terms.price(market),
        OWN_TERMS if terms.price_usd_per_kwh is not None else power and power.source,
        terms.fee,
        terms.reject,
        terms.overhead,
        terms.credit_usd_per_kwh,
    )


def terms_of(row: dict[str, Any]) -> Terms:
    """A row of `quotes` with the watts of sleep of a machine that ran under it."""
    own = row["price_source"] == OWN_TERMS
    return Terms(
        fee=row["fee"],
        reject=row["reject"],
        overhead=row["overhead"],
        sleep_power_w=row["sleep_power_w"],
        price_usd_per_kwh=row["price_usd_per_kwh"] if own else None,
    )


def inventory_row(row: dict[str, Any]) -> MachineRow:
    """A row of `machines`, as exports need it."""
    return MachineRow(
        machine_id=MachineId(row["machine_id"]),
        mac=row["mac"],
        ip=row["host"],
        make=row["make"],
        model=row["model"],
        firmware=row["firmware"],
        group=row["machine_group"],
        sleep_power_w=row["sleep_power_w"],
    )


def event_of(row: dict[str, Any]) -> Event:
    """A row of `events`."""
    return Event(
        at=from_ms(row["at_ms"]),
        kind=row["kind"],
        detail=row["detail"],
        machine_id=row["machine_id"] and MachineId(row["machine_id"]),
    )
