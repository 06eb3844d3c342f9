"""What stock Antminers (X17, X19, X21) say on TCP 4028 and at `/cgi-bin`, turned into facts; pure.

Shapes: cgminer `stats`, `summary`, `pools`, and `get_miner_conf`, `get_system_info`, `summary` of the web.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from drivers.reading import Board, Pool, PowerMode
from drivers.transport import Answer
from drivers.values import flag, mapping, number, positive, rows, text, whole

_CHIPS_KEYS = [(chain, f"chain_acn{chain}") for chain in range(1, 17)]
_DEGREES = re.compile(r"\d+(?:\.\d+)?")
_FANS = range(1, 9)
MODE_KEYS = ("bitmain-work-mode", "miner-mode")
_POWER_KEYS = ("chain_power", "power")
SLEEP_MODE = 1
POWER_MODES = {0: PowerMode.NORMAL, 2: PowerMode.HIGH_EFFICIENCY, 3: PowerMode.LOW}
_POWER_TEXT = re.compile(rb"power:\s*([^\s<]+)")
_THS_PER_UNIT = {"H": 1e-12, "KH": 1e-9, "MH": 1e-6, "GH": 1e-3, "TH": 1.0, "PH": 1e3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """What `stats` and `summary` say now. `silent` means well-formed answers without any row in them."""

    hashrate_ths: float | None
    expected_ths: float | None
    uptime_s: int | None
    boards: tuple[Board, ...]
    fans_rpm: tuple[int, ...]
    model: str | None
    miner_id: str | None
    silent: bool


def live(stats: Answer, summary: Answer, boards_built: int | None) -> Live:
    """The facts in `stats` and `summary`; what is not in them is None."""
    every_row = rows(stats.get("STATS"))
    head = next((row for row in every_row if "Type" in row), {})
    body = next((row for row in every_row if row is not head and len(row) > 1), {})
    total = next(iter(rows(summary.get("SUMMARY"))), {})
    uptime_s = whole(body.get("Elapsed"))
    return Live(
        hashrate_ths=_first(_rate(total), _rate(body)),
        expected_ths=_positive(_ths(body.get("total_rateideal"), body)),
        uptime_s=uptime_s if uptime_s is not None else whole(total.get("Elapsed")),
        boards=tuple(_boards(body, boards_built)),
        fans_rpm=_fans(body),
        model=text(head.get("Type")),
        miner_id=text(body.get("miner_id")),
        silent=_empty(stats, "STATS") and _empty(summary, "SUMMARY"),
    )


def _empty(answer: Answer, section: str) -> bool:
    return answer.get(section) == []


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def _positive(value: float | None) -> float | None:
    return value if value is not None and value > 0 else None


def _rate(row: Mapping[str, Any]) -> float | None:
    """The five-second hashrate: evidence of sleep must not lag behind by half an hour."""
    return _first(_ths(row.get("GHS 5s"), {}), _ths(row.get("rate_5s"), row))


def _ths(value: Any, row: Mapping[str, Any]) -> float | None:
    """A rate in the row's `rate_unit`, GH/s where there is none."""
    rate = number(value)
    if rate is None:
        return None
    unit = str(row.get("rate_unit") or "GH").upper().removesuffix("/S")
    return rate * _THS_PER_UNIT[unit] if unit in _THS_PER_UNIT else None


def _boards(body: Mapping[str, Any], boards_built: int | None) -> Iterator[Board]:
    """One board per chain that exists: those with chips, and as many more as the model is built with."""
    named = [chain for chain, key in _CHIPS_KEYS if key in body]
    present = [chain for chain in named if positive(body[f"chain_acn{chain}"])]
    if not named:
        return
    first = 1 if not present or boards_built is None or present[0] <= boards_built else present[0]
    built = range(first, first + (boards_built or 0))
    for slot, chain in enumerate(sorted({*present, *built})):
        yield _board(slot, chain, body)


def _board(slot: int, chain: int, body: Mapping[str, Any]) -> Board:
    chips = whole(body.get(f"chain_acn{chain}"))
    alive = None if chips is None else chips > 0
    return Board(
        slot=slot,
        alive=alive,
        hashrate_ths=_ths(body.get(f"chain_rate{chain}"), body),
        chip_temp_c=_hottest(body.get(f"temp_chip{chain}"), body.get(f"temp2_{chain}")) if alive else None,
        board_temp_c=_hottest(body.get(f"temp_pcb{chain}"), body.get(f"temp{chain}")) if alive else None,
        chips=chips,
    )


