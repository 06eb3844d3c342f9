"""What sleeping and waking a model really costs, learned from the site's own orders and the readings around them. Pure.

A machine that is told to sleep or to wake does not obey at once: for a while it draws watts that it does not hash with.
At the price at which running is worth as much as sleep, and there switches are decided, a second of full watts without
hashes costs what a second of hashes earns: so a cycle is measured in such seconds, whatever prices were at the time.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import groupby, pairwise
from statistics import median

from agent.baseline import Baseline
from agent.economics import SECONDS_PER_DAY
from agent.orders import OrderAction
from agent.rows import ReadingRow
from drivers.reading import PowerMode, PowerSource, RunState

BEFORE, AFTER = timedelta(minutes=10), timedelta(minutes=45)
"""Readings that tell of a switch: ten minutes before it was sent, 45 after, but none after the next order was."""
FULL_SHARE = 0.95
PRIOR_CYCLES = 10
"""What is known of a model beforehand counts as much as so many cycles that were measured."""
FEWEST = 3
"""Readings of a steady state without which it is not known."""
_MEASURED = {PowerSource.METERED, PowerSource.REPORTED}


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchSeen:
    """One sleep or wake: seconds from its order to its end, kWh above the sleep draw in them, how many seconds of full
    watts without a hash it came to, and what the machine does on either side."""

    took_s: float
    energy_kwh: float
    wasted_s: float
    hashrate_ths: float
    sleep_power_w: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeLearned:
    """What machines of a model do in one power mode: medians over those that ran in it long enough."""

    power_mode: PowerMode | None
    machines: int
    hashrate_ths: float
    power_w: float

    @property
    def efficiency_j_per_th(self) -> float:
        """J/TH."""
        return self.power_w / self.hashrate_ths


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLearned:
    """A model. `confidence` is the weight of what was measured in `switching_cost_usd`, 0 to 1; the rest is the
    `prior_usd`, and all of it where that is configured. None was not seen."""

    model: str
    prior_usd: float
    switching_cost_usd: float
    confidence: float
    measured_usd: float | None = None
    wakes: int = 0
    sleeps: int = 0
    seconds_to_full: float | None = None
    seconds_to_sleep: float | None = None
    ramp_kwh: float | None = None
    sleep_power_w: float | None = None
    modes: Sequence[ModeLearned] = field(default_factory=tuple)


def switch_seen(action: OrderAction, sent_ms: int, readings: Sequence[ReadingRow]) -> SwitchSeen | None:
    """What one switch cost, by the machine's readings around it, oldest first; None where they do not tell: too few of
    them, watts that nobody measured, or no end of it within the window."""
    before = [each for each in readings if each.began_ms < sent_ms]
    after = [each for each in readings if each.began_ms >= sent_ms]
    awake, asleep = (before, after) if action is OrderAction.SLEEP else (after, before)
    running = [each for each in awake if _is_measured(each, RunState.MINING) and each.hashrate_ths]
    sleeping = [each for each in asleep if _is_measured(each, RunState.ASLEEP)]
    if action is OrderAction.WAKE:
        running = running[-(len(running) // 3) :]
    if len(running) < FEWEST or not sleeping:
        return None
    full_ths = median(each.hashrate_ths or 0.0 for each in running)
    sleep_w = median(each.power_w or 0.0 for each in sleeping)
    avoidable_w = median(each.power_w or 0.0 for each in running) - sleep_w
    ended = [each.began_ms for each in after if _has_ended(action, each, full_ths)]
    if not ended or avoidable_w <= 0:
        return None
    energy_ws = wasted_s = 0.0
    for each, seconds in _pieces(before, after, sent_ms, ended[0]):
        if each.power_w is None or each.power_source not in _MEASURED or each.implausible is not None:
            return None
        above_w = max(0.0, each.power_w - sleep_w)
        hashes = 0.0 if each.run_state is RunState.ASLEEP else (each.hashrate_ths or 0.0) / full_ths
        energy_ws += above_w * seconds
        # a second wastes or yields a second at most, whatever a machine says of itself
        wasted_s += (min(1.0, above_w / avoidable_w) - min(1.0, hashes)) * seconds
    return SwitchSeen(
        took_s=(ended[0] - sent_ms) / 1000,
        energy_kwh=energy_ws / 3.6e6,
        wasted_s=wasted_s,
        hashrate_ths=full_ths,
        sleep_power_w=sleep_w,
    )


def _is_measured(reading: ReadingRow, state: RunState) -> bool:
    measured = reading.power_w is not None and reading.power_source in _MEASURED
    return measured and reading.run_state is state and reading.implausible is None


def _has_ended(action: OrderAction, reading: ReadingRow, full_ths: float) -> bool:
    if action is OrderAction.SLEEP:
        return reading.run_state is RunState.ASLEEP
    return reading.run_state is RunState.MINING and (reading.hashrate_ths or 0.0) >= FULL_SHARE * full_ths


def _pieces(
    before: Sequence[ReadingRow], after: Sequence[ReadingRow], sent_ms: int, ended_ms: int
) -> Iterable[tuple[ReadingRow, float]]:
    """The readings from the order to its end, with the seconds that each stands for; one of a moment in between
    stands for the time since the one before, half and half."""
    known = [*before[-1:], *(each for each in after if each.began_ms <= ended_ms)]
    for one, other in pairwise(known):
        since, until = max(one.began_ms, sent_ms), other.began_ms
        for each in (one, other):
            yield each, (until - since) / 2000


def learn(
    seen: Mapping[str, Sequence[tuple[OrderAction, SwitchSeen]]],
    baselines: Mapping[str, Sequence[Baseline]],
    priors_usd: Mapping[str, float],
    settled: Container[str] = (),
    *,
    paid_usd_per_ph_day: float | None,
) -> list[ModelLearned]:
    """What is known of each model of `priors_usd`: by its switches, by the baselines of its machines, and beforehand.
    That is all that counts for models in `settled`. `paid_usd_per_ph_day` is the hashprice after fees and rejects."""
    found = [
        _learned(model, seen.get(model, ()), baselines.get(model, ()), prior, paid_usd_per_ph_day)
        for model, prior in sorted(priors_usd.items())
    ]
    return [
        replace(each, switching_cost_usd=each.prior_usd) if each.model in settled else each for each in found
    ]


def _learned(
    model: str,
    switches: Sequence[tuple[OrderAction, SwitchSeen]],
    baselines: Sequence[Baseline],
    prior_usd: float,
    paid_usd_per_ph_day: float | None,
) -> ModelLearned:
    wakes = [each for action, each in switches if action is OrderAction.WAKE]
    sleeps = [each for action, each in switches if action is OrderAction.SLEEP]
    cycles = min(len(wakes), len(sleeps))
    measured = None
    if cycles and paid_usd_per_ph_day is not None:
        # medians: a machine that lies, or is broken, is one of many
        wasted_s = median(each.wasted_s for each in wakes) + median(each.wasted_s for each in sleeps)
        phs = median(each.hashrate_ths for each in wakes) / 1000
        measured = max(0.0, wasted_s) * phs * paid_usd_per_ph_day / SECONDS_PER_DAY
    confidence = 0.0 if measured is None else cycles / (cycles + PRIOR_CYCLES)
    return ModelLearned(
        model=model,
        prior_usd=prior_usd,
        switching_cost_usd=confidence * (measured or 0.0) + (1 - confidence) * prior_usd,
        confidence=confidence,
        measured_usd=measured,
        wakes=len(wakes),
        sleeps=len(sleeps),
        seconds_to_full=median(each.took_s for each in wakes) if wakes else None,
        seconds_to_sleep=median(each.took_s for each in sleeps) if sleeps else None,
        ramp_kwh=median(each.energy_kwh for each in wakes) if wakes else None,
        sleep_power_w=median(each.sleep_power_w for _, each in switches) if switches else None,
        modes=_modes(baselines),
    )


def _modes(baselines: Sequence[Baseline]) -> list[ModeLearned]:
    def name(baseline: Baseline) -> str:
        return baseline.power_mode or ""

    found = []
    for _, group in groupby(sorted(baselines, key=name), key=name):
        each = list(group)
        found.append(
            ModeLearned(
                power_mode=each[0].power_mode,
                machines=len(each),
                hashrate_ths=median(baseline.hashrate_ths for baseline in each),
                power_w=median(baseline.power_w for baseline in each),
            )
        )
    return found
