"""PostgreSQL as the database of a fleet."""

from importlib.util import find_spec
from typing import Self
from urllib.parse import parse_qs, urlsplit

from pydantic import Field, model_validator

from agent.config.secret import SecretSection

MISSING = "needs psycopg, which is not installed: pip install 'hashcost[postgres]'"
_SCHEMES = {"postgresql", "postgres"}


class PostgresSection(SecretSection):
    """Where it is. Without a password named here it is found as PostgreSQL's own programs do: PGPASSFILE, ~/.pgpass."""

    url: str | None = Field(
        default=None,
        description="Of fleet run: where the fleet is kept, postgresql://user@host/database; none keeps files.",
    )

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if self.url is None:
            if self.has_secret:
                raise ValueError("give url: without it a password does nothing")
            return self
        check_url(self.url)
        if find_spec("psycopg") is None:
            raise ValueError(f"url {MISSING}")
        self.check_secret()
        return self


def check_url(url: str) -> None:
    """Raise `ValueError` for what is no address, or has a password in it: it would be shown."""
    try:
        parts = urlsplit(url)
        has_password = parts.password is not None or "password" in parse_qs(parts.query)
    except ValueError:
        raise ValueError("url: no address such as postgresql://fleet@db.example.net/fleet") from None
    if has_password:
        raise ValueError(
            "url: no password in an address; give password_file, password_env or password_credential"
        )
    if parts.scheme not in _SCHEMES:
        raise ValueError("url: no address such as postgresql://fleet@db.example.net/fleet")
