"""Those outside who may call the site to shed load: listened to for as long as the agent lives; and their silence."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from agent.clock import Clock
from agent.config.mqtt import MqttSection
from agent.config.obligations import ObligationsSection
from agent.fetch import Fetcher, SourceError, data_of, pause_s, told
from agent.market.quote import SourceStatus
from agent.market.sources import at, number
from agent.mqtt import Heard, Subscription
from agent.obligations import Call
from agent.openadr import OPENADR, Vtn

log = logging.getLogger("hashcost")

MQTT = "mqtt"
SILENCE = "silence"
CLOCK_ERROR = timedelta(seconds=60)
"""A message from further in the future was made by a clock that is wrong."""
SHED, RELEASE = 0, 100


class Caller:
    """One who may call. `calls` is what was said last; None while nothing was said since the agent began, so that what
    was known before stands. `heard_at` is when that was said, at first when the agent began to listen."""

    def __init__(self, name: str, address: str, began_at: datetime) -> None:
        self.name = name
        self.calls: list[Call] | None = None
        self.heard_at = began_at
        self._status = SourceStatus(name=name, url=address)
        self._failures = 0

    def hear(self, calls: list[Call], said_at: datetime) -> None:
        """It said what it calls for."""
        if self._failures:
            log.info("event=source_recovered source=%s after_failures=%d", self.name, self._failures)
        self._failures, self.calls, self.heard_at = 0, calls, said_at
        self._status = SourceStatus(
            name=self.name, url=self._status.url, answered_at=said_at, values=f"{len(calls)} calls"
        )

    def fail(self, error: SourceError, now: datetime) -> None:
        """It could not be heard, or made no sense."""
        if self._failures == 0:
            log.warning(
                "event=source_failed source=%s kind=%s detail=%r", self.name, error.kind, error.detail
            )
        self._failures += 1
        self._status = SourceStatus(
            name=self.name,
            url=self._status.url,
            answered_at=self._status.answered_at,
            values=self._status.values,
            failed_at=now,
            failure=str(error),
        )

    def status(self) -> SourceStatus:
        """How it is doing."""
        return self._status


@dataclass(frozen=True, slots=True, kw_only=True)
class FailSafe:
    """What silence of a caller means: nothing new, or to shed to `shed_to_kw`."""

    sheds: bool
    shed_to_kw: float
    after: timedelta

    def calls(self, callers: Iterable[Caller], now: datetime) -> list[Call]:
        """What the silence of those who have said nothing for too long calls for."""
        return [
            Call(
                call_id=f"{SILENCE}-{caller.name}-{caller.heard_at:%Y%m%dT%H%M%S}",
                source=SILENCE,
                by=caller.name,
                start=caller.heard_at + self.after,
                to_kw=self.shed_to_kw,
            )
            for caller in callers
            if self.sheds and now - caller.heard_at >= self.after
        ]


def target_of(heard: Heard) -> tuple[int, datetime]:
    """What `{"target": 0 or 100, "timestamp": seconds since 1970}` says, and when it said so. Raises `SourceError`."""
    message = data_of(heard.body)
    target = number(at(message, "target"), "target")
    if target not in (SHED, RELEASE):
        raise SourceError("malformed", f"target is {target:g}; {SHED} sheds and {RELEASE} releases")
    seconds = number(at(message, "timestamp"), "timestamp")
    try:
        said_at = datetime.fromtimestamp(seconds / 1000 if seconds > 1e11 else seconds, UTC)
    except (OverflowError, OSError, ValueError) as error:
        raise SourceError("malformed", f"timestamp {seconds:g} is no time") from error
    if said_at > heard.at + CLOCK_ERROR:
        raise SourceError("malformed", f"its timestamp {said_at.isoformat()} is in the future")
    return int(target), said_at


class GridCallers:
    """All who may call a site. `loops` are to be kept running."""

    def __init__(
        self,
        section: ObligationsSection,
        mqtt: MqttSection,
        fetcher: Fetcher,
        clock: Clock,
        *,
        on_progress: Callable[[str], None] = lambda _name: None,
    ) -> None:
        self._clock = clock
        self._on_progress = on_progress
        self._callers: list[Caller] = []
        self.loops: dict[str, Callable[[], Awaitable[None]]] = {}
        self._shed_to_kw = section.shed_to_kw or 0.0
        self._fail_safe = FailSafe(
            sheds=section.on_silence == "shed",
            shed_to_kw=self._shed_to_kw,
            after=timedelta(seconds=section.silence_s),
        )
        if section.mqtt_topic:
            self._listen(section.mqtt_topic, mqtt)
        if section.openadr is not None:
            given = section.openadr
            vtn = Vtn(
                fetcher,
                url=given.url,
                program_id=given.program_id,
                client_id=given.client_id,
                secret=given.secret() if given.has_secret else None,
                token_url=given.token_url,
                shed_to_kw=self._shed_to_kw,
            )
            caller = self._add(OPENADR, given.url)
            self.loops[OPENADR] = lambda: self._poll(vtn, caller, given.poll_s)

    def _add(self, name: str, address: str) -> Caller:
        caller = Caller(name, address, self._clock.now())
        self._callers.append(caller)
        return caller

    def _listen(self, topic: str, mqtt: MqttSection) -> None:
        broker = mqtt.broker()
        caller = self._add(MQTT, f"{broker.address}/{topic}")
        subscription = Subscription(
            broker,
            topic,
            self._clock.now,
            on_message=lambda heard: self._take(caller, heard),
            on_failure=lambda detail: caller.fail(SourceError("unreachable", detail), self._clock.now()),
            on_progress=lambda: self._on_progress(MQTT),
        )
        self.loops[MQTT] = subscription.run

    def _take(self, caller: Caller, heard: Heard) -> None:
        """A target. One that is older than the last, or from the future, changes nothing; age is told by the message's
        own time, so that what a broker kept does not pass for new."""
        try:
            target, said_at = target_of(heard)
        except SourceError as error:
            caller.fail(error, heard.at)
            return
        if caller.calls is not None and said_at < caller.heard_at:
            return
        calls = []
        if target == SHED:
            begun = next(iter(caller.calls or []), None)
            calls = [begun or self._shed(caller, said_at)]
        caller.hear(calls, said_at)

    def _shed(self, caller: Caller, said_at: datetime) -> Call:
        return Call(
            call_id=f"{caller.name}-{said_at:%Y%m%dT%H%M%S}",
            source=caller.name,
            by=caller.status().url,
            start=said_at,
            to_kw=self._shed_to_kw,
        )

    async def _poll(self, vtn: Vtn, caller: Caller, interval_s: float) -> None:
        failures = 0
        while True:
            now = self._clock.now()
            wait_s = None
            try:
                caller.hear(await told(vtn.calls(now)), now)
                failures = 0
            except SourceError as error:
                caller.fail(error, now)
                failures, wait_s = failures + 1, error.retry_after_s
            self._on_progress(caller.name)
            pause = pause_s(interval_s, failures, wait_s, longest_s=max(interval_s, 120.0))
            await asyncio.sleep(pause / self._clock.speed)

    def said(self) -> Mapping[str, list[Call]]:
        """By source, what is called for now; who said nothing yet is not there. Silence is a source too."""
        spoken = {caller.name: caller.calls for caller in self._callers if caller.calls is not None}
        return {**spoken, SILENCE: self._fail_safe.calls(self._callers, self._clock.now())}

    def statuses(self) -> list[SourceStatus]:
        """How each is doing."""
        return [caller.status() for caller in self._callers]
