"""What several tests of the agent need."""

import logging

import pytest


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
