"""What each machine should be doing, and why. Pure: from what is known at a moment to one recommendation."""

from dataclasses import dataclass
from enum import StrEnum

from agent.appraisal import Appraisal
from drivers.reading import RunState


class Action(StrEnum):
    """What is recommended for a machine."""

    RUN = "run"
    """Leave it mining."""
    CURTAIL = "curtail"
    """Put it to sleep: it earns less than it would save."""
    RESTORE = "restore"
    """Wake it: it would earn again, and it sleeps on our order."""
    STAY_ASLEEP = "stay_asleep"
    """Leave it asleep: awake it would lose money."""
    HOLD = "hold"
    """Leave it as it is; the reason says what is not known or not ours."""


class Reason(StrEnum):
    """Why. One stable code for every recommendation and every refusal to give one."""

    ABOVE_BREAKEVEN = "above_breakeven"
    BELOW_BREAKEVEN = "below_breakeven"
    UNREACHABLE = "unreachable"
    """The last read failed; its failure has a kind of its own."""
    STALE_READING = "stale_reading"
    IMPLAUSIBLE_READING = "implausible_reading"
    STALE_MARKET = "stale_market"
    HASHRATE_UNKNOWN = "hashrate_unknown"
    POWER_UNKNOWN = "power_unknown"
    STATE_UNKNOWN = "state_unknown"
    RAMPING = "ramping"
    """It is powering up or tuning: wait until its numbers say something."""
    STOPPED = "stopped"
    """It should mine and does not: a person must look."""
    NOT_OURS_TO_WAKE = "not_ours_to_wake"
    """It would earn, but hashcost did not put it to sleep."""
    BETTER_MODE = "better_mode"
    """Another power mode, as this machine ran in it before, is worth more than this one and than sleep."""
    ACCUMULATING = "accumulating"
    """Not yet worth a switch: what waiting has cost, and will while the price stands, is less than 0.7 of a
    cycle."""
    MIN_ON_TIME = "min_on_time"
    MIN_OFF_TIME = "min_off_time"
    CYCLE_CAP = "cycle_cap"
    RAMP_LIMIT = "ramp_limit"
    """Its turn comes: batch or kW per minute are used up."""
    SITE_MINIMUM_LOAD = "site_minimum_load"
    SITE_MAXIMUM_LOAD = "site_maximum_load"
    PROTECTED = "protected"
    """Its participation is `never`."""
    HOSTING_TERMS = "hosting_terms"
    """It is a customer's, and their contract does not allow it."""
    OTHER_PART = "other_part"
    """It is, or is to be, another part's of the site: read here, commanded there."""
    UNCLAIMED = "unclaimed"
    """No claim of this part of the site on it is confirmed yet, or at the moment."""
    OPERATOR_HOLD = "operator_hold"
    """Somebody holds the whole site."""
    OBLIGATION = "obligation"
    """The grid is owed its load; outranks economics."""
    OBLIGATION_OVER = "obligation_over"
    """What the grid was owed is over; it is put back as it was."""
    ORDER_OPEN = "order_open"
    """An order for it is open: proposed, or under way."""
    GAVE_UP = "gave_up"
    """An order for this failed; a person must look before it is tried again."""
    REJECTED = "rejected"
    """Somebody refused it lately; it is not asked for again so soon."""
    OPERATOR = "operator"
    """Somebody ordered it."""
    DRIFT = "drift"
    """It left its sleep by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What is known of a machine when a recommendation is asked for.

    `problem` is set when its last reading cannot be used; `missing` when there is one without what an appraisal
    needs. `ours` says that the machine sleeps on our order.
    """

    run_state: RunState
    problem: Reason | None = None
    missing: Reason | None = None
    ours: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """One action with its one reason. `marginal` means that the error band of the watts could turn it round:
    recommended, never to be carried out without a person."""

    action: Action
    reason: Reason
    marginal: bool = False


def recommend(situation: Situation, appraisal: Appraisal) -> Recommendation:
    """Recommend an action. Unknown, stale and implausible inputs always give `hold`."""
    refusal = _refusal(situation, appraisal)
    if refusal is not None:
        return Recommendation(action=Action.HOLD, reason=refusal)
    assert appraisal.decision_margin_usd_per_day is not None  # noqa: S101 - _refusal saw to it
    earns = appraisal.decision_margin_usd_per_day > 0
    marginal = appraisal.is_marginal
    if situation.run_state is RunState.ASLEEP:
        if earns and situation.ours:
            return Recommendation(action=Action.RESTORE, reason=Reason.ABOVE_BREAKEVEN, marginal=marginal)
        if earns:
            return Recommendation(action=Action.HOLD, reason=Reason.NOT_OURS_TO_WAKE, marginal=marginal)
        return Recommendation(action=Action.STAY_ASLEEP, reason=Reason.BELOW_BREAKEVEN, marginal=marginal)
    if earns:
        return Recommendation(action=Action.RUN, reason=Reason.ABOVE_BREAKEVEN, marginal=marginal)
    return Recommendation(action=Action.CURTAIL, reason=Reason.BELOW_BREAKEVEN, marginal=marginal)


_STATES_TO_WAIT_FOR = {
    RunState.RAMPING: Reason.RAMPING,
    RunState.STOPPED: Reason.STOPPED,
    RunState.UNKNOWN: Reason.STATE_UNKNOWN,
}


def _refusal(situation: Situation, appraisal: Appraisal) -> Reason | None:
    """The first thing that stands against recommending anything, the most basic first."""
    if situation.problem is not None:
        return situation.problem
    if situation.run_state in _STATES_TO_WAIT_FOR:
        return _STATES_TO_WAIT_FOR[situation.run_state]
    if situation.missing is not None:
        return situation.missing
    if appraisal.decision_margin_usd_per_day is None:
        return Reason.STALE_MARKET
    return None
