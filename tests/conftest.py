"""What every test lives under: loopback only, and no verdict by how fast the host is."""

import ipaddress
import sys
from typing import Any

import pytest
from hypothesis import settings

from tests.loops import IdleTimeLoop

_FAMILIES_WITHOUT_ADDRESS = str | bytes  # Unix sockets


def _loopback_only(event: str, arguments: tuple[Any, ...]) -> None:
    """Refuse any connection that leaves the machine, whoever tries it."""
    if event not in {"socket.connect", "socket.sendto"} or isinstance(
        arguments[1], _FAMILIES_WITHOUT_ADDRESS
    ):
        return
    host = str(arguments[1][0])
    if host == "localhost":
        return
    if not ipaddress.ip_address(host).is_loopback:
        raise RuntimeError(f"a test tried to reach {host}: tests stay on loopback")


sys.addaudithook(_loopback_only)

settings.register_profile("hashcost", deadline=None)
settings.load_profile("hashcost")


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Any]:
    """On which event loops a test runs."""
    return {"idle time": IdleTimeLoop}
