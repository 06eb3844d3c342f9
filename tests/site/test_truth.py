"""What the agent says of a site against what the simulated site says it really did."""

import asyncio
import csv
import io
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pytest

from agent.appraisal import Basis
from agent.baseline import SAMPLES_NEEDED
from agent.clock import Clock
from agent.config import Config, PollSection, ScanSection
from agent.export import Period, profitability, to_csv
from agent.learned import learned
from agent.rows import Event
from agent.service import Agent
from agent.store import Reader
from agent.view import MachineView, Picture
from drivers.reading import Family, PowerSource, RunState
from drivers.simulator.faults import Fault
from tests.site.conftest import CHEAP, DEAR, commands_sent

HASHPRICE = 39.44045798
PRICE = 0.06
ROUNDED = 0.002
"""Firmware says whole watts and hundredths of a TH/s."""


async def poll(agent: Agent, rounds: int, *, pause_s: float = 0.3) -> Picture:
    for _ in range(rounds - 1):
        await agent.poll_once()
        await asyncio.sleep(pause_s)
    return await agent.poll_once()


def export(database: Path, start: datetime, end: datetime) -> list[dict[str, str]]:
    with Reader(database) as reader:
        return list(csv.DictReader(io.StringIO(to_csv(profitability(reader, start, end, Period.MACHINE)))))


def events_in(database: Path) -> list[Event]:
    with Reader(database) as reader:
        return reader.events()


async def test_every_machine_is_found_by_scanning_and_identified_as_what_it_is(start_site, start_agent):
    site = await start_site(machines=40, seed=11)
    agent = await start_agent(site)
    result = (await agent.scan()).result
    assert not result.failures
    found = {str(address): identity for address, identity in result.found}
    assert set(found) == {machine.address for machine in site.machines}
    for machine in site.machines:
        identity = found[machine.address]
        assert (identity.mac, identity.family) == (machine.mac, machine.family), machine.address


async def test_readings_are_the_truth_and_unknown_is_never_zero(start_site, start_agent):
    site = await start_site(machines=40, seed=11, noise=0.0)
    agent = await start_agent(site)
    await agent.scan()
    picture = await poll(agent, 2)
    assert len(picture.views) == 40
    for view in picture.views:
        truth = site.truth(view.address)
        assert view.run_state is RunState.MINING
        assert view.hashrate_ths == pytest.approx(truth.hashrate_ths, rel=ROUNDED)
        assert view.power_w is not None
        if view.power_source is PowerSource.REPORTED:
            assert view.power_w == pytest.approx(truth.power_w, rel=ROUNDED)
        else:
            error = agent.fleet[view.machine_id].reading.power_error
            assert view.power_w == pytest.approx(truth.power_w, rel=error)
    assert {view.power_source for view in picture.views} == {PowerSource.REPORTED, PowerSource.NAMEPLATE}


def margin_of_truth(before, after) -> float:
    """USD that a machine really earned between two looks into the simulator's books."""
    hash_phd = (after.hash_thh - before.hash_thh) / 1000 / 24
    return hash_phd * HASHPRICE - (after.energy_kwh - before.energy_kwh) * PRICE


@pytest.mark.parametrize("noise", [0.0, 0.01])
async def test_csv_margins_equal_the_margins_of_what_the_site_really_did(
    start_site, start_agent, tmp_path, noise
):
    """Energy and hash of the books over the exported period, priced at the fixed quote. Machines that report no watts
    must be right within the error band that they declare; all others within the noise of their readings."""
    rounds = 12
    site = await start_site(machines=30, seed=5, noise=noise)
    agent = await start_agent(site)
    await agent.scan()
    await agent.poll_once()
    start = site.now()
    before = {machine.mac: site.truth(machine.address) for machine in site.machines}
    await poll(agent, rounds)
    end = site.now()
    after = {machine.mac: site.truth(machine.address) for machine in site.machines}

    rows = await asyncio.to_thread(export, tmp_path / "hashcost.db", start, end)
    assert len(rows) == 30
    for row in rows:
        true, true_before = after[row["mac"]], before[row["mac"]]
        revenue = (true.hash_thh - true_before.hash_thh) / 1000 / 24 * HASHPRICE
        cost = (true.energy_kwh - true_before.energy_kwh) * PRICE
        tolerance = ROUNDED + 4 * noise / rounds**0.5
        assert float(row["revenue_usd"]) == pytest.approx(revenue, rel=tolerance)
        assert float(row["unknown_hours"]) == pytest.approx(0, abs=1e-6)
        if row["power_source"] != "reported":
            tolerance += 0.15
        assert float(row["energy_cost_usd"]) == pytest.approx(cost, rel=tolerance)
        assert float(row["margin_usd"]) == pytest.approx(
            margin_of_truth(true_before, true), abs=(revenue + cost) * tolerance
        )


