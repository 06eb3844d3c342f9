"""`hashcost check`: what stands between this configuration and a running agent, and what to do about it."""

import asyncio
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from agent.clock import Clock
from agent.config import Config
from agent.feeds import Feeds
from agent.in_words import site_in_words
from agent.market.quote import SourceStatus, take_market
from agent.scanning import scan_site
from agent.service import MARKET_MAX_AGE
from agent.store import Reader, StoreError
from agent.supervision import Pulse
from drivers.addresses import parse_targets
from drivers.driver import OutOfSockets


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was checked."""

    what: str
    ok: bool
    detail: str


def check_site(config: Config, database: Path, *, as_json: bool) -> bool:
    """Check and print; True if nothing stands in the way. The configuration itself was validated on loading."""
    findings = [_configuration(config), _database(database), *asyncio.run(_outside(config))]
    if as_json:
        sys.stdout.write(json.dumps([asdict(finding) for finding in findings]) + "\n")
    else:
        console = Console(soft_wrap=True)
        for finding in findings:
            mark = Text("ok    ", "green") if finding.ok else Text("FAILED", "bold red")
            console.print(Text.assemble(mark, f" {finding.what}: {finding.detail}"))
    return all(finding.ok for finding in findings)


def _configuration(config: Config) -> Finding:
    hosts = len(parse_targets(config.scan.addresses))
    families = ", ".join(sorted(config.credentials)) or "none, factory logins are used"
    return Finding(
        what="configuration",
        ok=True,
        detail=f"valid; {hosts} addresses to scan; logins configured: {families}",
    )


def _database(path: Path) -> Finding:
    if _may_exist(path):
        try:
            with Reader(path) as reader:
                polled_at = reader.last_round_at()
        except StoreError as error:
            return Finding(what="database", ok=False, detail=str(error))
        last = "no round yet" if polled_at is None else f"last round {polled_at:%Y-%m-%d %H:%M:%S} UTC"
        return Finding(what="database", ok=True, detail=f"{path}: {last}")
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not os.access(parent, os.W_OK):
        return Finding(
            what="database",
            ok=False,
            detail=f"{path}: cannot be created, {parent} is not writable by this user",
        )
    return Finding(what="database", ok=True, detail=f"{path}: will be created at the first start")


def _may_exist(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # in a directory that we may not enter; opening it will say so
        return True


async def _outside(config: Config) -> list[Finding]:
    """What can only be found out by asking: prices, and machines."""
    clock = Clock()
    async with Feeds(config, clock, Pulse()) as feeds:
        now = clock.now()
        market = await take_market(feeds.hashprice, feeds.power, now, max_age=MARKET_MAX_AGE)
        sources = [_source(each) for each in feeds.statuses()]
    words = [Finding(what="in words", ok=True, detail=line) for line in await site_in_words(config, market)]
    doubts = [
        Finding(what="prices", ok=False, detail=f"{doubt}; the agent would only propose")
        for doubt in market.doubts
    ]
    return [*sources, *doubts, *words, await _reachability(config)]


def _source(status: SourceStatus) -> Finding:
    if status.failure is None and status.answered_at is not None:
        return Finding(what=f"source {status.name}", ok=True, detail=status.values)
    why = status.failure or "no answer yet"
    return Finding(what=f"source {status.name}", ok=False, detail=f"{status.url}: {why}")


async def _reachability(config: Config) -> Finding:
    addresses = parse_targets(config.scan.addresses)
    if not addresses:
        return Finding(
            what="machines",
            ok=False,
            detail="scan.addresses is empty: nowhere to look; set it in the configuration",
        )
    try:
        result = await scan_site(config, addresses)
    except OutOfSockets as error:
        return Finding(what="machines", ok=False, detail=str(error))
    counts = f"{len(result.found)} found, {len(result.failures)} failed, {result.silent} silent"
    if not result.found:
        return Finding(
            what="machines",
            ok=False,
            detail=f"{counts}: is this host on the miners' network, are the ranges right?",
        )
    kinds = sorted({failure.kind for failure in result.failures})
    return Finding(what="machines", ok=True, detail=counts + (f" ({', '.join(kinds)})" if kinds else ""))
