"""What is particular to stock Antminers: where the watts are, the work mode, and the web interface's moods."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from drivers import antminer_answers as answers
from drivers.connect import connect
from drivers.discovery import scan
from drivers.driver import Credentials, Incomplete, WrongMachine
from drivers.reading import Address, Family, Identity, PowerMode, PowerSource, RunState
from drivers.reads import WIND_DOWN_S, WindDown, run_state

S19K, S21, S19J = "antminer/s19k-pro", "antminer/s21", "antminer/s19j-pro"


@pytest.fixture
async def reader(servers, identified, quick, network):
    """A recorded machine and its driver."""

    async def start(recorded=S19K, *, options=quick, before=None):
        machine = await servers.machine(recorded, f"{network}.1")
        identity = await identified(machine.address)
        if before:
            before(machine)
        return machine, connect(identity, machine.address, options=options)

    return start


def asleep(machine) -> None:
    """Sleeps by configuration, with the empty lists that some firmware then answers."""
    machine.said["web_get_miner_conf"]["bitmain-work-mode"] = "1"
    machine.said["stats"]["STATS"] = []
    machine.said["summary"]["SUMMARY"] = []


def idle(machine) -> None:
    machine.said["summary"]["SUMMARY"][0]["GHS 5s"] = 0.0


# -- work mode -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("configuration", "asleep", "mode"),
    [
        ({"bitmain-work-mode": "0"}, False, PowerMode.NORMAL),
        ({"bitmain-work-mode": "1"}, True, None),
        ({"bitmain-work-mode": 1}, True, None),
        ({"miner-mode": "1"}, True, None),
        ({"miner-mode": 1, "bitmain-work-mode": "1"}, True, None),
        ({"bitmain-work-mode": "2"}, False, PowerMode.HIGH_EFFICIENCY),
        ({"miner-mode": 3}, False, PowerMode.LOW),
        ({"bitmain-work-mode": "9"}, False, None),
        ({"bitmain-work-mode": ""}, None, None),
        ({}, False, None),
    ],
)
def test_the_mode_in_all_its_spellings(configuration, asleep, mode) -> None:
    found = answers.mode(configuration)
    assert (found.told_to_sleep, found.power_mode, found.contradiction) == (asleep, mode, None)


def test_a_configuration_that_contradicts_itself_says_so() -> None:
    found = answers.mode({"bitmain-work-mode": "0", "miner-mode": 1})
    assert found.told_to_sleep is True
    assert "contradicts" in (found.contradiction or "")


async def test_asleep_needs_mode_and_silence(reader) -> None:
    _, driver = await reader(before=asleep)
    reading = await driver.read()
    assert (reading.run_state, reading.hashrate_ths, reading.power_mode) == (RunState.ASLEEP, 0.0, None)
    assert (reading.power_w, reading.power_source) == (None, PowerSource.UNKNOWN)


async def test_told_to_sleep_and_hashing_is_winding_down(reader) -> None:
    machine, driver = await reader()
    machine.said["web_get_miner_conf"]["bitmain-work-mode"] = "1"
    assert (await driver.read()).run_state is RunState.RAMPING


def test_what_was_told_to_sleep_long_ago_and_hashes_is_mining() -> None:
    def state(told_for_s: float) -> RunState:
        return run_state(
            hashrate_ths=100.0,
            expected_ths=100.0,
            told_to_sleep=True,
            uptime_s=50_000,
            ramp_s=900.0,
            previous_ths=100.0,
            told_for_s=told_for_s,
        )

    assert state(WIND_DOWN_S - 1) is RunState.RAMPING
    assert state(WIND_DOWN_S) is RunState.MINING


def test_winding_down_is_counted_from_the_first_reading_that_says_so() -> None:
    watch, start = WindDown(), datetime(2026, 1, 1, tzinfo=UTC)
    assert watch.seconds(True, start) == 0.0
    assert watch.seconds(True, start + timedelta(seconds=70)) == 70.0
    assert watch.seconds(False, start + timedelta(seconds=80)) == 0.0
    assert watch.seconds(True, start + timedelta(seconds=90)) == 0.0


async def test_told_to_sleep_by_one_key_of_two_and_hashing_is_mining(reader) -> None:
    machine, driver = await reader()
    machine.said["web_get_miner_conf"] |= {"bitmain-work-mode": "0", "miner-mode": "1"}
    assert (await driver.read()).run_state is RunState.MINING


async def test_told_to_mine_and_not_hashing_is_stopped(reader) -> None:
    _, driver = await reader(before=idle)
    reading = await driver.read()
    assert (reading.run_state, reading.hashrate_ths) == (RunState.STOPPED, 0.0)


async def test_not_hashing_just_after_the_start_is_ramping(reader) -> None:
    machine, driver = await reader(before=idle)
    machine.said["stats"]["STATS"][1]["Elapsed"] = 40
    assert (await driver.read()).run_state is RunState.RAMPING


async def test_the_mode_of_an_idle_machine_is_asked_in_every_read(reader) -> None:
    machine, driver = await reader()
    assert (await driver.read()).run_state is RunState.MINING
    idle(machine)
    assert (await driver.read()).run_state is RunState.STOPPED
    machine.said["web_get_miner_conf"]["bitmain-work-mode"] = "1"
    assert (await driver.read()).run_state is RunState.ASLEEP
    machine.said["summary"]["SUMMARY"][0]["GHS 5s"] = 119_000.0
    machine.said["web_get_miner_conf"]["bitmain-work-mode"] = "3"
    assert (await driver.read()).power_mode is PowerMode.LOW


async def test_empty_answers_of_a_machine_that_should_mine_are_no_reading(reader, leftovers) -> None:
    machine, driver = await reader(before=asleep)
    machine.said["web_get_miner_conf"]["bitmain-work-mode"] = "0"
    with leftovers(within_s=0.5), pytest.raises(Incomplete, match="no hashrate"):
        await driver.read()


@pytest.mark.parametrize(
    "said", [{}, {"STATUS": [{"STATUS": "E", "Code": 14, "Msg": "Invalid command"}], "id": 1}]
)
async def test_an_error_is_not_an_empty_answer_even_from_a_machine_told_to_sleep(reader, said) -> None:
    machine, driver = await reader(before=asleep)
    machine.said["stats"] = machine.said["summary"] = said
    with pytest.raises(Incomplete):
        await driver.read()


# -- watts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("watts", ["NaN", "0 W", "", "error 6060 cmd", 0, None])
async def test_what_is_no_wattage_is_not_taken_for_one(reader, watts) -> None:
    machine, driver = await reader()
    machine.said["stats"]["STATS"][1]["chain_power"] = watts
    reading = await driver.read()
    assert (reading.power_w, reading.power_source) == (pytest.approx(23.0 * 119.99448), PowerSource.NAMEPLATE)
    assert reading.power_error == 0.15
    assert reading.implausible is None


@pytest.mark.parametrize("page", ["miner power:NaN", "error 6060 cmd", "miner power:0", ""])
async def test_port_6060_without_watts(reader, page) -> None:
    machine, driver = await reader(S21)
    machine.power_page = page
    assert (await driver.read()).power_source is PowerSource.NAMEPLATE


async def test_new_api_is_found_and_remembered(reader) -> None:
    machine, driver = await reader(S19J)
    machine.said["stats_new_api"] = {"STATS": [{"elapsed": 7200, "chain_power": "3090 W", "chain": []}]}
    for _ in range(2):
        assert (await driver.read()).power_w == 3090.0
    assert machine.asked.count("stats_new_api") == 2
    assert driver.capabilities.reports_power


async def test_a_machine_without_any_route_is_searched_once(reader) -> None:
    machine, driver = await reader(S19J)
    for _ in range(3):
        assert (await driver.read()).power_source is PowerSource.NAMEPLATE
    assert machine.asked.count("stats_new_api") == 1
    assert not driver.capabilities.reports_power


async def test_a_hanging_port_6060_does_not_cost_the_reading(
    reader, leftovers, peers, servers, network
) -> None:
    _, driver = await reader(S19J)
    await servers.listen(f"{network}.1", 6060, peers.hang)
    with leftovers(within_s=1.0):
        assert (await driver.read()).hashrate_ths == pytest.approx(104.05204)


# -- the web interface -----------------------------------------------------------------------------------


def web_failures(peers):
    return {
        "hang": peers.hang,
        "reset": peers.reset,
        "HTTP 500": lambda _, transport: peers.http(transport, 500, b"Internal Server Error"),
        "HTML": lambda _, transport: peers.http(transport, 200, b"<html>hello</html>"),
        "garbage": peers.says(bytes(range(256))),
        "cut": peers.says(b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"pools": ['),
        "10 MB": lambda _, transport: peers.http(transport, 200, b'{"a":"' + b"x" * 10_000_000),
    }


KINDS = {
    "hang": "no_answer",
    "reset": "connection_lost",
    "HTTP 500": "malformed",
    "HTML": "malformed",
    "garbage": "malformed",
    "cut": "malformed",
    "10 MB": "oversized",
}


@pytest.mark.parametrize("how", KINDS)
async def test_a_broken_web_interface_does_not_cost_the_reading(reader, leftovers, peers, how) -> None:
    machine, driver = await reader()
    machine.web_behave = web_failures(peers)[how]
    with leftovers(within_s=0.75):
        reading = await driver.read()
    assert (reading.run_state, reading.hashrate_ths) == (RunState.MINING, pytest.approx(119.99448))
    assert reading.power_mode is None
    assert f"mode unknown: {KINDS[how]}" in reading.errors[0]


@pytest.mark.parametrize("how", KINDS)
async def test_idle_with_a_broken_web_interface_is_unknown_and_never_asleep(
    reader, leftovers, peers, how
) -> None:
    machine, driver = await reader(before=idle)
    machine.web_behave = web_failures(peers)[how]
    with leftovers(within_s=0.75):
        assert (await driver.read()).run_state is RunState.UNKNOWN


async def test_a_refused_login_is_reported_and_not_repeated(reader, leftovers) -> None:
    machine, driver = await reader()
    machine.password = "changed"
    denied: list[bytes] = []
    machine.web_behave = None
    authorized = machine._authorized
    machine._authorized = lambda request: denied.append(request.encode()) or authorized(request)
    for _ in range(4):
        with leftovers(within_s=0.5):
            reading = await driver.read()
        assert reading.power_mode is None
        assert "authentication_failed" in reading.errors[0]
    assert len(denied) == 2, "one challenge and one answer, for four reads"
    idle(machine)
    assert (await driver.read()).run_state is RunState.UNKNOWN
    assert len(denied) == 2


async def test_the_configured_login_is_used(reader, quick) -> None:
    login = {Family.ANTMINER: Credentials(username="root", password="s3cret")}
    machine, driver = await reader(options=replace(quick, credentials=login))
    machine.password = "s3cret"
    assert (await driver.read()).power_mode is PowerMode.NORMAL


async def test_a_configuration_read_that_fails_once_is_tried_again(reader, peers, quick) -> None:
    machine, driver = await reader(options=replace(quick, slow_interval_s=0.0))
    machine.web_behave = lambda _, transport: peers.http(transport, 500, b"")
    assert (await driver.read()).power_mode is None
    machine.web_behave = None
    reading = await driver.read()
    assert reading.power_mode is PowerMode.NORMAL
    assert not any("unknown" in error for error in reading.errors)


# -- who it is -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["hang", "reset"])
async def test_a_web_interface_that_is_only_ill_does_not_change_the_identity(
    servers, peers, quick, network, how
) -> None:
    machine = await servers.machine(S19K, f"{network}.1")
    machine.web_behave = getattr(peers, how)
    result = await scan([machine.address], options=quick)
    assert result.found == ()
    assert result.failures[0].kind in {"no_answer", "connection_lost"}


@pytest.mark.parametrize("how", ["closed", "denied"])
async def test_without_its_web_interface_the_controller_s_id(
    servers, identified, quick, network, how
) -> None:
    machine = await servers.machine(S19K, f"{network}.1", closed={80} if how == "closed" else set())
    machine.password = "changed"
    identity = await identified(machine.address)
    assert (identity.mac, identity.machine_id) == (None, "sn:9f02c41d77ab3e10")
    driver = connect(identity, machine.address, options=quick)
    await driver.read()
    machine.said["stats"]["STATS"][1]["miner_id"] = "1111111111111111"
    with pytest.raises(WrongMachine, match="1111111111111111"):
        await driver.read()


async def test_a_changed_controller_means_asking_for_the_mac_at_once(reader) -> None:
    machine, driver = await reader()
    await driver.read()
    machine.said["stats"]["STATS"][1]["miner_id"] = "1111111111111111"
    assert (await driver.read()).hashrate_ths, "the controller was replaced, the MAC is the same"
    machine.said["stats"]["STATS"][1]["miner_id"] = "2222222222222222"
    machine.said["web_get_system_info"]["macaddr"] = "02:13:a7:00:99:99"
    for _ in range(2):
        with pytest.raises(WrongMachine, match="02:13:A7:00:99:99"):
            await driver.read()


def test_older_machines_cannot_sleep(quick) -> None:
    old = Identity(
        family=Family.ANTMINER,
        make="Antminer",
        model="Antminer S17 Pro",
        firmware=None,
        mac="02:13:00:00:00:01",
        serial=None,
        driver_class="BMMinerS17Pro",
    )
    driver = connect(old, Address(host="127.0.0.1"), options=quick)
    assert not driver.capabilities.can_sleep
    assert connect(replace(old, model="Antminer S19"), driver.address, options=quick).capabilities.can_sleep
