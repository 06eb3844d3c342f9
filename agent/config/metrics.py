"""Where metrics are shown."""

import ipaddress
from typing import Annotated

from pydantic import AfterValidator, Field

from agent.config.section import Section
from agent.publisher import Listen


def _loopback(text: str) -> str:
    """`127.0.0.1:9469`. Raises `ValueError`."""
    host, _, port = text.rpartition(":")
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError as error:
        raise ValueError(f"{text!r} is no address and port; write 127.0.0.1:9469") from error
    if not address.is_loopback:
        raise ValueError(
            f"{text!r} is not of this host alone: metrics have no login; put a proxy before 127.0.0.1"
        )
    if not (port.isdigit() and 1 <= int(port) <= 65_535):
        raise ValueError(f"{text!r}: the port is 1 to 65535")
    return text


class MetricsSection(Section):
    """Nothing listens and nothing is written unless it is asked for."""

    listen: Annotated[str, AfterValidator(_loopback)] | None = Field(
        default=None, description="Loopback address and port of the page /metrics: 127.0.0.1:9469."
    )
    textfile: str | None = Field(
        default=None,
        description="File for node_exporter's textfile collector, replaced every round; its name ends in .prom.",
        pattern=r"^/.*\.prom$",
    )

    def address(self) -> Listen | None:
        """Where to listen."""
        if self.listen is None:
            return None
        host, _, port = self.listen.rpartition(":")
        return Listen(host.strip("[]"), int(port))
