"""Time-of-use: which price holds at which hour of the site's wall clock. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from agent.tariff.intervals import IntervalPrice

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
HOLIDAY = "holiday"
_LOOK_AHEAD = timedelta(days=8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """A price that holds on some days and months between two times of the day; an end not after the start is on the
    next day. Where several fit, the first in the list counts."""

    price_usd_per_kwh: float
    start: time = time()
    end: time = time()
    days: frozenset[str] = frozenset((*DAYS, HOLIDAY))
    months: frozenset[int] = frozenset(range(1, 13))

    def holds(self, local: datetime, holidays: frozenset[date]) -> bool:
        """Whether it is about this moment of the wall clock. A period over midnight belongs to the day it began on."""
        clock = local.time()
        if self.start < self.end:
            return self.start <= clock < self.end and self._is_day(local.date(), holidays)
        if clock >= self.start:
            return self._is_day(local.date(), holidays)
        return clock < self.end and self._is_day(local.date() - timedelta(days=1), holidays)

    def _is_day(self, day: date, holidays: frozenset[date]) -> bool:
        kind = HOLIDAY if day in holidays else DAYS[day.weekday()]
        return kind in self.days and day.month in self.months


@dataclass(frozen=True, slots=True, kw_only=True)
class Calendar:
    """A time-of-use tariff: periods, and the price that holds where none fits, in the site's time zone."""

    zone: ZoneInfo
    otherwise_usd_per_kwh: float
    periods: Sequence[Period] = ()
    holidays: frozenset[date] = frozenset()

    def price_at(self, moment: datetime) -> float:
        """USD/kWh at an aware moment. Exactly one price holds at each."""
        local = moment.astimezone(self.zone)
        for period in self.periods:
            if period.holds(local, self.holidays):
                return period.price_usd_per_kwh
        return self.otherwise_usd_per_kwh

    def interval_at(self, moment: datetime) -> IntervalPrice:
        """The price at a moment, and until when it holds; at most some days are looked ahead."""
        price = self.price_at(moment)
        end = moment + _LOOK_AHEAD
        for boundary in self._boundaries(moment):
            if self.price_at(boundary) != price:
                end = boundary
                break
        return IntervalPrice(start=moment, end=end, usd_per_kwh=price)

    def _boundaries(self, moment: datetime) -> Iterator[datetime]:
        """The moments after this one at which a period may begin or end, in order. Times of the wall clock that there
        are twice, or not at all, on the days when clocks are changed, are tried in both readings."""
        clocks = {time(), *(each for period in self.periods for each in (period.start, period.end))}
        day = moment.astimezone(self.zone).date()
        found = set()
        for _ in range(_LOOK_AHEAD.days):
            for clock in clocks:
                for fold in (0, 1):
                    local = datetime.combine(day, clock.replace(fold=fold), self.zone)
                    found.add(local.astimezone(UTC))
            found |= set(self._clock_changes(day))
            day += timedelta(days=1)
        return iter(sorted(each for each in found if each > moment))

    def _clock_changes(self, day: date) -> Iterator[datetime]:
        """When on this day the wall clock jumps."""
        start = datetime.combine(day, time(), self.zone).astimezone(UTC)
        for minutes in range(0, 26 * 60, 30):
            before, after = (start + timedelta(minutes=each) for each in (minutes, minutes + 30))
            if before.astimezone(self.zone).utcoffset() != after.astimezone(self.zone).utcoffset():
                yield after
