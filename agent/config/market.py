"""Where hashprice comes from."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, HttpUrl, TypeAdapter, ValidationError, model_validator

from agent.config.secret import SecretSection
from agent.config.section import Section
from agent.market.sources import DEFAULT_URLS, KEYLESS, Endpoint

SourceName = Literal[
    "bitcoin_core",
    "mempool",
    "coinbase",
    "kraken",
    "bitstamp",
    "gemini",
    "luxor",
    "braiins",
    "blockchain_info",
]


def web_address(url: str) -> str:
    """An address of the web, without a slash at its end. Raises `ValueError`."""
    try:
        TypeAdapter(HttpUrl).validate_python(url)
    except ValidationError as error:
        raise ValueError(f"{url!r} is not an http or https address") from error
    return url.rstrip("/")


class SourceSection(SecretSection):
    """One source of live prices."""

    url: str | None = Field(default=None, description="Base URL; without one the public service is asked.")
    enabled: bool = Field(default=True, description="Whether it is asked.")
    username: str = Field(default="", description="User of a node's RPC.")
    cookie_file: str | None = Field(default=None, description="Cookie file of a Bitcoin Core node.")

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if self.url is not None:
            web_address(self.url)
        if self.enabled:
            self.check_secret()
        return self

    def endpoint(self, name: str) -> Endpoint:
        """The source as it is to be asked."""
        return Endpoint(
            name=name,
            url=web_address(self.url or DEFAULT_URLS[name]),
            username=self.username,
            secret=self.secret if self.has_secret else None,
            cookie_file=None if self.cookie_file is None else Path(self.cookie_file),
        )


class MarketSection(Section):
    """The inputs of hashprice: fixed numbers, or live sources."""

    source: Literal["fixed", "live"] = Field(
        default="fixed", description="fixed (the four numbers below) or live (the sources)."
    )
    difficulty: Annotated[float, Field(ge=1e13, le=1e16)] = Field(
        default=149.30e12, description="Network difficulty."
    )
    height: Annotated[int, Field(ge=0, le=20_000_000)] = Field(
        default=927_000, description="Height of the chain's tip; the subsidy is the next block's."
    )
    fees_btc: Annotated[float, Field(ge=0, le=3)] = Field(
        default=0.0269, description="Mean fees of a block, BTC."
    )
    btc_usd: Annotated[float, Field(ge=1000, le=10_000_000)] = Field(
        default=92_870.0, description="Price of a bitcoin, USD."
    )
    sources: dict[SourceName, SourceSection] = Field(
        default={}, description="Live sources: their addresses, keys, and those that are not to be asked."
    )

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if self.source == "live" and not self.endpoints():
            raise ValueError("source is live and no source is enabled: enable some, or set source to fixed")
        luxor = self.sources.get("luxor")
        if luxor is not None and luxor.enabled and not luxor.has_secret:
            raise ValueError("sources.luxor needs a key: password_env, password_file or password_credential")
        return self

    def endpoints(self) -> list[Endpoint]:
        """The sources to ask: those that need no key, and those that are configured."""
        sections = {name: SourceSection() for name in KEYLESS} | {str(k): v for k, v in self.sources.items()}
        return [section.endpoint(name) for name, section in sections.items() if section.enabled]

    def fixed(self) -> dict[str, Any]:
        """The four numbers."""
        return self.model_dump(include={"difficulty", "height", "fees_btc", "btc_usd"})
