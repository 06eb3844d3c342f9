"""What every test lives under: loopback only, no verdict by how fast the host is, and nobody else on its addresses."""

import ipaddress
import sys
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

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


class FileByFile(LoadScopeScheduling):
    """Tests that run side by side do so file by file, and those on the same addresses one after the other."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", maxsplit=1)[0]
        return next((group for place, group in ON_SHARED_ADDRESSES.items() if file.startswith(place)), file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Who runs what, where tests run side by side."""
    return FileByFile(config, log)
