"""What an agent does for the fleet that its site belongs to. Without one, nothing; not even an import."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.config import Config
from agent.control import Request
from agent.federation.signing import public_key
from agent.journal import OpenJournal
from agent.tenure import Parts, Whole

if TYPE_CHECKING:
    from agent.federation.lease import Lease

BYTES_PER_MB = 1024 * 1024


def journal(config: Config) -> OpenJournal | None:
    """Where the store writes what the fleet is to be told; None without a fleet."""
    fleet = config.fleet
    if fleet.site is None:
        return None
    from agent.federation.outbox import Outbox  # noqa: PLC0415 - of the extra

    return partial(Outbox, site=fleet.site, threshold=fleet.delta, limit_bytes=fleet.outbox_mb * BYTES_PER_MB)


def lease(config: Config, changed: Callable[[], None]) -> "Lease | None":
    """The claim to the site's machines that agents have who stand by for one another; None for one that is alone.
    `changed` is called when the machines have become ours or another's."""
    fleet = config.fleet
    if fleet.agent is None or fleet.site is None or fleet.org is None:
        return None
    from agent.federation.lease import KernelAlarm, Lease  # noqa: PLC0415 - of the extra

    return Lease(
        fleet.connection(fleet.site),
        org=fleet.org,
        site=fleet.site,
        agent=fleet.agent,
        replicas=fleet.stream_replicas,
        alarm=KernelAlarm(),
        changed=changed,
    )


def parts(config: Config) -> Parts:
    """Whose the machines are, where the site is cut into parts."""
    fleet = config.fleet
    if fleet.part_of is None or fleet.site is None or fleet.org is None:
        return Whole()
    from agent.federation.claims import Claims  # noqa: PLC0415 - of the extra

    return Claims(
        fleet.connection(fleet.site),
        org=fleet.org,
        whole=fleet.part_of,
        part=fleet.site,
        replicas=fleet.stream_replicas,
    )


def uplink(
    config: Config, database: Path, take: Callable[[str, int], Awaitable[None]]
) -> Callable[[], Awaitable[None]] | None:
    """The loop that sends what waits; None without a fleet. `take` drops what has been taken."""
    fleet = config.fleet
    if fleet.site is None or fleet.org is None:
        return None
    from agent.federation.uplink import Uplink  # noqa: PLC0415 - of the extra

    return Uplink(fleet.connection(fleet.site), database, take, org=fleet.org, site=fleet.site).run


def listener(
    config: Config,
    handle: Callable[[Request], Awaitable[dict[str, Any]]],
    *,
    now: Callable[[], datetime],
    load: Callable[[], Awaitable[str | None]],
    save: Callable[[str], Awaitable[None]],
) -> Callable[[], Awaitable[None]] | None:
    """The loop that listens for commands from afar; None unless somebody may give them. `load` and `save` keep what was
    answered."""
    fleet = config.fleet
    if fleet.site is None or fleet.org is None or not fleet.operators:
        return None
    from agent.federation.listener import Desk, Listener  # noqa: PLC0415 - of the extra

    people = {name: public_key(key) for name, key in fleet.operators.items()}
    desk = Desk(handle, people, org=fleet.org, site=fleet.site, now=now, load=load, save=save)
    return Listener(fleet.connection(fleet.site), desk, org=fleet.org, site=fleet.site).run
