"""A fleet in PostgreSQL: what is asked of it, what it answers to those who come wrongly, and a server that goes away.
That it shows what files show is in `test_fleet`."""

import asyncio
from contextlib import closing
from datetime import UTC, datetime

import pytest

from agent.config.postgres import PostgresSection
from agent.database import StoreError
from agent.federation.fleet_database import FleetDatabase, FleetError, is_fleet, read_state, settle
from agent.federation.metrics import FleetMetrics
from agent.migrations import migrations
from agent.opened import MARKER
from agent.publisher import MetricsFile
from agent.queries import SELECT_LAST_READING, SELECT_LAST_SCAN
from agent.reader import Reader
from agent.simulated.nats import Cluster, server_program
from tests.agent.builders import eventually, machine, market, reading, save
from tests.agent.processes import hashcost, hashcost_here
from tests.agent.test_collector import collecting, running, uplink
from tests.agent.test_fleet import busy_day, delivered, everything
from tui.fleet_source import FleetSource

pytest.importorskip("psycopg", reason="no psycopg: pip install 'hashcost[postgres]'")
postgres = pytest.importorskip("agent.federation.postgres")
postgres_copy = pytest.importorskip("agent.federation.postgres_copy")

AWAY = "postgresql://fleet@/fleet?host=/nowhere"
CONFIG = """
[fleet]
servers = ["nats://127.0.0.1:1"]
org = "acme"
[fleet.postgres]
url = "{url}"
password_file = "{password_file}"
"""


# -- without a server ------------------------------------------------------------------------------------


def test_queries_of_a_site_are_asked_in_the_words_of_psycopg():
    assert postgres.in_postgres("a = ? and b > :since_ms") == "a = %s and b > %(since_ms)s"
    assert postgres.in_postgres("a = ?1 - ?1 % 5 and b < ?2") == "a = %(p1)s - %(p1)s %% 5 and b < %(p2)s"
    assert "like 'machine_%%'" in postgres.in_postgres(SELECT_LAST_SCAN)
    assert ":" not in postgres.in_postgres(SELECT_LAST_READING)


def test_there_is_a_table_with_the_site_first_for_all_that_a_site_has_but_its_outbox():
    made = "\n".join(postgres.schema())
    with closing(postgres.Database(memory=True)) as db:
        migrations.apply(db)
        for name in set(db.table_names()) - {"outbox"}:
            if name.startswith(("_", "sqlite_")):
                continue
            assert f"create table if not exists hashcost.{name} (site text" in made
            assert (
                f"view hashcost_site.{name} as select {', '.join(c.name for c in db.table(name).columns)} "
                in made
            )
    assert "primary key (site, machine_id, hour_ms)" in made
    assert "foreign key (site, quote_id) references hashcost.quotes (site, quote_id)" in made
    assert "own boolean not null default false" in made
    assert "hashcost.outbox" not in made


def test_only_what_grows_with_time_is_given_to_timescale():
    assert [each.partition("'")[2].partition("'")[0] for each in postgres.hypertables()] == [
        "hashcost.ledger",
        "hashcost.rounds",
    ]
    keys = {table.name: table.key for table in postgres.tables()}
    assert "hour_ms" in keys["ledger"]  # a hypertable's key holds its time
    assert "began_ms" in keys["rounds"]


def test_rows_are_written_with_one_statement_a_message():
    assert postgres_copy.written("events", ("at_ms", "kind")) == (
        "insert into hashcost.events (at_ms, kind) select at_ms, kind "
        "from json_to_recordset(%s::json) as told (at_ms bigint, kind text)"
    )


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"url": "postgresql://fleet:secret@db/fleet"}, "no password in an address"),
        ({"url": "postgresql://db/fleet?password=secret"}, "no password in an address"),
        ({"url": "mysql://db/fleet"}, "no address such as"),
        ({"url": "postgresql://[db/fleet"}, "no address such as"),
        ({"password_file": "/x"}, "give url"),
        ({"url": AWAY, "password_file": "/nowhere/x"}, "/nowhere/x cannot be read"),
    ],
)
def test_what_makes_no_sense_is_refused_and_no_password_is_shown(given, what):
    with pytest.raises(ValueError, match=what) as refused:
        PostgresSection(**given)
    told = [error["msg"] for error in refused.value.errors()]
    assert "secret" not in str(told)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"url": "postgresql://fleet:secret@db/fleet"}', "no password in an address"),
        ("{}", "no url"),
        ("[1]", "does not say where"),
        ("{", "does not say where"),
    ],
)
def test_a_directory_that_says_nonsense_is_told_without_its_password(tmp_path, text, what):
    (tmp_path / MARKER).write_text(text)
    with pytest.raises(StoreError, match=what) as refused:
        read_state(tmp_path)
    assert "secret" not in str(refused.value)


