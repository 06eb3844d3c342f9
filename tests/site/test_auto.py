"""Mode auto against machines that lie, sulk and fight: what the orders say is what really happened, by the site's
own books."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from agent.obligations import OPERATOR, Call
from agent.orders import Order, OrderAction, OrderState
from agent.service import Agent
from drivers.reading import Family, PowerMode, RunState
from drivers.simulator.faults import FACTS, Fault
from drivers.simulator.machine import MachineTruth, SimulatedMachine
from drivers.simulator.site import Site, SiteSpec
from tests import loops
from tests.site.conftest import CHEAP, DEAR, Theatre, theatre, writes

ROOT = Path(__file__).parents[2]
ANTMINER, V2, V3 = Family.ANTMINER, Family.WHATSMINER_V2, Family.WHATSMINER_V3
FAMILIES = (ANTMINER, V2, V3)
KEYS = {
    "orders", "confirmed", "failed", "restored", "mode_mismatches", "pool_changes", "kw_shed",
    "seconds_to_confirm", "avoided_loss_usd",
}  # fmt: skip


# -- the demo, as a process ------------------------------------------------------------------------------


def rehearsed(*options: str) -> dict:
    result = subprocess.run(
        [sys.executable, "-m", "agent", "demo", "--auto", "--once", "--json", *options],
        check=False, capture_output=True, text=True, timeout=110, stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    return json.loads(result.stdout)


def test_demo_curtails_and_restores_and_sums_up_by_the_site_s_books():
    """Sixteen machines, eight of them under break-even at the demo's price; those whose watts nobody measures may be
    too close to it to be moved without a person."""
    said = rehearsed("--machines", "16", "--seed", "1", "--speed", "400")
    assert set(said) == KEYS
    assert (said["failed"], said["mode_mismatches"], said["pool_changes"]) == ([], 0, 0)
    assert said["orders"] == said["confirmed"]
    slept = said["orders"] - said["restored"]
    assert 0 < slept == said["restored"] <= 8
    site = Site(SiteSpec(machines=16, seed=1, network="127.93.0.0/24"))
    by_efficiency = sorted(
        (plant.nature.hashrate_ths / plant.nature.power_w, plant.nature.power_w - plant.nature.sleep_power_w)
        for plant in (machine.plant for machine in site.machines)
    )
    shed_kw = [watts / 1000 for _, watts in by_efficiency]
    assert said["kw_shed"] <= 1.02 * sum(sorted(shed_kw)[-slept:])
    assert said["kw_shed"] >= 0.98 * sum(sorted(shed_kw)[:slept])
    seconds = said["seconds_to_confirm"]
    assert 0 < seconds["median"] <= seconds["max"]
    assert said["avoided_loss_usd"] > 0


# -- every fault that concerns commands, on every family ---------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How the last order of a kind for a machine may end (`confirmed`, or the kind of its failure; nothing: there
    is none), and the most commands that may have reached the machine for it."""

    ends: tuple[str, ...]
    most: int
    least: int = 0


OBEYED = Outcome(ends=("confirmed",), most=1, least=1)
DISOBEYED = Outcome(ends=("did_not_obey",), most=2, least=2)
REFUSED = Outcome(ends=("command_refused",), most=1)
FOUGHT = Outcome(ends=("fights_back",), most=3, least=3)

