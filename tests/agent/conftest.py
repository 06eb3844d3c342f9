"""What several tests of the agent need."""

import importlib
import logging

import pytest

from agent.config.postgres import PostgresSection
from agent.federation.fleet_database import settle
from tests.agent import postgres


@pytest.fixture
def lines(caplog):
    """What was logged, as texts."""
    caplog.set_level(logging.INFO, logger="hashcost")
    return lambda event: [record.getMessage() for record in caplog.records if event in record.getMessage()]


@pytest.fixture
def impatient(monkeypatch):
    """Servers that went away are noticed, and tried again, in a second where it takes half a minute."""
    monkeypatch.setattr("agent.federation.connection.PING_S", 1)
    monkeypatch.setattr("agent.federation.connection.RECONNECT_AFTER_S", 0.2)
    monkeypatch.setattr("agent.federation.connection.RETRY_S", (0.2, 2.0))
    monkeypatch.setattr("agent.federation.uplink.ACKNOWLEDGED_WITHIN_S", 2.0)
    monkeypatch.setattr("agent.federation.collector.ANSWER_WITHIN_S", 3.0)
    monkeypatch.setattr("agent.federation.collector.ASK_AFTER", 5)


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
