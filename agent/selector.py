"""The grammar that names machines on the command line and over the socket: `group:hydro margin<0, 10.0.0.7`. Pure.

    02:13:00:00:00:01, sn:ABC    a machine by its id
    10.0.0.7, 10.0.1-4.1-200     machines by address: networks, ranges, host:port, names; no @file
    group:hydro                  every machine of a group
    model:S21, model:"S21 Pro"   models that contain the text, in any case
    margin<0, efficiency>30      USD/day, J/TH; power in W, hashrate in TH/s; < <= > >=
    kw:250                       as many of the rest of its expression as move 250 kW, least efficient first
    all                          every machine
    a, b     a b     a & b     !a     (a, b) c
                                 either, both, both, not, as bracketed; `!` binds most and `,` least

An unknown number matches no comparison, and neither does one of an implausible reading. A name that no machine has is
an error and not nobody: `!group:hydor` would be everybody.

    SelectorError        the part that is wrong, why, and what is accepted
"""

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

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
_SHOWN_GROUPS = 10


class SelectorError(UsageError):
    """A selector that names no machines. `part` is where it goes wrong, `reason` why."""

    def __init__(self, part: str, reason: str) -> None:
        shown = part if len(part) <= _SHOWN_LENGTH else part[: _SHOWN_LENGTH - 3] + "..."
        super().__init__(f"{shown!r}: {reason} ({ACCEPTED})")
        self.part = part
        self.reason = reason


# -- what a selector is ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Everything:
    """`all`"""


@dataclass(frozen=True, slots=True)
class ById:
    """One machine."""

    machine_id: str


@dataclass(frozen=True, slots=True)
class ByAddress:
    """Machines at these hosts (any port) or host:port; `part` is how they were written."""

    part: str
    addresses: frozenset[str]


@dataclass(frozen=True, slots=True)
class ByGroup:
    """`group:NAME`"""

    group: str


@dataclass(frozen=True, slots=True)
class ByModel:
    """`model:TEXT`"""

    text: str


@dataclass(frozen=True, slots=True)
class Compared:
    """`margin<0`: a name of `QUANTITIES`, a sign of `SIGNS` and a number."""

    quantity: str
    sign: str
    bound: float


@dataclass(frozen=True, slots=True)
class Load:
    """`kw:250`: cuts down the rest of the expression that it stands in."""

    kw: float


@dataclass(frozen=True, slots=True)
class Not:
    """Every machine but these."""

    of: "Selector"


@dataclass(frozen=True, slots=True)
class Both:
    """The machines in all the parts, cut down to `load` if there is one; without parts, all machines."""

    parts: tuple["Selector", ...]
    load: Load | None = None


@dataclass(frozen=True, slots=True)
class Either:
    """The machines in any of the parts."""

    parts: tuple["Selector", ...]


Selector = Everything | ById | ByAddress | ByGroup | ByModel | Compared | Not | Both | Either

QUANTITIES: Mapping[str, Callable[[MachineView], float | None]] = MappingProxyType(
    {
        "margin": lambda view: view.margin_usd_per_day,
        "efficiency": lambda view: view.efficiency_j_per_th,
        "power": lambda view: view.power_w,
        "hashrate": lambda view: view.hashrate_ths,
    }
)
SIGNS: Mapping[str, Callable[[float, float], bool]] = MappingProxyType(
    {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
)


# -- from text to selector ---------------------------------------------------------------------------

_PLAIN = r"[^\s,&!()<>\"']"
_TOKEN = re.compile(
    rf"""\s*+(?:
        (?P<comparison> {_PLAIN}*+ \s*+ (?:<=|>=|<|>) \s*+ {_PLAIN}*+ )
      | (?P<word> (?: {_PLAIN} | "[^"]*" | '[^']*' )++ )
      | (?P<mark> [,&!()] )
    )""",
    re.VERBOSE,
)
_COMPARISON = re.compile(r"(.*?)\s*(<=|>=|<|>)\s*(.*)", re.DOTALL)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)", re.ASCII)
_MAC = re.compile(r"([0-9a-f]{2}[:-]){5}[0-9a-f]{2}", re.ASCII | re.IGNORECASE)
_QUOTE = re.compile(r"[\"']")


def parse(text: str) -> Selector:
    """The selector that a text means. Raises `SelectorError`."""
    if len(text) > MAX_LENGTH:
        raise SelectorError(text, f"longer than {MAX_LENGTH} characters")
    return _Parser(_tokens(text), text).parse()


