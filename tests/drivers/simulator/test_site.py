"""A site as a whole: the same by seed, addresses, listeners, and leaving nothing behind."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from drivers.reading import Family, PowerMode, RunState
from drivers.simulator.faults import Fault
from drivers.simulator.listeners import ListenError
from drivers.simulator.machine import SimulatedMachine
from drivers.simulator.site import Site, SiteSpec
from drivers.simulator.telemetry import observe

NETWORK = "127.80.1.0/24"


def figures(machine: SimulatedMachine) -> tuple[object, ...]:
    return machine.mac, machine.serial, machine.model, machine.address, machine.faults, observe(machine)


def test_the_same_seed_gives_the_same_site(still: Callable) -> None:
    one, _ = still(seed=11, fault_share=0.3)
    two, _ = still(seed=11, fault_share=0.3)
    other, _ = still(seed=12, fault_share=0.3)
    assert [figures(m) for m in one.machines] == [figures(m) for m in two.machines]
    assert [m.model for m in one.machines] != [m.model for m in other.machines]


def test_what_machines_say_depends_on_the_time_and_is_near_the_truth(still: Callable) -> None:
    site, hand = still()
    machine = site.machines[0]
    first = observe(machine)
    hand.now_s += 3_600
    later = observe(machine)
    assert first != later
    truth = site.truth(machine.address)
    assert later.hash_5s_ths == pytest.approx(truth.hashrate_ths, rel=0.05)
    assert later.power_w == pytest.approx(truth.power_w, rel=0.02)
    assert later.hash_5s_ths != truth.hashrate_ths
    quiet, _ = still(noise=0.0)
    assert observe(quiet.machines[0]).hash_5s_ths == quiet.truth(machine.address).hashrate_ths


def test_truth_books_by_simulated_time(still: Callable) -> None:
    site, hand = still(speed=60.0)
    truth = site.truth(site.machines[0].address)
    assert (truth.energy_kwh, truth.hash_thh) == (0.0, 0.0)
    hand.now_s += 60
    after = site.truth(site.machines[0].address)
    assert (after.at - after.since).total_seconds() == 3_600
    assert after.hash_thh == pytest.approx(after.hashrate_ths)
    assert after.energy_kwh == pytest.approx(after.power_w / 1000, rel=0.003)
    assert site.now() == after.at


def test_machines_differ_from_their_nameplates(still: Callable) -> None:
    site, _ = still(machines=300)
    ratios = [
        site.truth(m.address).power_w
        / site.truth(m.address).hashrate_ths
        / (m.exemplar.power_w / m.exemplar.hashrate_ths)
        for m in site.machines
    ]
    assert max(ratios) > 1.02
    assert min(ratios) < 0.98
    assert all(0.9 < ratio < 1.1 for ratio in ratios)


def test_addresses_run_in_order_and_skip_0_and_255(still: Callable) -> None:
    site, _ = still(machines=600, network="127.80.0.0/16")
    addresses = [m.address for m in site.machines]
    assert addresses[0] == "127.80.0.1"
    assert addresses[254] == "127.80.1.1"
    assert not any(a.endswith((".0", ".255")) for a in addresses)
    assert site.scan_targets == ["127.80.0.1-254", "127.80.1.1-254", "127.80.2.1-96"]
    assert len({m.mac for m in site.machines}) == len({m.serial for m in site.machines}) == 600


@pytest.mark.parametrize(
    "spec",
    [
        {"network": "10.0.0.0/24"},
        {"network": "126.0.0.0/7"},
        {"machines": 300, "network": "127.80.0.0/24"},
        {"machines": 0},
        {"speed": 0},
        {"fault_share": 1.5},
        {"noise": 0.9},
    ],
)
def test_an_impossible_site_is_refused(spec: dict) -> None:
    with pytest.raises(ValueError, match=r"network|machines|speed"):
        SiteSpec(**spec)


def test_operators_change_the_truth(still: Callable, pick: Callable) -> None:
    site, hand = still()
    machine = pick(site, Family.WHATSMINER_V2)
    site.sleep(machine.address)
    hand.now_s += 120
    assert site.truth(machine.address).run_state is RunState.ASLEEP
    site.wake(machine.address)
    hand.now_s += 900
    assert site.truth(machine.address).run_state is RunState.MINING
    site.set_mode(machine.address, PowerMode.LOW)
    hand.now_s += 900
    truth = site.truth(machine.address)
    assert truth.power_mode is PowerMode.LOW
    assert truth.power_w < 0.75 * machine.exemplar.power_w
    assert [c.kind for c in truth.commands] == ["operator:sleep", "operator:wake", "operator:set_mode"]
    with pytest.raises(ValueError, match="no mode"):
        site.set_mode(pick(site, Family.ANTMINER).address, PowerMode.HIGH)


async def ask(address: str) -> bytes:
    async with asyncio.timeout(60):
        reader, writer = await asyncio.open_connection(address, 4028)
        writer.write(b'{"command":"get_version"}')
        try:
            return await reader.read()
        finally:
            writer.close()


@pytest.mark.parametrize("shared", [False, True], ids=["listener per machine", "listener per port"])
def test_machines_answer_move_and_swap(shared: bool, pick: Callable, run_isolated: Callable) -> None:
    async def work() -> None:
        async with Site(SiteSpec(machines=9, network=NETWORK), shared=shared) as site:
            machine, other = pick(site, Family.WHATSMINER_V2), pick(site, Family.ANTMINER)
            here, there, free = machine.address, other.address, "127.80.1.200"
            assert machine.firmware.version.encode() in await ask(here)
            site.swap(here, there)
            assert (machine.address, other.address) == (there, here)
            assert machine.firmware.version.encode() in await ask(there)
            site.move(there, free)
            assert machine.firmware.version.encode() in await ask(free)
            assert site.truth(free).mac == machine.mac
            with pytest.raises(ConnectionError):
                await ask(there)
            with pytest.raises(ValueError, match="taken"):
                site.move(free, here)
            with pytest.raises(ValueError, match="not in"):
                site.move(free, "127.90.0.1")
            with pytest.raises(KeyError):
                site.truth("127.80.1.201")

    run_isolated(work)


def test_a_site_too_large_for_the_file_limit_shares_its_listeners(run_isolated: Callable) -> None:
    async def work() -> None:
        async with Site(SiteSpec(machines=20_000, network="127.80.0.0/16", speed=1.0)) as site:
            assert len(list(Path("/proc/self/fd").iterdir())) < 50
            async with asyncio.TaskGroup() as tasks:
                asked = [tasks.create_task(ask(m.address)) for m in site.machines[::100]]
            assert all(task.result() for task in asked)
            with pytest.raises(ConnectionError):
                await ask("127.80.200.1")
            with pytest.raises(ConnectionError):
                await asyncio.open_connection(site.machines[0].address, 8080)

    run_isolated(work)


async def test_nothing_is_left_behind_even_with_clients_connected() -> None:
    tasks = asyncio.all_tasks()
    async with Site(SiteSpec(machines=6, network=NETWORK)) as site:
        site.set_fault(site.machines[0].address, Fault.HANGS)
        site.set_fault(site.machines[1].address, Fault.SLOW_ANSWER, seconds=60)
        open_ones = []
        for machine in site.machines[:2]:
            reader, writer = await asyncio.open_connection(machine.address, 4028)
            writer.write(b'{"command":"summary"}')
            open_ones.append((reader, writer))
        await asyncio.sleep(0.05)
    for reader, writer in open_ones:
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
    assert asyncio.all_tasks() == tasks
    async with Site(SiteSpec(machines=6, network=NETWORK)):
        pass  # all ports are free again


async def test_an_address_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.80.1.2", 4028))
        taken.listen()
        with pytest.raises(ListenError, match=r"127\.80\.1\.2:4028: Address already in use"):
            async with Site(SiteSpec(machines=3, network=NETWORK)):
                pass
    async with Site(SiteSpec(machines=3, network=NETWORK)):
        pass


async def test_many_connections_at_once() -> None:
    async with Site(SiteSpec(machines=50, network=NETWORK)) as site:
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(ask(m.address)) for m in site.machines for _ in range(10)]
        assert all(task.result() for task in asked)


def test_an_old_command_log_is_trimmed_and_writes_outlive_reads(still: Callable) -> None:
    site, _ = still()
    machine = site.machines[0]
    machine.record("x:write", "", "done", writes=True)
    for i in range(500):
        machine.record(f"x:{i}", "", "answered", writes=False)
    commands = site.truth(machine.address).commands
    kinds = [command.kind for command in commands]
    assert "x:write" in kinds
    assert "x:499" in kinds
    assert len(kinds) < 100
