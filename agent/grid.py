"""Those outside who may call the site to shed load: listened to for as long as the agent lives; and their silence."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta

from agent.clock import Clock
from agent.config.mqtt import MqttSection
from agent.config.obligations import ObligationsSection
from agent.fetch import Fetcher, SourceError, data_of, pause_s, told
from agent.market.health import ANSWERS_AGAIN, Health
from agent.market.quote import SourceStatus
from agent.market.sources import at, number
from agent.mqtt import Heard, Subscription
from agent.obligations import Call
from agent.openadr import OPENADR, Vtn

MQTT = "mqtt"
SILENCE = "silence"
CLOCK_ERROR = timedelta(seconds=60)
"""A message from further in the future was made by a clock that is wrong."""
SHED, RELEASE = 0, 100
GRACE_S = 60.0
"""An agent that begins takes nobody for silent before this."""


class Caller:
    """One who may call. `calls` is what was said last; None while nothing was said or is remembered. `said_at` is when
    that was meant, so that older words change nothing."""

    def __init__(self, name: str, address: str, clock: Clock, *, is_asked: bool) -> None:
        self.name = name
        self.calls: list[Call] | None = None
        self.said_at: datetime | None = None
        self._clock = clock
        self._began_s = self._heard_s = clock.monotonic_s()
        self._age_s = 0.0
        """How old its last word was when it was heard."""
        # who speaks unasked may say nothing for long after its connection is back
        self.health = Health(name, address, well_in_row=ANSWERS_AGAIN if is_asked else 1)

    def remember(self, calls: list[Call], said_at: datetime) -> None:
        """What it said before the agent began."""
        self.calls, self.said_at = calls, said_at
        self._age_s = max(0.0, (self._clock.now() - said_at).total_seconds())

    def hear(self, calls: list[Call], said_at: datetime, *, problem: str | None = None) -> None:
        """It said what it calls for; `problem` is what of it could not be read."""
        now = self._clock.now()
        if problem is None:
            self.health.well()
        else:
            self.health.failed(SourceError("malformed", problem), now)
        self.calls, self.said_at = calls, said_at
        self._heard_s, self._age_s = self._clock.monotonic_s(), max(0.0, (now - said_at).total_seconds())
        self.health.said(f"{len(calls)} calls", said_at)

    def is_silent(self, after_s: float) -> bool:
        """Nothing was said for so long, by a clock that nobody sets. An agent that begins gives it a while to speak."""
        now_s, speed = self._clock.monotonic_s(), self._clock.speed
        since_s = self._age_s + (now_s - self._heard_s) * speed
        return since_s >= after_s and (now_s - self._began_s) * speed >= min(after_s, GRACE_S)


class FailSafe:
    """What silence of a caller means: nothing new, or to shed to `shed_to_kw` until it speaks again."""

    def __init__(self, *, sheds: bool, shed_to_kw: float, after_s: float) -> None:
        self._sheds = sheds
        self._shed_to_kw = shed_to_kw
        self._after_s = after_s
        self._calls: dict[str, Call] = {}

    def remember(self, calls: Iterable[Call]) -> None:
        """Silences that were acted on before the agent began: they go on until their callers speak."""
        self._calls = {call.by: call for call in calls if self._sheds}

    def spoken(self, caller: Caller) -> None:
        """It said something."""
        if not caller.is_silent(self._after_s):
            self._calls.pop(caller.name, None)

    def calls(self, callers: Iterable[Caller], now: datetime) -> list[Call]:
        """What silence calls for now."""
        for caller in callers:
            if self._sheds and caller.name not in self._calls and caller.is_silent(self._after_s):
                self._calls[caller.name] = Call(
                    call_id=f"{SILENCE}-{caller.name}-{now:%Y%m%dT%H%M%S}",
                    source=SILENCE,
                    by=caller.name,
                    start=now,
                    to_kw=self._shed_to_kw,
                )
        return list(self._calls.values())


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
            sheds=section.on_silence == "shed", shed_to_kw=self._shed_to_kw, after_s=section.silence_s
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
                targets=given.targets,
                load_unit=given.load_unit,
                shed_to_kw=self._shed_to_kw,
            )
            caller = self._add(OPENADR, given.url, is_asked=True)
            self.loops[OPENADR] = lambda: self._poll(vtn, caller, given.poll_s)

    def _add(self, name: str, address: str, *, is_asked: bool) -> Caller:
        caller = Caller(name, address, self._clock, is_asked=is_asked)
        self._callers.append(caller)
        return caller

    def _listen(self, topic: str, mqtt: MqttSection) -> None:
        broker = mqtt.broker()
        caller = self._add(MQTT, f"{broker.address}/{topic}", is_asked=False)
        subscription = Subscription(
            broker,
            topic,
            self._clock.now,
            on_message=lambda heard: self._take(caller, heard),
            on_connected=caller.health.well,
            on_failure=lambda detail: caller.health.failed(
                SourceError("unreachable", detail), self._clock.now()
            ),
            on_progress=lambda: self._on_progress(MQTT),
        )
        self.loops[MQTT] = subscription.run

    def _take(self, caller: Caller, heard: Heard) -> None:
        """A target. One that is older than the last, or from the future, changes nothing; age is told by the message's
        own time, so that what a broker kept does not pass for new."""
        try:
            target, said_at = target_of(heard)
        except SourceError as error:
            caller.health.failed(error, heard.at)
            return
        if caller.said_at is not None and said_at < caller.said_at:
            return
        calls = []
        if target == SHED:
            begun = next(iter(caller.calls or []), None)
            calls = [begun or self._shed(caller, said_at)]
        caller.hear(calls, said_at)
        self._fail_safe.spoken(caller)

    def _shed(self, caller: Caller, said_at: datetime) -> Call:
        return Call(
            call_id=f"{caller.name}-{said_at:%Y%m%dT%H%M%S}",
            source=caller.name,
            by=caller.health.status.url,
            start=said_at,
            to_kw=self._shed_to_kw,
        )

    async def _poll(self, vtn: Vtn, caller: Caller, interval_s: float) -> None:
        failures = 0
        while True:
            now = self._clock.now()
            wait_s = None
            try:
                events = await told(vtn.calls(now))
                caller.hear(events.calls, now, problem=events.problem)
                self._fail_safe.spoken(caller)
                failures = 0
            except SourceError as error:
                caller.health.failed(error, now)
                failures, wait_s = failures + 1, error.retry_after_s
            self._on_progress(caller.name)
            pause = pause_s(interval_s, failures, wait_s, longest_s=max(interval_s, 120.0))
            await asyncio.sleep(pause / self._clock.speed)

    def remember(self, calls: Iterable[Call], said_at: Mapping[str, str]) -> None:
        """What was called for before the agent began, and when each caller had said it (ISO-8601)."""
        known = list(calls)
        for caller in self._callers:
            if caller.name in said_at:
                own = [call for call in known if call.source == caller.name]
                caller.remember(own, datetime.fromisoformat(said_at[caller.name]))
        names = {caller.name for caller in self._callers}
        self._fail_safe.remember(call for call in known if call.source == SILENCE and call.by in names)

    def said_at(self) -> dict[str, str]:
        """When each caller said what it said last, to be remembered."""
        return {each.name: each.said_at.isoformat() for each in self._callers if each.said_at is not None}

    def said(self) -> Mapping[str, list[Call]]:
        """By source, what is called for now; who said nothing yet is not there. Silence is a source too."""
        spoken = {caller.name: caller.calls for caller in self._callers if caller.calls is not None}
        return {**spoken, SILENCE: self._fail_safe.calls(self._callers, self._clock.now())}

    def statuses(self) -> list[SourceStatus]:
        """How each is doing."""
        return [caller.health.status for caller in self._callers]