def test_a_fleet_stays_where_it_is_kept(tmp_path):
    settle(tmp_path / "one", PostgresSection(url=AWAY))
    assert is_fleet(tmp_path / "one")
    with pytest.raises(FleetError, match="is kept in PostgreSQL"):
        settle(tmp_path / "one", PostgresSection())
    delivered(tmp_path / "two", [])
    with pytest.raises(FleetError, match="is kept in files"):
        settle(tmp_path / "two", PostgresSection(url=AWAY))


def test_a_password_in_the_configuration_is_refused_and_not_shown(tmp_path):
    config = tmp_path / "fleet.toml"
    config.write_text(CONFIG.format(url="postgresql://fleet:secret@db/fleet", password_file="/nowhere"))
    ended = hashcost("fleet", "run", "--config", str(config), "--fleet", str(tmp_path / "fleet"))
    assert ended.returncode == 2
    assert "fleet.postgres: url: no password in an address" in ended.stderr
    assert "secret" not in ended.stderr
    assert not (tmp_path / "fleet").exists()


@pytest.mark.parametrize(
    ("run", "command"),
    [
        (hashcost, ("status",)),
        (hashcost_here, ("export", "profitability")),
        (hashcost_here, ("whatif",)),
        (hashcost_here, ("status", "--json")),
    ],
)
def test_a_server_that_is_away_is_told_in_a_line(tmp_path, run, command):
    settle(tmp_path, PostgresSection(url=AWAY))
    ended = run(*command, "--database", str(tmp_path))
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert len(ended.stderr.splitlines()) == 1
    assert "hashcost: PostgreSQL at this host/fleet: " in ended.stderr


async def test_the_terminal_goes_on_while_the_server_is_away(tmp_path):
    settle(tmp_path, PostgresSection(url=AWAY))
    source = FleetSource(tmp_path)
    state = await source.state()
    source.close()
    assert [(each.site, each.health) for each in state.sites] == [(str(tmp_path), "unreadable")]
    assert "PostgreSQL at this host/fleet" in str(state.sites[0].problem)


def test_metrics_tell_nothing_while_the_server_is_away(tmp_path, lines):
    settle(tmp_path / "fleet", PostgresSection(url=AWAY))
    file = tmp_path / "fleet.prom"
    file.write_text("hashcost_site_up 1\n")
    metrics = FleetMetrics(tmp_path / "fleet", MetricsFile(file))

    async def one_round():
        task = asyncio.create_task(metrics.run())
        await eventually(lambda: not file.read_text())
        task.cancel()

    asyncio.run(one_round())
    assert metrics.text == ""
    assert len(lines("event=metrics_unknown")) == 1


# -- with one --------------------------------------------------------------------------------------------


@pytest.fixture
def site(start_site):
    return start_site()


@pytest.fixture
def directory(tmp_path, in_postgres):
    return in_postgres(tmp_path / "fleet")


def ask(directory, sql):
    with postgres.connect(postgres.read_marker(directory / MARKER)) as connection:
        return connection.execute(sql)


def test_a_wrong_password_ends_the_service_and_is_not_told(tmp_path, postgres_server):
    (tmp_path / "wrong").write_text("battery staple")
    config = tmp_path / "fleet.toml"
    config.write_text(CONFIG.format(url=postgres_server.database(), password_file=tmp_path / "wrong"))
    ended = hashcost("fleet", "run", "--config", str(config), "--fleet", str(tmp_path / "fleet"))
    assert ended.returncode == 2
    assert "password authentication failed" in ended.stderr.splitlines()[-1]
    assert "battery" not in ended.stderr + (tmp_path / "fleet" / MARKER).read_text()


def test_tables_of_a_newer_version_are_left_alone(site, directory):
    save(site.store, machine(1, reading()))
    delivered(directory, site.flush())
    ask(directory, "update hashcost.fleet set version = 99")
    with pytest.raises(StoreError, match="written by a newer hashcost"):
        FleetDatabase(directory)
    with pytest.raises(StoreError, match="written by a newer hashcost"):
        Reader(directory / "denver.db")


