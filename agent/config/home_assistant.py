"""Whether Home Assistant is told, over the broker of [mqtt]."""

from pydantic import Field

from agent.config.section import Section


class HomeAssistantSection(Section):
    """Nothing is told unless the site has a name here."""

    site: str | None = Field(
        default=None,
        description="Name of the site in topics: lower case, digits and underscore.",
        pattern=r"^[a-z0-9_]{1,40}$",
    )
    prefix: str = Field(
        default="homeassistant",
        description="Home Assistant's discovery prefix.",
        pattern=r"^[A-Za-z0-9_/-]{1,60}$",
    )
