"""The terminal lives in the time of the host, as its operator does: it draws twice a second; no deadline ends it."""

import asyncio
from typing import Any

import pytest


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Any]:
    """On which event loops a test runs."""
    return {"asyncio": asyncio.SelectorEventLoop}