def test_tables_of_an_older_version_are_brought_up_to_date_with_what_they_hold(site, directory):
    busy_day(site)
    delivered(directory, site.flush())
    before = everything(directory / "denver.db")
    ask(directory, "update hashcost.fleet set version = 1")
    ask(directory, "drop view hashcost_site.ledger")
    ask(directory, "alter table hashcost.ledger drop column most_power_w")
    with pytest.raises(StoreError, match="of an older version"):
        Reader(directory / "denver.db")
    FleetDatabase(directory).close()
    assert everything(directory / "denver.db") == before
    assert ask(directory, "select most_power_w from hashcost.ledger").fetchall() == []


def test_there_is_one_writer(directory):
    first = FleetDatabase(directory)
    with pytest.raises(StoreError, match="in use by another"):
        FleetDatabase(directory)
    first.close()
    FleetDatabase(directory).close()


def test_what_is_not_there_is_told(site, directory):
    with pytest.raises(StoreError, match="no fleet is kept there"):
        Reader(directory / "denver.db")
    save(site.store, machine(1, reading()))
    delivered(directory, site.flush())
    with pytest.raises(StoreError, match="no such site"):
        Reader(directory / "tulsa.db")


def test_one_moment_is_one_moment_and_a_site_never_sees_another(start_site, directory):
    sites = [start_site(name) for name in ("denver", "tulsa")]
    for number, each in enumerate(sites):
        save(each.store, machine(number, reading()), market=market())
        delivered(directory, each.flush())
    with Reader(directory / "denver.db") as one, Reader(directory / "tulsa.db") as other, one.one_moment():
        assert len(one.latest()) == len(other.latest()) == 1
        save(sites[0].store, machine(7, reading()))
        delivered(directory, sites[0].flush())
        assert len(one.latest()) == 1
    with Reader(directory / "denver.db") as one:
        assert len(one.latest()) == 2


async def test_the_terminal_shows_every_site_and_goes_on_after_the_server_was_away(
    start_site, directory, postgres_server
):
    for name in ("denver", "tulsa"):
        made = start_site(name)
        save(made.store, machine(1, reading()))
        delivered(directory, made.flush())
    source = FleetSource(directory)
    try:
        before = await source.state()
        assert [(each.site, len(each.stored.picture.views)) for each in before.sites] == [
            ("denver", 1),
            ("tulsa", 1),
        ]
        postgres_server.stop()
        try:
            away = await source.state()
        finally:
            postgres_server.start()
        assert [(each.site, each.health) for each in away.sites] == [
            ("denver", "unreadable"),
            ("tulsa", "unreadable"),
        ]
        after = await source.state()
        assert [each.stored.picture.views for each in after.sites] == [
            each.stored.picture.views for each in before.sites
        ]
    finally:
        source.close()


def test_a_site_for_a_terminal_changes_by_what_changed(site, directory):
    machines = [machine(number, reading()) for number in (1, 2)]
    save(site.store, *machines)
    delivered(directory, site.flush())
    with Reader(directory / "denver.db") as reader:
        first = reader.changes()
        assert (first.whole, len(first.views)) == (True, 2)
        assert reader.changes(first.mark).views == []
        site.store.retire([machines[0].machine_id], datetime(2026, 2, 1, 1, tzinfo=UTC))
        delivered(directory, site.flush())
        later = reader.changes(first.mark)
        assert not later.whole
        assert later.gone == {machines[0].machine_id}


@pytest.mark.usefixtures("prompt")
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.skipif(server_program() is None, reason="needs nats-server")
async def test_a_server_that_goes_away_is_waited_for_and_a_lost_database_read_anew(
    tmp_path, site, directory, postgres_server, told_in_turns, lines
):
    (tmp_path / "nats").mkdir()
    with Cluster(tmp_path / "nats", nodes=1) as cluster:
        async with running(uplink(cluster, site)):
            async with collecting(cluster, directory) as fleet:
                busy_day(site, rounds=3)
                await eventually(lambda: fleet.has(site) and fleet.has_counted(site))
                postgres_server.stop()
                try:
                    busy_day(site, seed=2, rounds=3)
                    await eventually(lambda: lines("event=fleet_database_unreachable"))
                finally:
                    postgres_server.start()
                await eventually(lambda: fleet.has(site) and fleet.has_counted(site))
                await eventually(lambda: told_in_turns("fleet_database"))
            ask(directory, "drop schema hashcost, hashcost_site cascade")
            async with collecting(cluster, directory) as fleet:
                await eventually(lambda: fleet.has(site) and fleet.has_counted(site))
    assert read_state(directory).refused == {}
