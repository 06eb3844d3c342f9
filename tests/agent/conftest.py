"""What several tests of the agent need."""

import importlib
import logging
from contextlib import ExitStack

import pytest

from agent.config.postgres import PostgresSection
from agent.federation.fleet_database import settle
from tests.agent import postgres
from tests.agent.builders import Site


@pytest.fixture
def lines(caplog):
    """What was logged, as texts."""
    caplog.set_level(logging.INFO, logger="hashcost")
    return lambda event: [record.getMessage() for record in caplog.records if event in record.getMessage()]


@pytest.fixture
def prompt(monkeypatch):
    """What failed is tried again soon, and what never came is waited for longer than any test takes."""
    monkeypatch.setattr("agent.federation.connection.RECONNECT_AFTER_S", 0.2)
    monkeypatch.setattr("agent.federation.connection.RETRY_S", (0.2, 2.0))
    monkeypatch.setattr("agent.federation.uplink.LOOK_EVERY_S", 0.1)
    monkeypatch.setattr("agent.federation.fleet_database.PATIENCE_S", 1e9)


@pytest.fixture
def impatient(prompt, monkeypatch):
    """Servers that went away are noticed in a second or three where it takes half a minute. A host that stalls is taken
    for one of them: what fails for that is tried again."""
    monkeypatch.setattr("agent.federation.connection.PING_S", 1)
    monkeypatch.setattr("agent.federation.uplink.ACKNOWLEDGED_WITHIN_S", 2.0)
    monkeypatch.setattr("agent.federation.collector.ANSWER_WITHIN_S", 3.0)
    monkeypatch.setattr("agent.federation.collector.ACKNOWLEDGE_WITHIN_S", 5.0)
    monkeypatch.setattr("agent.federation.collector.ASK_AFTER", 5)


@pytest.fixture
def told_in_turns(lines):
    """Whether it was told that something cannot be reached, and then that it can again, and so on: each once."""

    def is_so(name):
        told = [line.split()[0] for line in lines(f"event={name}_") if "reach" in line.split()[0]]
        return bool(told) and told == [f"event={name}_unreachable", f"event={name}_reached"] * (
            len(told) // 2
        )

    return is_so


@pytest.fixture
def start_site(tmp_path):
    """Starts sites that are stopped however the test ends."""
    with ExitStack() as stack:

        def start(name="denver", **options):
            site = Site(tmp_path / "sites", name, **options)
            stack.callback(site.stop)
            return site

        yield start


@pytest.fixture(scope="session")
def postgres_server():
    """A PostgreSQL server; where there is none the tests that need one are skipped."""
    pytest.importorskip("psycopg", reason="no psycopg: pip install 'hashcost[postgres]'")
    if postgres.programs() is None:
        pytest.skip(postgres.ABSENT)
    with postgres.server() as server:
        yield server


@pytest.fixture
def in_postgres(postgres_server):
    """Has the fleet of a directory kept in a new database."""

    def kept(directory):
        password_file = str(postgres_server.password_file)
        settle(directory, PostgresSection(url=postgres_server.database(), password_file=password_file))
        return directory

    yield kept
    importlib.import_module("agent.federation.postgres").close_links()
