"""Policies beside each other on one past: the table, what delay costs, and each class of machines."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from agent.backtest.policies import ROUND_S, AgentPolicy, AlwaysOn, Naive, NeverOn
from agent.backtest.replay import Past, Replayed, Result, Valuation, replay, together
from agent.backtest.series import History, HistoryError
from agent.curtailment import CurtailmentPolicy
from agent.lots import Lot

ALWAYS_ON, NEVER_ON, NAIVE, CLAIRVOYANT = "always-on", "never-on", "naive", "clairvoyant"
SECONDS_PER_MINUTE = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What a policy came to. `share` is of the clairvoyant's gain over always running; None where nothing could be
    gained."""

    policy: str
    result: Result
    net_usd: float
    share: float | None

    def as_data(self) -> dict[str, Any]:
        """As plain data."""
        day, usd = self.result.worst_day
        return {
            "policy": self.policy,
            "machines": self.result.machines,
            "net_usd": self.net_usd,
            "gain_usd": self.result.gain_usd,
            "share_of_clairvoyant": self.share,
            "hours_off": self.result.hours_off,
            "cycles": self.result.cycles,
            "cycles_per_machine": self.result.cycles_per_machine,
            "worst_day": day or None,
            "worst_day_usd": usd,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class DelayLine:
    """What is left of each policy's gain when prices are known `delay_min` minutes after the start of their
    interval."""

    delay_min: float
    lines: Sequence[Line]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassLines:
    """Every policy on one class of machines."""

    lot: Lot
    switching_cost_usd: float
    lines: Sequence[Line]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All of a backtest. `hours` are those with prices; money is of the whole fleet."""

    start: datetime
    end: datetime
    hours: float
    gap_hours: float
    delay_min: float
    lines: Sequence[Line]
    classes: Sequence[ClassLines]
    delays: Sequence[DelayLine]

    def usd_per_five_minutes(self, policy: str) -> float | None:
        """What each five minutes of delay cost a policy, on average over the delays that were replayed."""
        points = [
            (each.delay_min, line.result.gain_usd)
            for each in self.delays
            for line in each.lines
            if line.policy == policy
        ]
        if len(points) < 2 or points[-1][0] == points[0][0]:
            return None
        (first_min, first_usd), (last_min, last_usd) = points[0], points[-1]
        return (first_usd - last_usd) / (last_min - first_min) * 5.0


def compare(
    past: Past,
    lots: Sequence[Lot],
    policies: Mapping[str, CurtailmentPolicy],
    *,
    delay_min: float,
    delays_min: Sequence[float] = (),
    round_s: float = ROUND_S,
) -> Comparison:
    """Replay every policy on every lot. Switching costs are those of the first of `policies`, for all alike."""
    costs = next(iter(policies.values()))
    values = [Valuation(past, lot, costs.switching_cost_of(lot.model)) for lot in lots]
    best = [value.worth(value.clairvoyant()) for value in values]
    end_s = past.power.ends[-1]

    def results(minutes: float, makers: Mapping[str, Callable[[Lot], Replayed]]) -> dict[str, list[Result]]:
        delay_s = minutes * SECONDS_PER_MINUTE
        news = past.news(delay_s)
        judged = {name: _agent(policy, past, delay_s, round_s) for name, policy in policies.items()}
        return {
            name: [value.worth(replay(make(value.lot), news, end_s)) for value in values]
            for name, make in {**makers, NAIVE: Naive, **judged}.items()
        }

    fixed: dict[str, Callable[[Lot], Replayed]] = {
        ALWAYS_ON: lambda _: AlwaysOn(),
        NEVER_ON: lambda _: NeverOn(),
    }
    found = results(delay_min, fixed) | {CLAIRVOYANT: best}
    here = {name: found[name] for name in (NAIVE, *policies)}
    always = [value.always_on_usd() for value in values]
    return Comparison(
        start=datetime.fromtimestamp(past.power.starts[0], UTC),
        end=datetime.fromtimestamp(end_s, UTC),
        hours=past.hours,
        gap_hours=past.gap_hours,
        delay_min=delay_min,
        lines=_lines(found, best, sum(always)),
        classes=[
            ClassLines(
                lot=value.lot,
                switching_cost_usd=costs.switching_cost_of(value.lot.model),
                lines=_lines({name: [each[i]] for name, each in found.items()}, [best[i]], always[i]),
            )
            for i, value in enumerate(values)
        ],
        delays=[
            DelayLine(
                delay_min=minutes,
                lines=_lines(here if minutes == delay_min else results(minutes, {}), best, sum(always)),
            )
            for minutes in delays_min
        ],
    )


def _agent(
    policy: CurtailmentPolicy, past: Past, delay_s: float, round_s: float
) -> Callable[[Lot], Replayed]:
    late_s = 0.0 if past.power.recorded else delay_s
    return lambda lot: AgentPolicy(
        lot, policy, lambda at_s: past.ahead_s(at_s, delay_s), late_s=late_s, round_s=round_s
    )


def _lines(found: Mapping[str, Sequence[Result]], best: Sequence[Result], always_usd: float) -> list[Line]:
    most_usd = together(best).gain_usd
    lines = []
    for name, results in found.items():
        total = together(results)
        share = total.gain_usd / most_usd if most_usd > 0 else None
        lines.append(Line(policy=name, result=total, net_usd=always_usd + total.gain_usd, share=share))
    return lines


def overlap(power: History, hashprice: History, start: datetime | None, end: datetime | None) -> Past:
    """Both histories over the time that they share, and that is asked for. A hashprice must be known at the beginning
    already: that of the interval before, or one that was recorded by then. Raises `HistoryError`."""
    known_s = hashprice.first_known_s
    first = max(known_s, start.timestamp() if start else known_s)
    last = min(hashprice.ends[-1], end.timestamp() if end else hashprice.ends[-1])
    power = power.within(first, last)
    power = power.only([i for i, at_s in enumerate(power.starts) if hashprice.value_at(at_s) is not None])
    if len(power) < 2:
        raise HistoryError(
            "the histories share no time: there must be power prices from --from to --to, and hashprices from one "
            "interval before on"
        )
    return Past(power, hashprice)


def classes(lots: Sequence[Lot]) -> list[Lot]:
    """Machines of the same model under the same terms as one lot, of their mean hashrate and watts."""

    def key(lot: Lot) -> tuple[str, str]:
        return lot.model, repr(lot.terms)

    found = []
    for _, group in groupby(sorted(lots, key=key), key=key):
        each = list(group)
        count = sum(lot.count for lot in each)
        found.append(
            replace(
                each[0],
                count=count,
                hashrate_ths=sum(lot.hashrate_ths * lot.count for lot in each) / count,
                power_w=sum(lot.power_w * lot.count for lot in each) / count,
            )
        )
    return found
