"""What Whatsminers say, API V2 (TCP 4028) and V3 (TCP 4433), turned into facts; pure.

V2 counts in MH/s and answers like cgminer; V3 counts in TH/s and names things with hyphens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from drivers.reading import Board, Pool, PowerMode
from drivers.transport import Answer
from drivers.values import flag, mac, mapping, number, positive, rows, text, whole

_THS_PER_MHS = 1e-6
_THS_PER_GHS = 1e-3
_V2_RATES_NOW = ("MHS 5s", "MHS 1m", "HS RT")
_V2_RATES = ("MHS 1m", "HS RT", "MHS 5m", "MHS av")
_V2_OK = 131
_MODES = {"normal": PowerMode.NORMAL, "low": PowerMode.LOW, "high": PowerMode.HIGH}


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """What the answers of one poll say. `tuning` is the machine's own word for ramping."""

    hashrate_ths: float | None
    expected_ths: float | None
    power_w: float | None
    power_mode: PowerMode | None
    told_to_sleep: bool | None
    tuning: bool
    uptime_s: int | None
    boards: tuple[Board, ...]
    fans_rpm: tuple[int, ...]
    inlet_temp_c: float | None
    errors: tuple[str, ...]
    firmware: str | None
    mac: str | None
    serial: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Who:
    """What a machine says about itself."""

    model: str | None
    firmware: str | None
    mac: str | None
    serial: str | None


def power_mode(value: Any) -> PowerMode | None:
    """`Normal`, `Low`, `High` in any case."""
    return _MODES.get(str(value).strip().lower())


# -- V2 ------------------------------------------------------------------------------------------


def refusal(answer: Answer) -> str | None:
    """Why a machine did not answer a command, in its words; None if it did."""
    status = answer.get("STATUS")
    row = next(iter(rows(status)), {}) if isinstance(status, list) else answer
    if row.get("STATUS") in {"S", "I"}:
        return None
    return f"code {row.get('Code')}: {text(row.get('Msg')) or 'no reason given'}"


def v2_live(status: Answer, summary: Answer, devs: Answer) -> Live:
    """The facts in `status`, `summary` and `devs`; what is not in them is None."""
    total = v2_total(summary)
    said = rows(devs.get("DEVS"))
    boards = tuple(_v2_board(row) for row in said)
    stopped = v2_told_to_sleep(status)
    return Live(
        hashrate_ths=_v2_rate_stopped(total) if stopped else _v2_rate(total),
        expected_ths=_scaled(positive(total.get("Factory GHS")), _THS_PER_GHS),
        power_w=positive(total.get("Power")) or positive(total.get("Power_RT")),
        power_mode=power_mode(total.get("Power Mode")),
        told_to_sleep=stopped,
        tuning=any(
            board.alive and number(row.get("Upfreq Complete")) == 0
            for row, board in zip(said, boards, strict=True)
        ),
        uptime_s=whole(total.get("Elapsed")),
        boards=boards,
        fans_rpm=_fans(total, "Fan Speed In", "Fan Speed Out"),
        inlet_temp_c=number(total.get("Env Temp")),
        errors=_v2_counted_errors(total),
        firmware=text(total.get("Firmware Version")),
        mac=mac(total.get("MAC")),
        serial=None,
    )


def v2_total(summary: Answer) -> Mapping[str, Any]:
    """The one row of `summary`, empty if there is none."""
    return next(iter(rows(summary.get("SUMMARY"))), {})


def _v2_rate(row: Mapping[str, Any]) -> float | None:
    """The one-minute rate (the five-second one jumps by a tenth), or the next best."""
    for name in _V2_RATES:
        rate = number(row.get(name))
        if rate is not None:
            return rate * _THS_PER_MHS
    return None


def _v2_rate_stopped(row: Mapping[str, Any]) -> float | None:
    """The least of the present rates: told to stop, and 0 over five seconds, it does not hash, though its
    one-minute rate still falls."""
    known = [rate for name in _V2_RATES_NOW if (rate := number(row.get(name))) is not None]
    return _scaled(min(known), _THS_PER_MHS) if known else _v2_rate(row)


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def v2_told_to_sleep(status: Answer) -> bool | None:
    """`btmineroff` or `mineroff`, texts "true" and "false"; None if neither is there."""
    message = mapping(status.get("Msg"))
    said = [flag(message[key]) for key in ("btmineroff", "mineroff") if key in message]
    known = [each for each in said if each is not None]
    return any(known) if known else None


def _v2_board(row: Mapping[str, Any]) -> Board:
    slot = whole(row.get("ASC"))
    return Board(
        slot=slot if slot is not None else whole(row.get("Slot")) or 0,
        alive=_v2_alive(row),
        hashrate_ths=_v2_rate(row),
        chip_temp_c=_warm(row.get("Chip Temp Max"), row.get("Chip Temp Avg")),
        board_temp_c=_warm(row.get("Temperature")),
        chips=whole(row.get("Effective Chips")),
    )


def _v2_alive(row: Mapping[str, Any]) -> bool | None:
    status = text(row.get("Status"))
    return (status == "Alive" and whole(row.get("Effective Chips")) != 0) if status else None


def _warm(*values: Any) -> float | None:
    """The first that is a temperature; a sensor at exactly 0 was not read."""
    for value in values:
        known = number(value)
        if known:
            return known
    return None


def _fans(row: Mapping[str, Any], *names: str) -> tuple[int, ...]:
    return tuple(speed for name in names if (speed := whole(row.get(name))) is not None)


