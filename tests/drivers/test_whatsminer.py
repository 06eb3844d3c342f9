"""What is particular to Whatsminers: two ways to say "stopped", error codes in three shapes, missing boards."""

import json

import pytest

from drivers import whatsminer_answers as answers
from drivers.connect import connect
from drivers.driver import AuthenticationFailed, Incomplete, Refused, WrongMachine
from drivers.reading import PowerMode, PowerSource, RunState

V2, OLD, V3 = "whatsminer_v2/m30s-plus", "whatsminer_v2/m20s-2021", "whatsminer_v3/m63s"


@pytest.fixture
async def reader(servers, identified, quick, network):
    """A recorded machine and its driver."""

    async def start(recorded):
        machine = await servers.machine(recorded, f"{network}.1")
        return machine, connect(await identified(machine.address), machine.address, options=quick)

    return start


# -- V2 --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "asleep"),
    [
        ({"btmineroff": "false"}, False),
        ({"btmineroff": "true"}, True),
        ({"mineroff": "true"}, True),
        ({"mineroff": "false", "btmineroff": "true"}, True),
        ({"mineroff": False}, False),
        ({"mineroff": ""}, None),
        ({}, None),
        ("API command OK", None),
    ],
)
def test_v2_says_stopped_in_two_ways(message, asleep) -> None:
    assert answers.v2_told_to_sleep({"STATUS": "S", "Code": 131, "Msg": message}) is asleep


@pytest.mark.parametrize(
    ("status", "done", "tuning"),
    [("Alive", 0, True), ("Alive", 1, False), ("Dead", 0, False), (None, 0, False)],
)
def test_v2_tunes_while_a_board_that_lives_does(status, done, tuning) -> None:
    steady = {"ASC": 0, "Status": "Alive", "Upfreq Complete": 1}
    board = {"ASC": 1, "Status": status, "Upfreq Complete": done}
    assert answers.v2_live({}, {}, {"DEVS": [steady, board]}).tuning is tuning


@pytest.mark.parametrize(
    ("listed", "found"),
    [
        ([110, "2010"], ("error 110", "error 2010")),
        ([{"110": "2025-12-01 04:11:27"}, {"2010": "2025-12-02"}], ("error 110", "error 2010")),
        ({"110": "2025-12-01", "2010": "2025-12-02"}, ("error 110", "error 2010")),
        ([], ()),
        ("", ()),
        (None, ()),
    ],
)
def test_v2_error_codes_in_every_shape(listed, found) -> None:
    assert answers.v2_errors({"STATUS": "S", "Code": 131, "Msg": {"error_code": listed}}) == found


@pytest.mark.parametrize("recorded", [V2, OLD])
async def test_v2_asleep(reader, recorded) -> None:
    machine, driver = await reader(recorded)
    machine.said["status"]["Msg"] |= {"mineroff": "true"}
    machine.said["summary"]["SUMMARY"][0] |= {"MHS 1m": 0.0, "Power": 31}
    reading = await driver.read()
    assert (reading.run_state, reading.hashrate_ths) == (RunState.ASLEEP, 0.0)
    assert (reading.power_w, reading.power_source) == (31.0, PowerSource.REPORTED)


@pytest.mark.parametrize("recorded", [V2, OLD])
async def test_v2_told_to_sleep_is_winding_down_until_its_averaged_rate_has_decayed(reader, recorded) -> None:
    machine, driver = await reader(recorded)
    machine.said["status"]["Msg"] |= {"mineroff": "true"}
    reading = await driver.read()
    assert (reading.run_state, reading.boards) == (RunState.RAMPING, ())
    assert reading.hashrate_ths > 0


async def test_v2_asleep_with_nothing_in_its_summary_is_a_measured_zero(reader) -> None:
    machine, driver = await reader(V2)
    machine.said["status"]["Msg"]["mineroff"] = "true"
    machine.said["summary"]["SUMMARY"] = []
    reading = await driver.read()
    assert (reading.run_state, reading.hashrate_ths) == (RunState.ASLEEP, 0.0)
    assert (reading.power_w, reading.power_source) == (None, PowerSource.UNKNOWN)


DOWN = b"Socket connect failed: Connection refused\n"


def front(machine, peers):
    """Lets the mining process be down behind the front of the API, which knows `status` and `get_*`."""

    def behave(received: bytes, transport) -> None:
        name = json.loads(received)["command"]
        known = machine.said.get(name) if name == "status" or name.startswith("get_") else None
        peers.says(json.dumps(known).encode() if known else DOWN)(received, transport)

    machine.rpc_behave = behave


async def test_v2_asleep_with_its_mining_process_down(reader, peers, identified) -> None:
    machine, driver = await reader(V2)
    machine.said["status"]["Msg"]["mineroff"] = "true"
    front(machine, peers)
    reading = await driver.read()
    assert (reading.run_state, reading.hashrate_ths) == (RunState.ASLEEP, 0.0)
    again = await identified(machine.address)
    assert again.machine_id == driver.identity.machine_id
    assert again.model == "Whatsminer"


async def test_v2_awake_with_its_mining_process_down_is_no_reading(reader, peers) -> None:
    machine, driver = await reader(V2)
    front(machine, peers)
    with pytest.raises(Refused, match="no mining process"):
        await driver.read()