SLEEPS: Mapping[Fault, Outcome] = {
    Fault.OK_BUT_NOTHING: DISOBEYED,
    Fault.APPLIES_SILENTLY: OBEYED,
    Fault.SLOW_WRITE: OBEYED,
    Fault.REFUSES_WRITES: REFUSED,
    Fault.WRONG_PASSWORD: Outcome(ends=("authentication_failed",), most=1),
    Fault.REBOOTS_MIDWAY: Outcome(ends=("confirmed", "did_not_obey"), most=2, least=1),
    Fault.WAKES_BY_ITSELF: FOUGHT,
    Fault.RIVAL_CONTROLLER: FOUGHT,
    Fault.NEEDS_REBOOT: Outcome(ends=("did_not_obey",), most=2, least=1),
    Fault.BOTH_MODE_KEYS: OBEYED,
    Fault.WORK_MODE_KEY: OBEYED,
    Fault.WANTS_STRINGS: Outcome(ends=("confirmed",), most=2, least=2),
    Fault.CONFIG_READ_FAILS: OBEYED,
    Fault.TOKEN_REJECTED: Outcome(ends=("command_refused",), most=2),
    Fault.TOKEN_LIMIT: Outcome(ends=("command_refused",), most=0),
    Fault.WRITES_CLOSED: Outcome(ends=("command_refused",), most=1),
}
"""Of a machine that is to be put to sleep."""
WAKES: Mapping[Fault, Outcome] = {
    **{fault: outcome for fault, outcome in SLEEPS.items() if outcome is not FOUGHT},
    Fault.REBOOTS_MIDWAY: Outcome(ends=("confirmed",), most=2, least=1),
    Fault.NEEDS_REBOOT: Outcome(ends=("did_not_obey", "no_evidence"), most=2, least=1),
    Fault.TOKEN_LIMIT: OBEYED,
}
"""Of one that is to be woken. The token of its sleep is still good."""
PARAMETERS = {
    Fault.SLOW_WRITE: {"seconds": 2.0},
    Fault.WAKES_BY_ITSELF: {"seconds": 300.0},
    Fault.RIVAL_CONTROLLER: {"seconds": 300.0},
    Fault.CONFIG_READ_FAILS: {"times": 1},
}


RELAPSE_ROUNDS = 22
"""Within so many quiet rounds a machine that undoes its sleep is seen mining again."""


def expected(outcomes: Mapping[Fault, Outcome], fault: Fault, family: Family) -> Outcome:
    """V3 has one word for a wrong password and for writing that is closed. A sleeping Antminer that does not let us in
    cannot be told from a broken one, and is left alone."""
    if (fault, family) == (Fault.WRITES_CLOSED, V3):
        return Outcome(ends=("authentication_failed",), most=1)
    if (fault, family, outcomes) == (Fault.WRONG_PASSWORD, ANTMINER, WAKES):
        return Outcome(ends=(), most=0)
    return outcomes[fault]


def cases(outcomes: Mapping[Fault, Outcome]) -> Iterator[tuple[Fault, Family]]:
    for family in FAMILIES:
        for fault in outcomes:
            if family in FACTS[fault].families:
                yield fault, family


@dataclass(frozen=True, kw_only=True)
class Case:
    """What became of one machine: its order, what reached it, and its truth before and after."""

    order: Order | None
    received: list[str]
    before: MachineTruth
    after: MachineTruth


Cases = dict[tuple[Fault, Family], Case]


pytestmark = pytest.mark.timeout(600)
"""One test waits for the whole matrix."""


@pytest.fixture(scope="module")
def matrix(tmp_path_factory) -> tuple[Cases, Cases, list[str]]:
    """One site, curtailed while some machines have a fault each, restored while others have; and whatever is wrong
    with those that had none."""
    return loops.run(_matrix(tmp_path_factory.mktemp("matrix") / "hashcost.db"))


async def _matrix(database: Path) -> tuple[Cases, Cases, list[str]]:
    async with (
        theatre(database, machines=130, seed=4, network="127.91.0.0/16") as stage,
        stage.new_agent() as agent,
    ):
        await agent.scan()
        spare = list(stage.site.machines)
        sleepers = {case: _take(spare, case[1]) for case in cases(SLEEPS)}
        wakers = {case: _take(spare, case[1]) for case in cases(WAKES)}
        await stage.priced(agent, CHEAP)
        slept = await _phase(stage, agent, sleepers, OrderAction.SLEEP, DEAR, RELAPSE_ROUNDS)
        stage.site.clear_faults()
        woken = await _phase(stage, agent, wakers, OrderAction.WAKE, CHEAP, 3)
        sound = [
            f"{machine.mac}: {stage.writes(machine)}, {machine.truth().run_state}"
            for machine in spare
            if stage.writes(machine) != ["sleep", "wake"] or machine.truth().run_state is not RunState.MINING
        ]
        return slept, woken, sound