def _v2_counted_errors(total: Mapping[str, Any]) -> tuple[str, ...]:
    count = whole(total.get("Error Code Count")) or 0
    codes = (whole(total.get(f"Error Code {index}")) for index in range(min(count, 32)))
    return tuple(f"error {code}" for code in codes if code)


def v2_errors(answer: Answer) -> tuple[str, ...]:
    """`get_error_code`: a list of codes, of {code: time}, or (API 2.0.4) a mapping of those."""
    listed = mapping(answer.get("Msg")).get("error_code")
    if isinstance(listed, dict):
        return tuple(f"error {code}" for code in listed)
    found: list[str] = []
    for item in listed if isinstance(listed, list) else []:
        found += [str(code) for code in item] if isinstance(item, dict) else [str(item)]
    return tuple(f"error {code}" for code in found if code != "reason")


def pools(answer: Answer) -> tuple[Pool, ...]:
    """The pools of V2's `pools`."""
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


def v2_who(summary: Answer, version: Answer, info: Answer, details: Answer) -> Who:
    """Identity from `summary`, `get_version`, `get_miner_info` and `devdetails`; each may be missing."""
    total, told = v2_total(summary), mapping(info.get("Msg"))
    detail = next(iter(rows(details.get("DEVDETAILS"))), {})
    return Who(
        model=text(detail.get("Model")),
        firmware=text(mapping(version.get("Msg")).get("fw_ver")) or text(total.get("Firmware Version")),
        mac=mac(told.get("mac")) or mac(total.get("MAC")),
        serial=text(told.get("minersn")),
    )


# -- V3 ------------------------------------------------------------------------------------------


def v3_message(answer: Answer) -> Mapping[str, Any] | None:
    """`msg` of an answer whose `code` is 0, else None."""
    return (
        mapping(answer.get("msg"))
        if answer.get("code") == 0 and isinstance(answer.get("msg"), dict)
        else None
    )


def v3_who(device: Mapping[str, Any]) -> Who:
    """Identity from `get.device.info`."""
    miner = mapping(device.get("miner"))
    return Who(
        model=text(miner.get("type")),
        firmware=text(mapping(device.get("system")).get("fwversion")),
        mac=mac(mapping(device.get("network")).get("mac")),
        serial=text(miner.get("miner-sn")),
    )


def v3_live(device: Mapping[str, Any], status: Mapping[str, Any], edevs: Mapping[str, Any]) -> Live:
    """The facts in `get.device.info` and `get.miner.status` of `summary` and `edevs`."""
    total, who = mapping(status.get("summary")), v3_who(device)
    working = flag(mapping(device.get("miner")).get("working"))
    return Live(
        hashrate_ths=number(total.get("hash-realtime")),
        expected_ths=positive(total.get("factory-hash")),
        power_w=positive(total.get("power-realtime")) or positive(total.get("power-5min")),
        power_mode=None,
        told_to_sleep=None if working is None else not working,
        tuning=number(total.get("up-freq-finish")) == 0,
        uptime_s=whole(total.get("elapsed")),
        boards=_v3_boards(device, total, rows(edevs.get("edevs"))),
        fans_rpm=_fans(total, "fan-speed-in", "fan-speed-out"),
        inlet_temp_c=number(total.get("environment-temperature")),
        errors=_v3_errors(device),
        firmware=who.firmware,
        mac=who.mac,
        serial=who.serial,
    )


def _v3_boards(
    device: Mapping[str, Any], total: Mapping[str, Any], said: list[Mapping[str, Any]]
) -> tuple[Board, ...]:
    """The boards that answer, and those that `board-num` promises and nobody has heard of."""
    temperatures = total.get("board-temperature")
    known = temperatures if isinstance(temperatures, list) else []
    boards = [_v3_board(index, row, known) for index, row in enumerate(said)]
    promised = whole(mapping(device.get("miner")).get("board-num")) or 0
    heard = {board.slot for board in boards}
    missing = [Board(slot=slot, alive=False) for slot in range(promised) if slot not in heard] if said else []
    return tuple(sorted([*boards, *missing], key=lambda board: board.slot))


def _v3_board(index: int, row: Mapping[str, Any], temperatures: list[Any]) -> Board:
    named = whole(row.get("id"))
    slot = index if named is None else named
    status = text(row.get("status"))
    return Board(
        slot=slot,
        alive=status.lower() == "alive" if status else None,
        hashrate_ths=number(row.get("hash-realtime", row.get("hash-average"))),
        chip_temp_c=_warm(row.get("chip-temp-max"), row.get("chip-temp-avg")),
        board_temp_c=_warm(temperatures[slot]) if 0 <= slot < len(temperatures) else None,
        chips=whole(row.get("effective-chips")),
    )


def _v3_errors(device: Mapping[str, Any]) -> tuple[str, ...]:
    """`error-code` rows: {"264": time, "reason": text}."""
    found = []
    for row in rows(device.get("error-code")):
        code = next((key for key in row if key != "reason"), None)
        if code is not None:
            reason = text(row.get("reason"))
            found.append(f"error {code}: {reason}" if reason else f"error {code}")
    return tuple(found)


def v3_pools(status: Mapping[str, Any]) -> tuple[Pool, ...]:
    """The pools of `get.miner.status` with param `pools` (the summary has none)."""
    return tuple(
        Pool(
            url=url,
            user=text(row.get("account")),
            alive=state.lower() == "alive" if (state := text(row.get("status"))) else None,
            active=flag(row.get("stratum-active")),
        )
        for row in rows(status.get("pools"))
        if (url := text(row.get("url")))
    )
