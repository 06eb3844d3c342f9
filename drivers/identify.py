"""Finds out what answers at one address: which family, and who.

Whatsminer V3 is asked first, because such machines still answer a degraded V2. Then `version` and
`devdetails` on TCP 4028; then the web interface's first page. Stock Antminers and Whatsminers are identified
by their drivers; for everything else pyasic's own classes are asked.
"""

from collections.abc import Collection, Mapping

from drivers import _pyasic, antminer, generic, whatsminer
from drivers.driver import DriverError, Malformed, OutOfSockets, ReadOptions, Refused, Unsupported
from drivers.reading import Address, Family, Identity
from drivers.reads import deadline, endpoint
from drivers.transport import CGMINER_PORT, WHATSMINER_V3_PORT, ask_cgminer
from drivers.web import browse, overheard

WEB_PORT = 80
_PROBE_SHARE = 0.5


async def identify(address: Address, open_ports: Collection[int], options: ReadOptions) -> Identity:
    """Who answers at an address of which these TCP ports are open. Raises `DriverError`.

    An address with a port of its own has just that one open, and may speak any of the protocols there.
    """
    forwarded = address.port is not None
    failures: dict[int, DriverError] = {}
    if forwarded or WHATSMINER_V3_PORT in open_ports:
        try:
            return await whatsminer.identify_v3(address, options)
        except DriverError as error:
            failures[WHATSMINER_V3_PORT] = error
    if forwarded or CGMINER_PORT in open_ports:
        try:
            return await _by_rpc(address, open_ports, options)
        except DriverError as error:
            failures[CGMINER_PORT] = error
    if not forwarded and WEB_PORT in open_ports:
        try:
            return await _by_web(address, options)
        except DriverError as error:
            failures[WEB_PORT] = error
    raise _telling(failures) or Unsupported(address, "no port of a miner is open")


def _telling(failures: Mapping[int, DriverError]) -> DriverError | None:
    """The failure that says most: this host's own limits, then the port that most machines speak on."""
    exhausted = [failure for failure in failures.values() if isinstance(failure, OutOfSockets)]
    by_port = [failures[port] for port in (CGMINER_PORT, WHATSMINER_V3_PORT, WEB_PORT) if port in failures]
    return next(iter(exhausted or by_port), None)


async def _by_rpc(address: Address, open_ports: Collection[int], options: ReadOptions) -> Identity:
    kinds = _pyasic.KINDS
    try:
        kind = await _kind_by_rpc(address, options)
    except Refused:  # the port is open: the front of a Whatsminer whose mining process does not run
        kind = kinds.WHATSMINER
    if kind is kinds.WHATSMINER:
        return await whatsminer.identify_v2(address, options)
    if kind is kinds.ANTMINER:
        other = await _kind_by_web(address, options) if WEB_PORT in open_ports else None
        if other in (None, kinds.ANTMINER):
            return await antminer.identify(address, options)
        kind = other
    return await _by_pyasic(address, kind, options)


async def _kind_by_rpc(address: Address, options: ReadOptions) -> object:
    port = endpoint(address, address.port or CGMINER_PORT, options, share=_PROBE_SHARE)
    async with deadline(address, options.deadline_s):
        for command in ("version", "devdetails"):
            kind = _pyasic.kind_by_rpc(await ask_cgminer(port, {"command": command}))
            if kind is not None:
                return kind
    raise Unsupported(address, f"speaks JSON on port {port.port}, but is no miner known here")


async def _kind_by_web(address: Address, options: ReadOptions) -> object | None:
    """What the first page looks like; None if there is none, or one that says nothing."""
    try:
        page = await browse(endpoint(address, WEB_PORT, options, share=_PROBE_SHARE), "/")
    except OutOfSockets:
        raise
    except DriverError:
        return None
    kind: object | None = _pyasic.kind_by_page(page)
    return kind


async def _by_web(address: Address, options: ReadOptions) -> Identity:
    page = await browse(endpoint(address, WEB_PORT, options, share=_PROBE_SHARE), "/")
    kind = _pyasic.kind_by_page(page)
    kinds = _pyasic.KINDS
    if kind is None:
        raise Unsupported(address, f"a web server (HTTP {page.status}), but no miner known here")
    if kind in (kinds.ANTMINER, kinds.WHATSMINER):
        raise Malformed(address, f"a web interface of {kind.name}, but its API does not answer")
    return await _by_pyasic(address, kind, options)


async def _by_pyasic(address: Address, kind: object, options: ReadOptions) -> Identity:
    """Model and identity by pyasic's class for a kind."""
    port = endpoint(address, address.port or CGMINER_PORT, options)
    with overheard():
        async with deadline(address, options.deadline_s):
            name = getattr(kind, "name", "")
            model = await _pyasic.Factory(port).model_of(kind)
            known = Identity(
                family=Family.GENERIC,
                make=name.replace("_", " ").title(),
                model=model or name.replace("_", " ").title(),
                firmware=None,
                mac=None,
                serial=None,
                driver_class=_pyasic.class_name(name, model or ""),
            )
            return await generic.Generic(known, address, options).identify()
