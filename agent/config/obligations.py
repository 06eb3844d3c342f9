"""What the grid is owed."""

from importlib.util import find_spec
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from agent.config.market import web_address
from agent.config.mqtt import plain_topic
from agent.config.secret import SecretSection
from agent.config.section import Section


class OpenAdrSection(SecretSection):
    """A server of OpenADR 3 (VTN) whose events are obligations. The secret is the client's; without a client_id it is
    the bearer token itself."""

    url: Annotated[str, AfterValidator(web_address)] = Field(
        description="Base address, such as https://vtn.example/openadr3/3.1.0."
    )
    program_id: str = Field(default="", description="Events of this programme only.")
    client_id: str | None = Field(
        default=None, description="Client that gets a token by its secret (OAuth 2 client credentials)."
    )
    token_url: str = Field(
        default="", description="Where tokens are given; default: what the server says under /auth/server."
    )
    targets: list[str] = Field(
        default=[],
        description="Targets of events that are wanted; a server of 3.1 tells targeted ones only if asked.",
    )
    load_unit: Literal["W", "KW", "MW"] | None = Field(
        default=None,
        description="Unit of a load where the event does not tell: it may stand in the programme.",
    )
    poll_s: Annotated[float, Field(ge=10, le=3600)] = Field(
        default=60.0, description="Seconds between two looks at the events."
    )

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if find_spec("openadr3") is None:
            raise ValueError(
                "openadr needs openadr3, which is not installed: pip install 'hashcost[openadr]'"
            )
        self.check_secret()
        if self.client_id is not None and not self.has_secret:
            raise ValueError("a client_id needs its secret: password_file or the like")
        return self


Topic = Annotated[str, AfterValidator(plain_topic)]


class ObligationsSection(Section):
    """Calls of the grid to shed load; operators give others with `hashcost shed`."""

    schedule_file: str | None = Field(
        default=None, description="CSV with start, end, to_kw, by_kw; read again when it changes."
    )
    mqtt_topic: Topic = Field(
        default="",
        description='Topic of `{"target": 0 or 100, "timestamp": unix}`: 0 sheds to shed_to_kw, 100 releases.',
    )
    openadr: OpenAdrSection | None = Field(default=None, description="Events of an OpenADR 3 server.")
    shed_to_kw: Annotated[float, Field(ge=0, lt=1e7)] | None = Field(
        default=None,
        description="Load that the site keeps when a call names none: target 0, level 1, silence.",
    )
    on_silence: Literal["keep", "shed"] | None = Field(
        default=None,
        description="When mqtt_topic or openadr falls silent: keep what was called last, or shed to shed_to_kw.",
    )
    silence_s: Annotated[float, Field(ge=30, le=86_400)] = Field(
        default=300.0, description="Seconds without a word after which it is silent."
    )

    respond_s: Annotated[float, Field(ge=0, le=86_400)] = Field(
        default=600.0,
        description="Seconds after its start within which a call is to be met; then the site is short.",
    )

    @property
    def listens(self) -> bool:
        """Whether somebody outside may call."""
        return bool(self.mqtt_topic) or self.openadr is not None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not self.listens:
            if self.shed_to_kw is not None or self.on_silence is not None:
                raise ValueError("shed_to_kw and on_silence are for mqtt_topic and openadr: neither is given")
            return self
        if self.shed_to_kw is None:
            raise ValueError("give shed_to_kw: the load that the site keeps when it is called to shed")
        if self.on_silence is None:
            raise ValueError("give on_silence: what its silence means is in the contract, 'keep' or 'shed'")
        if self.openadr is not None and self.silence_s < 3 * self.openadr.poll_s:
            raise ValueError("silence_s must be at least three times openadr.poll_s")
        return self
