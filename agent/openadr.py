"""Events of an OpenADR 3 server (VTN) as calls of the grid. Shapes: OpenADR 3.0/3.1 definition, read by `openadr3`.

What an interval asks, by the type of its payload: `SIMPLE` 0 nothing, 1 to 3 shed to the site's agreed load;
`IMPORT_CAPACITY_LIMIT` and `DISPATCH_SETPOINT` that load; `DISPATCH_SETPOINT_RELATIVE` so much less, if negative. Other
types (prices, greenhouse gas) call nobody. Units are W, kW or MW, as the event says, else as the site is configured.
Repetition by an event's own `duration` (3.1) is not read: its intervals are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from agent.fetch import Fetcher, SourceError, data_of
from agent.market.sources import at, number
from agent.obligations import Call, check

OPENADR = "openadr"
PAGE = 50
MOST_PAGES = 20
_KW = {"W": 1e-3, "KW": 1.0, "MW": 1e3}
_TO = ("IMPORT_CAPACITY_LIMIT", "DISPATCH_SETPOINT")
_NOW = ("0000", "0001-01-01")
"""A start in these years means: from the moment of its making."""
_FOR_EVER = ("P9999Y", "PT0S")
_OBEYED = ("SIMPLE", *_TO, "DISPATCH_SETPOINT_RELATIVE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """The calls that were read, and what could not be read beside them."""

    calls: list[Call]
    problem: str | None = None


class Vtn:
    """The server, asked for its events."""

    def __init__(
        self,
        fetcher: Fetcher,
        *,
        url: str,
        program_id: str = "",
        client_id: str | None = None,
        secret: str | None = None,
        token_url: str = "",
        targets: Sequence[str] = (),
        load_unit: str | None = None,
        shed_to_kw: float,
    ) -> None:
        self._fetcher = fetcher
        self.url = url
        self._program_id = program_id
        self._client_id = client_id
        self._secret = secret
        self._token_url = token_url
        self._targets = targets
        self._load_unit = load_unit
        self._shed_to_kw = shed_to_kw
        self._token: str | None = None if client_id is not None else secret

    async def calls(self, now: datetime) -> Events:
        """What its events call for from now on. Raises `SourceError`."""
        try:
            events = await self._events()
        except SourceError as error:
            if self._client_id is None or error.kind not in {"status_401", "status_403"}:
                raise
            self._token = None  # it expired
            events = await self._events()
        return calls_of(events, now, shed_to_kw=self._shed_to_kw, load_unit=self._load_unit, by=self.url)

    async def _events(self) -> list[Any]:
        if self._token is None and self._client_id is not None:
            self._token = await self._new_token()
        headers = {} if self._token is None else {"Authorization": f"Bearer {self._token}"}
        events: list[Any] = []
        for page in range(MOST_PAGES):
            query: dict[str, Any] = {"skip": page * PAGE, "limit": PAGE, "targets": list(self._targets)}
            if self._program_id:
                query["programID"] = self._program_id
            answer = await self._fetcher.get(
                f"{self.url}/events?{urlencode(query, doseq=True)}", headers=headers, fresh=True
            )
            found = data_of(answer.body)
            if not isinstance(found, list):
                raise SourceError("malformed", "events are no list")
            events += found
            if len(found) < PAGE:
                return events
        raise SourceError("too_large", f"more than {MOST_PAGES * PAGE} events")

    async def _new_token(self) -> str:
        where = self._token_url
        if not where:
            where = str(at(data_of((await self._fetcher.get(f"{self.url}/auth/server")).body), "tokenURL"))
        form = {
            "grant_type": "client_credentials",
            "client_id": self._client_id or "",
            "client_secret": self._secret or "",
        }
        token = at(data_of((await self._fetcher.post_form(where, form)).body), "access_token")
        if not isinstance(token, str) or not token:
            raise SourceError("malformed", "the answer holds no access_token")
        return token


def calls_of(
    events: Sequence[Any], now: datetime, *, shed_to_kw: float, load_unit: str | None = None, by: str
) -> Events:
    """The calls of events that are not over. An event that should be obeyed and cannot be read is told, and hides no
    other."""
    calls: list[Call] = []
    problems: list[str] = []
    for event in events:
        try:
            if _calls_somebody(event):
                found = _calls(event, shed_to_kw, load_unit, by)
                calls += [call for call in found if not call.is_over(now)]
        except (SourceError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
            name = event.get("id", "?") if isinstance(event, Mapping) else "?"
            problems.append(f"event {name!r:.40}: {str(error).partition(chr(10))[0]}")
    return Events(calls=calls, problem="; ".join(problems[:3]) or None)


def _calls_somebody(event: Any) -> bool:
    """Whether any of its payloads is of a kind that is obeyed; prices are many and call nobody."""
    if not isinstance(event, Mapping):
        raise SourceError("malformed", "it is no object")
    return any(
        payload["type"] in _OBEYED
        for each in event.get("intervals") or []
        for payload in each.get("payloads") or []
    )


def _calls(raw: Mapping[str, Any], shed_to_kw: float, load_unit: str | None, by: str) -> list[Call]:
    from openadr3.entities.models import Event  # noqa: PLC0415 - an extra

    event = Event.from_raw(_readable(raw))
    units = {each.payload_type: each.units for each in event.payload_descriptors or []}
    calls = []
    for interval in event.resolved_intervals():
        period = interval.interval_period
        for payload in interval.payloads:
            unit = units.get(payload.type) or load_unit
            asked = _asked(payload.type, payload.values, unit, shed_to_kw)
            if asked is None:
                continue
            if period is None or period.start is None:
                raise ValueError("an interval has no start")
            start = _utc(period.start)
            end = None if period.period is None else _utc(period.period[1])
            if end == start:  # at once, and until it is taken back
                end = None
            check(start, end, asked.get("to_kw"), asked.get("by_kw"))
            calls.append(
                Call(
                    call_id=f"{OPENADR}-{event.id}-{interval.id}-{payload.type}",
                    source=OPENADR,
                    by=by,
                    start=start,
                    end=end,
                    **asked,
                )
            )
    return calls


def _asked(kind: str, values: Sequence[Any], unit: str | None, shed_to_kw: float) -> dict[str, float] | None:
    """`to_kw` or `by_kw` of a payload; None if it calls nobody."""
    if kind == "SIMPLE":
        return {"to_kw": shed_to_kw} if number(at(values, 0), kind) > 0 else None
    if kind not in (*_TO, "DISPATCH_SETPOINT_RELATIVE"):
        return None
    if unit is None:
        raise ValueError(
            f"{kind} has no unit; it may stand in the programme: give obligations.openadr.load_unit"
        )
    if unit.upper() not in _KW:
        raise ValueError(f"{kind} in {unit!r:.20} is no load; W, KW and MW are known")
    kw = number(at(values, 0), kind) * _KW[unit.upper()]
    if kind in _TO:
        return {"to_kw": kw}
    return {"by_kw": -kw} if kw < 0 else None


def _utc(moment: datetime) -> datetime:
    plain = datetime.fromisoformat(moment.isoformat())
    return plain.astimezone(UTC) if plain.tzinfo is not None else plain.replace(tzinfo=UTC)


def _readable(raw: Mapping[str, Any]) -> dict[str, Any]:
    """An event with the definition's words for `now` and `for ever` as what they mean."""

    def period(of: Any) -> Any:
        if not isinstance(of, Mapping):
            return of
        read = dict(of)
        if str(read.get("start", "")).startswith(_NOW):
            read["start"] = raw["createdDateTime"]
        if str(read.get("duration", "")).startswith(_FOR_EVER):
            del read["duration"]
        return read

    event = {
        name: value for name, value in raw.items() if name != "targets"
    }  # of 3.0 they have another shape
    if "intervalPeriod" in event:
        event["intervalPeriod"] = period(event["intervalPeriod"])
    event["intervals"] = [
        {**each, "intervalPeriod": period(each["intervalPeriod"])} if "intervalPeriod" in each else each
        for each in event.get("intervals") or []
    ]
    return event
