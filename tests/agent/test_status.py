"""The stored picture as screens get it: nothing that is too old to stand, and the doubts of the last scan."""

from datetime import timedelta

import pytest

from agent.policy import Action, Reason
from agent.rows import Event
from agent.store import Store, StoreError
from agent.stored import stored_picture
from agent.summary import doubt_lines
from agent.view import totals
from drivers.reading import PowerSource, RunState
from tests.agent.builders import NOW, failure, machine, reading, save, stored_site

VALID = timedelta(seconds=75)


@pytest.fixture
def database(tmp_path):
    return tmp_path / "hashcost.db"


def events(*kinds, at=NOW):
    """What a scan tells, and that it was done."""
    return [
        Event(at=at, kind=kind, detail=f"{kind} {number}") for number, kind in enumerate([*kinds, "scanned"])
    ]


@pytest.mark.parametrize("valid_s", [75.0, 250.0])
def test_a_reading_stands_as_long_as_the_agent_said_and_no_longer(database, valid_s):
    shown = stored_site(database, machine(1, reading()), machine(2, failure()), valid_s=valid_s)
    last = NOW + timedelta(seconds=valid_s)
    assert stored_picture(database, last).picture.views == shown.views
    assert not stored_picture(database, last).is_stale
    after = stored_picture(database, last + timedelta(seconds=1))
    assert after.is_stale
    for view in after.picture.views:
        assert (view.action, view.reason, view.failure) == (Action.HOLD, Reason.STALE_READING, None)
        assert (view.run_state, view.power_source) == (RunState.UNKNOWN, PowerSource.UNKNOWN)
        assert (view.margin_usd_per_day, view.power_w, view.hashrate_ths) == (None, None, None)
        assert view.recommendation == "hold stale_reading"
    assert totals(after.picture.views).to_curtail == 0
    assert {view.seen_at for view in after.picture.views} == {NOW, None}


def test_a_machine_whose_own_reading_is_too_old_is_stale_in_a_fresh_picture(database):
    old = NOW - timedelta(seconds=60)
    stored_site(database, machine(1, reading(began_at=old, ended_at=old)), machine(2, reading()))
    stored = stored_picture(database, NOW + timedelta(seconds=30))
    assert not stored.is_stale
    assert [view.reason for view in stored.picture.views] == [Reason.ABOVE_BREAKEVEN, Reason.STALE_READING]


def test_the_doubts_are_those_of_the_newest_scan(database):
    with Store(database) as store:
        save(store, machine(1, reading()))
        store.save_events(events("machine_duplicate", at=NOW - timedelta(hours=1)))
        store.save_events(events("machine_new", "scan_failure", "machine_stranger", "machine_moved"))
    doubts = stored_picture(database, NOW).doubts
    assert [event.kind for event in doubts] == ["scan_failure", "machine_stranger"]


def test_a_scan_with_many_doubts_is_cut_short():
    lines = doubt_lines(events(*["scan_failure"] * 8)[:-1])
    assert len(lines) == 6
    assert lines[0] == "scan of 12:00 UTC: scan_failure: scan_failure 0"
    assert lines[-1] == "... and 3 more doubts of that scan"
    assert len(doubt_lines(events(*["scan_failure"] * 5)[:-1])) == 5
    assert doubt_lines([]) == []


def test_a_directory_and_an_empty_file_are_told_as_such(tmp_path, database):
    with pytest.raises(StoreError, match="is a directory; name the database in it"):
        stored_picture(tmp_path, NOW)
    database.touch()
    with pytest.raises(StoreError, match="is empty, no agent has written to it"):
        stored_picture(database, NOW)
