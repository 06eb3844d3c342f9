"""What a scan means for what was known: compares identities, and merges nothing; pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from drivers.reading import Address, Identity, MachineId


class FindingKind(StrEnum):
    """What is to be said about one machine that a scan found."""

    NEW = "new"
    """Never seen, at an address where nobody was."""
    SAME = "same"
    """Where it was."""
    MOVED = "moved"
    """Known by its identity, at another address than before."""
    DUPLICATE = "duplicate"
    """Its identity answers at several addresses in one scan: two machines with one MAC, or one with two
    addresses. Nothing may be done to either on the strength of the identity."""
    STRANGER = "stranger"
    """Never seen, at an address that belongs to a known machine which this scan did not find elsewhere."""
    UNIDENTIFIED = "unidentified"
    """It answers, but with neither MAC nor serial: it cannot be told from another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownMachine:
    """A machine of the inventory and where it last answered."""

    identity: Identity
    address: Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One found machine compared with the inventory.

    `previous` is where a moved machine was. `occupant` is the known machine whose address this is now, if the
    scan did not find that one elsewhere: it has moved out of sight, is off, or its address was taken.
    `others` are the other addresses of a duplicate.
    """

    kind: FindingKind
    machine_id: MachineId | None
    address: Address
    identity: Identity
    previous: Address | None = None
    occupant: MachineId | None = None
    others: tuple[Address, ...] = ()


def reconcile(
    known: Mapping[MachineId, KnownMachine], found: Iterable[tuple[Address, Identity]]
) -> list[Finding]:
    """One finding per found address, in the order of `found`. Known machines that were not found have none:
    silence is no finding."""
    machines = list(dict(found).items())
    addresses: dict[MachineId, list[Address]] = defaultdict(list)
    for address, identity in machines:
        if identity.machine_id is not None:
            addresses[identity.machine_id].append(address)
    missing = {
        machine.address: machine_id for machine_id, machine in known.items() if machine_id not in addresses
    }
    return [_finding(known, address, identity, addresses, missing) for address, identity in machines]


def _finding(
    known: Mapping[MachineId, KnownMachine],
    address: Address,
    identity: Identity,
    addresses: Mapping[MachineId, list[Address]],
    missing: Mapping[Address, MachineId],
) -> Finding:
    machine_id = identity.machine_id
    before = known.get(machine_id) if machine_id is not None else None
    previous = before.address if before is not None else None
    others = tuple(other for other in addresses.get(machine_id, ()) if other != address) if machine_id else ()
    occupant = missing.get(address)
    return Finding(
        kind=_kind(machine_id, address, previous, occupant, others),
        machine_id=machine_id,
        address=address,
        identity=identity,
        previous=previous if previous != address else None,
        occupant=occupant,
        others=others,
    )


def _kind(
    machine_id: MachineId | None,
    address: Address,
    previous: Address | None,
    occupant: MachineId | None,
    others: tuple[Address, ...],
) -> FindingKind:
    if machine_id is None:
        return FindingKind.UNIDENTIFIED
    if others:
        return FindingKind.DUPLICATE
    if previous is not None:
        return FindingKind.SAME if previous == address else FindingKind.MOVED
    return FindingKind.STRANGER if occupant is not None else FindingKind.NEW