async def test_v2_stopped_by_itself_is_not_asleep(reader) -> None:
    machine, driver = await reader(V2)
    machine.said["summary"]["SUMMARY"][0]["MHS 1m"] = 0.0
    machine.said["devs"]["DEVS"] = []
    assert (await driver.read()).run_state is RunState.STOPPED


async def test_v2_without_its_status_is_never_asleep(reader) -> None:
    machine, driver = await reader(V2)
    machine.said["summary"]["SUMMARY"][0]["MHS 1m"] = 0.0
    machine.said["devs"]["DEVS"] = []
    del machine.said["status"]
    assert (await driver.read()).run_state is RunState.UNKNOWN


async def test_v2_minus_one_watt_is_no_wattage(reader) -> None:
    machine, driver = await reader(V2)
    machine.said["summary"]["SUMMARY"][0] |= {"Power": -1, "Power_RT": -1}
    assert (await driver.read()).power_source is PowerSource.NAMEPLATE


async def test_v2_without_power_tells_the_watts_of_its_power_supply(reader) -> None:
    machine, driver = await reader(V2)
    machine.said["summary"]["SUMMARY"][0] |= {"Power": 0, "Power_RT": 3301}
    reading = await driver.read()
    assert (reading.power_w, reading.power_source) == (3301.0, PowerSource.REPORTED)


async def test_v2_that_keeps_its_mac_to_itself_is_asked_for_it(reader) -> None:
    machine, driver = await reader(V2)
    await driver.read()
    del machine.said["summary"]["SUMMARY"][0]["MAC"]
    assert (await driver.read()).hashrate_ths
    machine.said["get_miner_info"]["Msg"]["mac"] = "02:57:A7:00:99:99"
    with pytest.raises(WrongMachine, match="02:57:A7:00:99:99"):
        await driver.read()


async def test_v2_never_sends_a_joined_command(reader) -> None:
    machine, driver = await reader(V2)
    await driver.read()
    assert not [command for command in machine.asked if "+" in command]


# -- V3 --------------------------------------------------------------------------------------------------


async def test_v3_asleep(reader) -> None:
    machine, driver = await reader(V3)
    machine.said["get_device_info"]["msg"]["miner"]["working"] = "false"
    machine.said["get_miner_status_summary"]["msg"]["summary"] |= {
        "hash-realtime": 0.0,
        "power-realtime": 22.0,
    }
    machine.said["get_miner_status_edevs"]["msg"]["edevs"] = []
    reading = await driver.read()
    assert (reading.run_state, reading.hashrate_ths, reading.power_w) == (RunState.ASLEEP, 0.0, 22.0)
    assert reading.power_mode is PowerMode.LOW


async def test_v3_told_to_sleep_is_winding_down_until_its_averaged_rate_has_decayed(reader) -> None:
    machine, driver = await reader(V3)
    machine.said["get_device_info"]["msg"]["miner"]["working"] = "false"
    assert (await driver.read()).run_state is RunState.RAMPING


async def test_v3_asleep_with_a_refused_status_is_a_measured_zero(reader) -> None:
    machine, driver = await reader(V3)
    machine.said["get_device_info"]["msg"]["miner"]["working"] = "false"
    del machine.said["get_miner_status_summary"]
    assert (await driver.read()).run_state is RunState.ASLEEP


async def test_v3_awake_with_a_refused_status_is_no_reading(reader) -> None:
    machine, driver = await reader(V3)
    del machine.said["get_miner_status_summary"]
    with pytest.raises(Incomplete, match="invalid command"):
        await driver.read()


async def test_v3_that_does_not_say_whether_it_works_is_never_asleep(reader) -> None:
    machine, driver = await reader(V3)
    del machine.said["get_device_info"]["msg"]["miner"]["working"]
    machine.said["get_miner_status_summary"]["msg"]["summary"]["hash-realtime"] = 0.0
    machine.said["get_miner_status_edevs"]["msg"]["edevs"] = []
    assert (await driver.read()).run_state is RunState.UNKNOWN


async def test_v3_boards_that_are_promised_and_silent_are_dead(reader) -> None:
    machine, driver = await reader(V3)
    del machine.said["get_miner_status_edevs"]["msg"]["edevs"][2:]
    boards = (await driver.read()).boards
    assert [(board.slot, board.alive) for board in boards] == [(0, True), (1, True), (2, False), (3, False)]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"code": 0, "msg": {"miner": {}}}, {"miner": {}}),
        ({"code": -2, "msg": {"miner": {}}}, None),
        ({"msg": {"miner": {}}}, None),
        ({"code": 0, "msg": "ok"}, None),
    ],
)
def test_v3_says_something_only_with_code_0(answer, message) -> None:
    assert answers.v3_message(answer) == message


async def test_v3_refusal_of_permission_is_about_the_login(reader) -> None:
    machine, driver = await reader(V3)
    machine.said["get_device_info"] = {"code": -4, "msg": "permission denied"}
    with pytest.raises(AuthenticationFailed):
        await driver.read()


async def test_v3_still_tuning_is_ramping(reader) -> None:
    machine, driver = await reader(V3)
    machine.said["get_miner_status_summary"]["msg"]["summary"]["up-freq-finish"] = 0
    assert (await driver.read()).run_state is RunState.RAMPING
