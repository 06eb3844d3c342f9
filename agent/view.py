"""One machine and one site as people and files see them: what was read, what it is worth, what is recommended."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from operator import attrgetter

from agent.appraisal import Appraisal, Basis, Terms, appraise
from agent.fleet import Fleet, Machine
from agent.market.quote import Market
from agent.policy import Action, Reason, Recommendation, recommend
from agent.terms import MachineTerms, TermsBook
from drivers.catalogue import rated_hashrate_ths
from drivers.reading import MachineId, PowerMode, PowerSource, RunState


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineView:
    """One line of the fleet table. None is unknown; `at` is the time of the round that it was appraised
    in, whether that round read it or let it rest; `seen_at` is when it last answered.

    `hashrate_ths`, `power_w` and the temperatures are what the machine said, `expected_hashrate_ths` what it last said
    that it should do, else what its nameplate says; revenue, cost and margins are what it
    is worth while it runs, from the point that `basis` names.
    """

    machine_id: MachineId
    mac: str | None
    address: str
    make: str
    model: str
    firmware: str | None
    group: str
    at: datetime
    seen_at: datetime | None
    run_state: RunState
    failure: str | None
    implausible: str | None
    hashrate_ths: float | None
    expected_hashrate_ths: float | None
    power_w: float | None
    power_source: PowerSource
    power_mode: PowerMode | None
    chip_temp_c: float | None
    basis: Basis | None
    efficiency_j_per_th: float | None
    revenue_usd_per_day: float | None
    energy_cost_usd_per_day: float | None
    margin_usd_per_day: float | None
    decision_margin_usd_per_day: float | None
    hashcost_usd_per_ph_day: float | None
    strike_price_usd_per_kwh: float | None
    breakeven_hashprice_usd_per_ph_day: float | None
    payback_days: float | None
    action: Action
    reason: Reason
    marginal: bool

    @property
    def recommendation(self) -> str:
        """Action and reason in words, as every screen prints them."""
        detail = self.reason.value if self.failure is None else f"{self.reason.value}:{self.failure}"
        return f"{self.action.value} {detail}" + (" (marginal)" if self.marginal else "")

    @property
    def is_under_breakeven(self) -> bool:
        """It mines, by a reading that can be used, and avoidable cost exceeds what it earns."""
        margin = self.decision_margin_usd_per_day
        return self.run_state is RunState.MINING and margin is not None and margin < 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A whole site at one moment: every machine, worst margin first, under one market and the site's terms."""

    market: Market
    terms: Terms
    views: Sequence[MachineView]
    own_terms: Mapping[MachineId, MachineTerms] = field(default_factory=dict)
    """Of machines whose terms are not the site's."""

    def terms_of(self, machine_id: MachineId) -> MachineTerms:
        """What a machine runs under."""
        return self.own_terms.get(machine_id) or MachineTerms(terms=self.terms)


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteTotals:
    """Sums over the machines whose reading can be used. `lost_usd_per_day` is the gross margin, positive, of the
    machines under break-even; `to_curtail_kw` their watts that are recommended to go, `avoidable_usd_per_day` what
    that would save."""

    machines: int
    by_state: dict[str, int]
    power_kw: float
    hashrate_phs: float
    margin_usd_per_day: float
    under_breakeven: int
    lost_usd_per_day: float
    to_curtail: int
    to_curtail_kw: float
    to_curtail_marginal_kw: float
    avoidable_usd_per_day: float


def view_machine(machine: Machine, market: Market, terms: Terms, *, max_age: timedelta) -> MachineView:
    """Appraise one machine at the market's time and recommend."""
    situation = machine.situation(market.at, max_age=max_age)
    usable = situation.problem is None
    appraisal = appraise(machine.running_point() if usable else None, market, terms)
    return _view(machine, situation.run_state, market.at, appraisal, recommend(situation, appraisal))


def view_fleet(fleet: Fleet, market: Market, terms: Terms | TermsBook, *, max_age: timedelta) -> Picture:
    """Appraise every machine of the fleet, each under its own terms."""
    book = TermsBook(site=terms) if isinstance(terms, Terms) else terms
    own = {m.machine_id: book.of(m.machine_id, m.group) for m in fleet} if book.own else {}
    own = {machine_id: each for machine_id, each in own.items() if each != MachineTerms(terms=book.site)}
    picture = Picture(market=market, terms=book.site, views=[], own_terms=own)
    views = by_margin(
        view_machine(machine, market, picture.terms_of(machine.machine_id).terms, max_age=max_age)
        for machine in fleet
    )
    return replace(picture, views=views)


def by_margin(views: Iterable[MachineView]) -> list[MachineView]:
    """Worst margin first, and alike ones always in the same order; what has no margin comes last."""

    def place(view: MachineView) -> tuple[bool, float, MachineId]:
        margin = view.margin_usd_per_day
        return margin is None, margin or 0.0, view.machine_id

    return sorted(views, key=place)


