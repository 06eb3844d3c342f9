"""What a scan changes in the fleet: new machines join, moved ones are followed, doubtful ones are only reported."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from agent.fleet import Fleet, Machine
from agent.groups import Groups
from agent.rows import Event
from drivers.discovery import ScanFailure, ScanResult
from drivers.inventory import Finding, FindingKind, KnownMachine, reconcile
from drivers.reading import MachineId

SCAN_FAILURE = "scan_failure"
"""Kind of the event that something answers at an address and cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What a scan found and did to the fleet. Drivers of `reconnect` speak to an address or firmware that is no
    longer so; `doubts` are the events that a person should know of; `retired` machines
    turned out to be others of the fleet."""

    result: ScanResult
    reconnect: Sequence[MachineId]
    retired: Sequence[MachineId]
    events: Sequence[Event]

    @property
    def doubts(self) -> list[Event]:
        """What could not be identified, told apart or trusted."""
        return [event for event in self.events if event.is_doubt]


class Inventory:
    """Applies scans to a fleet. Groups come from the configuration: name to addresses, the first that fits counts."""

    def __init__(self, fleet: Fleet, groups: Mapping[str, list[str]], clock: Callable[[], datetime]) -> None:
        self._fleet = fleet
        self._clock = clock
        self._groups = Groups(groups)
        for machine in fleet:
            machine.group = self._groups.of(machine.address)

    def take_in(self, result: ScanResult) -> Changes:
        """Bring the fleet up to date. Silence removes nothing: it is no evidence that a machine is gone."""
        known = {
            machine.machine_id: KnownMachine(identity=machine.identity, address=machine.address)
            for machine in self._fleet
        }
        reconnect: list[MachineId] = []
        retired: list[MachineId] = []
        events = [self._unreadable(failure) for failure in result.failures]
        for finding in reconcile(known, result.found):
            occupant = self._same_machine(finding)
            if occupant is not None and finding.identity.mac is None:
                events.append(self._unverified(finding, occupant))
                continue
            if occupant is not None:
                self._fleet.remove(occupant.machine_id)
                retired.append(occupant.machine_id)
                events.append(self._identified(finding, occupant))
            if self._apply(finding):
                assert finding.machine_id is not None  # noqa: S101 - only identified machines are applied
                reconnect.append(finding.machine_id)
            if finding.kind is not FindingKind.SAME and occupant is None:
                events.append(self._event(finding))
        return Changes(result=result, reconnect=reconnect, retired=retired, events=events)

    def _same_machine(self, finding: Finding) -> Machine | None:
        """The machine that a stranger at its address really is: one of the two was identified without its login, so
        that only one of them has a MAC, and everything else is the same."""
        if finding.kind is not FindingKind.STRANGER or finding.occupant is None:
            return None
        occupant = self._fleet[finding.occupant]
        here, there = finding.identity, occupant.identity
        alike = (here.family, here.model) == (there.family, there.model)
        return occupant if alike and (here.mac is None) is not (there.mac is None) else None

    def _apply(self, finding: Finding) -> bool:
        """Add or update the machine of a finding; whether its driver must be made anew."""
        if finding.machine_id is None or finding.kind is FindingKind.DUPLICATE:
            return False
        if finding.machine_id not in self._fleet:
            self._fleet.add(
                Machine(
                    machine_id=finding.machine_id,
                    identity=finding.identity,
                    address=finding.address,
                    group=self._groups.of(finding.address),
                    first_seen_at=self._clock(),
                )
            )
            return False
        machine = self._fleet[finding.machine_id]
        identity = finding.identity.completed_by(machine.identity)
        changed = (machine.identity, machine.address) != (identity, finding.address)
        machine.identity, machine.address = identity, finding.address
        machine.group = self._groups.of(finding.address)
        return changed

    def _unreadable(self, failure: ScanFailure) -> Event:
        return Event(
            at=self._clock(),
            kind=SCAN_FAILURE,
            detail=f"{failure.address}: {failure.kind}: {failure.detail}",
        )

    def _unverified(self, finding: Finding, occupant: Machine) -> Event:
        return Event(
            at=self._clock(),
            kind="machine_unverified",
            machine_id=occupant.machine_id,
            detail=f"{finding.identity.model} at {finding.address} does not tell its MAC (is the login right?) and is "
            f"taken for {occupant.machine_id}, which was there",
        )

    def _identified(self, finding: Finding, occupant: Machine) -> Event:
        return Event(
            at=self._clock(),
            kind="machine_identified",
            machine_id=finding.machine_id,
            detail=f"{finding.identity.model} at {finding.address} was known as {occupant.machine_id} while its MAC "
            "was not told; its history stays under that name",
        )

    def _event(self, finding: Finding) -> Event:
        return Event(
            at=self._clock(),
            kind=f"machine_{finding.kind.value}",
            machine_id=finding.machine_id,
            detail=_in_words(finding),
        )


def _in_words(finding: Finding) -> str:
    who = f"{finding.identity.model} at {finding.address}"
    match finding.kind:
        case FindingKind.MOVED:
            return f"{who} was at {finding.previous}"
        case FindingKind.DUPLICATE:
            others = ", ".join(str(address) for address in finding.others)
            return f"{who} has the identity that also answers at {others}; neither was changed or added"
        case FindingKind.STRANGER:
            return f"{who} answers where {finding.occupant} was, which was not found anywhere; added as a new machine"
        case FindingKind.UNIDENTIFIED:
            return f"{who} tells neither MAC nor serial and cannot be told from another; not added"
        case _:
            return who