def _tokens(text: str) -> list[str]:
    tokens = []
    position, end = 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None:
            raise SelectorError(text[position:].strip(), "a quote that is not closed")
        tokens.append(match[0].strip())
        position = match.end()
    return tokens


class _Parser:
    """Recursive descent over the tokens; `,` splits first, then `&` and spaces, then `!` and brackets."""

    def __init__(self, tokens: Sequence[str], text: str) -> None:
        self._tokens = list(reversed(tokens))
        self._text = text
        self._depth = 0
        self._addresses_left = MAX_ADDRESSES

    def parse(self) -> Selector:
        selector = self._either()
        if self._next is not None:
            raise SelectorError(self._next, "a bracket that was not opened")
        return selector

    @property
    def _next(self) -> str | None:
        return self._tokens[-1] if self._tokens else None

    def _either(self) -> Selector:
        parts = [self._both()]
        while self._next == ",":
            self._tokens.pop()
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else Either(tuple(parts))

    def _both(self) -> Selector:
        items = [self._item()]
        while self._next not in (None, ",", ")"):
            if self._next == "&":
                self._tokens.pop()
            items.append(self._item())
        loads = [item for item in items if isinstance(item, Load)]
        parts = tuple(item for item in items if not isinstance(item, Load))
        if len(loads) > 1:
            raise SelectorError(f"kw:{loads[1].kw:g}", "kw: stands twice in one expression")
        if not loads and len(parts) == 1:
            return parts[0]
        return Both(parts, loads[0] if loads else None)

    def _item(self) -> Selector | Load:
        negated = False
        while self._next == "!":
            self._tokens.pop()
            negated = not negated
        item = self._bracketed() if self._next == "(" else self._part()
        if negated and isinstance(item, Load):
            raise SelectorError(f"!kw:{item.kw:g}", "kw: cannot be negated")
        return Not(item) if negated and not isinstance(item, Load) else item

    def _bracketed(self) -> Selector:
        self._tokens.pop()
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise SelectorError(self._text, f"brackets nested deeper than {MAX_DEPTH}")
        inner = self._either()
        if self._next != ")":
            raise SelectorError(self._text, "a bracket that is not closed")
        self._tokens.pop()
        self._depth -= 1
        return inner

    def _part(self) -> Selector | Load:
        if self._next is None:
            raise SelectorError(
                self._text, "something is missing at the end" if self._text.strip() else "empty"
            )
        part = self._tokens.pop()
        if part in {",", "&", ")"}:
            raise SelectorError(self._text, f"something is missing before {part!r}")
        if (comparison := _COMPARISON.fullmatch(part)) and not _QUOTE.search(part):
            return _compared(part, *comparison.groups())
        return self._named(part)

    def _named(self, part: str) -> Selector | Load:
        if part.lower() == "all":
            return Everything()
        if _MAC.fullmatch(part):
            return ById(part.upper().replace("-", ":"))
        key, colon, value = part.partition(":")
        make = _NAMED.get(key.lower()) if colon else None
        if make is None:
            return self._addressed(part)
        value = _QUOTE.sub("", value)
        if not value.strip():
            raise SelectorError(part, f"nothing after {key}:")
        return make(part, value)

    def _addressed(self, part: str) -> Selector:
        if part.startswith("@"):
            raise SelectorError(part, "files are not read here")
        try:
            addresses = parse_targets([part], limit=self._addresses_left)
        except AddressError as error:
            raise SelectorError(part, error.reason) from error
        self._addresses_left -= len(addresses)
        return ByAddress(part, frozenset(str(address) for address in addresses))


def _compared(part: str, name: str, sign: str, bound: str) -> Selector:
    if name.lower() not in QUANTITIES:
        raise SelectorError(part, f"{name!r} cannot be compared, only {', '.join(QUANTITIES)}")
    return Compared(name.lower(), sign, _number(part, bound))


def _number(part: str, text: str) -> float:
    if not _NUMBER.fullmatch(text) or not math.isfinite(float(text)):
        raise SelectorError(part, f"{text!r} is not a number")
    return float(text)


def _load(part: str, value: str) -> Load:
    kw = _number(part, value)
    if kw <= 0:
        raise SelectorError(part, "kw: must be positive")
    return Load(kw)


