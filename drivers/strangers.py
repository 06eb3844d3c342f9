"""Recognises another machine at a known address when a reading fails: DHCP gives addresses to anybody."""

from drivers._pyasic import KINDS, kind_by_rpc
from drivers.connection import Endpoint
from drivers.driver import DriverError, OutOfSockets, ReadOptions, WrongMachine
from drivers.reading import Address, Family, Identity
from drivers.reads import check_identity, endpoint
from drivers.transport import CGMINER_PORT, ask_cgminer
from drivers.values import mac, mapping

_SHARE = 0.3
_KINDS = {
    Family.ANTMINER: KINDS.ANTMINER,
    Family.WHATSMINER_V2: KINDS.WHATSMINER,
    Family.WHATSMINER_V3: KINDS.WHATSMINER,
}


async def refuse_stranger(known: Identity, address: Address, options: ReadOptions) -> None:
    """Raise `WrongMachine` if TCP 4028 is answered by another make, or by a Whatsminer with another MAC.

    For readings that fail anyway: no answer here says nothing, and the reading's own failure stands.
    """
    port = endpoint(address, address.port or CGMINER_PORT, options, share=_SHARE)
    try:
        kind = kind_by_rpc(await ask_cgminer(port, {"command": "version"}))
        asked_mac = await _whatsminer_mac(port) if kind is KINDS.WHATSMINER else None
    except OutOfSockets:
        raise
    except DriverError:
        return
    if kind not in (None, _KINDS[known.family]):
        raise WrongMachine(address, f"a machine of another make ({kind.name}) answers; scan again")
    check_identity(address, known, mac=asked_mac, serial=None)


async def _whatsminer_mac(port: Endpoint) -> str | None:
    answer = await ask_cgminer(port, {"command": "get_miner_info"})
    return mac(mapping(answer.get("Msg")).get("mac"))
