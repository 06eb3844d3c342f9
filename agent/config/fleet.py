"""The fleet that a site belongs to, over NATS."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from agent.config.postgres import PostgresSection
from agent.config.section import Section
from agent.federation.signing import public_key

if TYPE_CHECKING:
    from agent.federation.connection import Servers

MISSING = "needs nats-py, which is not installed: pip install 'hashcost[fleet]'"
Token = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
_SCHEMES = {"nats", "tls"}


class FleetSection(Section):
    """What a site tells a fleet, and how. Without servers it tells nobody."""

    servers: list[str] = Field(
        default=[],
        description="Addresses of NATS servers, nats://host:4222 or tls://host:4222; none tells nobody.",
    )
    org: Token | None = Field(default=None, description="Organisation: letters, digits, dash, underscore.")
    site: Token | None = Field(default=None, description="Name of this site within it, in the same letters.")
    agent: Token | None = Field(
        default=None,
        description="Name of this agent among those that stand by for one another; none: it is the only one.",
    )
    part_of: Token | None = Field(
        default=None,
        description="Name that agents share who have a part of a site each; none: every known machine is this agent's.",
    )
    own_groups: list[str] = Field(
        default=[],
        description="Of a part of a site: the groups whose machines are its own, site for those in none; default: all.",
    )
    creds_file: str | None = Field(default=None, description="File with the site's credentials (.creds).")
    nkey_file: str | None = Field(default=None, description="File with the seed of the site's nkey.")
    ca_file: str | None = Field(
        default=None, description="Certificates that a server's may be signed with; default: the system's."
    )
    outbox_mb: int = Field(
        default=256, ge=1, le=100_000, description="Most MB kept for the fleet while it cannot be reached."
    )
    delta: float = Field(
        default=0.02,
        ge=0,
        le=0.5,
        description="By which fraction watts, hashrate or money move before it is told.",
    )
    operators: dict[Token, str] = Field(
        default={},
        description="Who may command the site from afar: names with public nkeys (U...); else nobody.",
    )
    stream_replicas: int = Field(
        default=1,
        ge=1,
        le=5,
        description="On how many servers a stream or a bucket that is made here is kept.",
    )
    stream_mb: int = Field(
        default=10_240, ge=10, le=10_000_000, description="Of fleet run: most MB in a stream that it makes."
    )
    stream_days: float = Field(
        default=30.0, ge=2, le=3660, description="Of fleet run: days that a stream that it makes keeps."
    )
    keep_days: float = Field(
        default=400.0,
        ge=2,
        le=36_600,
        description="Of fleet run: days for which hours, orders, events and prices of the sites are kept.",
    )
    postgres: PostgresSection = Field(
        default=PostgresSection(), description="Of fleet run: PostgreSQL as the database of the fleet."
    )

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if not self.servers:
            if self.model_fields_set - {"servers"}:
                raise ValueError("give servers: without them the rest does nothing")
            return self
        if find_spec("nats") is None:
            raise ValueError(f"fleet {MISSING}")
        if self.org is None:
            raise ValueError("give org: subjects are hashcost.ORG.SITE.KIND")
        if self.agent is not None and self.site is None:
            raise ValueError("agent: give site, of whose machines it is")
        self._check_part()
        if self.creds_file is not None and self.nkey_file is not None:
            raise ValueError("give creds_file or nkey_file, not both")
        for address in self.servers:
            _check_address(address)
        _check_keys(self.operators)
        for name in ("creds_file", "nkey_file", "ca_file"):
            if (path := getattr(self, name)) is not None:
                _check_file(name, Path(path))
        return self

    def _check_part(self) -> None:
        if self.part_of is None:
            if self.own_groups:
                raise ValueError("own_groups: give part_of; a site of one part has all its machines")
            return
        if self.site is None:
            raise ValueError("part_of: give site, the name of this part")
        if self.site == self.part_of:
            raise ValueError("part_of: each part has a site of its own, and the whole another name")

    def connection(self, name: str) -> "Servers":
        """The servers, for one who calls itself `name`."""
        from agent.federation.connection import Servers  # noqa: PLC0415 - of the extra

        return Servers(
            addresses=tuple(self.servers),
            name=name,
            creds_file=self.creds_file,
            nkey_file=self.nkey_file,
            ca_file=self.ca_file,
        )


def _check_address(address: str) -> None:
    parts = urlsplit(address)
    if parts.username or parts.password:
        raise ValueError("servers: no credentials in an address; give creds_file or nkey_file")
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise ValueError(f"servers: {address!r} is no address such as nats://10.0.0.5:4222")


def _check_keys(keys: dict[str, str]) -> None:
    for name, key in keys.items():
        try:
            public_key(key)
        except ValueError as error:
            raise ValueError(f"operators: {name}: {error}") from error


def _check_file(name: str, path: Path) -> None:
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise ValueError(f"{name}: {path} is empty")
    except OSError as error:
        raise ValueError(f"{name}: {path} cannot be read ({error.strerror})") from error