def _hottest(*values: Any) -> float | None:
    """The highest of "78-50-69-70", or a plain number. A sensor at exactly 0 was not read."""
    for value in values:
        parts = (
            [float(part) for part in _DEGREES.findall(value)] if isinstance(value, str) else [number(value)]
        )
        known = [part for part in parts if part and part < math.inf]
        if known:
            return max(known)
    return None


def _fans(body: Mapping[str, Any]) -> tuple[int, ...]:
    speeds = [whole(body[f"fan{i}"]) for i in _FANS if f"fan{i}" in body]
    known = [speed for speed in speeds if speed is not None]
    count = whole(body.get("fan_num"))
    return tuple(known) if count is None or len(known) <= count else tuple(speed for speed in known if speed)


def chain_power_w(stats: Answer) -> float | None:
    """`chain_power` ("3250 W") or, with `new_api`, `power` in a row of `stats`; None if absent, NaN or 0."""
    watts = (positive(row.get(key)) for row in rows(stats.get("STATS")) for key in _POWER_KEYS)
    return next((each for each in watts if each is not None), None)


def port_power_w(page: bytes) -> float | None:
    """Watts in the text of `GET :6060/miner_power`: "miner power:3500"; None for NaN, 0 and errors."""
    match = _POWER_TEXT.search(page)
    return positive(match[1].decode("ascii", "replace")) if match else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """What the configuration tells the machine to do. `told_to_sleep` is None if nobody could read it."""

    told_to_sleep: bool | None
    power_mode: PowerMode | None
    contradiction: str | None = None


UNREAD_MODE = Mode(told_to_sleep=None, power_mode=None)


def mode(configuration: Answer) -> Mode:
    """The mode in `get_miner_conf`: `bitmain-work-mode` or `miner-mode`, numbers or texts, 1 is sleep.

    Which key counts depends on firmware, so one that says sleep is enough (whether the machine then really
    does not hash is judged elsewhere). A configuration without either key belongs to a machine that cannot
    sleep.
    """
    said = {key: whole(configuration[key]) for key in MODE_KEYS if key in configuration}
    values = {value for value in said.values() if value is not None}
    if said and not values:
        return UNREAD_MODE
    asleep = SLEEP_MODE in values
    working = [value for value in said.values() if value is not None and value != SLEEP_MODE]
    return Mode(
        told_to_sleep=asleep,
        power_mode=None if asleep or not working else POWER_MODES.get(working[0]),
        contradiction=f"configuration contradicts itself: {said}" if len(values) > 1 else None,
    )


def is_configuration(answer: Answer) -> bool:
    """Whether an answer is a miner's configuration at all."""
    return isinstance(answer.get("pools"), list)


def pools(answer: Answer) -> tuple[Pool, ...]:
    """The pools of a cgminer `pools` answer."""
    return tuple(
        Pool(
            url=url,
            user=text(row.get("User")),
            alive=row["Status"] == "Alive" if text(row.get("Status")) else None,
            active=flag(row.get("Stratum Active")),
        )
        for row in rows(answer.get("POOLS"))
        if (url := text(row.get("URL")))
    )


def errors(web_summary: Answer) -> tuple[str, ...]:
    """What the web interface's `summary` complains about."""
    total = next(iter(rows(web_summary.get("SUMMARY"))), {})
    return tuple(
        f"{row.get('type', 'status')}: {text(row.get('msg')) or row.get('code') or 'error'}"
        for row in rows(total.get("status"))
        if row.get("status") not in {"s", None}
    )


def firmware(info: Answer) -> str | None:
    """The firmware's date or version in `get_system_info`."""
    names = ("system_filesystem_version", "firmware_version", "firmware_type")
    return next((found for name in names if (found := text(info.get(name)))), None)


def model(version: Answer) -> str | None:
    """The model in a `version` answer, without the hashrate some firmware puts behind it in brackets."""
    row = next(iter(rows(version.get("VERSION"))), {})
    found = text(mapping(row).get("Type"))
    return found.split(" (")[0].removesuffix("_i") if found else None
