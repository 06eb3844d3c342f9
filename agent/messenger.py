"""Messages to people over whatever apprise speaks: mail, Slack, Telegram, PagerDuty, a webhook and a hundred others.

The address of a target holds its password, so it is a secret like any other and is in no message, log or error.
"""

import asyncio
import importlib
import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from agent.alerts import Severity

SEND_S = 60.0
MISSING = (
    "alerts need the package apprise: pip install 'hashcost[alerts]', or apt-get install python3-apprise"
)
log = logging.getLogger("hashcost")
_LOGGER = logging.getLogger("apprise")
_LOGGER.addHandler(logging.NullHandler())
_LOGGER.propagate = False  # its lines show addresses


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Who is told, and what: from which severity on. The address is not shown."""

    name: str
    address: str = field(repr=False)
    least: Severity = Severity.WARNING


class Messenger:
    """Sends in a thread of its own, one message after the other, each for `SEND_S` at most."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="alerts")
        self._broken: set[str] = set()

    def close(self) -> None:
        """Send no more; what is being sent is not waited for."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def send(
        self, targets: Iterable[Target], title: str, body: str, severity: Severity
    ) -> dict[str, bool]:
        """Send to each target; whether each took it."""
        taken = {}
        for target in targets:
            taken[target.name] = await self._send(target, title, body, severity)
        return taken

    async def _send(self, target: Target, title: str, body: str, severity: Severity) -> bool:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(SEND_S):
                taken = await loop.run_in_executor(self._thread, _notify, target, title, body, severity)
        except TimeoutError:
            return False
        except Exception as error:  # noqa: BLE001 - of one plugin of a hundred; its words may show the address
            if target.name not in self._broken:
                name = type(error).__name__
                log.error("event=alert_target_failed target=%s error=%s", target.name, name)  # noqa: TRY400
            self._broken.add(target.name)
            return False
        self._broken.discard(target.name)
        return taken


@cache
def _apprise() -> Any:
    return importlib.import_module("apprise")


def _opened(address: str) -> Any:
    """The target of an address, that keeps nothing on the disk; None if apprise cannot read the address."""
    apprise = _apprise()
    asset = apprise.AppriseAsset(
        app_id="hashcost",
        app_desc="hashcost",
        app_url="",
        storage_mode=apprise.PersistentStoreMode.MEMORY,
        async_mode=False,
    )
    opened = apprise.Apprise(asset=asset)
    return opened if opened.add(address) else None


def is_address(address: str) -> bool:
    """Whether apprise knows what to do with an address. Sends nothing."""
    return _opened(address) is not None


def _notify(target: Target, title: str, body: str, severity: Severity) -> bool:
    kind = "failure" if severity is Severity.CRITICAL else "warning"
    opened = _opened(target.address)
    return opened is not None and bool(
        opened.notify(title=title, body=body, notify_type=kind, body_format="text")
    )
