"""The broker that prices or calls of the grid come over."""

from importlib.util import find_spec
from typing import Annotated, Self

from pydantic import Field, model_validator

from agent.config.secret import SecretSection
from agent.mqtt import MISSING, Broker


def plain_topic(topic: str) -> str:
    """A topic without wildcards: several voices are not one. Raises `ValueError`."""
    if any(sign in topic for sign in "#+\0") or len(topic.encode()) > 65_535:
        raise ValueError(f"{topic!r:.60} is no single topic: it has a wildcard")
    return topic


class MqttSection(SecretSection):
    """An MQTT broker."""

    host: str = Field(default="", description="Name or address of the broker; without it there is none.")
    port: Annotated[int, Field(ge=1, le=65_535)] | None = Field(
        default=None, description="Its port; default 1883, with TLS 8883."
    )
    username: str | None = Field(default=None, description="User; its password by password_file or the like.")
    tls: bool = Field(default=False, description="Whether to talk TLS and check the broker's certificate.")
    ca_file: str | None = Field(
        default=None, description="With tls: certificates that it may be signed with; default: the system's."
    )

    @model_validator(mode="after")
    def _usable(self) -> Self:
        self.check_secret()
        if self.host and find_spec("aiomqtt") is None:
            raise ValueError(f"mqtt {MISSING}")
        if not self.host and self.model_fields_set:
            raise ValueError("give the host: without it the rest does nothing")
        if self.ca_file is not None and not self.tls:
            raise ValueError("ca_file is for tls = true")
        if self.has_secret and self.username is None:
            raise ValueError("a password needs a username")
        return self

    def broker(self) -> Broker:
        """The broker, its password resolved."""
        return Broker(
            host=self.host,
            port=self.port or (8883 if self.tls else 1883),
            username=self.username,
            password=self.secret() if self.has_secret else None,
            tls=self.tls,
            ca_file=self.ca_file,
        )
