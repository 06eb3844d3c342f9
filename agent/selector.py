"""The grammar that names machines on the command line and over the socket: `group:hydro margin<0, 10.0.0.7`. Pure.

    02:13:00:00:00:01, sn:ABC    a machine by its id
    10.0.0.7, 10.0.1-4.1-200     machines by address: networks, ranges, host:port, names; no @file
    group:hydro                  every machine of a group
    model:S21, model:"S21 Pro"   models that contain the text, in any case
    margin<0  efficiency>30      USD/day, J/TH; power in W, hashrate in TH/s; < <= > >=
    kw:250                       as many of the rest of its expression as move 250 kW, least efficient first
    all                          every machine
    a, b   a b   a & b   !a   (...)    either, both, both, not; `,` binds least and `!` most

An unknown number matches no comparison, and neither does one of an implausible reading. A name that no machine has is
an error and not nobody: `!group:hydor` would be everybody.

    SelectorError        the part that is wrong, why, and what is accepted
"""

import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NoReturn

from agent.errors import UsageError
from agent.view import MachineView
from drivers.addresses import AddressError, parse_targets
from drivers.reading import MachineId, RunState

ACCEPTED = (
    "accepted: a machine id or MAC, an address or range of addresses, group:NAME, model:TEXT, margin<0, "
    "efficiency>30, power>3500, hashrate<90, kw:250, all; joined by , (or), space or & (and), ! (not), ( )"
)
MAX_LENGTH = 8192
MAX_DEPTH = 20
MAX_ADDRESSES = 65536
_SHOWN_LENGTH = 60


class SelectorError(UsageError):
    """A selector that names no machines. `part` is where it goes wrong."""

    def __init__(self, part: str, reason: str) -> None:
        shown = part if len(part) <= _SHOWN_LENGTH else part[: _SHOWN_LENGTH - 3] + "..."
        super().__init__(f"{shown!r}: {reason} ({ACCEPTED})")
        self.part = part
        self.reason = reason


class Quantity(operator.attrgetter):  # type: ignore[misc]  # noqa: SLOT000 - placeholder
    pass
