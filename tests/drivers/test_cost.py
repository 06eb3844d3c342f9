"""What a reading costs, pinned without a clock: connections, commands, bytes sent, tasks, objects kept."""

import asyncio
import gc

import pytest

from drivers.connect import connect
from drivers.reading import Address, Family, Identity

A_READING = {
    "antminer/s19j-pro": (2, ["stats", "summary"], 42),
    "antminer/s21": (3, ["stats", "summary", "port_6060"], 90),
    "whatsminer_v2/m30s-plus": (3, ["status", "summary", "devs"], 62),
    "whatsminer_v3/m63s": (
        1,
        ["get_device_info", "get_miner_status_summary", "get_miner_status_edevs"],
        130,
    ),
}
"""After the first, which asks for the slow facts too: connections, commands in their order, bytes sent."""


@pytest.mark.parametrize("recorded", A_READING)
async def test_a_reading_costs(servers, identified, quick, network, recorded) -> None:
    machine = await servers.machine(recorded, f"{network}.1")
    driver = connect(await identified(machine.address), machine.address, options=quick)
    await driver.read()
    machine.asked.clear()
    servers.traffic.connections = servers.traffic.bytes_in = 0
    seen: set[asyncio.Task] = set()
    watcher = asyncio.create_task(watch(seen))
    await asyncio.sleep(0)
    before = asyncio.all_tasks()
    await driver.read()
    watcher.cancel()
    connections, commands, bytes_sent = A_READING[recorded]
    assert machine.asked == commands
    assert servers.traffic.connections == connections
    assert servers.traffic.bytes_in == bytes_sent
    started = {task.get_coro().__qualname__ for task in seen - before}
    assert started <= {"BaseSelectorEventLoop._accept_connection2"}, (
        "tasks are the server's of this test only"
    )


async def watch(seen: set[asyncio.Task]) -> None:
    """Collect every task there is, from now on."""
    while True:
        seen |= asyncio.all_tasks()
        await asyncio.sleep(0)


@pytest.mark.parametrize("family", [Family.ANTMINER, Family.WHATSMINER_V2, Family.WHATSMINER_V3])
def test_a_driver_keeps_few_objects(quick, family) -> None:
    """Ten thousand of them are not to cost what the garbage collector takes to walk over them."""

    def driver(number: int):
        identity = Identity(
            family=family, make="x", model="S19j Pro", firmware=None, mac=f"02:00:00:00:00:{number:02X}",
            serial=None, driver_class="",
        )  # fmt: skip
        return connect(identity, Address(host=f"10.0.0.{number}"), options=quick)

    driver(1)
    gc.collect()
    before = len(gc.get_objects())
    kept = [driver(number) for number in range(2, 102)]
    gc.collect()
    assert (len(gc.get_objects()) - before) / len(kept) < 30
