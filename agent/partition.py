"""Which of the machines that an agent knows are its own, where its site is cut into parts by address or by group."""

from collections.abc import Iterable

from agent.config import Config
from agent.fleet import Machine
from agent.groups import SITE_GROUP, Groups
from agent.tenure import Parts
from drivers.reading import MachineId

_OWN = "own"


class Partition:
    """Tells the other parts what this one wants, and the machines whether they are to be commanded from here."""

    def __init__(self, config: Config, parts: Parts) -> None:
        self._parts = parts
        self._own_groups = frozenset(config.fleet.own_groups)
        is_cut = config.fleet.part_of is not None
        self._own_addresses = Groups({_OWN: config.scan.addresses}) if is_cut else None

    def mark(self, machines: Iterable[Machine], ordered: Iterable[MachineId]) -> None:
        """What is ordered is not let go of before that has ended."""
        known = list(machines)
        wanted = {machine.machine_id for machine in known if self._is_own(machine)}.union(ordered)
        self._parts.want(wanted, {machine.machine_id for machine in known} - wanted)
        for machine in known:
            machine.withheld = self._parts.stands_against(machine.machine_id)

    def _is_own(self, machine: Machine) -> bool:
        if self._own_addresses is not None and self._own_addresses.of(machine.address) == SITE_GROUP:
            return False
        return not self._own_groups or machine.group in self._own_groups