async def test_sleep_and_silence_are_different_hours(start_site, start_agent, tmp_path):
    """One machine is put to sleep by somebody else, one stops answering: asleep hours for the one, unknown hours for
    the other, and neither is money."""
    site = await start_site(machines=12, seed=5, speed=600.0)
    agent = await start_agent(site, interval_s=1.0, deadline_s=1.0)
    await agent.scan()
    await agent.poll_once()
    sleeper, silent = site.machines[0], site.machines[1]
    site.sleep(sleeper.address)
    site.set_fault(silent.address, Fault.REFUSES)
    await asyncio.sleep(0.5)
    start = site.now()
    picture = await poll(agent, 4)
    exported = await asyncio.to_thread(export, tmp_path / "hashcost.db", start, site.now())
    rows = {row["mac"]: row for row in exported}

    by_mac = {view.mac: view for view in picture.views}
    assert by_mac[sleeper.mac].run_state is RunState.ASLEEP
    assert by_mac[silent.mac].run_state is RunState.UNKNOWN
    assert by_mac[silent.mac].hashrate_ths is None
    assert by_mac[silent.mac].recommendation == "hold unreachable:refused"
    asleep, unknown = rows[sleeper.mac], rows[silent.mac]
    assert float(asleep["asleep_hours"]) > 0.8 * hours_of(asleep)
    assert float(asleep["revenue_usd"]) < 0.02 * float(rows[site.machines[2].mac]["revenue_usd"])
    assert float(unknown["unknown_hours"]) > 0.5 * hours_of(unknown)
    assert float(unknown["mining_hours"]) < 0.5 * hours_of(unknown)


def hours_of(row: dict[str, str]) -> float:
    return sum(float(row[f"{state}_hours"]) for state in ("mining", "asleep", "unknown"))


async def test_a_moved_machine_is_followed_and_two_that_swapped_are_not_confused(start_site, start_agent):
    site = await start_site(machines=6, seed=5)
    agent = await start_agent(site)
    await agent.scan()
    await agent.poll_once()
    first, second = site.machines[0], site.machines[1]
    addresses = {first.mac: second.address, second.mac: first.address}
    site.swap(first.address, second.address)
    failed = await failing(agent, addresses, rounds=3)
    assert failed == {"wrong_machine"}

    await agent.scan()
    picture = await poll(agent, 2)
    now = {view.mac: view for view in picture.views}
    for mac, address in addresses.items():
        assert (now[mac].address, now[mac].failure) == (address, None)


async def failing(agent: Agent, macs: Sequence[str], rounds: int) -> set[str | None]:
    """Kinds of failure of these machines, once each of them has failed."""
    for _ in range(rounds):
        picture = await agent.poll_once()
    return {view.failure for view in picture.views if view.mac in macs}


async def test_a_duplicate_mac_is_reported_and_not_merged(start_site, start_agent, tmp_path):
    site = await start_site(machines=4, seed=5)
    twin, original = site.machines[0], site.machines[1]
    site.set_fault(twin.address, Fault.DUPLICATE_MAC, mac=original.mac)
    agent = await start_agent(site)
    await agent.scan()
    assert {machine.identity.mac for machine in agent.fleet} == {m.mac for m in site.machines[2:]}
    events = await asyncio.to_thread(events_in, tmp_path / "hashcost.db")
    duplicates = [event for event in events if event.kind == "machine_duplicate"]
    assert {event.machine_id for event in duplicates} == {original.mac}
    assert len(duplicates) == 2


async def test_a_round_ends_on_time_whatever_the_sick_do_and_reads_every_healthy_machine(
    start_site, start_agent
):
    site = await start_site(machines=40, seed=9)
    sick = {
        machine.address: fault
        for machine, fault in zip(
            site.machines,
            [
                Fault.HANGS, Fault.NO_ANSWER, Fault.HALF_CLOSED, Fault.GARBAGE, Fault.HTML, Fault.CUT_JSON,
                Fault.OVERSIZED, Fault.REFUSES, Fault.RESETS, Fault.SLOW_ANSWER,
            ],
            strict=False,
        )
    }  # fmt: skip
    agent = await start_agent(site, interval_s=4.0, deadline_s=2.0)
    await agent.scan()
    for address, fault in sick.items():
        site.set_fault(address, fault)
    began = asyncio.get_running_loop().time()
    picture = await agent.poll_once()
    took_s = asyncio.get_running_loop().time() - began
    assert took_s < 8.0  # two intervals: the round's own deadline
    assert {view.address for view in picture.views if view.failure} == set(sick)
    assert all(view.hashrate_ths is None and view.power_w is None for view in picture.views if view.failure)


async def test_known_machines_are_read_after_a_restart_without_a_scan(start_site, tmp_path):
    site = await start_site(machines=6, seed=5)
    config = Config(
        scan=ScanSection(addresses=site.scan_targets), poll=PollSection(interval_s=2.0, deadline_s=2.0)
    )
    clock = Clock(now=site.now, speed=site.spec.speed)
    async with Agent(config, tmp_path / "site.db", clock=clock) as agent:
        await agent.scan()
    async with Agent(config, tmp_path / "site.db", clock=clock) as agent:
        picture = await agent.poll_once()
    assert [view.run_state for view in picture.views] == [RunState.MINING] * 6


