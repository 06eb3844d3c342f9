"""Who is put to sleep and who is woken now, and why the others are not. Pure: values in, decisions out.

Each machine's wish comes from its recommendation and the cumulative-dollar rule: it switches once what not switching
has cost since then, and is expected to cost while the price stands, reaches `WORTH_CYCLES` of a cycle's cost: neither
a dear interval nor a slow leak is missed, and a single odd reading moves nothing. Then the site's limits let through
what they can: least efficient sleeps first and wakes last.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType

from agent.economics import SECONDS_PER_DAY
from agent.orders import OrderAction
from agent.policy import Action, Reason, Recommendation
from agent.terms import Economics
from drivers.reading import MachineId, PowerMode, RunState


class Mode(StrEnum):
    """What the agent may do with its decisions."""

    OBSERVE = "observe"
    """Appraise only."""
    RECOMMEND = "recommend"
    """Propose orders; a person approves."""
    AUTO = "auto"
    """Carry them out."""


class Participation(StrEnum):
    """What a machine or group may be subjected to."""

    AUTO = "auto"
    RECOMMEND = "recommend"
    NEVER = "never"


class Rule(StrEnum):
    """When a wish becomes a switch."""

    CUMULATIVE = "cumulative"
    """Once the loss or forgone gain, with what is expected while the price stands, is 0.7 of the cost of a cycle."""
    DEAD_BAND = "dead_band"
    """As soon as the margin is further from zero than a share of the energy cost."""


SWITCHING_COSTS_USD: Mapping[str, float] = MappingProxyType(
    {"": 0.02, "Antminer S19": 0.02, "Antminer S21": 0.04}
)
"""What a sleep and a wake cost by model, USD, if nobody said otherwise: ramp energy and lost hash of an S19j Pro come
to 0.015 to 0.03, of an S21 to 0.03 to 0.05. A name stands for every model that begins with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurtailmentPolicy:
    """The site's rules and limits. Costs in USD, times in seconds of the machines' clock."""

    mode: Mode = Mode.RECOMMEND
    rule: Rule = Rule.CUMULATIVE
    switching_cost_usd: float | None = None
    """Of models that `switching_cost_by_model` does not name; None is what `SWITCHING_COSTS_USD` says."""
    switching_cost_by_model: Mapping[str, float] = field(default_factory=dict)
    """USD by model; the longest name that a model begins with counts."""
    learned_cost_by_model: Mapping[str, float] = field(default_factory=dict)
    """USD by model, from the site's own history (`agent.learning`): of models for which nothing is configured."""
    dead_band: float = 0.12
    min_on_s: float = 600.0
    min_off_s: float = 600.0
    override_cycles: float = 5.0
    """The minimum times are overridden once waiting has cost so many cycles."""
    cycles_per_day: int = 8
    batch_machines: int = 50
    ramp_kw_per_min: float = 500.0
    min_site_kw: float = 0.0
    max_site_kw: float | None = None
    participation: Mapping[str, Participation] = field(default_factory=dict)
    """By machine id or group; the machine's own counts first."""

    def switching_cost_of(self, model: str) -> float:
        """What a sleep and a wake of a model cost together, USD: as configured for the model or for all, as learned, or
        as a rule."""
        rule = SWITCHING_COSTS_USD if self.switching_cost_usd is None else {"": self.switching_cost_usd}
        named = {name: cost for name, cost in self.switching_cost_by_model.items() if model.startswith(name)}
        if model in self.learned_cost_by_model and not self.is_cost_configured(model):
            return self.learned_cost_by_model[model]
        known = named or {name: cost for name, cost in rule.items() if model.startswith(name)}
        return known[max(known, key=len)]

    def is_cost_configured(self, model: str) -> bool:
        """Whether somebody said what a cycle of this model costs."""
        return self.switching_cost_usd is not None or any(
            model.startswith(name) for name in self.switching_cost_by_model
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What a machine's wish rests on from round to round.

    `regret_usd` is what not switching has cost since switching became right, of the kind in `wish`; `switched_at` the
    last confirmed switch; `sleeps` those of the last day.
    """

    regret_usd: float = 0.0
    wish: OrderAction | None = None
    updated_at: datetime | None = None
    switched_at: datetime | None = None
    sleeps: tuple[datetime, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModePoint:
    """What a machine is worth in another power mode, learned from its own running there."""

    power_mode: PowerMode
    power_w: float
    decision_margin_usd_per_day: float


WORTH_CYCLES = 0.7
"""What not switching must cost, in cycles: half a one is what the switch costs; more of it leaves out those that the
next price undoes."""
AHEAD_AT_MOST_S = 3600.0
"""However long a price is known to stand, no more than that is expected of it: hashrates and hashprice move."""
WAKE_AHEAD = 2.0
"""A wake counts on so many times the time for which the price stands: dear prices end, and ordinary ones go on."""
LATE_COUNTS = 2.0
"""What a price cost before it was told counts so many times: who hears late that it began hears as late that it ends,
and must believe it sooner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One machine as the decision sees it. `power_w` and `efficiency_j_per_th` are of its running point.

    `usual_margin_usd_per_day` is its decision margin if it ran as it usually does, None while that is not known;
    `price_stands_s` for how long its power price is known to stand, or until the next one is told, which may be never;
    `price_late_s` how long it had been in force when it was told.

    `ours` means that it sleeps on a standing order, `shed` that this one was for the grid; `busy` that an order for it
    is open. Orders of the kinds in `gave_up` failed lately, those in `rejected` were refused by a person; `in_hands`
    says that a person ordered it lately and it is to be left alone; `withheld` why it is not this agent's to command.
    """

    machine_id: MachineId
    group: str
    model: str = ""
    run_state: RunState
    recommendation: Recommendation
    decision_margin_usd_per_day: float | None
    energy_cost_usd_per_day: float | None
    power_w: float | None
    efficiency_j_per_th: float | None
    usual_margin_usd_per_day: float | None = None
    price_stands_s: float = 0.0
    price_late_s: float = 0.0
    other_modes: Sequence[ModePoint] = ()
    economics: Economics = Economics.SITE
    grid: bool = True
    ours: bool = False
    shed: bool = False
    had_no_room: bool = False
    """It was woken under a call of the grid, and was too much."""
    busy: bool = False
    gave_up: frozenset[OrderAction] = frozenset()
    rejected: frozenset[OrderAction] = frozenset()
    in_hands: bool = False
    withheld: Reason | None = None
    memory: Memory = Memory()


@dataclass(frozen=True, slots=True, kw_only=True)
class Obligation:
    """The site's load may not exceed `target_kw` while it lasts. Outranks economics. What a person `approved` is
    carried out in mode recommend too."""

    target_kw: float
    approved: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """The site at the moment of deciding. `load_kw` is what it draws now, of which `leaving_kw` is about to sleep by
    orders that are open, while `coming_kw` is about to wake: neither is certain before it is confirmed. `moved_kw` and
    `moved_machines` are what orders of the last minute have moved, by action. Where `prices_certain` is not, economics
    only propose. `closed` says that a person curtailed
    all of it: machines that come later are brought under that too."""

    now: datetime
    load_kw: float
    leaving_kw: float = 0.0
    coming_kw: float = 0.0
    doubtful_kw: float = 0.0
    """Of machines that mined a while ago and do not answer now: against an obligation they count as drawing."""
    moved_kw: Mapping[OrderAction, float] = field(default_factory=dict)
    moved_machines: Mapping[OrderAction, int] = field(default_factory=dict)
    prices_certain: bool = True
    held: bool = False
    closed: bool = False
    obligation: Obligation | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One machine's verdict. `action` None leaves it as it is; `automatic` says that nobody need approve."""

    machine_id: MachineId
    action: OrderAction | None
    reason: Reason
    automatic: bool
    memory: Memory
    target_mode: PowerMode | None = None


GRID_ROOM = 0.05
"""Share of what the grid leaves that stays free when machines come back under it, so that none goes and comes with the
noise of the load."""
_NO_ECONOMICS = (Reason.OBLIGATION, Reason.OBLIGATION_OVER, Reason.OPERATOR)
"""Wishes that do not come from margins: rules and timers of economics do not apply to them."""


def decide(candidates: Iterable[Candidate], site: Site, policy: CurtailmentPolicy) -> list[Decision]:
    """Every machine's decision, in the order in which they are to be carried out, then those left as they are."""
    wishes = [_wish(candidate, site, policy) for candidate in candidates]
    wanted = [wish for wish in wishes if wish.decision.action is not None]
    left = [wish.decision for wish in wishes if wish.decision.action is None]
    return [*_within_limits(wanted, site, policy), *left]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    candidate: Candidate
    decision: Decision
    better: ModePoint | None


def _wish(candidate: Candidate, site: Site, policy: CurtailmentPolicy) -> _Wish:
    """What one machine should do, before the site's limits."""
    action, reason, better = _wanted(candidate, site, policy)
    memory = _remember(candidate, action, reason, better, site.now)
    automatic = _automatic(candidate, reason, site, policy)
    refusal = None
    if action is not None:
        refusal = _refusal(candidate, action, reason, site, policy, memory=memory, automatic=automatic)
    return _Wish(
        candidate=candidate,
        decision=Decision(
            machine_id=candidate.machine_id,
            action=action if refusal is None else None,
            reason=refusal or reason,
            automatic=automatic,
            memory=memory,
            target_mode=None if better is None or refusal is not None else better.power_mode,
        ),
        better=better,
    )


def _automatic(candidate: Candidate, reason: Reason, site: Site, policy: CurtailmentPolicy) -> bool:
    """Whether nobody need approve it: a person has, it undoes our own, or the agent may by itself."""
    if policy.mode is Mode.OBSERVE:
        return False
    if _approved(reason, site) or reason is Reason.OBLIGATION_OVER:
        return True
    if policy.mode is not Mode.AUTO or _participation(candidate, policy) is not Participation.AUTO:
        return False
    return reason in _NO_ECONOMICS or (site.prices_certain and not candidate.recommendation.marginal)


def _approved(reason: Reason, site: Site) -> bool:
    """Whether a person has said that this is to be done."""
    owed = site.obligation
    return reason is Reason.OPERATOR or (reason is Reason.OBLIGATION and owed is not None and owed.approved)


def _wanted(
    candidate: Candidate, site: Site, policy: CurtailmentPolicy
) -> tuple[OrderAction | None, Reason, ModePoint | None]:
    """What stands highest: the grid, a person, undoing what was done for the grid, economics."""
    if site.obligation is not None:
        if not candidate.had_no_room and _is_to_be_put_back(
            candidate, site, policy
        ):  # there may be room for it
            return OrderAction.WAKE, Reason.OBLIGATION_OVER, None
        if (wanted := _wanted_by_grid(candidate, site, site.obligation)) is not None:
            return *wanted, None
    if site.closed and candidate.run_state is RunState.MINING:
        return OrderAction.SLEEP, Reason.OPERATOR, None
    if _is_to_be_put_back(candidate, site, policy):
        return OrderAction.WAKE, Reason.OBLIGATION_OVER, None
    return _wanted_by_economics(candidate)


def _wanted_by_economics(candidate: Candidate) -> tuple[OrderAction | None, Reason, ModePoint | None]:
    """The best of running on, the modes that this machine is known in, and sleep."""
    recommendation = candidate.recommendation
    better = _better_mode(candidate)
    if better is not None:
        return OrderAction.SET_MODE, Reason.BETTER_MODE, better
    if recommendation.action is Action.CURTAIL:
        return OrderAction.SLEEP, recommendation.reason, None
    if recommendation.action is Action.RESTORE:
        return OrderAction.WAKE, recommendation.reason, None
    return None, recommendation.reason, None


def _wanted_by_grid(
    candidate: Candidate, site: Site, obligation: Obligation
) -> tuple[OrderAction | None, Reason] | None:
    """To shed it while too much is drawn, to leave asleep what there is no room for; None leaves it to the others."""
    over = site.load_kw + site.doubtful_kw - site.leaving_kw > obligation.target_kw
    if candidate.run_state is RunState.MINING and candidate.power_w is not None:
        return (OrderAction.SLEEP, Reason.OBLIGATION) if over else None
    kw = (candidate.power_w or 0.0) / 1000
    room_kw = obligation.target_kw * (1 - GRID_ROOM) - site.load_kw - site.coming_kw - site.doubtful_kw
    no_room = kw > room_kw or candidate.had_no_room
    return (None, Reason.OBLIGATION) if candidate.ours and no_room else None


def _is_to_be_put_back(candidate: Candidate, site: Site, policy: CurtailmentPolicy) -> bool:
    """It sleeps for the grid, which is owed nothing any more: whatever prices say, unless they would put it to sleep
    again without anybody being asked."""
    if not candidate.shed or candidate.run_state is not RunState.ASLEEP or site.closed:
        return False
    loses = candidate.recommendation.action is Action.STAY_ASLEEP
    alone = _automatic(candidate, Reason.BELOW_BREAKEVEN, site, policy)
    return not (loses and alone and _terms_allow(candidate, Reason.BELOW_BREAKEVEN))


def _better_mode(candidate: Candidate) -> ModePoint | None:
    """The other mode that is worth more than this one and than sleep; None if there is none, or too little is known."""
    here = candidate.decision_margin_usd_per_day
    if candidate.recommendation.action not in (Action.RUN, Action.CURTAIL) or here is None:
        return None
    if OrderAction.SET_MODE in candidate.gave_up:  # it does not take modes: sleep is what is left
        return None
    best = max(candidate.other_modes, key=lambda point: point.decision_margin_usd_per_day, default=None)
    return best if best is not None and best.decision_margin_usd_per_day > max(here, 0.0) else None


def _remember(
    candidate: Candidate, action: OrderAction | None, reason: Reason, better: ModePoint | None, now: datetime
) -> Memory:
    """Regret grows while the machine should switch, is forgotten when it should not, and stands still while nothing is
    known. Sleeps of more than a day ago are forgotten."""
    memory = candidate.memory
    sleeps = tuple(at for at in memory.sleeps if now - at < timedelta(days=1))
    margin = candidate.decision_margin_usd_per_day

    def after(regret_usd: float, wish: OrderAction | None) -> Memory:
        return Memory(
            regret_usd=regret_usd, wish=wish, updated_at=now, switched_at=memory.switched_at, sleeps=sleeps
        )

    if margin is None:
        return after(memory.regret_usd, memory.wish)
    if action is None or reason in _NO_ECONOMICS:
        return after(0.0, None)
    if memory.wish is not None and action is not memory.wish:  # it turned round: what was lost before is past
        return after(0.0, action)
    if memory.wish is None:  # it has only just become right: before, not switching cost nothing
        return after(memory.regret_usd, action)
    days = 0.0 if memory.updated_at is None else max(0.0, (now - memory.updated_at) / timedelta(days=1))
    gain = abs(margin) if better is None else better.decision_margin_usd_per_day - margin
    return after(memory.regret_usd + gain * days, action)


def _refusal(
    candidate: Candidate,
    action: OrderAction,
    reason: Reason,
    site: Site,
    policy: CurtailmentPolicy,
    *,
    memory: Memory,
    automatic: bool,
) -> Reason | None:
    """What stands against a switch of this one machine, the most basic first."""
    standing_against = (
        (candidate.withheld is not None, candidate.withheld or Reason.UNCLAIMED),
        (site.held, Reason.OPERATOR_HOLD),
        (_participation(candidate, policy) is Participation.NEVER, Reason.PROTECTED),
        (not _terms_allow(candidate, reason), Reason.HOSTING_TERMS),
        (candidate.busy, Reason.ORDER_OPEN),
        (candidate.in_hands and reason not in _NO_ECONOMICS, Reason.OPERATOR),
        (action in candidate.gave_up, Reason.GAVE_UP),
        (action in candidate.rejected and not (automatic and reason in _NO_ECONOMICS), Reason.REJECTED),
    )
    for stands, why in standing_against:
        if stands:
            return why
    if reason in _NO_ECONOMICS:
        return None
    if not _worth_it(action, candidate, memory, policy):
        return Reason.ACCUMULATING
    return _too_soon(action, candidate.model, memory, site, policy)


def _terms_allow(candidate: Candidate, reason: Reason) -> bool:
    """A customer's machine is curtailed only for what its contract names. What an operator orders is theirs to answer
    for."""
    if reason is Reason.OBLIGATION:
        return candidate.grid
    return reason in _NO_ECONOMICS or candidate.economics is not Economics.NONE


def _worth_it(action: OrderAction, candidate: Candidate, memory: Memory, policy: CurtailmentPolicy) -> bool:
    if policy.rule is Rule.CUMULATIVE:
        cost_usd = memory.regret_usd + _ahead_usd(action, candidate)
        return cost_usd >= policy.switching_cost_of(candidate.model) * WORTH_CYCLES
    margin, cost = candidate.decision_margin_usd_per_day, candidate.energy_cost_usd_per_day
    return margin is not None and cost is not None and abs(margin) > policy.dead_band * abs(cost)


def _ahead_usd(action: OrderAction, candidate: Candidate) -> float:
    """What not switching is expected to cost while the price stands, and before it was told: by the margin of now or
    by the usual one, whichever says less, so that one odd reading foretells nothing. Nothing of power modes, where
    the two disagree, or where the watts are not known well enough to tell: a person is not asked on a guess, and again
    on the next."""
    margin, usual = candidate.decision_margin_usd_per_day, candidate.usual_margin_usd_per_day
    if action is OrderAction.SET_MODE or candidate.recommendation.marginal:
        return 0.0
    if margin is None or usual is None or margin * usual <= 0:
        return 0.0
    ahead_s = max(0.0, min(candidate.price_stands_s, AHEAD_AT_MOST_S))
    if action is OrderAction.WAKE:
        ahead_s *= WAKE_AHEAD
    late_s = min(candidate.price_late_s, AHEAD_AT_MOST_S) * LATE_COUNTS
    return min(abs(margin), abs(usual)) * (late_s + ahead_s) / SECONDS_PER_DAY


def _too_soon(
    action: OrderAction, model: str, memory: Memory, site: Site, policy: CurtailmentPolicy
) -> Reason | None:
    if action is OrderAction.SLEEP and len(memory.sleeps) >= policy.cycles_per_day:
        return Reason.CYCLE_CAP
    too_dear_usd = policy.override_cycles * policy.switching_cost_of(model)
    if (
        0.0 < too_dear_usd <= memory.regret_usd
    ):  # where a cycle costs nothing, nothing says that waiting is dear
        return None
    if memory.switched_at is None:
        return None
    since_s = (site.now - memory.switched_at).total_seconds()
    if action is not OrderAction.WAKE:
        return Reason.MIN_ON_TIME if since_s < policy.min_on_s else None
    return Reason.MIN_OFF_TIME if since_s < policy.min_off_s else None


def _participation(candidate: Candidate, policy: CurtailmentPolicy) -> Participation:
    return participation(candidate.machine_id, candidate.group, policy)


def participation(machine_id: MachineId, group: str, policy: CurtailmentPolicy) -> Participation:
    """What a machine may be subjected to: its own setting, else its group's."""
    own = policy.participation.get(machine_id)
    return own or policy.participation.get(group, Participation.AUTO)


# -- the site's limits -------------------------------------------------------------------------------


def _within_limits(wishes: Sequence[_Wish], site: Site, policy: CurtailmentPolicy) -> list[Decision]:
    """Let wishes through while the limits allow, the others wait with the limit as their reason."""
    budget = _Budget(site, policy)
    return [
        replace(wish.decision, action=None, reason=limit, target_mode=None)
        if (limit := budget.take(wish)) is not None
        else wish.decision
        for wish in sorted(wishes, key=_turn)
    ]


def _turn(wish: _Wish) -> tuple[float, MachineId]:
    """Least efficient sleeps first, and wakes last."""
    efficiency = wish.candidate.efficiency_j_per_th or 0.0
    sleeps = wish.decision.action is OrderAction.SLEEP
    return (-efficiency if sleeps else efficiency), wish.candidate.machine_id


class Headroom:
    """How far the site's load may still go: down if all that is ordered obeys at once, up if nothing goes that was
    told to."""

    def __init__(self, site: Site, policy: CurtailmentPolicy) -> None:
        self._policy = policy
        self._obligation = site.obligation
        self._least_kw = site.load_kw - site.leaving_kw
        self._most_kw = site.load_kw + site.coming_kw
        self._doubtful_kw = site.doubtful_kw

    def limit(self, change_kw: float, reason: Reason) -> Reason | None:
        """The limit that stands against a change of the load for a reason. The minimum binds economics only."""
        if self._obligation is not None and reason is Reason.OBLIGATION:
            owed = self._least_kw + self._doubtful_kw > self._obligation.target_kw
            return None if owed else Reason.OBLIGATION
        if (beyond := self.beyond_obligation(change_kw)) is not None:
            return beyond
        below = self._least_kw + change_kw < self._policy.min_site_kw
        if change_kw < 0 and below and reason is not Reason.OPERATOR:
            return Reason.SITE_MINIMUM_LOAD
        most = self._policy.max_site_kw
        too_much = change_kw > 0 and most is not None and self._most_kw + change_kw > most
        return Reason.SITE_MAXIMUM_LOAD if too_much else None

    def beyond_obligation(self, change_kw: float) -> Reason | None:
        """Whether the grid leaves no room for more load."""
        if self._obligation is None or change_kw <= 0:
            return None
        room_kw = self._obligation.target_kw * (1 - GRID_ROOM)
        return Reason.OBLIGATION if self._most_kw + self._doubtful_kw + change_kw > room_kw else None

    def use(self, change_kw: float) -> None:
        """The change is ordered."""
        self._least_kw += min(0.0, change_kw)
        self._most_kw += max(0.0, change_kw)


class _Budget:
    """What the limits still allow in this round. A proposal uses nothing up: it moves no load."""

    def __init__(self, site: Site, policy: CurtailmentPolicy) -> None:
        self._policy = policy
        self._headroom = Headroom(site, policy)
        self._kw = {action: site.moved_kw.get(action, 0.0) for action in OrderAction}
        self._machines = {action: site.moved_machines.get(action, 0) for action in OrderAction}

    def take(self, wish: _Wish) -> Reason | None:
        """Use up what a wish needs, or say which limit stands against it."""
        action = wish.decision.action
        assert action is not None  # noqa: S101 - only wishes come here
        kw, change_kw = (wish.candidate.power_w or 0.0) / 1000, _change_kw(wish)
        if not wish.decision.automatic:
            return self._headroom.beyond_obligation(change_kw)
        limit = self._headroom.limit(change_kw, wish.decision.reason) or self._ramp_limit(action, kw)
        if limit is None:
            self._kw[action] += kw
            self._machines[action] += 1
            self._headroom.use(change_kw)
        return limit

    def _ramp_limit(self, action: OrderAction, kw: float) -> Reason | None:
        if self._machines[action] >= self._policy.batch_machines:
            return Reason.RAMP_LIMIT
        alone = not self._machines[action]  # a machine that is more than a minute's worth goes by itself
        return None if alone or self._kw[action] + kw <= self._policy.ramp_kw_per_min else Reason.RAMP_LIMIT


def _change_kw(wish: _Wish) -> float:
    """What a wish does to the site's load, kW."""
    kw = (wish.candidate.power_w or 0.0) / 1000
    match wish.decision.action:
        case OrderAction.SLEEP:
            return -kw
        case OrderAction.WAKE:
            return kw
        case _:
            return 0.0 if wish.better is None else wish.better.power_w / 1000 - kw