def _view(
    machine: Machine, run_state: RunState, now: datetime, appraisal: Appraisal, recommendation: Recommendation
) -> MachineView:
    failure = machine.failure
    reading = machine.reading if failure is None and run_state is not RunState.UNKNOWN else None
    return MachineView(
        machine_id=machine.machine_id,
        mac=machine.identity.mac,
        address=str(machine.address),
        make=machine.identity.make,
        model=machine.identity.model,
        firmware=machine.identity.firmware,
        group=machine.group,
        at=now,
        seen_at=None if machine.reading is None else machine.reading.began_at,
        run_state=run_state,
        failure=None if failure is None else failure.kind,
        implausible=None if reading is None else reading.implausible,
        hashrate_ths=None if reading is None else reading.hashrate_ths,
        expected_hashrate_ths=_expected(machine),
        power_w=None if reading is None else reading.power_w,
        power_source=PowerSource.UNKNOWN if reading is None else reading.power_source,
        power_mode=None if reading is None else reading.power_mode,
        chip_temp_c=None if reading is None else reading.chip_temp_c,
        basis=None if appraisal.point is None else appraisal.point.basis,
        efficiency_j_per_th=appraisal.efficiency_j_per_th,
        revenue_usd_per_day=appraisal.revenue_usd_per_day,
        energy_cost_usd_per_day=appraisal.energy_cost_usd_per_day,
        margin_usd_per_day=appraisal.margin_usd_per_day,
        decision_margin_usd_per_day=appraisal.decision_margin_usd_per_day,
        hashcost_usd_per_ph_day=appraisal.hashcost_usd_per_ph_day,
        strike_price_usd_per_kwh=appraisal.strike_price_usd_per_kwh,
        breakeven_hashprice_usd_per_ph_day=appraisal.breakeven_hashprice_usd_per_ph_day,
        payback_days=appraisal.payback_days,
        action=recommendation.action,
        reason=recommendation.reason,
        marginal=recommendation.marginal,
    )


def _expected(machine: Machine) -> float | None:
    said = None if machine.reading is None else machine.reading.expected_hashrate_ths
    return said or rated_hashrate_ths(machine.identity.model)


def totals(views: Iterable[MachineView]) -> SiteTotals:
    """Add a site up. What is unknown or implausible is left out of every sum, never counted as zero watts."""
    views = list(views)
    usable = [view for view in views if view.implausible is None]
    mining = [view for view in usable if view.run_state is RunState.MINING]
    under = [view for view in mining if view.is_under_breakeven]
    curtail = [view for view in usable if view.action is Action.CURTAIL]
    marginal = [view for view in curtail if view.marginal]
    states = Counter(map(attrgetter("run_state"), views))
    return SiteTotals(
        machines=len(views),
        by_state={state.value: count for state, count in states.items()},
        power_kw=_sum("power_w", usable) / 1000,
        hashrate_phs=_sum("hashrate_ths", usable) / 1000,
        margin_usd_per_day=_sum("margin_usd_per_day", mining),
        under_breakeven=len(under),
        lost_usd_per_day=0.0 - _sum("margin_usd_per_day", under),
        to_curtail=len(curtail),
        to_curtail_kw=_sum("power_w", curtail) / 1000,
        to_curtail_marginal_kw=_sum("power_w", marginal) / 1000,
        avoidable_usd_per_day=0.0 - _sum("decision_margin_usd_per_day", curtail),
    )


LEAST_KNOWN = 0.9
"""Share of the machines that must be known for their sum to be the site's load."""


def site_load_kw(views: Sequence[MachineView]) -> float | None:
    """What the site draws; None while too many machines are unknown to say so."""
    sums = site_sums(views)
    return None if sums is None else sums[0]


def site_sums(views: Sequence[MachineView]) -> tuple[float, float, float] | None:
    """What the site draws (kW), hashes (PH/s) and earns (USD/day), as in `totals`; None while too many machines are
    unknown for that to be the site's."""
    known, power_w, hashrate_ths, margin_usd_per_day = 0, 0.0, 0.0, 0.0
    for view in views:
        if view.implausible is not None:
            continue
        if view.power_w is not None:
            known, power_w = known + 1, power_w + view.power_w
        elif view.run_state is RunState.ASLEEP:
            known += 1
        hashrate_ths += view.hashrate_ths or 0.0
        if view.run_state is RunState.MINING:
            margin_usd_per_day += view.margin_usd_per_day or 0.0
    if known < LEAST_KNOWN * len(views) or not views:
        return None
    return power_w / 1000, hashrate_ths / 1000, margin_usd_per_day


def _sum(name: str, views: Iterable[MachineView]) -> float:
    """Of what is known: ten thousand machines are added up several times a second."""
    return sum(filter(None, map(attrgetter(name), views)), 0.0)
