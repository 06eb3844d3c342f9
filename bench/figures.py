"""Figures, how they are measured in interleaved runs, and how they are told."""

import json
import os
import platform
import statistics
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

Run = Callable[[], Awaitable[Mapping[str, float]]]
"""One run of one contender: values by name, smaller is better."""
OURS = "hashcost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the table: medians of the runs. `ratio` is rival over ours, more than 1 is better: the median of the
    ratios of runs that followed each other; `spread` is their range, or the range of ours where there is no rival."""

    name: str
    unit: str
    ours: float
    rival: float | None = None
    rival_name: str | None = None
    ratio: float | None = None
    spread: tuple[float, float] | None = None
    target: float | None = None
    """The ratio, or where there is no rival the value of ours, that is to be reached."""


def of_pairs(
    name: str, unit: str, pairs: Sequence[tuple[float, float]], rival_name: str, target: float | None = None
) -> Figure:
    """Of runs of ours and of a rival that followed each other."""
    ratios = [other / mine for mine, other in pairs]
    return Figure(
        name=name,
        unit=unit,
        ours=statistics.median(mine for mine, _ in pairs),
        rival=statistics.median(other for _, other in pairs),
        rival_name=rival_name,
        ratio=statistics.median(ratios),
        spread=(min(ratios), max(ratios)),
        target=target,
    )


async def interleaved(contenders: Mapping[str, Run], runs: int) -> dict[str, list[Mapping[str, float]]]:
    """Each contender once to warm up, then in turn, `runs` times."""
    for run in contenders.values():
        await run()
    results: dict[str, list[Mapping[str, float]]] = {name: [] for name in contenders}
    for _ in range(runs):
        for name, run in contenders.items():
            results[name].append(await run())
    return results


def figures(
    name: str,
    unit: str,
    value: str,
    results: Mapping[str, list[Mapping[str, float]]],
    targets: Mapping[str, float] | None = None,
) -> list[Figure]:
    """One figure for each rival, or one of ours alone, of one of the values that were measured."""
    targets = targets or {}
    ours = [run[value] for run in results[OURS]]
    found = []
    for rival, theirs in results.items():
        if rival == OURS:
            continue
        pairs = list(zip(ours, (run[value] for run in theirs), strict=True))
        found.append(of_pairs(name, unit, pairs, rival, targets.get(rival)))
    if not found:
        found.append(
            Figure(
                name=name,
                unit=unit,
                ours=statistics.median(ours),
                spread=(min(ours), max(ours)),
                target=targets.get(OURS),
            )
        )
    return found


def line(figure: Figure) -> str:
    """A line of the table for a terminal."""
    told = f"{figure.name:44} {figure.ours:9.3f}"
    if figure.rival is not None and figure.ratio is not None:
        told += f" {figure.rival:9.3f} {figure.unit:22} {figure.rival_name:30} {figure.ratio:6.2f}x"
    else:
        told += f" {'':9} {figure.unit:22} {'':30} {'':7}"
    if figure.spread is not None:
        told += f" ({figure.spread[0]:.2f} to {figure.spread[1]:.2f})"
    if figure.target is not None:
        told += f" wanted {figure.target:g}"
    return told


def show(found: list[Figure]) -> None:
    """Print figures as they come."""
    for figure in found:
        sys.stdout.write(line(figure) + "\n")
    sys.stdout.flush()


def write(found: list[Figure], output: Path) -> None:
    """The file that DESIGN promises: `{"machine", "date", "figures": [...]}`."""
    data = {
        "machine": f"{_processor()}, {os.cpu_count()} CPUs, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}",
        "date": datetime.now(UTC).date().isoformat(),
        "figures": [asdict(figure) for figure in found],
    }
    output.write_text(json.dumps(data, indent=1) + "\n")


def _processor() -> str:
    for told in Path("/proc/cpuinfo").read_text().splitlines():
        if told.startswith("model name"):
            return told.partition(":")[2].strip()
    return platform.processor() or "unknown processor"
