"""pyasic cannot tell the simulated machines from real ones."""

import asyncio
import warnings
from collections.abc import AsyncIterator, Callable

import pytest

from drivers.reading import Family, RunState
from drivers.simulator.faults import Fault
from drivers.simulator.models import MODELS
from drivers.simulator.site import Site, SiteSpec

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from pyasic.miners.factory import MinerFactory

NETWORK = "127.80.4.0/23"

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

CLASSES = {
    "Antminer S19": "BMMinerS19",
    "Antminer S19 Pro": "BMMinerS19Pro",
    "Antminer S19j Pro 100T": "BMMinerS19jPro",
    "Antminer S19j Pro 104T": "BMMinerS19jPro",
    "Antminer S19j Pro+ 122T": "BMMinerS19jProPlus",
    "Antminer S19k Pro": "BMMinerS19KPro",
    "Antminer S19 XP": "BMMinerS19XP",
    "Antminer T21": "BMMinerT21",
    "Antminer S21": "BMMinerS21",
    "Antminer S21+": "BMMinerS21Plus",
    "Antminer S21 Pro": "BMMinerS21Pro",
    "Antminer S21 XP": "BMMinerS21XP",
    "Antminer S19 Pro+ Hyd": "BMMinerS19ProPlusHydro",
    "Antminer S21 Hyd": "BMMinerS21Hydro",
    "Whatsminer M30S": "BTMinerM30SVE10",
    "Whatsminer M30S+": "BTMinerM30SPlusVE40",
    "Whatsminer M30S++": "BTMinerM30SPlusPlusVH20",
    "Whatsminer M50": "BTMinerM50VH50",
    "Whatsminer M50S": "BTMinerM50SVJ30",
    "Whatsminer M53": "BTMinerM53VH30",
    "Whatsminer M56S++": "BTMinerM56SPlusPlusVK10",
    "Whatsminer M60": "BTMinerM60VK30",
    "Whatsminer M60S": "BTMinerM60SVK40",
    "Whatsminer M63S": "BTMinerM63SVK20",
    "Whatsminer M66S": "BTMinerM66SVK30",
}


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with Site(
        SiteSpec(machines=300, network=NETWORK, speed=3_000), monotonic=asyncio.get_running_loop().time
    ) as running:
        yield running


def test_every_model_has_its_class() -> None:
    assert set(CLASSES) == {model.name for model in MODELS}


@pytest.mark.parametrize("name", CLASSES)
async def test_identified_and_read_as_the_truth(site: Site, name: str, pick: Callable) -> None:
    machine = pick(site, where=lambda m: m.model == name)
    miner = await MinerFactory().get_miner(machine.address)
    assert type(miner).__name__ == CLASSES[name]
    data = await miner.get_data()
    truth = site.truth(machine.address)
    assert float(data.expected_hashrate.rate) == machine.exemplar.hashrate_ths
    assert (data.mac, data.serial_number) == (machine.mac, machine.serial)
    assert data.is_mining
    assert data.expected_hashboards == machine.exemplar.boards
    assert [fan.speed > 2_000 for fan in data.fans] == [True] * machine.exemplar.fans
    boards = data.hashboards
    if machine.family is Family.WHATSMINER_V3:
        boards = boards[:3]  # pyasic loses the fourth
    else:
        assert float(data.hashrate.rate) == pytest.approx(truth.hashrate_ths, rel=0.05)
        assert [pool.active for pool in data.pools] == [True, False, False]
    assert all(board.chips == machine.exemplar.chips_per_board and not board.missing for board in boards)
    if machine.family is Family.ANTMINER:
        assert data.wattage is None
    else:
        assert data.wattage == pytest.approx(truth.power_w, rel=0.02)


@pytest.mark.parametrize("family", [Family.ANTMINER, Family.WHATSMINER_V2, Family.WHATSMINER_V3])
async def test_stop_and_resume_change_the_truth(site: Site, family: Family, pick: Callable) -> None:
    machine = pick(site, family)
    miner = await MinerFactory().get_miner(machine.address)
    pools = site.truth(machine.address).pools
    for act, state in ((miner.stop_mining, RunState.ASLEEP), (miner.resume_mining, RunState.MINING)):
        assert await act()
        async with asyncio.timeout(60):
            while site.truth(machine.address).run_state is not state:
                await asyncio.sleep(0.01)
    assert site.truth(machine.address).pools == pools


async def test_pyasic_wipes_the_pools_when_the_configuration_cannot_be_read(
    site: Site, pick: Callable
) -> None:
    """The bug that the drivers guard against is there to be guarded against."""
    machine = pick(site, Family.ANTMINER)
    miner = await MinerFactory().get_miner(machine.address)
    site.set_fault(machine.address, Fault.CONFIG_READ_FAILS)
    assert await miner.stop_mining()
    assert site.truth(machine.address).pools == ("", "", "")
