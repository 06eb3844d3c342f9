"""The policies that a backtest compares: the agent's own, by the agent's own code, and the ones to beat."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from agent.appraisal import Basis, RunningPoint, appraise
from agent.backtest.replay import News, Switch, Worth
from agent.curtailment import AHEAD_AT_MOST_S, Candidate, CurtailmentPolicy, Memory, Mode, Site, decide
from agent.lots import Lot
from agent.market.quote import HashpriceQuote, Market, PowerPriceQuote
from agent.orders import OrderAction
from agent.policy import Reason, Situation, recommend
from drivers.reading import MachineId, PowerSource, RunState

ROUND_S = 60.0
"""How often a machine is decided on anew while it waits for a switch."""
_LOAD_KW = 1e9
"""Of a site that is never near its minimum."""
SOURCE = "history"
_NO_LIMITS: Mapping[str, Any] = {
    "batch_machines": 10**9,
    "ramp_kw_per_min": math.inf,
    "min_site_kw": 0.0,
    "max_site_kw": None,
    "participation": {},
}
"""Limits of the whole site: they concern the order of machines, not whether one is worth a switch."""
_UNIT = HashpriceQuote(
    difficulty=1e14,
    height=1,
    fees_btc=0.0,
    btc_usd=1.0,
    source=SOURCE,
    observed_at=datetime(2009, 1, 3, tzinfo=UTC),
    fixed=True,
)
_UNIT_USD_PER_PH_DAY = _UNIT.hashprice_usd_per_ph_day
"""A history tells hashprices, and not what they were made from: any quote will do that comes to the same."""


class AlwaysOn:
    """Never sleeps."""

    def hear(self, news: News, next_s: float) -> Sequence[Switch]:
        """Nothing."""
        del news, next_s
        return ()


class NeverOn:
    """Sleeps from the beginning on."""

    def __init__(self) -> None:
        self._asleep = False

    def hear(self, news: News, next_s: float) -> Sequence[Switch]:
        """Sleep at the first news."""
        del next_s
        if self._asleep:
            return ()
        self._asleep = True
        return (Switch(news.at_s, True),)


class Naive:
    """Sleeps while running is worth less than sleep, at every price, whatever a switch costs."""

    def __init__(self, lot: Lot) -> None:
        self._worth = Worth(lot)
        self._asleep = False

    def hear(self, news: News, next_s: float) -> Sequence[Switch]:
        """Switch if the sign of the margin says so."""
        del next_s
        if news.price_usd_per_kwh is None or news.hashprice_usd_per_ph_day is None:
            return ()
        worth = self._worth(news.price_usd_per_kwh, news.hashprice_usd_per_ph_day)
        if (worth <= 0) is self._asleep:
            return ()
        self._asleep = not self._asleep
        return (Switch(news.at_s, self._asleep),)


class AgentPolicy:
    """What the agent would do in mode auto, with watts that are certain and machines that obey at once.

    Appraisal, recommendation and decision are the agent's own functions. Site limits and power modes are left out.
    `ahead_s` says for how long the price is known to stand, `late_s` how late it is told. A machine that does what it
    should and waits for nothing is only decided on at news: until then the agent would decide the same.
    """

    def __init__(
        self,
        lot: Lot,
        policy: CurtailmentPolicy,
        ahead_s: Callable[[float], float],
        *,
        late_s: float = 0.0,
        round_s: float = ROUND_S,
    ) -> None:
        self._lot = lot
        self._worth = Worth(replace(lot, count=1))
        self._policy = replace(policy, mode=Mode.AUTO, **_NO_LIMITS)
        self._ahead_s = ahead_s
        self._late_s = late_s
        self._round_s = round_s
        self._asleep = False
        self._memory = Memory()
        self._reason: Reason | None = None
        self._was_blind = False
        self._own_price = lot.terms.price_usd_per_kwh is not None
        self._decided_s = -math.inf

    def hear(self, news: News, next_s: float) -> Sequence[Switch]:
        """Decide now, and again each round for as long as a switch is waited for."""
        switches: list[Switch] = []
        at_s = news.at_s
        while True:
            if not self._decide(news, at_s, switches):
                return switches
            at_s = self._next_round(at_s, next_s)
            if at_s >= next_s:
                return switches

    def _next_round(self, at_s: float, next_s: float) -> float:
        """When something may be decided otherwise. While a price stands that is known to end within the hour, what
        waiting has cost grows no faster than what it will cost shrinks: nothing changes before the last round of it."""
        ahead_s = self._ahead_s(at_s)
        if self._reason is not Reason.ACCUMULATING or self._own_price or not 0 < ahead_s <= AHEAD_AT_MOST_S:
            return at_s + self._round_s
        rounds = math.ceil((min(next_s, at_s + ahead_s) - at_s) / self._round_s) - 1
        return at_s + max(1, rounds) * self._round_s

    def _decide(self, news: News, at_s: float, switches: list[Switch]) -> bool:
        """Decide once; True if it waits for a switch."""
        if news.price_usd_per_kwh is None or news.hashprice_usd_per_ph_day is None:
            self._was_blind = True
            return False
        worth = self._worth(news.price_usd_per_kwh, news.hashprice_usd_per_ph_day)
        if (worth <= 0) is self._asleep and self._memory.wish is None:
            return False
        now = datetime.fromtimestamp(at_s, UTC)
        # the agent decided a round ago, as ever; of rounds that were left out this makes up for the waiting
        since_s = at_s - self._decided_s
        if self._memory.wish is None or self._was_blind:
            since_s = min(self._round_s, since_s)
        memory = replace(self._memory, updated_at=now - timedelta(seconds=since_s))
        (decision,) = decide(
            [self._candidate(news, now, memory)], Site(now=now, load_kw=_LOAD_KW), self._policy
        )
        self._memory, self._decided_s = decision.memory, at_s
        self._reason, self._was_blind = decision.reason, False
        if decision.action is None:
            return decision.memory.wish is not None
        self._asleep = decision.action is OrderAction.SLEEP
        sleeps = (*decision.memory.sleeps, now) if self._asleep else decision.memory.sleeps
        self._memory = Memory(switched_at=now, sleeps=sleeps)
        switches.append(Switch(at_s, self._asleep))
        return False

    def _candidate(self, news: News, now: datetime, memory: Memory) -> Candidate:
        lot = self._lot
        point = RunningPoint(
            hashrate_ths=lot.hashrate_ths,
            power_w=lot.power_w,
            power_source=PowerSource.METERED,
            power_error=0.0,
            basis=Basis.LIVE,
            as_of=now,
        )
        appraisal = appraise(point, _market(news, now), lot.terms)
        run_state = RunState.ASLEEP if self._asleep else RunState.MINING
        return Candidate(
            machine_id=MachineId(lot.model),
            group="",
            model=lot.model,
            run_state=run_state,
            recommendation=recommend(Situation(run_state=run_state, ours=self._asleep), appraisal),
            decision_margin_usd_per_day=appraisal.decision_margin_usd_per_day,
            energy_cost_usd_per_day=appraisal.energy_cost_usd_per_day,
            power_w=lot.power_w,
            efficiency_j_per_th=appraisal.efficiency_j_per_th,
            usual_margin_usd_per_day=appraisal.decision_margin_usd_per_day,
            price_stands_s=math.inf if self._own_price else self._ahead_s(now.timestamp()),
            price_late_s=0.0 if self._own_price else self._late_s,
            ours=self._asleep,
            memory=memory,
        )


def _market(news: News, now: datetime) -> Market:
    """Both prices as the agent would have them."""
    assert news.price_usd_per_kwh is not None  # noqa: S101 - the caller saw to it
    assert news.hashprice_usd_per_ph_day is not None  # noqa: S101
    return Market(
        at=now,
        hashprice=replace(
            _UNIT, btc_usd=news.hashprice_usd_per_ph_day / _UNIT_USD_PER_PH_DAY, observed_at=now
        ),
        power=PowerPriceQuote(price_usd_per_kwh=news.price_usd_per_kwh, source=SOURCE, observed_at=now),
    )
