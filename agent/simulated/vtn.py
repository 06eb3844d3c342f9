"""A server of OpenADR 3 events (VTN) for `SimulatedSources`, as the definition 3.1 has it: tokens, pages, events."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs

from agent.simulated.web import Handler, Request

MADE = "2026-01-01T00:00:00Z"


class SimulatedVtn:
    """Holds events and gives tokens for one client. `handlers` are for the server, under the name `vtn`."""

    def __init__(self, *, client_id: str = "site", secret: str = "simulated-secret") -> None:  # noqa: S107 - it is
        self.client_id = client_id
        self.secret = secret
        self.events: list[Any] = []
        self.tokens = 0
        self.url = ""
        """Where it is, once the server is there."""

    def handlers(self) -> Mapping[str, Handler]:
        """For `SimulatedSources`."""
        return {"vtn": self._answer}

    def expire(self) -> None:
        """No token that was given is good any more."""
        self.tokens += 1

    @property
    def token(self) -> str:
        """The one that is good now."""
        return f"token-{self.tokens}"

    def _answer(self, request: Request) -> Any:
        if request.path == "/auth/server":
            return {"tokenURL": f"{self.url}/auth/token"}
        if request.path == "/auth/token":
            form = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
            right = (form.get("client_id"), form.get("client_secret")) == (self.client_id, self.secret)
            if not right or form.get("grant_type") != "client_credentials":
                return HTTPStatus.UNAUTHORIZED
            return {"access_token": self.token, "token_type": "Bearer", "expires_in": 3600}
        if request.path != "/events":
            return None
        given = {name.lower(): value for name, value in request.headers.items()}.get("authorization")
        if given != f"Bearer {self.token}":
            return HTTPStatus.FORBIDDEN
        program = request.query.get("programID")
        found = [event for event in self.events if program in (None, event["programID"])]
        first = int(request.query.get("skip", 0))
        return found[first : first + int(request.query.get("limit", 50))]


def event(
    payload: str,
    value: float,
    *,
    start: datetime | str,
    lasts: timedelta | str = timedelta(hours=1),
    event_id: str = "e1",
    program_id: str = "p1",
    units: str | None = None,
) -> dict[str, Any]:
    """An event of one interval."""
    duration = lasts if isinstance(lasts, str) else f"PT{int(lasts.total_seconds())}S"
    began = start if isinstance(start, str) else start.isoformat().replace("+00:00", "Z")
    made: dict[str, Any] = {
        "id": event_id,
        "objectType": "EVENT",
        "createdDateTime": MADE,
        "modificationDateTime": MADE,
        "programID": program_id,
        "eventName": "peak",
        "priority": 1,
        "intervalPeriod": {"start": began, "duration": duration},
        "intervals": [{"id": 0, "payloads": [{"type": payload, "values": [value]}]}],
    }
    if units is not None:
        made["payloadDescriptors"] = [
            {"objectType": "EVENT_PAYLOAD_DESCRIPTOR", "payloadType": payload, "units": units}
        ]
    return made
