"""Which machines changed enough to tell the fleet of. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agent.federation.messages import COLUMNS, Kind, Row

LEAST_USD_PER_DAY = 0.05
LEAST_DEGREES_C = 3.0
_COLUMNS = COLUMNS[Kind.APPRAISALS]
_INDEX = {name: index for index, name in enumerate(_COLUMNS)}
_MACHINE, _SEEN = _INDEX["machine_id"], _INDEX["seen_ms"]
_WORDS = [
    _INDEX[name]
    for name in (
        "run_state", "failure", "implausible", "power_source", "power_mode", "basis", "action", "reason", "marginal",
        "ours", "valid_ms",
    )
]  # fmt: skip
_PHYSICAL = [_INDEX[name] for name in ("hashrate_ths", "expected_hashrate_ths", "power_w")]
_MONEY = [_INDEX[name] for name in ("revenue_usd_per_day", "energy_cost_usd_per_day", "margin_usd_per_day")]
_TEMPERATURE, _REVENUE = _INDEX["chip_temp_c"], _INDEX["revenue_usd_per_day"]


class Deltas:
    """What the fleet was last told of each machine, against what it would be told now.

    A machine is told of anew when anything changed that is a word (its state, what is recommended, why), when hashrate
    or watts moved by more than the fraction `threshold`, money by more than that fraction of its revenue, the chips by
    more than 3 degrees; and when it was seen in this round and not in the last, or the other way round.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._told: dict[str, tuple[Row, bool]] = {}
        self._next: dict[str, tuple[Row, bool]] = {}

    def of(self, rows: Iterable[Row], began_ms: int) -> Sequence[Row]:
        """The rows to tell of a round that began then."""
        self._next = {row[_MACHINE]: (row, (row[_SEEN] or 0) >= began_ms) for row in rows}
        return [row for row, seen in self._next.values() if self._is_news(row, seen=seen)]

    def told(self) -> None:
        """They are sure to be told: what follows is compared with them."""
        told: Mapping[str, tuple[Row, bool]] = self._told
        self._told = {
            machine_id: now if self._is_news(now[0], seen=now[1]) else told[machine_id]
            for machine_id, now in self._next.items()
        }
        self._next = {}

    def forget(self) -> None:
        """The next round tells of every machine."""
        self._told = {}

    def _is_news(self, row: Row, *, seen: bool) -> bool:
        before, was_seen = self._told.get(row[_MACHINE], (None, False))
        return before is None or seen is not was_seen or self._differs(before, row)

    def _differs(self, before: Row, row: Row) -> bool:
        if any(before[index] != row[index] for index in _WORDS):
            return True
        if any(_moved(before[i], row[i], abs(before[i] or 0.0) * self._threshold) for i in _PHYSICAL):
            return True
        money = max(LEAST_USD_PER_DAY, self._threshold * abs(before[_REVENUE] or 0.0))
        return any(_moved(before[index], row[index], money) for index in _MONEY) or _moved(
            before[_TEMPERATURE], row[_TEMPERATURE], LEAST_DEGREES_C
        )


def _moved(before: Any, now: Any, by: float) -> bool:
    if before is None or now is None:
        return before is not now
    return bool(abs(now - before) > by)
