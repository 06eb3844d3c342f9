"""The terminal's data: a snapshot of the store, how old it is, and an error in words while there is none."""

from datetime import UTC, datetime, timedelta

import pytest

from agent.store import Store, StoreError
from tests.agent.builders import NOW, failure, machine, reading, save, stored_site
from tui.source import Source


def snapshot_of(database, now=None):
    source = Source(database) if now is None else Source(database, clock=lambda: now)
    return source.read_state().snapshot


@pytest.fixture
def database(tmp_path):
    return tmp_path / "hashcost.db"


def test_a_snapshot_is_the_stored_picture_worst_margin_first(database):
    shown = stored_site(
        database, machine(1, reading()), machine(2, failure()), machine(3, reading(power_w=9000.0))
    )
    snapshot = snapshot_of(database, NOW)
    assert snapshot.picture.views == shown.views
    assert [view.address for view in snapshot.picture.views] == ["10.0.0.3", "10.0.0.1", "10.0.0.2"]
    assert snapshot.picture.market.price_usd_per_kwh == 0.06


def test_a_snapshot_is_of_now_unless_told(database):
    stored_site(database, machine(1, reading()))
    snapshot = snapshot_of(database)
    assert snapshot.is_stale
    assert snapshot.age > datetime.now(UTC) - NOW - timedelta(minutes=1)


async def test_what_is_asked_once_it_is_closed_is_an_error_in_words(database):
    """The terminal asks every half second, also in the moment in which it is being quit."""
    stored_site(database, machine(1, reading()))
    source = Source(database)
    source.close()
    with pytest.raises(StoreError, match="closed"):
        await source.state()


def test_a_missing_database_is_an_error_in_words(database):
    with pytest.raises(StoreError, match="no such database"):
        snapshot_of(database)


def test_a_database_without_a_round_is_an_error_in_words(database):
    with Store(database):
        pass
    with pytest.raises(StoreError, match="no poll round yet"):
        snapshot_of(database)


def test_a_database_that_is_replaced_is_seen(database, tmp_path):
    stored_site(database, machine(1, reading()))
    source = Source(database)
    source.read_state()
    stored_site(tmp_path / "other", machine(7, reading()))
    (tmp_path / "other").replace(database)
    assert [view.address for view in source.read_state().snapshot.picture.views] == ["10.0.0.7"]


def test_a_snapshot_while_the_agent_writes_is_that_of_a_whole_round(database):
    with Store(database) as store:
        save(store, machine(1, reading()))
        assert len(snapshot_of(database).picture.views) == 1