def _take(spare: list[SimulatedMachine], family: Family) -> SimulatedMachine:
    machine = next(machine for machine in spare if machine.family is family)
    spare.remove(machine)
    return machine


async def _phase(
    stage: Theatre,
    agent: Agent,
    machines: Mapping[tuple[Fault, Family], SimulatedMachine],
    action: OrderAction,
    price: float,
    quiet: int,
) -> Cases:
    before = {case: machine.truth() for case, machine in machines.items()}
    for (fault, _), machine in machines.items():
        stage.site.set_fault(machine.address, fault, **PARAMETERS.get(fault, {}))
    await stage.priced(agent, price, quiet=quiet)
    orders = {order.machine_id: order for order in agent.reconciler.all() if order.action is action}
    return {
        case: Case(
            order=orders.get(machine.mac),
            received=writes(machine.truth())[len(writes(before[case])) :],
            before=before[case],
            after=machine.truth(),
        )
        for case, machine in machines.items()
    }


def check(case: Case, wanted: Outcome, word: str) -> None:
    order = case.order
    assert (order is None) is (not wanted.ends), order
    if order is not None:
        ended = order.failure if order.state is OrderState.FAILED else order.state.value
        assert ended in wanted.ends, order
        assert order.detail, "an order that ended says how"
    assert wanted.least <= len(case.received) <= wanted.most, case.received
    assert set(case.received) <= {word, "unreadable"}
    assert case.after.pools == case.before.pools
    assert case.after.power_mode is case.before.power_mode


@pytest.mark.parametrize("case", list(cases(SLEEPS)), ids="-".join)
def test_sleep_is_confirmed_or_a_named_failure_and_commands_are_bounded(matrix, case):
    slept, _, _ = matrix
    wanted = expected(SLEEPS, *case)
    check(slept[case], wanted, "sleep")
    asleep = slept[case].after.run_state is RunState.ASLEEP
    assert asleep is (wanted.ends == OBEYED.ends), "what the order says is not what the machine does"


@pytest.mark.parametrize("case", list(cases(WAKES)), ids="-".join)
def test_wake_is_confirmed_or_a_named_failure_and_commands_are_bounded(matrix, case):
    _, woken, _ = matrix
    wanted = expected(WAKES, *case)
    check(woken[case], wanted, "wake")
    mining = woken[case].after.run_state is RunState.MINING
    assert mining is (wanted.ends == OBEYED.ends), "what the order says is not what the machine does"


def test_machines_without_a_fault_sleep_and_wake_once_whatever_the_others_do(matrix):
    _, _, unsound = matrix
    assert unsound == []


# -- what is left alone ----------------------------------------------------------------------------------


@pytest.fixture
async def stage(start_theatre) -> AsyncIterator[Theatre]:
    """Twelve machines, every family among them."""
    return await start_theatre(machines=12, seed=4)


def one_of_each(stage: Theatre) -> list[SimulatedMachine]:
    return [next(m for m in stage.site.machines if m.family is family) for family in FAMILIES]


async def test_what_the_site_s_operator_put_to_sleep_is_never_woken(stage):
    """Neither before the agent came, nor while it curtails, nor once everything earns again."""
    early, late = one_of_each(stage), [m for m in stage.site.machines if m not in one_of_each(stage)][:3]
    for machine in early:
        stage.site.sleep(machine.address)
    stage.pass_time(600.0)
    async with stage.new_agent() as agent:
        await agent.scan()
        await stage.priced(agent, CHEAP)
        for machine in late:
            stage.site.sleep(machine.address)
        stage.pass_time(600.0)
        await stage.priced(agent, DEAR, standing=6)
        await stage.priced(agent, CHEAP, standing=0, quiet=10)
    for machine in stage.site.machines:
        theirs = machine in (*early, *late)
        assert stage.writes(machine) == ([] if theirs else ["sleep", "wake"])
        assert machine.truth().run_state is (RunState.ASLEEP if theirs else RunState.MINING)


