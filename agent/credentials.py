"""`hashcost credentials check`: which machines still have the factory's password. Prints none, stores nothing."""

import asyncio
import importlib
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from agent.clock import Clock
from agent.config import Config
from agent.errors import AgentError
from agent.logins import logins
from agent.options import read_options
from agent.scanning import scan_site
from drivers.addresses import parse_targets
from drivers.discovery import ScanFailure
from drivers.driver import OutOfSockets
from drivers.reading import Address, Identity

ASKED_AT_ONCE = 30
_STYLE = {"factory": "bold red", "changed": "green", "unknown": "yellow"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What was found out about one machine: `verdict` is factory, changed or unknown."""

    address: str
    machine_id: str | None
    model: str
    verdict: str
    detail: str

    def as_data(self) -> dict[str, Any]:
        """The same as plain data."""
        return {name: getattr(self, name) for name in ("address", "machine_id", "model", "verdict", "detail")}


def check_credentials(config: Config, *, as_json: bool) -> Counter[str]:
    """Scan, ask every machine, print; how many there are of each verdict. Raises `AgentError` where this host has no
    sockets left."""
    try:
        checked = asyncio.run(check_machines(config))
    except OutOfSockets as error:
        raise AgentError(str(error)) from error
    counts = Counter(each.verdict for each in checked)
    if as_json:
        told = {"machines": [each.as_data() for each in checked], "counts": dict(counts)}
        sys.stdout.write(json.dumps(told) + "\n")
        return counts
    console = Console(soft_wrap=True)
    for each in checked:
        mark = Text(f"{each.verdict:8}", _STYLE[each.verdict])
        console.print(Text.assemble(mark, f"{each.address} {each.model}: {each.detail}"))
    console.print(
        f"{len(checked)} machines: {counts['factory']} with the factory's password, {counts['changed']} with another, "
        f"{counts['unknown']} not known"
    )
    return counts


async def check_machines(config: Config) -> list[Checked]:
    """Scan and ask every machine, in the order of the addresses. Raises `OutOfSockets`."""
    result = await scan_site(config, parse_targets(config.scan.addresses))
    checked: dict[Address, Checked] = {}
    await _ask_all(config, iter(result.found), checked)
    return [*(checked[address] for address, _ in result.found), *map(_unreadable, result.failures)]


async def _ask_all(
    config: Config, waiting: Iterator[tuple[Address, Identity]], checked: dict[Address, Checked]
) -> None:
    """So many at a time. Brings in pyasic, which takes a second that the loop must not wait."""
    password_of = (await asyncio.to_thread(importlib.import_module, "drivers.factory")).password_of
    book = await asyncio.to_thread(logins, config)  # reads files
    options = await asyncio.to_thread(read_options, config, Clock())

    async def ask() -> None:
        for address, identity in waiting:
            known = {} if identity.machine_id is None else {address: identity.machine_id}
            found = await password_of(identity, address, book.at(options, address, known))
            checked[address] = Checked(
                address=str(address),
                machine_id=identity.machine_id,
                model=identity.model,
                verdict=found.verdict.value,
                detail=found.detail,
            )

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(ASKED_AT_ONCE):
                group.create_task(ask())
    except* OutOfSockets as errors:
        raise _first(errors.exceptions) from None


def _first(errors: Sequence[BaseException]) -> BaseException:
    """The first error of a group that holds nothing but one kind."""
    return errors[0]


def _unreadable(failure: ScanFailure) -> Checked:
    return Checked(
        address=str(failure.address),
        machine_id=None,
        model="?",
        verdict="unknown",
        detail=f"{failure.kind}: {failure.detail}",
    )
