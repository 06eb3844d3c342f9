"""The columns of the fleet, what decides first: a narrow terminal shows as many of them as fit."""

from datetime import timedelta

from agent.summary import ACTION_STYLE, number
from agent.view import MachineView
from drivers.reading import PowerSource, RunState
from tui.glyphs import Glyphs, state_cell
from tui.widgets.line_table import Column

Fleet = Column[MachineView]


def fleet_columns(shown: Glyphs) -> list[Fleet]:
    """All of them. Money is USD/day, strike price USD/kWh."""
    return [
        Fleet("", lambda view: (shown.states[view.run_state], state_cell(view.run_state, shown)[1]), _state),
        Fleet("machine", lambda view: (view.address, ""), _address),
        Fleet("state", lambda view: (view.run_state.value, state_cell(view.run_state, shown)[1]), _state),
        Fleet("margin", _margin, lambda view: view.margin_usd_per_day, right=True),
        Fleet(
            "recommendation", lambda view: (view.recommendation, ACTION_STYLE[view.action]), _recommendation
        ),
        Fleet("W", lambda view: (number(view.power_w, 0), ""), lambda view: view.power_w, right=True),
        Fleet(
            "TH/s",
            lambda view: (number(view.hashrate_ths, 1), ""),
            lambda view: view.hashrate_ths,
            right=True,
        ),
        Fleet("J/TH", lambda view: (number(view.efficiency_j_per_th, 1), ""), _efficiency, right=True),
        Fleet("model", lambda view: (view.model, ""), lambda view: view.model),
        Fleet("chip C", _chip, lambda view: view.chip_temp_c, right=True),
        Fleet("expected", _expected, _share, right=True),
        Fleet("strike", lambda view: (number(view.strike_price_usd_per_kwh, 4), ""), _strike, right=True),
        Fleet("group", lambda view: (view.group, ""), lambda view: view.group),
        Fleet("seen, UTC", _seen, lambda view: view.seen_at, right=True),
        Fleet("W from", lambda view: (_source(view), "dim"), _source),
    ]


def _state(view: MachineView) -> str:
    return view.run_state.value


def _recommendation(view: MachineView) -> str:
    return view.recommendation


def _efficiency(view: MachineView) -> float | None:
    return view.efficiency_j_per_th


def _strike(view: MachineView) -> float | None:
    return view.strike_price_usd_per_kwh


def _address(view: MachineView) -> tuple[tuple[int, ...], str]:
    """Addresses in the order of their numbers."""
    host = view.address.partition(":")[0]
    parts = host.split(".")
    return (tuple(int(part) for part in parts) if all(part.isdigit() for part in parts) else (), view.address)


def _margin(view: MachineView) -> tuple[str, str]:
    margin = view.margin_usd_per_day
    if view.run_state is RunState.ASLEEP:  # what it would be worth; nothing is lost now
        return number(margin, 2, sign=True), "dim"
    return number(margin, 2, sign=True), "" if margin is None else "red" if margin < 0 else "green"


def _chip(view: MachineView) -> tuple[str, str]:
    temp = view.chip_temp_c
    return number(temp, 0), "" if temp is None or temp < HOT_C else "bold red"


HOT_C = 90.0
"""From here on a chip is near where firmwares throttle or stop."""


def _share(view: MachineView) -> float | None:
    """Hashrate as a share of what it should be."""
    expected, real = view.expected_hashrate_ths, view.hashrate_ths
    return None if not expected or real is None else real / expected


def _expected(view: MachineView) -> tuple[str, str]:
    share = _share(view)
    if share is None:
        return "-", ""
    return f"{share:.0%}", "yellow" if share < LOW_SHARE else ""


LOW_SHARE = 0.9
LATE = timedelta(minutes=5)
"""A machine that was not seen for so long before the last round."""


def _seen(view: MachineView) -> tuple[str, str]:
    if view.seen_at is None:
        return "never", "yellow"
    age = view.at - view.seen_at
    style = "yellow" if age > LATE else ""
    return (f"{view.seen_at:%H:%M:%S}" if age < timedelta(hours=12) else f"{view.seen_at:%d %b %H:%M}"), style


def _source(view: MachineView) -> str:
    return "-" if view.power_source is PowerSource.UNKNOWN else view.power_source.value
