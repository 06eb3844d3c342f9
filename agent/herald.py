"""Watches the agent's vitals and tells people: a message for every change, kept over restarts until somebody got it."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from time import monotonic
from typing import Any

from agent.alerts import Alert, Change, Limits, Severity, alert_of, conditions, due, step, told
from agent.explain import printable
from agent.messenger import Messenger, Target
from agent.rows import Event
from agent.vitals import Vitals

log = logging.getLogger("hashcost")

ALERTS = "alerts"
"""Name of the setting that holds the alerts."""
RETRY_S = (60.0, 900.0)
"""After a message that nobody took, the next try comes after so long, and at the latest after so long."""
SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """Whom to tell, and when not: `is_quiet` says whether a moment is within the quiet hours."""

    limits: Limits
    targets: Sequence[Target]
    site: str
    is_quiet: Callable[[datetime], bool]


class Herald:
    """The alerts of a site. `save` stores a setting, `record` an event; both may fail with the disk, and then the
    messages go out all the same."""

    def __init__(
        self,
        habits: Habits,
        stored: str | None,
        *,
        clock: Callable[[], datetime],
        save: Callable[[str, str], Awaitable[None]],
        record: Callable[[Event], Awaitable[None]],
        messenger: Messenger | None = None,
    ) -> None:
        self._habits = habits
        self._clock = clock
        self._save = save
        self._record = record
        self._messenger = messenger or Messenger()
        self._alerts = {each["name"]: alert_of(each) for each in json.loads(stored or "[]")}
        self._news = asyncio.Event()
        self._deaf: set[str] = set()
        self._retry_at_s, self._retry_s = 0.0, RETRY_S[0]

    def close(self) -> None:
        """Send no more."""
        self._messenger.close()

    def firing(self) -> list[Alert]:
        """What is wrong now, the longest first."""
        return sorted((each for each in self._alerts.values() if each.firing), key=lambda each: each.since)

    async def look(self, vitals: Vitals) -> None:
        """See what has begun and what is over; telling it is done by `run`."""
        limits, before = self._habits.limits, self._alerts
        self._alerts = step(before, conditions(vitals, limits), self._clock(), limits)
        changed = [
            alert
            for name, alert in self._alerts.items()
            if alert.firing is not (name in before and before[name].firing)
        ]
        for alert in changed:
            what = "alert_began" if alert.firing else "alert_ended"
            level = logging.WARNING if alert.firing else logging.INFO
            log.log(level, "event=%s alert=%s detail=%r", what, alert.name, alert.text)
            await self._record(Event(at=self._clock(), kind=what, detail=f"{alert.name}: {alert.text}"))
        if changed or self._alerts.keys() != before.keys():
            await self._store()
        self._news.set()

    async def acknowledge(self, name: str, by: str) -> bool:
        """Somebody has seen it: no more reminders. False if it is not firing."""
        alert = self._alerts.get(name)
        if alert is None or not alert.firing:
            return False
        self._alerts[name] = replace(alert, acknowledged_by=by)
        await self._store()
        return True

    async def run(self) -> None:
        """Tell what is due, whenever there was a look, until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            await self.tell()

    async def tell(self) -> None:
        """Tell everything that is due in one message for each target."""
        if monotonic() < self._retry_at_s:
            return
        now = self._clock()
        news = due(self._alerts.values(), now, self._habits.limits, quiet=self._habits.is_quiet(now))
        if not news or not await self._tell(news):
            return
        for _, alert in news:
            current = self._alerts.get(alert.name)
            if current is not None:  # it may have turned since; that is news of its own
                self._alerts[alert.name] = replace(
                    current,
                    told_firing=alert.firing,
                    told_value=alert.value,
                    told_at=told(alert, now).told_at,
                )
        await self._store()

    async def _tell(self, news: Sequence[tuple[Change, Alert]]) -> bool:
        """Whether it is settled: somebody took it, or nobody wants it."""
        taken: dict[str, bool] = {}
        for target in self._habits.targets:
            wanted = [each for each in news if target.least in {each[1].severity, Severity.WARNING}]
            if wanted:
                title, body, severity = message(self._habits.site, wanted)
                taken |= await self._messenger.send([target], title, body, severity)
        self._note_deaf(taken)
        if not taken or any(taken.values()):
            self._retry_s = RETRY_S[0]
            return True
        self._retry_at_s = monotonic() + self._retry_s
        self._retry_s = min(2 * self._retry_s, RETRY_S[1])
        return False

    def _note_deaf(self, taken: dict[str, bool]) -> None:
        """One line when a target takes no messages and one when it does again."""
        for name, took in taken.items():
            if not took and name not in self._deaf:
                log.error("event=alert_not_delivered target=%s", name)
                self._deaf.add(name)
            elif took and name in self._deaf:
                log.info("event=alert_delivered target=%s", name)
                self._deaf.discard(name)

    async def _store(self) -> None:
        await self._save(ALERTS, json.dumps([alert.as_data() for alert in self._alerts.values()]))


_WORDS = {Change.BEGAN: "", Change.WORSE: "worse: ", Change.REMINDER: "still: ", Change.ENDED: "over: "}


def message(site: str, news: Sequence[tuple[Change, Alert]]) -> tuple[str, str, Severity]:
    """Title, text and severity of one message. What machines say of themselves is shown without control characters."""
    lines = [printable(f"{_WORDS[change]}{alert.text} [{alert.name}]") for change, alert in news[:SHOWN]]
    if len(news) > SHOWN:
        lines.append(f"and {len(news) - SHOWN} more: hashcost alerts list")
    bad = [alert for change, alert in news if change is not Change.ENDED]
    critical = any(alert.severity is Severity.CRITICAL for alert in bad)
    what = ("critical" if critical else "warning") if bad else "over"
    return f"{site}: {what}", "\n".join(lines), Severity.CRITICAL if critical else Severity.WARNING


def as_data(alerts: Iterable[Alert]) -> list[dict[str, Any]]:
    """What is wrong now, as plain data for `hashcost alerts list`."""
    names = ("name", "severity", "text", "since", "acknowledged_by")
    return [{name: alert.as_data()[name] for name in names} for alert in alerts]
