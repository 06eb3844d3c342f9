"""What `/` shows: the selector grammar of the command line first, and where a text names nobody by it, words.

group:hydro margin<0      as for `curtail` and `restore`
asleep S21                every word somewhere in the row
reason:stale state:mining !group:hydro    a field that contains a text; `!` turns a term round
power_w>3500 chip_temp_c>=85              any number of a row by its name
"""

import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

from agent.selector import SelectorError, parse, select
from agent.view import MachineView

Test = Callable[[MachineView], bool]
FIELDS: dict[str, Callable[[MachineView], str | None]] = {
    "machine": lambda view: f"{view.machine_id} {view.address}",
    "address": lambda view: view.address,
    "model": lambda view: view.model,
    "make": lambda view: view.make,
    "firmware": lambda view: view.firmware,
    "group": lambda view: view.group,
    "state": lambda view: view.run_state.value,
    "action": lambda view: view.action.value,
    "reason": lambda view: view.reason.value,
    "failure": lambda view: view.failure,
    "mode": lambda view: None if view.power_mode is None else view.power_mode.value,
    "source": lambda view: view.power_source.value,
}
NUMBERS = {
    "margin": "margin_usd_per_day",
    "efficiency": "efficiency_j_per_th",
    "power": "power_w",
    "hashrate": "hashrate_ths",
    "temp": "chip_temp_c",
    "strike": "strike_price_usd_per_kwh",
    "hashcost": "hashcost_usd_per_ph_day",
    "revenue": "revenue_usd_per_day",
    "cost": "energy_cost_usd_per_day",
}
_SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
    "=": operator.eq,
}
_SPACED = re.compile(r"\s*(<=|>=|<|>|=)\s*")
_COMPARED = re.compile(r"([a-z_]+)(<=|>=|<|>|=)(-?[\d.]+)")


def choose(text: str, views: Sequence[MachineView]) -> list[MachineView]:
    """The machines that a text names, in their order. Raises `SelectorError` for what makes no sense."""
    try:
        named = list(select(parse(text), views))
    except SelectorError:
        named = []
    if named:
        return named
    tests = [_test(term) for term in _SPACED.sub(r"\1", text).split()]
    return [view for view in views if all(test(view) for test in tests)]


def _test(term: str) -> Test:
    if term.startswith("!") and len(term) > 1:
        inner = _test(term[1:])
        return lambda view: not inner(view)
    if (compared := _COMPARED.fullmatch(term)) is not None:
        return _compared(*compared.groups())
    name, colon, wanted = term.partition(":")
    if colon and name in FIELDS:
        field = FIELDS[name]
        return lambda view: wanted.lower() in (field(view) or "").lower()
    if colon and name.isalpha() and len(name) > 2:  # and no part of a MAC or a host with its port
        raise SelectorError(term, f"there is no field {name}; there are {', '.join(FIELDS)}")
    if any(sign in term for sign in _SIGNS):
        raise SelectorError(term, "is no comparison; write it like power_w>3500")
    word = term.lower()
    return lambda view: any(word in (field(view) or "").lower() for field in FIELDS.values())


def _compared(name: str, sign: str, bound: str) -> Test:
    field = NUMBERS.get(name, name)
    if field not in NUMBERS.values():
        raise SelectorError(
            name, f"is no number of a machine; there are {', '.join([*NUMBERS, *NUMBERS.values()])}"
        )
    try:
        limit = float(bound)
    except ValueError as error:
        raise SelectorError(bound, "is no number") from error

    def test(view: MachineView) -> bool:
        value = getattr(view, field)
        return view.implausible is None and value is not None and _SIGNS[sign](value, limit)

    return test
