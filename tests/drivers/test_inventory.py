"""What a scan means for the inventory."""

from hypothesis import given
from hypothesis import strategies as st

from drivers.inventory import Finding, FindingKind, KnownMachine, reconcile
from drivers.reading import Address, Family, Identity, MachineId


def machine(mac: str | None, serial: str | None = None) -> Identity:
    return Identity(
        family=Family.ANTMINER,
        make="Antminer",
        model="Antminer S19 Pro",
        firmware=None,
        mac=mac,
        serial=serial,
        driver_class="BMMinerS19Pro",
    )


A, B, C = (machine(f"02:13:00:00:00:0{letter}") for letter in "ABC")
ONE, TWO, THREE = (Address(host=f"10.0.0.{number}") for number in (1, 2, 3))


def known(**machines: tuple[Identity, Address]) -> dict[MachineId, KnownMachine]:
    entries = [KnownMachine(identity=identity, address=address) for identity, address in machines.values()]
    return {entry.identity.machine_id: entry for entry in entries if entry.identity.machine_id}


def only(findings: list[Finding]) -> Finding:
    (finding,) = findings
    return finding


def test_new_and_same() -> None:
    assert only(reconcile({}, [(ONE, A)])).kind is FindingKind.NEW
    assert only(reconcile(known(a=(A, ONE)), [(ONE, A)])).kind is FindingKind.SAME


def test_a_moved_machine_is_known_by_its_mac() -> None:
    found = only(reconcile(known(a=(A, ONE)), [(TWO, A)]))
    assert (found.kind, found.previous, found.occupant) == (FindingKind.MOVED, ONE, None)


def test_a_serial_identifies_where_there_is_no_mac() -> None:
    quiet = machine(None, "8f21")
    assert only(reconcile(known(a=(quiet, ONE)), [(TWO, quiet)])).kind is FindingKind.MOVED


def test_the_same_address_behind_another_port_is_another_place() -> None:
    forwarded = Address(host=ONE.host, port=14028)
    assert only(reconcile(known(a=(A, ONE)), [(forwarded, A)])).kind is FindingKind.MOVED


def test_a_stranger_on_a_known_address_is_reported_and_not_merged() -> None:
    found = only(reconcile(known(a=(A, ONE)), [(ONE, B)]))
    assert (found.kind, found.machine_id, found.occupant) == (
        FindingKind.STRANGER,
        B.machine_id,
        A.machine_id,
    )


def test_an_address_that_its_machine_has_left_is_free() -> None:
    findings = reconcile(known(a=(A, ONE)), [(ONE, B), (TWO, A)])
    assert [finding.kind for finding in findings] == [FindingKind.NEW, FindingKind.MOVED]


def test_two_machines_that_swap_addresses_have_both_moved() -> None:
    findings = reconcile(known(a=(A, ONE), b=(B, TWO)), [(ONE, B), (TWO, A)])
    assert [(finding.kind, finding.occupant) for finding in findings] == [(FindingKind.MOVED, None)] * 2


def test_a_known_machine_on_a_missing_machine_s_address_says_whose_it_was() -> None:
    found = only(reconcile(known(a=(A, ONE), b=(B, TWO)), [(ONE, B)]))
    assert (found.kind, found.previous, found.occupant) == (FindingKind.MOVED, TWO, A.machine_id)


def test_a_duplicate_mac_is_nobody_s() -> None:
    findings = reconcile(known(a=(A, ONE)), [(ONE, A), (TWO, A), (THREE, C)])
    assert [finding.kind for finding in findings] == [
        FindingKind.DUPLICATE,
        FindingKind.DUPLICATE,
        FindingKind.NEW,
    ]
    assert [finding.others for finding in findings] == [(TWO,), (ONE,), ()]


def test_without_identity() -> None:
    found = only(reconcile({}, [(ONE, machine(None))]))
    assert (found.kind, found.machine_id) == (FindingKind.UNIDENTIFIED, None)


MACHINES = st.sampled_from([A, B, C, machine(None), machine(None, "8f21")])
ADDRESSES = st.sampled_from([ONE, TWO, THREE, Address(host="10.0.0.4")])


@given(st.dictionaries(ADDRESSES, MACHINES), st.dictionaries(ADDRESSES, MACHINES))
def test_every_found_address_has_one_finding_and_duplicates_are_never_merged(
    before: dict[Address, Identity], now: dict[Address, Identity]
) -> None:
    inventory = known(**{str(index): (each, at) for index, (at, each) in enumerate(before.items())})
    findings = reconcile(inventory, now.items())
    assert [finding.address for finding in findings] == list(now)
    settled = [
        f.machine_id for f in findings if f.kind not in {FindingKind.DUPLICATE, FindingKind.UNIDENTIFIED}
    ]
    assert len(settled) == len(set(settled))
