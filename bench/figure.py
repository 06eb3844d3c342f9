"""One measured number beside a rival's, and how pairs of runs become one."""

import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

RUNS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the table: medians of several runs; `ratio` is rival over ours, more than 1 is better."""

    name: str
    unit: str
    ours: float
    rival: float | None
    rival_name: str | None
    ratio: float | None
    spread: tuple[float, float] | None


def of_pairs(name: str, unit: str, pairs: Sequence[tuple[float, float]], rival_name: str) -> Figure:
    """The ratio is the median of the pairs' ratios, the spread their range."""
    ratios = [other / mine for mine, other in pairs]
    return Figure(
        name=name,
        unit=unit,
        ours=statistics.median(mine for mine, _ in pairs),
        rival=statistics.median(other for _, other in pairs),
        rival_name=rival_name,
        ratio=statistics.median(ratios),
        spread=(min(ratios), max(ratios)),
    )


async def compare(
    name: str,
    unit: str,
    ours: Callable[[], Awaitable[float]],
    rival: Callable[[], Awaitable[float]] | None = None,
    rival_name: str | None = None,
) -> Figure:
    """Measure `RUNS` pairs, one after the other."""
    await ours()
    pairs = [(await ours(), await rival() if rival else None) for _ in range(RUNS)]
    if rival is None:
        own = statistics.median(pair[0] for pair in pairs)
        return Figure(name=name, unit=unit, ours=own, rival=None, rival_name=None, ratio=None, spread=None)
    return of_pairs(
        name, unit, [(mine, other) for mine, other in pairs if other is not None], rival_name or ""
    )
