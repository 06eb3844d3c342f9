"""What scans do to the fleet: machines join, move and are doubted, and none is ever removed."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.fleet import Fleet
from agent.groups import SITE_GROUP
from agent.inventory import Inventory
from drivers.discovery import ScanFailure, ScanResult
from drivers.reading import Address
from tests.agent.builders import NOW, HandClock, identity, mac, machine, reading


def scanned(*found, failures=(), silent=0):
    """A scan that found machine numbers or identities at last octets."""
    pairs = tuple(
        (Address(host=f"10.0.0.{octet}"), identity(who) if isinstance(who, int) else who)
        for octet, who in found
    )
    return ScanResult(found=pairs, failures=tuple(failures), silent=silent)


def inventory(*machines, groups=None):
    fleet = Fleet(machines)
    return fleet, Inventory(fleet, groups or {}, HandClock())


def kinds(changes):
    return [event.kind for event in changes.events]


def test_a_new_machine_joins():
    fleet, known = inventory()
    changes = known.take_in(scanned((1, 1)))
    assert fleet[mac(1)].identity == identity(1)
    assert (fleet[mac(1)].address.host, fleet[mac(1)].first_seen_at) == ("10.0.0.1", NOW)
    assert fleet[mac(1)].reading is None
    assert kinds(changes) == ["machine_new"]
    assert (changes.events[0].at, changes.events[0].machine_id) == (NOW, mac(1))


def test_a_machine_where_it_was_changes_nothing():
    fleet, known = inventory(machine(1, reading()))
    changes = known.take_in(scanned((1, 1)))
    assert (list(changes.reconnect), list(changes.events)) == ([], [])
    assert fleet[mac(1)].reading == reading()


def test_a_machine_that_moved_is_followed_with_all_that_is_known_of_it():
    fleet, known = inventory(machine(1, reading()))
    changes = known.take_in(scanned((99, 1)))
    assert fleet[mac(1)].address.host == "10.0.0.99"
    assert fleet[mac(1)].reading == reading()
    assert list(changes.reconnect) == [mac(1)]
    assert kinds(changes) == ["machine_moved"]
    assert "was at 10.0.0.1" in changes.events[0].detail


def test_two_machines_that_swapped_addresses_are_both_followed():
    fleet, known = inventory(machine(1), machine(2))
    changes = known.take_in(scanned((1, 2), (2, 1)))
    assert (fleet[mac(1)].address.host, fleet[mac(2)].address.host) == ("10.0.0.2", "10.0.0.1")
    assert kinds(changes) == ["machine_moved", "machine_moved"]


def test_new_firmware_is_taken_over_with_a_new_driver():
    fleet, known = inventory(machine(1))
    changes = known.take_in(scanned((1, identity(1, firmware="2025.7"))))
    assert fleet[mac(1)].identity.firmware == "2025.7"
    assert list(changes.reconnect) == [mac(1)]


@pytest.mark.parametrize(
    "untold",
    [{"make": "Whatsminer", "model": "Whatsminer", "driver_class": "WhatsminerUnknown"}, {"firmware": None}],
    ids=["model", "firmware"],
)
def test_what_a_machine_does_not_tell_while_it_sleeps_stays_known(untold):
    who = identity(1, make="Whatsminer", model="M30S+_VE40", driver_class="BTMinerM30SPlusVE40", serial="X7")
    fleet, known = inventory(machine(1, reading(), identity=who))
    changes = known.take_in(scanned((1, replace(who, **untold))))
    assert fleet[mac(1)].identity == who
    assert list(changes.reconnect) == []


def test_a_model_that_was_not_told_is_taken_over_once_it_is():
    asleep = identity(1, make="Whatsminer", model="Whatsminer", driver_class="WhatsminerUnknown")
    awake = replace(asleep, model="M30S+_VE40", driver_class="BTMinerM30SPlusVE40")
    fleet, known = inventory(machine(1, identity=asleep))
    changes = known.take_in(scanned((1, awake)))
    assert fleet[mac(1)].identity == awake
    assert list(changes.reconnect) == [mac(1)]


def test_one_identity_at_two_addresses_is_only_reported():
    fleet, known = inventory(machine(1))
    changes = known.take_in(scanned((1, 1), (7, 1)))
    assert len(fleet) == 1
    assert fleet[mac(1)].address.host == "10.0.0.1"
    assert list(changes.reconnect) == []
    assert kinds(changes) == ["machine_duplicate", "machine_duplicate"]
    assert "10.0.0.7" in changes.events[0].detail


def test_an_unknown_identity_at_two_addresses_does_not_join():
    fleet, known = inventory()
    known.take_in(scanned((1, 1), (7, 1)))
    assert len(fleet) == 0


def test_a_stranger_at_a_known_address_joins_beside_the_machine_that_was_there():
    fleet, known = inventory(machine(1, reading()))
    changes = known.take_in(scanned((1, 2)))
    assert {each.machine_id for each in fleet} == {mac(1), mac(2)}
    assert fleet[mac(1)].reading == reading()
    assert kinds(changes) == ["machine_stranger"]
    assert mac(1) in changes.events[0].detail


def test_a_machine_that_cannot_be_told_from_another_does_not_join():
    fleet, known = inventory()
    changes = known.take_in(scanned((1, identity(1, mac=None, serial=None))))
    assert len(fleet) == 0
    assert kinds(changes) == ["machine_unidentified"]


def test_a_machine_without_a_mac_is_known_by_its_serial():
    fleet, known = inventory()
    known.take_in(scanned((1, identity(1, mac=None, serial="X7"))))
    assert [each.machine_id for each in fleet] == ["sn:X7"]


def test_what_could_not_be_identified_is_reported_with_its_kind():
    _, known = inventory()
    lost = ScanFailure(address=Address(host="10.0.0.5"), kind="malformed", detail="HTML")
    changes = known.take_in(scanned(failures=[lost]))
    assert kinds(changes) == ["scan_failure"]
    assert changes.events[0].detail == "10.0.0.5: malformed: HTML"


GROUPS = {"hall 1": ["10.0.0.0/29"], "hall 2": ["10.0.0.0/24"]}


@pytest.mark.parametrize(("octet", "group"), [(3, "hall 1"), (100, "hall 2")])
def test_a_machine_is_in_the_first_group_that_has_its_address(octet, group):
    fleet, known = inventory(groups=GROUPS)
    known.take_in(scanned((octet, 1)))
    assert fleet[mac(1)].group == group


def test_a_machine_in_no_group_is_in_that_of_the_site():
    fleet, known = inventory(groups={"hall": ["10.9.0.0/24"]})
    known.take_in(scanned((1, 1)))
    assert fleet[mac(1)].group == SITE_GROUP == "site"


@pytest.mark.parametrize(
    ("port", "group"), [(14028, "hall 1"), (14029, "hall 2"), (14030, "whole host"), (None, "whole host")]
)
def test_machines_behind_one_forwarded_host_have_groups_of_their_own(port, group):
    groups = {"hall 1": ["10.0.0.1:14028"], "hall 2": ["10.0.0.1:14029"], "whole host": ["10.0.0.1"]}
    fleet, _ = inventory(machine(1, address=Address(host="10.0.0.1", port=port)), groups=groups)
    assert fleet[mac(1)].group == group


def test_of_a_host_and_one_of_its_ports_the_first_group_counts():
    groups = {"whole host": ["10.0.0.1"], "hall 1": ["10.0.0.1:14028"]}
    fleet, _ = inventory(machine(1, address=Address(host="10.0.0.1", port=14028)), groups=groups)
    assert fleet[mac(1)].group == "whole host"


def test_a_machine_that_moves_changes_its_group():
    fleet, known = inventory(machine(1), groups=GROUPS)
    assert fleet[mac(1)].group == "hall 1"
    known.take_in(scanned((200, 1)))
    assert fleet[mac(1)].group == "hall 2"


def test_known_machines_get_the_groups_of_the_configuration_in_force():
    fleet, _ = inventory(machine(1, group="of yesterday"))
    assert fleet[mac(1)].group == SITE_GROUP


scans = st.lists(
    st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), max_size=6).map(lambda found: scanned(*found)),
    max_size=5,
)


@given(scans)
def test_nothing_is_ever_removed(results):
    fleet, known = inventory()
    seen = set()
    for result in results:
        known.take_in(result)
        now = {each.machine_id for each in fleet}
        assert seen <= now
        seen = now


@given(scans)
def test_a_second_scan_that_finds_the_same_changes_nothing(results):
    _, known = inventory()
    for result in results:
        known.take_in(result)
        again = known.take_in(result)
        assert list(again.reconnect) == []
        assert "machine_new" not in kinds(again)


@given(scans)
def test_a_machine_is_where_it_was_last_found_alone(results):
    fleet, known = inventory()
    last = {}
    for result in results:
        known.take_in(result)
        found = dict(result.found)
        for address, who in found.items():
            if sum(other == who for other in found.values()) == 1:
                last[who.machine_id] = address
    assert {each.machine_id: each.address for each in fleet} == last
