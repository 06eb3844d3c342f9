"""Copies of the database: whole, in rotation, and put back so that nothing that was there is lost."""

import sqlite3
from contextlib import closing
from datetime import timedelta

import pytest

from agent.appraisal import Terms
from agent.backup import BackupError, back_up, restore
from agent.rows import Event
from agent.store import Reader, Store, StoreError, damage
from tests.agent.builders import NOW, machine
from tests.agent.processes import hashcost


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "hashcost.db"
    note(path, "first")
    return path


def note(path, text):
    with Store(path) as store:
        store.save_machines([machine(1)], Terms())
        store.save_events([Event(at=NOW, kind=text, detail="")])


def noted(path):
    with Reader(path) as reader:
        return [event.kind for event in reader.events()]


def overwrite(path, start, count):
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\xff" * count)


def test_a_copy_is_whole_while_the_agent_has_the_database_open(database, tmp_path):
    with Store(database) as store:
        store.save_events([Event(at=NOW, kind="in the log only", detail="")])
        copy = back_up(database, tmp_path / "backups", keep=3, now=NOW)
        store.save_events([Event(at=NOW, kind="later", detail="")])
    assert noted(copy) == ["in the log only", "first"]
    assert copy.stat().st_mode & 0o777 == 0o640
    assert damage(copy) is None


def test_the_oldest_copies_go_and_other_files_stay(database, tmp_path):
    directory = tmp_path / "backups"
    directory.mkdir()
    (directory / "mine.db").touch()
    made = [back_up(database, directory, keep=2, now=NOW + timedelta(hours=hour)) for hour in range(4)]
    assert sorted(directory.iterdir()) == [*made[2:], directory / "mine.db"]


def test_what_cannot_be_copied_is_said_and_leaves_nothing(database, tmp_path):
    with pytest.raises(StoreError, match="no such database"):
        back_up(tmp_path / "other.db", tmp_path / "backups", keep=1, now=NOW)
    (tmp_path / "file").touch()
    with pytest.raises(BackupError, match="cannot hold backups"):
        back_up(database, tmp_path / "file", keep=1, now=NOW)
    assert not (tmp_path / "backups").exists()


def test_a_copy_is_put_back_and_what_was_there_is_kept(database, tmp_path):
    copy = back_up(database, tmp_path / "backups", keep=3, now=NOW)
    note(database, "second")
    done = restore(copy, database, now=NOW)
    assert noted(database) == ["first"]
    assert noted(done.kept) == ["second", "first"]
    assert noted(copy) == ["first"]
    note(database, "goes on")
    assert noted(database) == ["goes on", "first"]


def test_a_log_that_a_crash_left_belongs_to_what_is_kept(database, tmp_path):
    copy = back_up(database, tmp_path / "backups", keep=3, now=NOW)
    with Store(database) as store:
        store.save_events([Event(at=NOW, kind="only in the log", detail="")])
        parts = {suffix: database.with_name(database.name + suffix).read_bytes() for suffix in ("", "-wal")}
    for suffix, content in parts.items():
        database.with_name(database.name + suffix).write_bytes(content)
    done = restore(copy, database, now=NOW)
    assert noted(database) == ["first"]
    assert noted(done.kept) == ["only in the log", "first"]


def test_of_the_databases_that_were_replaced_the_newest_stay(database, tmp_path):
    copy = back_up(database, tmp_path / "backups", keep=3, now=NOW)
    mine = database.with_name(f"{database.name}.before-my-upgrade")
    mine.touch()
    kept = []
    for hour in (0, 1, 2, 3, -24):  # the last by a clock that was set back
        kept.append(restore(copy, database, now=NOW + timedelta(hours=hour)).kept)
        for suffix in ("-wal", "-shm"):
            kept[-1].with_name(kept[-1].name + suffix).touch()
    left = {path.name.removesuffix("-wal").removesuffix("-shm") for path in tmp_path.glob("*.before-*")}
    assert left == {path.name for path in (*kept[2:], mine)}
    kept[2].unlink()
    database.unlink()
    assert restore(copy, database, now=NOW).kept is None
    assert {path.name for path in tmp_path.glob("*.before-*Z")} == {path.name for path in kept[3:]}


def test_a_database_that_is_gone_comes_back(tmp_path, database):
    copy = back_up(database, tmp_path / "backups", keep=3, now=NOW)
    restored = tmp_path / "elsewhere" / "hashcost.db"
    assert restore(copy, restored, now=NOW).kept is None
    assert noted(restored) == ["first"]


def test_nothing_is_put_back_while_an_agent_runs(database, tmp_path):
    copy = back_up(database, tmp_path / "backups", keep=3, now=NOW)
    note(database, "second")
    with Store(database), pytest.raises(StoreError, match="in use by another agent"):
        restore(copy, database, now=NOW)
    assert noted(database) == ["second", "first"]


def test_a_damaged_copy_is_refused_and_the_database_stays(database, tmp_path):
    copy = back_up(database, tmp_path / "backups", keep=3, now=NOW)
    overwrite(copy, 4096, 8192)
    with pytest.raises((BackupError, StoreError), match=r"damaged|malformed"):
        restore(copy, database, now=NOW)
    assert noted(database) == ["first"]
    with closing(sqlite3.connect(tmp_path / "foreign.db")) as other:
        other.execute("create table theirs (x)")
    with pytest.raises(StoreError, match="not a hashcost database"):
        restore(tmp_path / "foreign.db", database, now=NOW)


def test_an_agent_does_not_start_on_a_damaged_database(database):
    overwrite(database, database.stat().st_size - 6000, 5000)
    with pytest.raises(StoreError, match=r"is damaged .*restore-db FILE"):
        Store(database)


def test_the_commands_say_what_they_did(database, tmp_path):
    directory = tmp_path / "backups"
    made = hashcost("backup", "--database", database, "--directory", directory)
    assert made.returncode == 0
    (copy,) = directory.iterdir()
    assert made.stdout == f"{copy}\n"
    back = hashcost("restore-db", copy, "--database", database)
    assert back.returncode == 0
    assert back.stdout.splitlines()[0] == f"{database}: as it was at no round yet"
    assert f"{database}.before-" in back.stdout
    refused = hashcost("restore-db", tmp_path / "nothing.db", "--database", database)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