_NAMED: Mapping[str, Callable[[str, str], Selector | Load]] = MappingProxyType(
    {
        "group": lambda _, value: ByGroup(value),
        "model": lambda _, value: ByModel(value),
        "sn": lambda _, value: ById(f"sn:{value}"),
        "kw": _load,
    }
)


# -- from selector to machines -----------------------------------------------------------------------


def drawn_w(view: MachineView) -> float | None:
    """Watts that a mining machine draws; None if they are not known or not believed, or if it does not mine."""
    return view.power_w if view.run_state is RunState.MINING and view.implausible is None else None


def select(
    selector: Selector,
    views: Sequence[MachineView],
    *,
    load_w: Callable[[MachineView], float | None] = drawn_w,
    most_efficient_first: bool = False,
) -> list[MachineView]:
    """The machines that a selector means, in the order of `views`. Raises `SelectorError` for a name that none has.

    `load_w` is what `kw:` adds up; machines whose load or J/TH is unknown are not among those that it picks from.
    What wakes is picked the most efficient first.
    """
    chosen = _Choice(views, load_w, most_efficient_first).of(selector)
    return [view for view in views if view.machine_id in chosen]


class _Choice:
    """The sets of machines of one site that selectors mean."""

    def __init__(
        self, views: Sequence[MachineView], load_w: Callable[[MachineView], float | None], best_first: bool
    ) -> None:
        self._views = views
        self._load_w = load_w
        self._direction = 1 if best_first else -1
        self._all = {view.machine_id for view in views}

    def of(self, selector: Selector) -> set[MachineId]:
        match selector:
            case Everything():
                return set(self._all)
            case Compared():
                return self._where(lambda view: _compares(view, selector))
            case Not(inner):
                return self._all - self.of(inner)
            case Either(parts):
                return set().union(*(self.of(part) for part in parts))
            case Both(parts, load):
                rest = self._all.intersection(*(self.of(part) for part in parts))
                return rest if load is None else self._enough(rest, load.kw)
            case _:
                return self._named(selector)

    def _named(self, name: ById | ByAddress | ByGroup | ByModel) -> set[MachineId]:
        match name:
            case ById(machine_id):
                return self._some(lambda view: view.machine_id == machine_id, machine_id, "no such machine")
            case ByAddress(part, addresses):
                return self._some(lambda view: _is_at(view, addresses), part, "no machine is there")
            case ByGroup(group):
                return self._some(lambda view: view.group == group, f"group:{group}", self._groups())
            case ByModel(text):
                wanted = text.casefold()
                return self._some(
                    lambda view: wanted in view.model.casefold(),
                    f"model:{text}",
                    "no machine has such a model",
                )

    def _where(self, test: Callable[[MachineView], bool]) -> set[MachineId]:
        return {view.machine_id for view in self._views if test(view)}

    def _some(self, test: Callable[[MachineView], bool], part: str, reason: str) -> set[MachineId]:
        found = self._where(test)
        if not found:
            raise SelectorError(part, reason)
        return found

    def _groups(self) -> str:
        groups = sorted({view.group for view in self._views})
        shown = ", ".join(groups[:_SHOWN_GROUPS]) + (", ..." if len(groups) > _SHOWN_GROUPS else "")
        return f"no machine is in that group; there is {shown or 'none'}"

    def _enough(self, among: set[MachineId], kw: float) -> set[MachineId]:
        """The fewest machines, in their turn, that move `kw`; all of them where they do not reach it."""
        candidates = []
        for view in self._views:
            load_w, efficiency = self._load_w(view), view.efficiency_j_per_th
            if view.machine_id in among and load_w is not None and load_w > 0 and efficiency is not None:
                candidates.append((self._direction * efficiency, view.machine_id, load_w))
        chosen: set[MachineId] = set()
        moved_w = 0.0
        for _, machine_id, load_w in sorted(candidates):
            if moved_w >= kw * 1000:
                break
            chosen.add(machine_id)
            moved_w += load_w
        return chosen


def _compares(view: MachineView, comparison: Compared) -> bool:
    value = None if view.implausible is not None else QUANTITIES[comparison.quantity](view)
    return value is not None and SIGNS[comparison.sign](value, comparison.bound)


def _is_at(view: MachineView, addresses: frozenset[str]) -> bool:
    return view.address in addresses or view.address.partition(":")[0] in addresses
