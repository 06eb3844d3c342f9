"""Who is read when: rounds over the whole fleet, N workers on one queue, a deadline, and backoff for the silent."""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from time import monotonic

from agent.fleet import Failure, Machine
from agent.supervision import heed_cancel
from drivers.driver import Driver, DriverError
from drivers.reading import MachineId, Reading

log = logging.getLogger("hashcost")

MAX_BACKOFF_ROUNDS = 16
JITTER = 0.1
INTERNAL_ERROR = "internal_error"
"""Kind of a failure that is a fault of hashcost, not of the machine."""
ROUND_DEADLINE = "round_deadline"


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundResult:
    """What became of one round: an outcome for every machine that was tried."""

    began_at: datetime
    took_s: float
    outcomes: Mapping[MachineId, Reading | Failure]
    backed_off: int


class Poller:
    """Reads machines in rounds. `deadline_s` bounds a whole round: what was not reached by then is a failure of the
    kind `round_deadline`, comes before others in the next round, and is not asked less often for it: it is not the
    machine's fault. However long a round would take, there are never more than `workers` reads under way."""

    def __init__(
        self,
        *,
        workers: int,
        deadline_s: float,
        clock: Callable[[], datetime],
        seed: int | None = None,
    ) -> None:
        self._workers = workers
        self._deadline_s = deadline_s
        self._clock = clock
        self._random = random.Random(seed)
        self._round = 0
        self._due: dict[MachineId, int] = {}
        self._reached: dict[MachineId, int] = {}
        """The last round that had time for each machine."""
        self._forgotten: set[MachineId] = set()

    async def poll(self, fleet: Iterable[tuple[Machine, Driver]]) -> RoundResult:
        """Read every machine that is due, within the round's deadline."""
        self._round += 1
        self._forgotten.clear()
        began_at, began = self._clock(), monotonic()
        machines = list(fleet)
        due = [(machine, driver) for machine, driver in machines if self._is_due(machine)]
        self._random.shuffle(due)
        due.sort(key=lambda each: self._reached.get(each[0].machine_id, 0))
        queue = deque(due)
        outcomes: dict[MachineId, Reading | Failure] = {}
        try:
            async with asyncio.timeout(self._deadline_s), asyncio.TaskGroup() as group:
                for _ in range(min(self._workers, len(queue))):
                    group.create_task(self._work(queue, outcomes))
        except TimeoutError:
            log.debug("event=round_deadline unreached=%d", len(due) - len(outcomes))
        reached = set(outcomes)
        for machine, _ in due:
            if machine.machine_id not in reached:
                late = Failure(
                    at=began_at, kind=ROUND_DEADLINE, detail="not read before the round's deadline"
                )
                outcomes[machine.machine_id] = late
            self._schedule(machine, outcomes[machine.machine_id])
        last = self._reached
        self._reached = {
            each.machine_id: self._round if each.machine_id in reached else last.get(each.machine_id, 0)
            for each, _ in machines
        }
        return RoundResult(
            began_at=began_at,
            took_s=monotonic() - began,
            outcomes=outcomes,
            backed_off=len(machines) - len(due),
        )

    def forget(self, machine_id: MachineId) -> None:
        """Read a machine again in the next round however long it was silent: it was found, perhaps elsewhere, and
        what a round that is under way still hears where it was counts no more."""
        self._due.pop(machine_id, None)
        self._forgotten.add(machine_id)

    async def _work(
        self, queue: deque[tuple[Machine, Driver]], outcomes: dict[MachineId, Reading | Failure]
    ) -> None:
        while queue:
            machine, driver = queue.popleft()
            outcomes[machine.machine_id] = await self._read(machine, driver)

    async def _read(self, machine: Machine, driver: Driver) -> Reading | Failure:
        began_at = self._clock()
        try:
            return await driver.read()
        except DriverError as error:
            return Failure(at=began_at, kind=error.kind, detail=str(error))
        # a fault of ours with one machine, such as a cancellation that nobody asked for, must not blind the site
        except (Exception, asyncio.CancelledError) as error:
            heed_cancel()
            if machine.failure is None or machine.failure.kind != INTERNAL_ERROR:
                log.exception("event=driver_fault address=%s", driver.address)
            return Failure(at=began_at, kind=INTERNAL_ERROR, detail=f"{driver.address}: {error!r}")

    def _is_due(self, machine: Machine) -> bool:
        return self._due.get(machine.machine_id, 0) <= self._round

    def _schedule(self, machine: Machine, outcome: Reading | Failure) -> None:
        """After the n-th failure in a row a machine rests 2^(n-1) - 1 rounds, at most 15."""
        blameless = isinstance(outcome, Reading) or outcome.kind == ROUND_DEADLINE
        if blameless or machine.machine_id in self._forgotten:
            self._due.pop(machine.machine_id, None)
            return
        failures = machine.failures_in_row + 1
        rest = MAX_BACKOFF_ROUNDS if failures > 5 else 2 ** (failures - 1)
        self._due[machine.machine_id] = self._round + rest


def pause_s(interval_s: float, took_s: float, jitter: float) -> tuple[float, int]:
    """Seconds to wait after a round that took `took_s`, and how many rounds it made late.

    Rounds begin on multiples of the interval; one that runs over skips the starts it missed and never overlaps.
    `jitter` in [-1, 1] moves the start by at most a tenth of the interval, so that sites do not beat in step.
    """
    skipped = int(took_s // interval_s)
    return max(0.0, (skipped + 1) * interval_s - took_s + jitter * JITTER * interval_s), skipped
