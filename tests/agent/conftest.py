"""What several tests of the agent need."""

import logging

import pytest


@pytest.fixture
def lines(caplog):
    """What was logged, as texts."""
    caplog.set_level(logging.INFO, logger="hashcost")
    return lambda event: [record.getMessage() for record in caplog.records if event in record.getMessage()]
