"""The rivals, in a process and an environment of their own (bench/requirements.txt); nothing of hashcost is imported.

Reads one JSON object per line: `{"do": NAME, ...}`; answers each with one line: `{"cpu_s", "wall_s", "good"}`.
Everything is called as the rival's own documentation shows it.
"""

import asyncio
import json
import logging
import sys
import warnings
from collections.abc import Awaitable, Callable, Iterable
from time import perf_counter, process_time
from typing import Any

warnings.simplefilter("ignore")

import pyasic  # noqa: E402
import pyasic_rs  # noqa: E402
from pyasic import settings  # noqa: E402
from pyasic.miners import factory  # noqa: E402
from pyasic.network import MinerNetwork  # noqa: E402
from pyasic_rs.data import DataField  # noqa: E402

logging.disable(logging.CRITICAL)

FIELDS = ["hashrate", "wattage", "hashboards", "fans", "is_mining"]
RS_FIELDS = {"Hashrate", "Wattage", "Hashboards", "Fans", "IsMining"}
RS_OTHERS = [
    getattr(DataField, name) for name in dir(DataField) if name[0].isupper() and name not in RS_FIELDS
]
CALL_S = 10.0
"""What a careful user puts around each call: pyasic alone waits for minutes."""
CLASSES = {found.__name__: found for table in factory.MINER_CLASSES.values() for found in table.values()}
HOW: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "pyasic get_data(include)": lambda miner: miner.get_data(include=FIELDS),
    "pyasic get_data()": lambda miner: miner.get_data(),
    "pyasic-rs, same fields": lambda miner: miner.get_data(exclude=RS_OTHERS),
}


class Rivals:
    """Knows the machines, in both libraries."""

    def __init__(self) -> None:
        self._pyasic: dict[str, Any] = {}
        self._rs: dict[str, Any] = {}

    async def know(self, machines: list[tuple[str, str]]) -> dict[str, float]:
        """Identify machines (host, pyasic's class) once, as every user does."""
        self._pyasic = {host: CLASSES[name](host) for host, name in machines}
        found = pyasic_rs.MinerFactory()

        async def identify(host: str) -> None:
            miner = await found.get_miner(host)
            if miner is not None:
                self._rs[host] = miner

        await _all((lambda host=host: identify(host) for host, _ in machines), 30)
        return {"good": len(self._rs)}

    async def poll(self, how: str, hosts: list[str], at_once: int) -> dict[str, float]:
        """Read machines, `at_once` at a time."""
        known = self._rs if how.startswith("pyasic-rs") else self._pyasic
        miners = [known[host] for host in hosts if host in known]
        call, good = HOW[how], 0

        async def read(miner: Any) -> None:
            nonlocal good
            try:
                data = await asyncio.wait_for(call(miner), CALL_S)
            except Exception:  # noqa: BLE001 - sick machines fail in every way
                return
            good += data.hashrate is not None

        cpu, wall = process_time(), perf_counter()
        await _all((lambda miner=miner: read(miner) for miner in miners), at_once)
        return {"cpu_s": process_time() - cpu, "wall_s": perf_counter() - wall, "good": good}

    async def scan(self, how: str, network: str, at_once: int) -> dict[str, float]:
        """Find machines in a network."""
        cpu, wall = process_time(), perf_counter()
        if how.startswith("pyasic-rs"):
            found = await pyasic_rs.MinerFactory.from_subnet(network).with_concurrent_limit(at_once).scan()
        else:
            settings.update("network_scan_semaphore", at_once)
            found = await MinerNetwork.from_subnet(network).scan()
        good = len([miner for miner in found if miner is not None])
        return {"cpu_s": process_time() - cpu, "wall_s": perf_counter() - wall, "good": good}

    async def stop(self, hosts: list[str], at_once: int) -> dict[str, float]:
        """Stop mining with pyasic."""
        good = 0

        async def stop(miner: Any) -> None:
            nonlocal good
            good += bool(await asyncio.wait_for(miner.stop_mining(), 30.0))

        cpu, wall = process_time(), perf_counter()
        await _all((lambda host=host: stop(self._pyasic[host]) for host in hosts), at_once)
        return {"cpu_s": process_time() - cpu, "wall_s": perf_counter() - wall, "good": good}


async def _all(calls: Iterable[Callable[[], Awaitable[None]]], at_once: int) -> None:
    waiting = iter(calls)

    async def work() -> None:
        for call in waiting:
            await call()

    await asyncio.gather(*(work() for _ in range(at_once)))


async def main() -> None:
    """Serve until standard input ends."""
    rivals = Rivals()
    lines = asyncio.StreamReader(limit=1 << 26)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    versions = {"pyasic": pyasic.__name__, "pyasic_rs": pyasic_rs.__name__}
    sys.stdout.write(json.dumps(versions) + "\n")
    sys.stdout.flush()
    while told := await lines.readline():
        request = json.loads(told)
        answer = await getattr(rivals, request.pop("do"))(**request)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