async def test_a_machine_wakes_in_the_mode_in_which_it_was_found(stage):
    """Two of each family's modes, the frequency level too."""
    stranger = [m for m in stage.site.machines if PowerMode.LOW in m.exemplar.modes]
    low = [next(m for m in stranger if m.family is family) for family in FAMILIES]
    for machine in low:
        stage.site.set_mode(machine.address, PowerMode.LOW)
    antminer = low[0]
    antminer.freq_level = "90"
    stage.pass_time(3600.0)
    before = {machine.mac: machine.truth() for machine in stage.site.machines}
    async with stage.new_agent() as agent:
        await agent.scan()
        await stage.priced(agent, DEAR, standing=12)
        assert all(m.truth().run_state is RunState.ASLEEP for m in stage.site.machines)
        await stage.priced(agent, CHEAP, standing=0)
        orders = agent.reconciler.all()
    assert {order.state for order in orders} == {OrderState.CONFIRMED, OrderState.RELEASED}
    assert antminer.freq_level == "90"
    for machine in stage.site.machines:
        truth = machine.truth()
        assert truth.run_state is RunState.MINING
        assert truth.power_mode is before[machine.mac].power_mode
        assert truth.power_w == pytest.approx(before[machine.mac].power_w, rel=0.05)
        assert truth.pools == before[machine.mac].pools


async def test_a_call_of_the_grid_is_answered_by_the_site_s_own_books(stage):
    """Shed by so much for some hours, over a restart in the middle: the load of the books falls by that, the least
    efficient machines sleep and no others, and all come back as they were."""
    before = {machine.mac: machine.truth() for machine in stage.site.machines}
    load_w = sum(truth.power_w for truth in before.values())
    by_kw = load_w / 1000 / 3
    async with stage.new_agent() as agent:
        await agent.scan()
        await stage.priced(agent, CHEAP)
        now = stage.site.now()
        call = Call(
            call_id="c", source=OPERATOR, by="anna", start=now, end=now + timedelta(hours=6), by_kw=by_kw
        )
        await agent.operations.shed(call, dry_run=False)
        await stage.rounds(agent, lambda: not agent.reconciler.open_orders() and agent.reconciler.standing())
        slept = set(agent.reconciler.standing())
        books = {machine.mac: machine.truth() for machine in stage.site.machines}
        assert sum(truth.power_w for truth in books.values()) <= load_w - 1000 * by_kw * 0.98
        assert {mac for mac, truth in books.items() if truth.run_state is RunState.ASLEEP} == slept
        left = [_efficiency(before[mac]) for mac in before if mac not in slept]
        assert min(_efficiency(before[mac]) for mac in slept) >= max(left) * 0.95
    async with stage.new_agent() as agent:
        await stage.rounds(agent, lambda: set(agent.reconciler.standing()) == slept, quiet=5)
        stage.pass_time(6 * 3600.0)
        await stage.rounds(
            agent, lambda: not agent.reconciler.standing() and not agent.reconciler.open_orders()
        )
    for machine in stage.site.machines:
        truth = machine.truth()
        assert truth.run_state is RunState.MINING
        assert (truth.power_mode, truth.pools) == (before[machine.mac].power_mode, before[machine.mac].pools)
        assert stage.writes(machine) == (["sleep", "wake"] if machine.mac in slept else [])


def _efficiency(truth: MachineTruth) -> float:
    return truth.power_w / truth.hashrate_ths


