"""Recorded machines, replayed: found, identified and read through the real protocols, number by number."""

from typing import Any

import pytest

from drivers.connect import connect
from drivers.reading import Family, PowerMode, PowerSource, Reading, RunState

EXPECTED: dict[str, dict[str, Any]] = {
    "antminer/s19k-pro": {
        "identity": ("Antminer S19k Pro", "02:13:A7:00:51:0C", "SMTTD0KBCJJBF0117", "BMMinerS19KPro"),
        "family": Family.ANTMINER,
        "run_state": RunState.MINING,
        "hashrate_ths": 119.99448,
        "expected_hashrate_ths": 120.0,
        "power_w": 2741.0,
        "power_source": PowerSource.REPORTED,
        "power_error": 0.05,
        "power_mode": PowerMode.NORMAL,
        "uptime_s": 86405,
        "fans_rpm": (5460, 5520, 5490, 2340),
        "inlet_temp_c": None,
        "errors": ("fans: fan 3 is slow",),
        "firmware": "Mon Mar  4 11:20:07 CST 2024",
        "boards": [
            (0, True, 40.12055, 71, 58, 77),
            (1, True, 39.87102, 72, 59, 77),
            (2, True, 40.00291, 69, 56, 77),
        ],
        "pools": [(True, True), (True, False), (True, False)],
    },
    "antminer/s21": {
        "identity": ("Antminer S21", "02:13:A7:00:51:2F", "JYZZE1UBDJJBE0442", "BMMinerS21"),
        "family": Family.ANTMINER,
        "run_state": RunState.MINING,
        "hashrate_ths": 132.5305,
        "power_w": 2399.0,
        "power_source": PowerSource.REPORTED,
        "boards": [
            (0, True, 66.0104, 68, 55, 108),
            (1, True, 66.5201, 70, 56, 108),
            (2, False, None, None, None, 0),
        ],
    },
    "antminer/s19j-pro": {
        "identity": ("Antminer S19j Pro", "02:13:A7:00:51:44", "NGSBD1ABCJJBG0903", "BMMinerS19jPro"),
        "family": Family.ANTMINER,
        "run_state": RunState.MINING,
        "power_w": 29.5 * 104.05204,
        "power_source": PowerSource.NAMEPLATE,
        "power_error": 0.10,
    },
    "whatsminer_v2/m30s-plus": {
        "identity": ("M30S+_VE40", "02:57:A7:00:02:19", "HTM39X88CK112300712", "BTMinerM30SPlusVE40"),
        "family": Family.WHATSMINER_V2,
        "run_state": RunState.MINING,
        "hashrate_ths": 100.1285875,
        "expected_hashrate_ths": 100.4,
        "power_w": 3388.0,
        "power_source": PowerSource.REPORTED,
        "power_mode": PowerMode.NORMAL,
        "uptime_s": 55021,
        "fans_rpm": (5010, 5040),
        "inlet_temp_c": 27.4,
        "errors": ("error 110", "error 2010"),
        "firmware": "20230911.12.Rel",
        "boards": [
            (0, True, 33.4100205, 90.1, 72.0, 148),
            (1, True, 33.12055525, 91.3, 72.5, 148),
            (2, True, 33.59801175, 89.9, 71.9, 148),
        ],
        "pools": [(True, True), (True, False), (True, False)],
    },
    "whatsminer_v2/m20s-2021": {
        "identity": ("M20SV10", "02:57:A7:00:02:40", None, "BTMinerM20SV10"),
        "family": Family.WHATSMINER_V2,
        "run_state": RunState.RAMPING,
        "hashrate_ths": 67.5413245,
        "power_w": 3402.0,
        "inlet_temp_c": None,
        "firmware": "20210322.22.REL",
    },
    "whatsminer_v3/m63s": {
        "identity": ("M63S_VK30", "02:57:A7:00:03:5B", "HTM37X1DK24112200091", "BTMinerM63SVK30"),
        "family": Family.WHATSMINER_V3,
        "run_state": RunState.MINING,
        "hashrate_ths": 249.9,
        "expected_hashrate_ths": 334.4,
        "power_w": 5027.0,
        "power_source": PowerSource.REPORTED,
        "power_mode": PowerMode.LOW,
        "uptime_s": 9230,
        "inlet_temp_c": 24.5,
        "errors": ("error 532: Slot2 chip read error",),
        "firmware": "20250618.14.Rel3",
        "boards": [
            (0, True, 82.9, 70.0, 55.5, 156),
            (1, True, 83.2, 71.0, 56.0, 156),
            (2, False, 0.0, None, None, 0),
            (3, True, 83.8, 73.0, 56.5, 156),
        ],
        "pools": [(True, True), (True, False), (False, False)],
    },
    "generic/luxos-s19j-pro": {
        "identity": ("Antminer S19j Pro", "02:13:A7:00:7C:01", None, "LUXMinerS19jPro"),
        "family": Family.GENERIC,
        "run_state": RunState.MINING,
        "hashrate_ths": 99.12031,
        "expected_hashrate_ths": 100.0,
        "power_w": 3041.0,
        "power_source": PowerSource.REPORTED,
        "power_mode": None,
        "uptime_s": 30210,
        "fans_rpm": (4200, 4230, 4260, 4290),
        "firmware": "2024.7.30.155808",
        "pools": [(True, True), (True, False)],
    },
}