async def test_a_machine_is_counted_once_whether_or_not_its_login_works(start_site, start_agent, tmp_path):
    """Denied, an Antminer is known by its controller; with the login mended by its MAC; denied again it stays."""
    site = await start_site(machines=8, seed=5)
    denied = next(machine for machine in site.machines if machine.family is Family.ANTMINER)
    agent = await start_agent(site)
    site.set_fault(denied.address, Fault.WRONG_PASSWORD)
    await agent.scan()
    before = await agent.poll_once()
    assert [view.machine_id for view in before.views if view.mac is None] == [
        view.machine_id for view in before.views if view.address == denied.address
    ]

    site.clear_faults(denied.address)
    changes = await agent.scan()
    assert [event.kind for event in changes.events] == ["machine_identified"]
    after = await agent.poll_once()
    assert {view.mac for view in after.views} == {machine.mac for machine in site.machines}
    stored = await asyncio.to_thread(latest_in, tmp_path / "hashcost.db")
    assert {view.machine_id for view in stored} == {view.machine_id for view in after.views}

    site.set_fault(denied.address, Fault.WRONG_PASSWORD)
    changes = await agent.scan()
    assert [event.kind for event in changes.events] == ["machine_unverified"]
    assert len((await agent.poll_once()).views) == 8


async def test_a_sleeping_machine_keeps_its_model_and_its_baseline(start_site, start_agent):
    """Old Whatsminer firmware tells its model only while its mining process runs, and no boards once it is told to
    sleep, while its averaged rate still falls."""
    site = await start_site(machines=40, seed=11, speed=10.0)
    sleeper = next(machine for machine in site.machines if machine.firmware.old_btminer)
    agent = await start_agent(site)
    await agent.scan()
    await poll(agent, SAMPLES_NEEDED, pause_s=0.0)
    known = agent.fleet[sleeper.mac].identity
    baseline = agent.fleet[sleeper.mac].baselines.latest
    assert known.model != known.make
    assert baseline is not None

    site.sleep(sleeper.address)
    states = await states_until(agent, sleeper.mac, RunState.ASLEEP)
    assert states == [RunState.MINING, RunState.RAMPING, RunState.ASLEEP]
    await agent.scan()
    picture = await agent.poll_once()
    asleep = next(view for view in picture.views if view.mac == sleeper.mac)
    assert agent.fleet[sleeper.mac].identity == known
    assert agent.fleet[sleeper.mac].baselines.latest == baseline
    assert (asleep.run_state, asleep.basis) == (RunState.ASLEEP, Basis.BASELINE)


async def states_until(agent: Agent, mac: str, last: RunState) -> list[RunState]:
    """Every state that a machine shows from its latest reading on, once each, until it shows the last one."""
    states = [agent.fleet[mac].reading.run_state]
    async with asyncio.timeout(60):
        while states[-1] is not last:
            await agent.poll_once()
            states.append(agent.fleet[mac].reading.run_state)
            await asyncio.sleep(0.1)
    return list(dict.fromkeys(states))


def latest_in(database: Path) -> list[MachineView]:
    with Reader(database) as reader:
        return reader.latest()


async def test_what_a_cycle_costs_is_learned_as_the_site_is_made(start_theatre, tmp_path):
    """A Whatsminer V3 tells its watts: what it draws before it hashes is what a wake costs."""
    theatre = await start_theatre(
        {"switching_cost_usd": None, "cycles_per_day": 20}, machines=16, seed=11, noise=0.0
    )
    machine = next(each for each in theatre.site.machines if each.family is Family.WHATSMINER_V3)
    async with theatre.new_agent() as agent:
        agent.config.scan.addresses[:] = [machine.address]
        await agent.scan()
        for _ in range(2):
            for price, rounds in ((CHEAP, 40), (DEAR, 20), (CHEAP, 40)):
                theatre.price.price_usd_per_kwh = price
                for _ in range(rounds):
                    theatre.pass_time(theatre.step_s)
                    await agent.poll_once()
                    await commands_sent(agent)
        (view,) = agent.operations.picture.views
        before = agent.curtailer.policy.switching_cost_of(view.model)
        await agent.learn()
        after = agent.curtailer.policy.switching_cost_of(view.model)
    (model,) = await asyncio.to_thread(learned, theatre.database, agent.config.policy())
    nature = machine.plant.nature
    assert (model.sleeps, model.wakes) == (2, 2)
    assert model.seconds_to_full == pytest.approx(nature.hash_delay_s + nature.hash_up_s, abs=90)
    assert model.sleep_power_w == pytest.approx(nature.sleep_power_w, abs=1)
    wasted_s = nature.hash_delay_s + nature.hash_up_s / 2 - nature.power_up_s / 2
    usd = wasted_s * nature.hashrate_ths / 1000 * HASHPRICE / 86_400
    assert model.measured_usd == pytest.approx(usd, rel=0.3)
    assert (before, after) == (model.prior_usd, model.switching_cost_usd)
    assert 0 < model.confidence < 0.2