SILENT = (
    Fault.NO_ANSWER, Fault.REFUSES, Fault.HANGS, Fault.RESETS, Fault.GARBAGE, Fault.HTML, Fault.CUT_JSON,
    Fault.OVERSIZED,
)  # fmt: skip
UNUSABLE = (*SILENT, Fault.EMPTY_STATS, Fault.HASHRATE_X1000, Fault.HOT_CHIPS)
"""The last three spoil only what a mining machine says: a sleeping one has nothing to lie about."""


async def test_machines_without_a_usable_reading_get_no_command(start_theatre):
    """Unreachable, talking nonsense, or plausible to nobody: neither price moves them. Cured, they follow."""
    stage = await start_theatre(machines=24, seed=4)
    unusable = dict(zip(stage.site.machines, UNUSABLE, strict=False))
    silent = dict(zip(stage.site.machines, SILENT, strict=False))
    async with stage.new_agent(deadline_s=0.7) as agent:
        await agent.scan()
        for machine, fault in unusable.items():
            stage.site.set_fault(machine.address, fault)
        await stage.priced(agent, DEAR, standing=13)
        for machine in stage.site.machines:
            assert stage.writes(machine) == ([] if machine in unusable else ["sleep"]), unusable.get(machine)

        stage.site.clear_faults()
        await stage.priced(agent, DEAR, standing=24)
        for machine, fault in silent.items():
            stage.site.set_fault(machine.address, fault)
        await stage.priced(agent, CHEAP, standing=8)
        for machine in stage.site.machines:
            wanted = ["sleep"] if machine in silent else ["sleep", "wake"]
            assert stage.writes(machine) == wanted, silent.get(machine)


# -- machines that come later ----------------------------------------------------------------------------


async def test_late_joiners_are_curtailed_too_and_come_back_with_the_others(stage):
    """One that did not answer when the site was scanned, one that moved to another address, one that boots."""
    silent, moved, booting = one_of_each(stage)
    stage.site.set_fault(silent.address, Fault.REFUSES)
    async with stage.new_agent() as agent:
        await agent.scan()
        await stage.priced(agent, CHEAP)
        booting.reboot(stage.site.clock.seconds())
        last = stage.site.scan_targets[0].rsplit("-", 1)[1]
        stage.site.move(moved.address, f"{moved.address.rsplit('.', 1)[0]}.{last}")
        await stage.priced(agent, DEAR, standing=10)
        assert stage.writes(silent) == stage.writes(moved) == []

        stage.site.clear_faults()
        await agent.scan()
        await stage.priced(agent, DEAR, standing=12)
        assert all(m.truth().run_state is RunState.ASLEEP for m in stage.site.machines)
        await stage.priced(agent, CHEAP, standing=0)
    for machine in stage.site.machines:
        assert stage.writes(machine) == ["sleep", "wake"]
        assert machine.truth().run_state is RunState.MINING


async def test_an_order_withdrawn_while_it_is_being_sent_stops_nothing(stage):
    """The price turns while the agent still reads what a machine must be restored to."""
    antminer = one_of_each(stage)[0]
    async with stage.new_agent() as agent:
        await agent.scan()
        await stage.priced(agent, CHEAP)
        slow = SlowToRestore(agent._driver(antminer.mac))
        agent._drivers[antminer.mac] = slow
        stage.price.price_usd_per_kwh = DEAR
        await agent.poll_once()
        async with asyncio.timeout(60):
            await slow.asked.wait()
        stage.price.price_usd_per_kwh = CHEAP
        await agent.poll_once()
        slow.go_on.set()
        await stage.priced(agent, DEAR, standing=12)
    assert stage.writes(antminer) == ["sleep"]
    assert {m.truth().run_state for m in stage.site.machines} == {RunState.ASLEEP}


class SlowToRestore:
    """A driver that takes its time to read what is to be restored."""

    def __init__(self, driver) -> None:
        self._driver = driver
        self.asked, self.go_on = asyncio.Event(), asyncio.Event()

    def __getattr__(self, name: str):
        return getattr(self._driver, name)

    async def restore_point(self):
        self.asked.set()
        await self.go_on.wait()
        return await self._driver.restore_point()
