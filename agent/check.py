"""`hashcost check`: what stands between this configuration and a running agent, and what to do about it."""

import asyncio
import importlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.text import Text

from agent.clock import Clock
from agent.config import Config
from agent.doctor import Finding, host_findings
from agent.feeds import Feeds
from agent.in_words import site_in_words
from agent.market.quote import SourceStatus, take_market
from agent.scanning import scan_site
from agent.service import MARKET_MAX_AGE
from agent.supervision import Pulse
from drivers.addresses import parse_targets
from drivers.driver import OutOfSockets
from drivers.reading import Address, Identity


def check_site(
    config: Config,
    database: Path,
    *,
    as_json: bool,
    config_path: Path | None = None,
    backups: Path | None = None,
) -> bool:
    """Check and print; True if nothing stands in the way. The configuration itself was validated on loading."""
    host = host_findings(config, database, config_path=config_path)
    findings = [_configuration(config), *host, *asyncio.run(_outside(config))]
    if as_json:
        sys.stdout.write(json.dumps([asdict(finding) for finding in findings]) + "\n")
    else:
        console = Console(soft_wrap=True)
        for finding in findings:
            console.print(Text.assemble(_mark(finding), f" {finding.what}: {finding.detail}"))
    return all(finding.ok for finding in findings)


def _mark(finding: Finding) -> Text:
    if not finding.ok:
        return Text("FAILED", "bold red")
    return Text("note  ", "yellow") if finding.note else Text("ok    ", "green")


def _configuration(config: Config) -> Finding:
    hosts = len(parse_targets(config.scan.addresses))
    families = ", ".join(sorted(config.credentials)) or "none, factory logins are used"
    return Finding(
        what="configuration",
        ok=True,
        detail=f"valid; {hosts} addresses to scan; logins configured: {families}",
    )


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
    return [*sources, *doubts, *words, *await _machines(config)]


def _source(status: SourceStatus) -> Finding:
    if status.failure is None and status.answered_at is not None:
        return Finding(what=f"source {status.name}", ok=True, detail=status.values)
    why = status.failure or "no answer yet"
    return Finding(what=f"source {status.name}", ok=False, detail=f"{status.url}: {why}")


async def _machines(config: Config) -> list[Finding]:
    """Who answers, and what a person should know of those who do."""
    addresses = parse_targets(config.scan.addresses)
    if not addresses:
        detail = "scan.addresses is empty: nowhere to look; set it in the configuration"
        return [Finding(what="machines", ok=False, detail=detail)]
    try:
        result = await scan_site(config, addresses)
    except OutOfSockets as error:
        return [Finding(what="machines", ok=False, detail=str(error))]
    counts = f"{len(result.found)} found, {len(result.failures)} failed, {result.silent} silent"
    if not result.found:
        detail = f"{counts}: is this host on the miners' network, are the ranges right?"
        return [Finding(what="machines", ok=False, detail=detail)]
    kinds = sorted({failure.kind for failure in result.failures})
    detail = counts + (f" ({', '.join(kinds)}; what to do about each: docs/reference.md)" if kinds else "")
    quirks = await asyncio.to_thread(_quirks, result.found)  # brings in pyasic
    return [Finding(what="machines", ok=True, detail=detail), *quirks]


def _quirks(found: Sequence[tuple[Address, Identity]]) -> list[Finding]:
    known_quirks = importlib.import_module("drivers.quirks").known_quirks
    return [
        Finding(
            what=each.quirk.name,
            ok=True,
            note=True,
            detail=f"{len(each.addresses)} machines, {each.addresses[0]} among them: {each.quirk.advice}",
        )
        for each in known_quirks(found)
    ]
