"""Accounts that some markets want beside a key: a token that is asked for with a name and a password, and expires."""

from dataclasses import dataclass, field

from agent.fetch import Fetcher, SourceError, data_of
from agent.market.sources import at

ERCOT_TOKEN_URL = (
    "https://ercotb2c.b2clogin.com/ercotb2c.onmicrosoft.com/B2C_1_PUBAPI-ROPC-FLOW/oauth2/v2.0/token"  # noqa: S105
)
ERCOT_CLIENT = "fec253ea-0d06-4272-a5e6-b478baeecd70"
"""The public client that ERCOT's guide names for everybody; it is no secret."""


@dataclass(slots=True, kw_only=True)
class ErcotAccount:
    """An account of ERCOT's public API: its ID token lasts an hour, and goes with every question beside the key.
    Source: ERCOT developer portal, "Registration and Authentication"."""

    username: str
    password: str = field(repr=False)
    token_url: str = ERCOT_TOKEN_URL
    _token: str | None = field(default=None, repr=False)

    async def headers(self, fetcher: Fetcher) -> dict[str, str]:
        """What goes with a question. Raises `SourceError`."""
        if self._token is None:
            form = {
                "grant_type": "password",
                "username": self.username,
                "password": self.password,
                "response_type": "id_token",
                "scope": f"openid {ERCOT_CLIENT} offline_access",
                "client_id": ERCOT_CLIENT,
            }
            answer = data_of((await fetcher.post_form(self.token_url, form)).body)
            token = at(answer, "id_token")
            if not isinstance(token, str) or not token:
                raise SourceError("malformed", "the answer holds no id_token")
            self._token = token
        return {"Authorization": f"Bearer {self._token}"}

    def refused(self) -> None:
        """The token is not good any more."""
        self._token = None
