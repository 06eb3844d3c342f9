"""Finding machines in a network."""

import ipaddress
from time import perf_counter, process_time

from bench.figures import OURS, Figure, Run, figures, interleaved, show
from bench.host import BenchSite, Rivals
from drivers.addresses import parse_targets
from drivers.discovery import scan
from drivers.driver import ReadOptions

PYASIC_AT_ONCE = 30
"""With more in flight pyasic finds fewer machines (drivers/discovery.py)."""
RUST_AT_ONCE = 2500
"""What its documentation shows."""


async def find(there: BenchSite, rivals: Rivals, runs: int, prefix: int) -> list[Figure]:
    """Seconds until a network is searched, and who was found."""
    first = there.found[0][0].host
    network = str(ipaddress.ip_network(f"{first}/{prefix}", strict=False))

    async def ours() -> dict[str, float]:
        cpu, wall = process_time(), perf_counter()
        result = await scan(parse_targets([network]), options=ReadOptions())
        return {
            "cpu_s": process_time() - cpu,
            "wall_s": perf_counter() - wall,
            "missed": float(len(there.found) - len(result.found)),
        }

    def rival(how: str, at_once: int) -> Run:
        async def run() -> dict[str, float]:
            answer = await rivals.ask("scan", how=how, network=network, at_once=at_once)
            return answer | {"missed": len(there.found) - answer["good"]}

        return run

    contenders = {
        OURS: ours,
        "pyasic": rival("pyasic", PYASIC_AT_ONCE),
        "pyasic-rs": rival("pyasic-rs", RUST_AT_ONCE),
    }
    results = await interleaved(contenders, runs)
    name = f"find {len(there.found)} machines in a /{prefix}"
    found = [
        *figures(f"{name}: time", "s", "wall_s", results, {"pyasic": 1.0, "pyasic-rs": 1.0}),
        *figures(f"{name}: CPU", "s", "cpu_s", results),
    ]
    for who, theirs in results.items():
        missed = max(run["missed"] for run in theirs)
        found.append(Figure(name=f"{name}: missed by {who}", unit="machines at most", ours=missed))
    show(found)
    return found
