"""`hashcost scan`: look at addresses once, say who answers, change nothing."""

import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from agent import event_loop
from agent.clock import Clock
from agent.config import Config
from agent.errors import AgentError
from agent.logins import logins
from agent.options import read_options
from agent.progress import scan_progress
from drivers.addresses import parse_targets
from drivers.discovery import ScanProgress, ScanResult, scan
from drivers.driver import OutOfSockets
from drivers.inventory import FindingKind, reconcile
from drivers.reading import Address


async def scan_site(
    config: Config, addresses: Sequence[Address], progress: Callable[[ScanProgress], None] | None = None
) -> ScanResult:
    """Scan as the agent of this configuration would, with its logins. Raises `OutOfSockets`."""
    options = await asyncio.to_thread(read_options, config, Clock())  # reads files
    book = await asyncio.to_thread(logins, config)
    return await scan(addresses, options=options, progress=progress, options_at=partial(book.at, options))


def scan_addresses(expressions: Sequence[str], config: Config, *, as_json: bool) -> ScanResult:
    """Scan and print what was found. Raises `AddressError` before anything is sent, and `AgentError` if
    this host has no sockets left to look with."""
    addresses = parse_targets(expressions)
    with scan_progress(hidden=as_json) as progress:
        try:
            result = event_loop.run(scan_site(config, addresses, progress))
        except OutOfSockets as error:
            raise AgentError(str(error)) from error
    if as_json:
        sys.stdout.write(json.dumps(as_data(result)) + "\n")
    else:
        _print(result, len(addresses))
    return result


def as_data(result: ScanResult) -> dict[str, Any]:
    """The result as plain data."""
    return {
        "machines": [
            {"address": str(address), "machine_id": identity.machine_id} | asdict(identity)
            for address, identity in result.found
        ],
        "failures": [
            {"address": str(failure.address), "kind": failure.kind, "detail": failure.detail}
            for failure in result.failures
        ],
        "duplicates": _duplicates(result),
        "silent": result.silent,
    }


def _duplicates(result: ScanResult) -> list[str]:
    """Identities that answer at several addresses."""
    findings = reconcile({}, result.found)
    return sorted({str(each.machine_id) for each in findings if each.kind is FindingKind.DUPLICATE})


def _print(result: ScanResult, count: int) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    for heading in ("address", "machine", "make", "model", "firmware"):
        table.add_column(heading, no_wrap=True)
    for address, identity in result.found:
        table.add_row(
            *(
                Text(cell)  # what machines say of themselves is no markup
                for cell in (
                    str(address),
                    identity.machine_id or "no identity",
                    identity.make,
                    identity.model,
                    identity.firmware or "-",
                )
            )
        )
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    for failure in result.failures:
        console.print(Text(f"{failure.address}: {failure.kind}: {failure.detail}", "yellow"))
    for machine_id in _duplicates(result):
        console.print(Text(f"{machine_id}: answers at more than one address", "yellow"))
    console.print(f"{len(result.found)} machines at {count} addresses, {result.silent} silent")
