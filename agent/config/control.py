"""Who may speak to the running agent."""

from pydantic import Field

from agent.config.section import Section
from agent.control import OPERATOR_GROUP


class ControlSection(Section):
    """The groups of the host that decide who may look and who may give commands."""

    operator_group: str = Field(
        default=OPERATOR_GROUP, description="Group of the host whose members may give commands."
    )
    viewer_group: str | None = Field(
        default=None, description="Group whose members may ask for the status; without one everybody may."
    )
