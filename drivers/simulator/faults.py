"""What can be wrong with a simulated machine: the failures seen in the wild, by name.

A fault is set on one machine, with parameters, until it is cleared. Everything that happens on the wire is scaled in
real seconds (clients wait in real time), everything that happens to the machine in simulated seconds. The failure
"402, session open" belongs to LuxOS, a family that is not simulated.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from drivers.reading import Family

FaultParameter = bool | int | float | str


class Concern(StrEnum):
    """What a fault spoils."""

    NETWORK = "network"
    READING = "reading"
    WRITING = "writing"


class Fault(StrEnum):
    """One thing that is wrong. Parameters and their defaults are in `FACTS`."""

    REFUSES = "refuses"
    """Nothing listens (on a site with one listener per port: the connection is reset at once)."""
    NO_ANSWER = "no_answer"
    """The host is down: not even the connection is answered."""
    HANGS = "hangs"
    """Accepts, and never answers."""
    RESETS = "resets"
    """Takes the request, then resets the connection."""
    HALF_CLOSED = "half_closed"
    """Sends a `share` of the answer, then nothing, or a byte every `drip_s` of real time, and never closes."""
    SLOW_ANSWER = "slow_answer"
    """Answers every read after `seconds` of real time."""
    CUT_JSON = "cut_json"
    """The answer ends in the middle."""
    NUL_BYTES = "nul_bytes"
    """A `\\x00` in the middle of the JSON and one at its end."""
    MISSING_COMMAS = "missing_commas"
    """Commas between objects are missing."""
    HTML = "html"
    """A web page instead of JSON."""
    GARBAGE = "garbage"
    """Random bytes instead of JSON, or JSON nested `depth` deep."""
    OVERSIZED = "oversized"
    """An answer of `size` bytes."""
    EMPTY_STATS = "empty_stats"
    """Well-formed, with empty lists where the numbers belong."""
    HASHRATE_X1000 = "hashrate_x1000"
    """The unit bug: a thousand times the hashrate."""
    HOT_CHIPS = "hot_chips"
    """Chips read `celsius`."""
    WATTS_NAN = "watts_nan"
    WATTS_ZERO = "watts_zero"
    WATTS_ABSENT = "watts_absent"
    BOARD_DEAD = "board_dead"
    """`boards` boards are dead: hashrate and watts really fall."""
    POOL_DEAD = "pool_dead"
    """The pools are dead, and the machine hashes on."""
    DUPLICATE_MAC = "duplicate_mac"
    """It says `mac`: somebody else's."""
    WRONG_PASSWORD = "wrong_password"  # noqa: S105 - the name of a fault
    """Its password is `password`. Stock Antminers answer 401 once, then lock everybody out for `seconds`."""
    CONFIG_READ_FAILS = "config_read_fails"
    """The next `times` reads of the configuration answer HTTP 500."""
    SLOW_WRITE = "slow_write"
    """Applies a write at once and answers after `seconds` of real time."""
    APPLIES_SILENTLY = "applies_silently"
    """Applies a write and never answers."""
    OK_BUT_NOTHING = "ok_but_nothing"
    """Answers OK to a write and does nothing."""
    REFUSES_WRITES = "refuses_writes"
    """Refuses every write, in its protocol's own words (Antminer: M001 with HTTP 200)."""
    WORK_MODE_KEY = "work_mode_key"
    """Only `bitmain-work-mode` takes effect."""
    BOTH_MODE_KEYS = "both_mode_keys"
    """The mode takes effect only when both keys carry it."""
    WANTS_STRINGS = "wants_strings"
    """The mode must be a string, else HTTP 400."""
    NEEDS_REBOOT = "needs_reboot"
    """A new mode takes effect at the next reboot."""
    REBOOTS_MIDWAY = "reboots_midway"
    """The next write makes it reboot instead; with `applied` it comes back having applied it."""
    WAKES_BY_ITSELF = "wakes_by_itself"
    """Wakes `seconds` of simulated time after it was put to sleep."""
    RIVAL_CONTROLLER = "rival_controller"
    """Another controller undoes a sleep or wake `seconds` of simulated time later."""
    TOKEN_REJECTED = "token_rejected"  # noqa: S105 - the name of a fault
    """Every token is refused: code 135."""
    TOKEN_LIMIT = "token_limit"  # noqa: S105 - the name of a fault
    """No token is free: code 136."""
    WRITES_CLOSED = "writes_closed"
    """The default password was never changed, so writing is not open: code 45."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultFacts:
    """Which machines a fault can befall, what it spoils, and its parameters with their defaults."""

    concern: Concern
    families: frozenset[Family]
    parameters: Mapping[str, FaultParameter]


_ANTMINER = frozenset({Family.ANTMINER})
_V2 = frozenset({Family.WHATSMINER_V2})
_WHATSMINER = frozenset({Family.WHATSMINER_V2, Family.WHATSMINER_V3})
_ALL = _ANTMINER | _WHATSMINER


def _facts(concern: Concern, families: frozenset[Family], **parameters: FaultParameter) -> FaultFacts:
    return FaultFacts(concern=concern, families=families, parameters=parameters)


FACTS: Mapping[Fault, FaultFacts] = {
    Fault.REFUSES: _facts(Concern.NETWORK, _ALL),
    Fault.NO_ANSWER: _facts(Concern.NETWORK, _ALL),
    Fault.HANGS: _facts(Concern.NETWORK, _ALL),
    Fault.RESETS: _facts(Concern.NETWORK, _ALL),
    Fault.HALF_CLOSED: _facts(Concern.READING, _ALL, share=0.5, drip_s=0.0),
    Fault.SLOW_ANSWER: _facts(Concern.READING, _ALL, seconds=21.0),
    Fault.CUT_JSON: _facts(Concern.READING, _ALL),
    Fault.NUL_BYTES: _facts(Concern.READING, _ALL),
    Fault.MISSING_COMMAS: _facts(Concern.READING, _ALL),
    Fault.HTML: _facts(Concern.READING, _ALL),
    Fault.GARBAGE: _facts(Concern.READING, _ALL, depth=0),
    Fault.OVERSIZED: _facts(Concern.READING, _ALL, size=10_000_000),
    Fault.EMPTY_STATS: _facts(Concern.READING, _ALL),
    Fault.HASHRATE_X1000: _facts(Concern.READING, _ALL),
    Fault.HOT_CHIPS: _facts(Concern.READING, _ALL, celsius=132.0),
    Fault.WATTS_NAN: _facts(Concern.READING, _ALL),
    Fault.WATTS_ZERO: _facts(Concern.READING, _ALL),
    Fault.WATTS_ABSENT: _facts(Concern.READING, _ALL),
    Fault.BOARD_DEAD: _facts(Concern.READING, _ALL, boards=1),
    Fault.POOL_DEAD: _facts(Concern.READING, _ALL),
    Fault.DUPLICATE_MAC: _facts(Concern.READING, _ALL, mac="02:13:00:00:00:00"),
    Fault.WRONG_PASSWORD: _facts(Concern.WRITING, _ALL, password="changed", seconds=300.0),  # noqa: S106
    Fault.CONFIG_READ_FAILS: _facts(Concern.WRITING, _ANTMINER, times=1),
    Fault.SLOW_WRITE: _facts(Concern.WRITING, _ALL, seconds=21.0),
    Fault.APPLIES_SILENTLY: _facts(Concern.WRITING, _ALL),
    Fault.OK_BUT_NOTHING: _facts(Concern.WRITING, _ALL),
    Fault.REFUSES_WRITES: _facts(Concern.WRITING, _ALL),
    Fault.WORK_MODE_KEY: _facts(Concern.WRITING, _ANTMINER),
    Fault.BOTH_MODE_KEYS: _facts(Concern.WRITING, _ANTMINER),
    Fault.WANTS_STRINGS: _facts(Concern.WRITING, _ANTMINER),
    Fault.NEEDS_REBOOT: _facts(Concern.WRITING, _ANTMINER),
    Fault.REBOOTS_MIDWAY: _facts(Concern.WRITING, _ALL, applied=False),
    Fault.WAKES_BY_ITSELF: _facts(Concern.WRITING, _ALL, seconds=900.0),
    Fault.RIVAL_CONTROLLER: _facts(Concern.WRITING, _ALL, seconds=600.0),
    Fault.TOKEN_REJECTED: _facts(Concern.WRITING, _V2),
    Fault.TOKEN_LIMIT: _facts(Concern.WRITING, _V2),
    Fault.WRITES_CLOSED: _facts(Concern.WRITING, _WHATSMINER),
}


def checked(fault: Fault, family: Family, given: Mapping[str, FaultParameter]) -> dict[str, FaultParameter]:
    """The fault's parameters with what was given put in. Raises ValueError for what does not fit."""
    facts = FACTS[fault]
    if family not in facts.families:
        raise ValueError(f"{fault}: does not happen to {family}")
    parameters = dict(facts.parameters)
    for name, value in given.items():
        if name not in parameters:
            raise ValueError(f"{fault}: no parameter {name!r}; it has {sorted(parameters) or 'none'}")
        parameters[name] = _converted(fault, name, value, parameters[name])
    return parameters


def _converted(fault: Fault, name: str, value: FaultParameter, default: FaultParameter) -> FaultParameter:
    numeric = isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool)
    if numeric:
        return float(value)
    if type(value) is not type(default):
        raise ValueError(f"{fault}: {name} must be a {type(default).__name__}, not {value!r}")
    return value
