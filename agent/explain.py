"""Why a machine is recommended what it is: numbers, rule, reason, and what would change the verdict. Pure."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

from agent.appraisal import Basis, Terms
from agent.market.quote import Market
from agent.policy import Action, Reason
from agent.summary import number
from agent.view import MachineView
from drivers.catalogue import nameplate
from drivers.power import REPORTED_ERROR
from drivers.reading import MachineId, PowerSource, RunState

RULE = (
    "A machine runs while it earns more than running costs over sleeping: payout, less the power price times the "
    "watts that sleep would save."
)

WHY: Mapping[str, str] = MappingProxyType(
    {
        "above_breakeven": "It earns more than the energy that sleeping would save.",
        "below_breakeven": "Awake it costs more than it earns.",
        "unreachable": "Its last read failed, so nothing is known of it now.",
        "stale_reading": "Its last reading is too old to say what it does now.",
        "implausible_reading": "Its last reading cannot be true, so nothing is done on it.",
        "stale_market": "There is no hashprice or no power price that is fresh enough to decide on.",
        "hashrate_unknown": "It is not known what it hashes when it runs.",
        "power_unknown": "It is not known what it draws when it runs.",
        "state_unknown": "It does not tell whether it mines or sleeps.",
        "ramping": "It is powering up or tuning; its numbers say nothing of steady state yet.",
        "stopped": "It should mine by its own configuration and does not.",
        "not_ours_to_wake": "It would earn, but hashcost did not put it to sleep.",
        "better_mode": "Another power mode that it has run in is worth more than this one and than sleep.",
        "accumulating": "A switch costs more than waiting has cost so far, and will while the price stands.",
        "min_on_time": "It was woken too short a time ago to be put to sleep again.",
        "min_off_time": "It was put to sleep too short a time ago to be woken again.",
        "cycle_cap": "It has been put to sleep as often today as it may be.",
        "ramp_limit": "Other machines go first: the machines or the kW of this minute are used up.",
        "site_minimum_load": "Without it the site would draw less than it must.",
        "site_maximum_load": "With it the site would draw more than it may.",
        "protected": "It is protected: it takes no part in curtailment.",
        "hosting_terms": "It is a customer's, and their terms do not let the host curtail it for this.",
        "other_part": "Another part of the site has it: it is read here and commanded there.",
        "unclaimed": "No claim of this part of the site on it is confirmed.",
        "operator_hold": "An operator holds the whole site as it is.",
        "obligation": "The grid is owed its load, which outranks what it earns.",
        "obligation_over": "It slept because the grid was owed its load, which is over: it is put back as it was.",
        "order_open": "An order for it is open: a person is asked, or it is being carried out.",
        "gave_up": "An order for it failed, and it is not tried for ever.",
        "rejected": "An operator refused it lately, and is not asked again so soon.",
        "operator": "An operator ordered it.",
        "drift": "It left its sleep by itself.",
    }
)
"""A sentence for each reason code."""

UNTIL: Mapping[str, str] = MappingProxyType(
    {
        "unreachable": "an answer of the machine; look at its network and its power",
        "stale_reading": "a new reading",
        "implausible_reading": "a reading that can be true; look at the machine if it stays so",
        "stale_market": "fresh prices; look at the sources of the prices",
        "hashrate_unknown": "a while of mining, or a model that the catalogue knows",
        "power_unknown": "a machine that reports its watts, or a model that the catalogue knows",
        "state_unknown": "a reading that tells its state",
        "ramping": "the end of its ramp",
        "stopped": "somebody who looks at the machine",
        "min_on_time": "time, or prices that make waiting dear",
        "min_off_time": "time, or prices that make waiting dear",
        "cycle_cap": "tomorrow, or prices that make waiting dear",
        "ramp_limit": "its turn",
        "site_minimum_load": "more load from others",
        "site_maximum_load": "less load from others",
        "protected": "its participation in the configuration",
        "hosting_terms": "other terms with its owner, in the configuration",
        "other_part": "the other part to give it back: other `scan.addresses` or `fleet.own_groups` there and here",
        "unclaimed": "NATS servers that can be reached",
        "operator_hold": "`hashcost resume`",
        "obligation": "the end of the obligation",
        "obligation_over": "another obligation, or `hashcost hold`",
        "order_open": "the end of that order",
        "gave_up": "an operator who looked at it and orders it again",
        "rejected": "time, or an operator who orders it",
        "operator": "another order of an operator",
        "drift": "its way back to sleep, or an operator",
    }
)
"""What would change the verdict where prices do not."""

_OTHERWISE: Mapping[str, str] = MappingProxyType(
    {
        "run": "It would be recommended for sleep",
        "curtail": "It would be left running",
        "stay_asleep": "It would be worth waking",
        "restore": "It would be left asleep",
        "hold": "It would not be worth waking",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """One machine's verdict at `at`. None is unknown.

    `strike_price_usd_per_kwh` and `breakeven_hashprice_usd_per_ph_day` are where the verdict turns, each with the other
    price as it is; `changed_by` says it in words. `avoidable_cost_usd_per_day` is what sleeping would save.
    `basis_age_s` is the age of what the numbers come from; a baseline was learned at a time that is not kept here.
    """

    machine_id: MachineId
    address: str
    model: str
    group: str
    at: datetime
    run_state: RunState
    action: Action
    reason: Reason
    failure: str | None
    implausible: str | None
    marginal: bool
    why: str
    rule: str
    changed_by: str
    hashprice_usd_per_ph_day: float | None
    hashprice_source: str | None
    price_usd_per_kwh: float | None
    price_source: str | None
    hashrate_ths: float | None
    power_w: float | None
    power_source: PowerSource
    efficiency_j_per_th: float | None
    hashcost_usd_per_ph_day: float | None
    fee: float
    reject: float
    overhead: float
    revenue_usd_per_day: float | None
    energy_cost_usd_per_day: float | None
    avoidable_cost_usd_per_day: float | None
    margin_usd_per_day: float | None
    decision_margin_usd_per_day: float | None
    power_error: float | None
    margin_error_usd_per_day: float | None
    strike_price_usd_per_kwh: float | None
    breakeven_hashprice_usd_per_ph_day: float | None
    basis: Basis | None
    basis_age_s: float | None
    reading_age_s: float | None

    def as_data(self) -> dict[str, Any]:
        """All of it as plain data; times as ISO-8601 UTC."""
        return asdict(self) | {"at": self.at.isoformat()}

    def as_text(self) -> str:
        """For a person on a terminal; unknown is a dash, and what a machine says of itself moves no cursor."""
        return "\n".join(printable(line) for line in _lines(self))


def printable(text: str) -> str:
    """The text without characters that a terminal would obey."""
    return "".join(character if character.isprintable() else "?" for character in text)


def explain(view: MachineView, market: Market, terms: Terms) -> Explanation:
    """Explain the recommendation of a view, made in this market under these terms."""
    power_error = _power_error(view)
    cost = view.energy_cost_usd_per_day
    reading_age_s = None if view.seen_at is None else (view.at - view.seen_at).total_seconds()
    return Explanation(
        machine_id=view.machine_id,
        address=view.address,
        model=view.model,
        group=view.group,
        at=view.at,
        run_state=view.run_state,
        action=view.action,
        reason=view.reason,
        failure=view.failure,
        implausible=view.implausible,
        marginal=view.marginal,
        why=WHY.get(view.reason, view.reason.replace("_", " ")),
        rule=RULE,
        changed_by=_changed_by(view, market),
        hashprice_usd_per_ph_day=market.hashprice_usd_per_ph_day,
        hashprice_source=None if market.hashprice is None else market.hashprice.source,
        price_usd_per_kwh=market.price_usd_per_kwh,
        price_source=None if market.power is None else market.power.source,
        hashrate_ths=view.hashrate_ths,
        power_w=view.power_w,
        power_source=view.power_source,
        efficiency_j_per_th=view.efficiency_j_per_th,
        hashcost_usd_per_ph_day=view.hashcost_usd_per_ph_day,
        fee=terms.fee,
        reject=terms.reject,
        overhead=terms.overhead,
        revenue_usd_per_day=view.revenue_usd_per_day,
        energy_cost_usd_per_day=cost,
        avoidable_cost_usd_per_day=_minus(view.revenue_usd_per_day, view.decision_margin_usd_per_day),
        margin_usd_per_day=view.margin_usd_per_day,
        decision_margin_usd_per_day=view.decision_margin_usd_per_day,
        power_error=power_error,
        margin_error_usd_per_day=None if power_error is None or cost is None else abs(cost) * power_error,
        strike_price_usd_per_kwh=view.strike_price_usd_per_kwh,
        breakeven_hashprice_usd_per_ph_day=view.breakeven_hashprice_usd_per_ph_day,
        basis=view.basis,
        basis_age_s=None if view.basis in {None, Basis.BASELINE} else reading_age_s,
        reading_age_s=reading_age_s,
    )


def _minus(total: float | None, part: float | None) -> float | None:
    return None if total is None or part is None else total - part


def _power_error(view: MachineView) -> float | None:
    """The error band of the watts that were reckoned with, as a fraction; None if the view does not tell."""
    if view.basis is None or view.basis is Basis.BASELINE:
        return None
    if view.basis is Basis.LIVE and view.power_source is not PowerSource.NAMEPLATE:
        return REPORTED_ERROR
    plate = nameplate(view.model, expected_hashrate_ths=view.hashrate_ths)
    return None if plate is None else plate.error


# -- in words ----------------------------------------------------------------------------------------


def _changed_by(view: MachineView, market: Market) -> str:
    """What would change the verdict: prices where they decide, else what it waits for."""
    until = UNTIL.get(view.reason)
    if until is not None or view.decision_margin_usd_per_day is None:
        return f"Prices do not change this; it takes {until or 'what is not known now'}."
    earns = view.decision_margin_usd_per_day > 0
    flips = [
        flip
        for flip in (
            _power_flip(view.strike_price_usd_per_kwh, market.price_usd_per_kwh, earns),
            _hashprice_flip(view.breakeven_hashprice_usd_per_ph_day, market.hashprice_usd_per_ph_day, earns),
        )
        if flip is not None
    ]
    if not flips:
        return "No price changes this: sleeping would save nothing."
    return f"{_OTHERWISE.get(view.action, 'It would be otherwise')} {', or '.join(flips)}."


def _power_flip(strike: float | None, now: float | None, earns: bool) -> str | None:
    if strike is None:
        return None
    side = "from" if earns else "under"
    return f"{side} a power price of {strike:.4f} USD/kWh (now {number(now, 4)})"


def _hashprice_flip(breakeven: float | None, now: float | None, earns: bool) -> str | None:
    """None where no hashprice turns it: it cannot fall under zero."""
    if breakeven is None or breakeven < 0:
        return None
    side = "down from" if earns else "over"
    return f"{side} a hashprice of {breakeven:.2f} USD/PH/day (now {number(now, 2)})"


def _lines(told: Explanation) -> list[str]:
    verdict = f"{told.action.value}: {told.reason.value}" + (f" ({told.failure})" if told.failure else "")
    energy = f"{number(told.energy_cost_usd_per_day, 2)} USD/day"
    saved = number(told.avoidable_cost_usd_per_day, 2)
    seen = f"{told.run_state.value}, {number(told.hashrate_ths, 1)} TH/s, {number(told.power_w, 0)} W"
    error = "" if told.margin_error_usd_per_day is None else f" +- {told.margin_error_usd_per_day:.2f}"
    rows = (
        ("verdict", verdict + (", marginal" if told.marginal else "")),
        ("reason", told.why + (f" ({told.implausible})" if told.implausible else "")),
        ("rule", told.rule),
        ("change", told.changed_by),
        ("hashprice", f"{number(told.hashprice_usd_per_ph_day, 2)} USD/PH/day ({told.hashprice_source or 'unknown'})"),
        ("hashcost", f"{number(told.hashcost_usd_per_ph_day, 2)} USD/PH/day"),
        ("power price", f"{number(told.price_usd_per_kwh, 4)} USD/kWh ({told.price_source or 'unknown'})"),
        ("strike price", f"{number(told.strike_price_usd_per_kwh, 4)} USD/kWh"),
        ("break-even", f"{number(told.breakeven_hashprice_usd_per_ph_day, 2)} USD/PH/day"),
        ("payout", f"{number(told.revenue_usd_per_day, 2)} USD/day"),
        ("energy", f"{energy}, of which sleep saves {saved}"),
        ("over sleeping", f"{number(told.decision_margin_usd_per_day, 2, sign=True)}{error} USD/day"),
        ("margin", f"{number(told.margin_usd_per_day, 2, sign=True)} USD/day"),
        ("machine", f"{seen} ({told.power_source.value}), seen {_age(told.reading_age_s)}"),
        ("efficiency", f"{number(told.efficiency_j_per_th, 1)} J/TH, {_basis(told)}"),
    )  # fmt: skip
    heading = (
        f"{told.machine_id}  {told.address}  {told.model}  {told.group}  at {told.at:%Y-%m-%d %H:%M:%S} UTC"
    )
    return [heading, *(f"  {name:<14}{text}" for name, text in rows)]


def _basis(told: Explanation) -> str:
    if told.basis is None:
        return "from nothing: no point to reckon from"
    band = "error band not kept" if told.power_error is None else f"watts +- {told.power_error:.0%}"
    age = "learned while it ran" if told.basis is Basis.BASELINE else _age(told.basis_age_s)
    return f"basis {told.basis.value} ({age}), {band}"


def _age(seconds: float | None) -> str:
    return "never" if seconds is None else f"{timedelta(seconds=round(seconds))} ago"