@pytest.mark.parametrize("recorded", EXPECTED)
async def test_a_recorded_machine_is_read_as_it_is(
    recorded, servers, identified, leftovers, quick, network
) -> None:
    expected = dict(EXPECTED[recorded])
    machine = await servers.machine(recorded, f"{network}.1")
    with leftovers(within_s=1.5):
        identity = await identified(machine.address)
    assert (identity.model, identity.mac, identity.serial, identity.driver_class) == expected.pop("identity")
    assert identity.family is expected.pop("family")

    driver = connect(identity, machine.address, options=quick)
    with leftovers(within_s=0.5):
        reading = await driver.read()
    assert reading.implausible is None
    assert began_before_it_ended(reading)
    boards, pools = expected.pop("boards", None), expected.pop("pools", None)
    for name, value in expected.items():
        assert getattr(reading, name) == (pytest.approx(value) if isinstance(value, float) else value), name
    if boards is not None:
        assert [pytest.approx(board) for board in boards] == [
            (b.slot, b.alive, b.hashrate_ths, b.chip_temp_c, b.board_temp_c, b.chips) for b in reading.boards
        ]
    if pools is not None:
        assert [(pool.alive, pool.active) for pool in reading.pools] == pools
        assert reading.pools[0].url == "stratum+tcp://pool-a.example:3333"
        assert reading.pools[0].user == "site7.rack0"

    again = await driver.identify()
    assert (again.machine_id, again.model, again.driver_class) == (
        identity.machine_id,
        identity.model,
        identity.driver_class,
    )


def began_before_it_ended(reading: Reading) -> bool:
    return reading.began_at <= reading.ended_at and reading.began_at.utcoffset() is not None


FAST = {
    "antminer/s19k-pro": ["stats", "summary"],
    "antminer/s21": ["stats", "summary", "port_6060"],
    "antminer/s19j-pro": ["stats", "summary"],
    "whatsminer_v2/m30s-plus": ["status", "summary", "devs"],
    "whatsminer_v3/m63s": ["get_device_info", "get_miner_status_summary", "get_miner_status_edevs"],
}


@pytest.mark.parametrize("recorded", FAST)
async def test_the_second_read_asks_only_what_changes(recorded, servers, identified, quick, network) -> None:
    machine = await servers.machine(recorded, f"{network}.1")
    driver = connect(await identified(machine.address), machine.address, options=quick)
    await driver.read()
    machine.asked.clear()
    reading = await driver.read()
    assert machine.asked == FAST[recorded]
    assert reading.pools, "what is slow to read is remembered"
