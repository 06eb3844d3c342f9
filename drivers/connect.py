"""From a remembered identity to a driver, without asking the machine."""

from drivers.addresses import is_ipv4
from drivers.antminer import Antminer
from drivers.driver import Driver, ReadOptions, Unsupported
from drivers.generic import Generic
from drivers.reading import Address, Family, Identity
from drivers.whatsminer import WhatsminerV2, WhatsminerV3


def connect(identity: Identity, address: Address, *, options: ReadOptions) -> Driver:
    """The driver for a machine that was identified before. No network traffic.

    `address.host` is an IPv4 address (names are looked up by a scan); `address.port`, if set, is where its API
    was forwarded to, and the only port that is spoken to. One driver is for one machine and one read at a
    time; it remembers between reads what is slow to read. Raises `Unsupported` if this version cannot read
    such a machine.
    """
    if not is_ipv4(address.host):
        raise Unsupported(address, "not an IPv4 address; a scan looks names up")
    match identity.family:
        case Family.ANTMINER:
            return Antminer(identity, address, options)
        case Family.WHATSMINER_V2:
            return WhatsminerV2(identity, address, options)
        case Family.WHATSMINER_V3:
            return WhatsminerV3(identity, address, options)
        case Family.GENERIC:
            return Generic(identity, address, options)
