"""A simulated mining site inside this process: machines, addresses, clock, truth, and what an operator can do to it."""

import asyncio
import ipaddress
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Self

from drivers.reading import Family, PowerMode
from drivers.simulator import antminer, antminer_web, whatsminer_v2, whatsminer_v3
from drivers.simulator.clock import SimClock
from drivers.simulator.faults import FACTS, Concern, Fault, FaultParameter
from drivers.simulator.http import HttpConversation
from drivers.simulator.link import Conversation, Link
from drivers.simulator.listeners import Listeners
from drivers.simulator.machine import Firmware, MachineTruth, PoolSetting, SimulatedMachine
from drivers.simulator.models import Cooling, Model, fleet
from drivers.simulator.physics import Swing
from drivers.simulator.plant import Nature, Plant
from drivers.simulator.rpc import RpcConversation
from drivers.simulator.telemetry import WARMEST_S

LEAKAGE_AIR, LEAKAGE_LIQUID = 0.009, 0.002
"""How much more a machine draws at the warmest hour than on average."""
SPARE_ADDRESSES = 4
"""Empty addresses that `scan_targets` covers beyond the machines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteSpec:
    """What to simulate. The same specification gives the same machines, figures and noise."""

    machines: int = 60
    seed: int = 7
    speed: float = 60.0
    fault_share: float = 0.0
    noise: float = 0.01
    network: str = "127.77.0.0/16"

    def __post_init__(self) -> None:
        """Refuse what cannot be simulated."""
        network = ipaddress.ip_network(self.network)
        if not network.is_loopback or network.version != 4:
            raise ValueError(f"network {self.network}: must lie within 127.0.0.0/8")
        if self.machines < 1:
            raise ValueError(f"machines {self.machines}: at least one")
        if self.speed <= 0 or not 0 <= self.fault_share <= 1 or not 0 <= self.noise < 0.3:
            raise ValueError("speed must be above 0, fault_share within 0..1 and noise within 0..0.3")
        if len(_addresses(network, self.machines)) < self.machines:
            raise ValueError(f"network {self.network}: too small for {self.machines} machines")


class Site:
    """A running site: `async with Site(spec) as site`. Everything ends with the block."""

    def __init__(
        self,
        spec: SiteSpec,
        *,
        epoch: datetime | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        shared: bool | None = None,
    ) -> None:
        """`epoch` is the simulated time of the start (now); `shared` forces one listener per port, or one each."""
        self.spec = spec
        self.clock = SimClock(
            epoch=epoch or datetime.now(UTC).replace(microsecond=0),
            started_s=monotonic(),
            speed=spec.speed,
            monotonic=monotonic,
        )
        self._machines = _build(spec, self.clock)
        self._listeners = Listeners(converse, self._machines, shared=shared)
        self.left_out: tuple[str, ...] = ()
        self._running = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Open all listeners. Raises ListenError, naming address and port."""
        self._listeners.open()
        async with AsyncExitStack() as stack:
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            up = asyncio.Event()
            stack.callback(tasks.create_task(self._listeners.run(up)).cancel)
            await up.wait()
            self._running = stack.pop_all()
        self.left_out = tuple(
            f"port {port}: not permitted to bind it, so {_NEEDED_FOR.get(port, 'what it serves')} is missing"
            for port in sorted(self._listeners.closed_ports)
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close everything."""
        await self._running.aclose()

    # -- asking

    @property
    def machines(self) -> Sequence[SimulatedMachine]:
        """All machines, in the order of their first addresses."""
        return self._machines

    @property
    def scan_targets(self) -> list[str]:
        """Address expressions that cover the site and a few empty addresses."""
        network = ipaddress.ip_network(self.spec.network)
        return _ranges(_addresses(network, self.spec.machines + SPARE_ADDRESSES))

    def now(self) -> datetime:
        """Simulated time, aware UTC."""
        return self.clock.utc()

    def truth(self, address: str) -> MachineTruth:
        """What the machine at this address really does. Raises KeyError."""
        return self._at(address).truth()

    # -- what happens to machines

    def set_fault(self, address: str, fault: Fault, **parameters: FaultParameter) -> None:
        """Break something. Raises KeyError for the address, ValueError for what does not fit the machine."""
        machine = self._at(address)
        machine.set_fault(fault, parameters)
        self._listeners.faults_changed((machine,))

    def clear_faults(self, address: str | None = None) -> None:
        """Repair one machine, or all of them."""
        machines = self._machines if address is None else (self._at(address),)
        broken = [machine for machine in machines if machine.faults]
        for machine in broken:
            machine.clear_fault()
        self._listeners.faults_changed(broken)

    def move(self, old: str, new: str) -> None:
        """DHCP gives a machine another, free address. Raises KeyError or ValueError."""
        machine = self._at(old)
        if ipaddress.ip_address(new) not in ipaddress.ip_network(self.spec.network):
            raise ValueError(f"{new}: not in {self.spec.network}")
        if self._listeners.at(new) is not None:
            raise ValueError(f"{new}: taken")
        self._listeners.readdress({old: None, new: machine})

    def swap(self, a: str, b: str) -> None:
        """DHCP gives two machines each other's address. Raises KeyError."""
        first, second = self._at(a), self._at(b)
        self._listeners.readdress({a: second, b: first})

    def sleep(self, address: str) -> None:
        """An operator puts the machine to sleep on site."""
        machine = self._at(address)
        machine.sleep(self.clock.seconds())
        machine.record("operator:sleep", "", "done", writes=True)

    def wake(self, address: str) -> None:
        """An operator wakes the machine on site."""
        machine = self._at(address)
        machine.wake(self.clock.seconds())
        machine.record("operator:wake", "", "done", writes=True)

    def set_mode(self, address: str, mode: PowerMode) -> None:
        """An operator changes the power mode on site. Raises ValueError if the machine has no such mode."""
        machine = self._at(address)
        machine.set_mode(self.clock.seconds(), mode)
        machine.record("operator:set_mode", mode, "done", writes=True)

    def _at(self, address: str) -> SimulatedMachine:
        machine = self._listeners.at(address)
        if machine is None:
            raise KeyError(address)
        return machine


_NEEDED_FOR = {
    80: "the Antminers' web interface (MAC, configuration, sleep and wake)",
    6060: "the wattage of Antminers that tell it only there",
}


def converse(machine: SimulatedMachine, port: int, link: Link) -> Conversation | None:
    """The protocol that a machine speaks on a port, if any."""
    if port not in machine.ports:
        return None
    if port in _WEB:
        return HttpConversation(machine, link, _WEB[port])
    if port == 4433:
        return whatsminer_v3.FramedConversation(machine, link)
    return RpcConversation(machine, link, _RPC[machine.family])


_WEB = {80: antminer_web.respond, 6060: antminer_web.respond_6060}
_RPC = {
    Family.ANTMINER: antminer.answer,
    Family.WHATSMINER_V2: whatsminer_v2.answer,
    Family.WHATSMINER_V3: whatsminer_v3.answer_degraded,
}


# -- building


def _build(spec: SiteSpec, clock: SimClock) -> tuple[SimulatedMachine, ...]:
    rng = random.Random(spec.seed)
    models = fleet(spec.machines, rng)
    addresses = _addresses(ipaddress.ip_network(spec.network), spec.machines)
    pairs = enumerate(zip(models, addresses, strict=True))
    machines = tuple(_machine(spec, clock, model, address, i) for i, (model, address) in pairs)
    _break_some(machines, spec.fault_share, rng)
    return machines


def _machine(spec: SiteSpec, clock: SimClock, model: Model, address: str, index: int) -> SimulatedMachine:
    rng = random.Random(f"{spec.seed}/{index}")
    plant = Plant(nature=_nature(model, clock, rng))
    plant.started_s = -rng.uniform(0.5, 12.0) * 86_400
    worker = f"{index // 250 + 1}x{index % 250 + 1:03d}"
    return SimulatedMachine(
        clock=clock,
        exemplar=model,
        plant=plant,
        firmware=_firmware(model, rng),
        address=address,
        mac=_mac(model, spec.seed, index),
        serial=_serial(model, spec.seed, index),
        seed=rng.getrandbits(63),
        noise=spec.noise,
        pools=tuple(
            PoolSetting(url=f"stratum+tcp://{host}.pool.example:3333", user=f"site.{worker}", password="x")  # noqa: S106
            for host in ("btc", "eu", "us")
        ),
    )


def _nature(model: Model, clock: SimClock, rng: random.Random) -> Nature:
    midnight = clock.epoch.replace(hour=0, minute=0, second=0, microsecond=0)
    leakage = LEAKAGE_AIR if model.cooling is Cooling.AIR else LEAKAGE_LIQUID
    whatsminer = model.family is not Family.ANTMINER
    hash_factor = _spread(rng, 0.012, 0.03)
    return Nature(
        hashrate_ths=model.hashrate_ths * hash_factor,
        power_w=model.power_w * hash_factor * _spread(rng, 0.018, 0.05),
        sleep_power_w=max(15.0, min(70.0, model.sleep_power_w * _spread(rng, 0.1, 0.3))),
        boards=model.boards,
        swing=Swing(
            amplitude=leakage,
            peak_s=WARMEST_S - (clock.epoch - midnight) / timedelta(seconds=1),
        ),
        down_delay_s=rng.uniform(0.5, 2.0) if whatsminer else rng.uniform(2.0, 12.0),
        down_s=rng.uniform(2.0, 8.0) if whatsminer else rng.uniform(4.0, 40.0),
        power_up_s=rng.uniform(45.0, 70.0) if whatsminer else rng.uniform(90.0, 150.0),
        hash_delay_s=rng.uniform(50.0, 80.0) if whatsminer else rng.uniform(60.0, 120.0),
        hash_up_s=rng.uniform(300.0, 500.0) if whatsminer else rng.uniform(120.0, 420.0),
        reboot_s=rng.uniform(40.0, 80.0),
    )


def _spread(rng: random.Random, sigma: float, limit: float) -> float:
    return 1.0 + max(-limit, min(limit, rng.gauss(0.0, sigma)))


def _firmware(model: Model, rng: random.Random) -> Firmware:
    watts_shown = rng.choice(model.watts_shown)
    hollow, old = rng.random() < 0.4, rng.random() < 0.3
    match model.family:
        case Family.WHATSMINER_V3:
            version = rng.choice(("20241220.11.REL", "20250418.14.Rel", "20250905.10.Rel2"))
        case Family.WHATSMINER_V2:
            version = "20220919.15.REL" if old else rng.choice(("20230911.12.Rel", "20240612.16.Rel"))
        case _:
            version = rng.choice(("49.0.1.3", "uart_trans.1.3", "51.0.2.7"))
    return Firmware(
        version=version,
        compiled=rng.choice(("Tue Aug  8 13:39:42 CST 2023", "Fri Mar 15 10:04:17 CST 2024")),
        watts_shown=watts_shown,
        empty_when_asleep=hollow and model.family is Family.ANTMINER,
        old_btminer=old and model.family is Family.WHATSMINER_V2,
    )


def _mac(model: Model, seed: int, index: int) -> str:
    maker = 0x13 if model.family is Family.ANTMINER else 0x57
    return ":".join(f"{octet:02X}" for octet in (0x02, maker, seed & 0xFF, *index.to_bytes(3, "big")))


def _serial(model: Model, seed: int, index: int) -> str:
    if model.family is Family.ANTMINER:
        return f"JYZZF1UBD{seed & 0xFFF:03X}{index:06d}"
    return f"HTM{model.boards}{model.chips_per_board}X{seed & 0xFFF:03X}{index:06d}".ljust(33, "0")


def _break_some(machines: Sequence[SimulatedMachine], share: float, rng: random.Random) -> None:
    """Give a share of the machines a fault each that shows when they are read; no reader meets those of writing."""
    shown = {fault: facts for fault, facts in FACTS.items() if facts.concern is not Concern.WRITING}
    for machine in rng.sample(machines, round(share * len(machines))):
        fault = rng.choice(
            sorted(fault for fault, facts in shown.items() if machine.family in facts.families)
        )
        twin = rng.choice(machines).mac
        machine.set_fault(fault, {"mac": twin} if fault is Fault.DUPLICATE_MAC else {})


# -- addresses


def _addresses(network: ipaddress.IPv4Network | ipaddress.IPv6Network, count: int) -> list[str]:
    """The first addresses of the network, without .0 and .255."""
    first, found = int(network.network_address), list[str]()
    for offset in range(network.num_addresses):
        if len(found) == count:
            break
        if (first + offset) % 256 not in {0, 255}:
            found.append(str(ipaddress.IPv4Address(first + offset)))
    return found


def _ranges(addresses: list[str]) -> list[str]:
    """Consecutive addresses as ranges of the last octet."""
    ranges = dict[str, tuple[int, int]]()
    for address in addresses:
        head, _, tail = address.rpartition(".")
        first, _ = ranges.get(head, (int(tail), 0))
        ranges[head] = (first, int(tail))
    return [f"{head}.{first}-{last}" for head, (first, last) in ranges.items()]
