"""What every test lives under: loopback only, no verdict by how fast the host is, and nobody else on its addresses."""

import ipaddress
import sys
from typing import Any

import pytest
from hypothesis import settings

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

ON_SHARED_ADDRESSES = {
    "tests/site": "site",
    "tests/agent/test_fleet_demo.py": "site",
    "tests/agent/test_export.py": "site",
    "tests/drivers/simulator": "simulator",
}
"""Simulated sites that may not be there at the same time, by group."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that run side by side do so file by file, and those on the same addresses one after the other."""
    for item in items:
        path = item.path.relative_to(config.rootpath)
        places = (path.as_posix(), *(each.as_posix() for each in path.parents))
        group = next((ON_SHARED_ADDRESSES[each] for each in places if each in ON_SHARED_ADDRESSES), None)
        item.add_marker(pytest.mark.xdist_group(group or path.as_posix()))
