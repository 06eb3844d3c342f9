"""Every failure seen in the wild that spoils reading, on every family that it befalls, on simulated machines.

Each read ends in the named failure, or in a reading that says what is wrong with it; within its deadline; and
leaves no task and no socket.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from drivers.connect import connect
from drivers.discovery import scan
from drivers.driver import Driver, DriverError
from drivers.reading import Address, Family, PowerSource, Reading, RunState
from drivers.simulator.faults import FACTS, Concern, Fault
from drivers.simulator.site import Site, SiteSpec

FAMILIES = [Family.ANTMINER, Family.WHATSMINER_V2, Family.WHATSMINER_V3]
SPOILING = [fault for fault in Fault if FACTS[fault].concern is not Concern.WRITING]

FAILS_AS = {
    Fault.REFUSES: "refused",
    Fault.NO_ANSWER: "no_answer",
    Fault.HANGS: "no_answer",
    Fault.RESETS: "connection_lost",
    Fault.HALF_CLOSED: "no_answer",
    Fault.SLOW_ANSWER: "no_answer",
    Fault.CUT_JSON: "malformed",
    Fault.HTML: "malformed",
    Fault.GARBAGE: "malformed",
    Fault.OVERSIZED: "oversized",
    Fault.EMPTY_STATS: "incomplete",
    Fault.DUPLICATE_MAC: "wrong_machine",
}
"""What is no reading, by the kind of its error."""

SAYS = {
    Fault.HASHRATE_X1000: "a unit bug?",
    Fault.HOT_CHIPS: "132 degC, outside",
}
"""What is flagged implausible, and how."""


@pytest.fixture
async def site(network: str) -> AsyncIterator[Site]:
    """A small site with machines of every family."""
    async with Site(
        SiteSpec(machines=12, seed=1, network=f"{network}.0/24"), monotonic=asyncio.get_running_loop().time
    ) as running:
        yield running


@pytest.fixture
async def driver(site: Site, family: Family, quick) -> Driver:
    """The driver of one identified machine of the family; an Antminer that reports its watts."""
    chosen = next(m for m in site.machines if m.family is family and _reports_watts(m))
    result = await scan([Address(host=chosen.address)], options=quick)
    ((address, identity),) = result.found
    return connect(identity, address, options=quick)


def _reports_watts(machine: Any) -> bool:
    return machine.family is not Family.ANTMINER or machine.firmware.watts_shown.value == "chain_power"


async def outcome(driver: Driver) -> Reading | DriverError:
    try:
        return await driver.read()
    except DriverError as error:
        return error


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("fault", "parameters", "kind"),
    [
        (Fault.HALF_CLOSED, {"share": 0.0, "drip_s": 0.005}, "no_answer"),
        (Fault.GARBAGE, {"depth": 50_000}, "malformed"),
        (Fault.OVERSIZED, {"size": 100_000_000}, "oversized"),
    ],
    ids=["slow loris", "nested without end", "100 MB"],
)
async def test_what_is_made_to_hurt_is_a_failure_like_any_other(site, driver, fault, parameters, kind, quick):
    site.set_fault(driver.address.host, fault, **parameters)
    patient = quick if kind == "no_answer" else replace(quick, deadline_s=60.0, call_s=50.0)
    failed = await outcome(connect(driver.identity, driver.address, options=patient))
    assert isinstance(failed, DriverError)
    assert failed.kind == kind


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("fault", FAILS_AS)
async def test_a_failure_has_its_name_and_leaves_nothing(
    site, driver, family, fault, leftovers, quick
) -> None:
    site.set_fault(driver.address.host, fault)
    with leftovers(within_s=quick.deadline_s):
        found = await outcome(driver)
    assert isinstance(found, DriverError), found
    assert found.kind == FAILS_AS[fault], found
    assert driver.address.host in str(found)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("fault", SAYS)
async def test_impossible_numbers_are_flagged_and_kept(site, driver, family, fault, leftovers, quick) -> None:
    site.set_fault(driver.address.host, fault)
    with leftovers(within_s=quick.deadline_s):
        found = await driver.read()
    assert SAYS[fault] in (found.implausible or "")
    assert found.hashrate_ths is not None


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("fault", [Fault.NUL_BYTES, Fault.MISSING_COMMAS])
async def test_broken_punctuation_is_read_through(site, driver, family, fault, leftovers, quick) -> None:
    site.set_fault(driver.address.host, fault)
    with leftovers(within_s=quick.deadline_s):
        found = await driver.read()
    truth = site.truth(driver.address.host)
    assert found.implausible is None
    assert found.hashrate_ths == pytest.approx(truth.hashrate_ths, rel=0.1)
    assert found.power_w == pytest.approx(truth.power_w, rel=0.1)
    assert len(found.boards) >= 3
    assert found.pools


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("fault", [Fault.WATTS_NAN, Fault.WATTS_ZERO, Fault.WATTS_ABSENT])
async def test_watts_that_are_none_become_the_nameplate_s(
    site, driver, family, fault, leftovers, quick
) -> None:
    assert (await driver.read()).power_source is PowerSource.REPORTED
    site.set_fault(driver.address.host, fault)
    with leftovers(within_s=quick.deadline_s):
        found = await driver.read()
    assert found.power_source is PowerSource.NAMEPLATE
    assert found.power_error is not None
    assert found.power_error >= 0.10
    assert found.power_w == pytest.approx(site.truth(driver.address.host).power_w, rel=0.2)


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_dead_board_is_dead_and_the_machine_mines_on(site, driver, family) -> None:
    before = await driver.read()
    site.set_fault(driver.address.host, Fault.BOARD_DEAD)
    found = await driver.read()
    assert [board.alive for board in before.boards] == [True] * len(before.boards)
    assert [board.alive for board in found.boards].count(False) == 1
    assert len(found.boards) == len(before.boards)
    assert found.run_state is RunState.MINING


@pytest.mark.parametrize("family", FAMILIES)
async def test_dead_pools_are_seen(site, driver, family) -> None:
    site.set_fault(driver.address.host, Fault.POOL_DEAD)
    found = await driver.read()
    assert found.run_state is RunState.MINING
    assert [pool.alive for pool in found.pools] == [False] * len(found.pools)
    assert found.pools


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_wrong_password_costs_the_mode_and_not_the_reading(
    site, driver, family, leftovers, quick
) -> None:
    site.set_fault(driver.address.host, Fault.WRONG_PASSWORD)
    with leftovers(within_s=quick.deadline_s):
        found = await driver.read()
    assert found.run_state is RunState.MINING
    if family is Family.ANTMINER:
        assert found.power_mode is None
        assert "authentication_failed" in found.errors[0]


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_machine_recovers_as_it_failed(site, driver, family, quick) -> None:
    driver = connect(driver.identity, driver.address, options=replace(quick, slow_interval_s=0.0))
    for fault in (Fault.HANGS, Fault.CUT_JSON, Fault.DUPLICATE_MAC):
        site.set_fault(driver.address.host, fault)
        assert isinstance(await outcome(driver), DriverError)
        site.clear_faults()
        assert isinstance(await outcome(driver), Reading)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("other", FAMILIES)
async def test_an_address_taken_over_is_another_machine(
    site, driver, family, other, leftovers, quick
) -> None:
    """Within a family the MAC tells, between families the protocol; also when both hash all the time."""
    await driver.read()
    host = driver.address.host
    stranger = next(m for m in site.machines if m.family is other and m.address != host)
    site.swap(host, stranger.address)
    with leftovers(within_s=quick.deadline_s):
        found = await outcome(driver)
    assert isinstance(found, DriverError), found
    assert found.kind == "wrong_machine", found


# -- asleep, waking, mining ------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
async def test_sleep_and_wake_are_read_as_they_happen(family, network, quick) -> None:
    async with Site(
        SiteSpec(machines=12, seed=1, speed=2000.0, network=f"{network}.0/24"),
        monotonic=asyncio.get_running_loop().time,
    ) as site:
        machines = [machine for machine in site.machines if machine.family is family]
        result = await scan([Address(host=machine.address) for machine in machines], options=quick)
        drivers = [connect(identity, address, options=quick) for address, identity in result.found]
        for driver in drivers:
            assert (await driver.read()).run_state is RunState.MINING
            site.sleep(driver.address.host)
        await until(site, drivers, RunState.ASLEEP)
        for driver in drivers:
            reading = await driver.read()
            assert (reading.run_state, reading.hashrate_ths) == (RunState.ASLEEP, 0.0)
            assert reading.power_w is None or reading.power_w < 100
            assert reading.power_source is not PowerSource.NAMEPLATE
            site.wake(driver.address.host)
        seen = await until(site, drivers, RunState.MINING)
        assert RunState.ASLEEP not in seen or RunState.RAMPING in seen


async def until(site: Site, drivers: list[Driver], state: RunState) -> set[RunState]:
    """Read until every machine is in a state; every state that was read on the way."""
    seen: set[RunState] = set()
    async with asyncio.timeout(60):
        for driver in drivers:
            while (found := (await driver.read()).run_state) is not state:
                seen.add(found)
                await asyncio.sleep(0.02)
    return seen


# -- many at once ------------------------------------------------------------------------------------------


async def test_a_hundred_reads_at_once_leave_nothing(network, quick, leftovers) -> None:
    async with Site(
        SiteSpec(machines=40, seed=3, network=f"{network}.0/24"), monotonic=asyncio.get_running_loop().time
    ) as site:
        patient = replace(quick, deadline_s=10.0, connect_s=5.0, call_s=8.0)
        result = await scan([Address(host=machine.address) for machine in site.machines], options=patient)
        assert len(result.found) == 40
        drivers = [connect(identity, address, options=patient) for address, identity in result.found]
        for machine in site.machines[::4]:
            site.set_fault(machine.address, Fault.GARBAGE)
        with leftovers(within_s=10.0):
            async with asyncio.TaskGroup() as group:
                reads = [group.create_task(outcome(driver)) for driver in drivers]
        failed = [read.result() for read in reads if isinstance(read.result(), DriverError)]
        assert {error.kind for error in failed if isinstance(error, DriverError)} == {"malformed"}
        assert len(failed) == 10
