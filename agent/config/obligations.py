"""What the grid is owed."""

from pydantic import Field

from agent.config.section import Section


class ObligationsSection(Section):
    """Calls of the grid to shed load; operators give others with `hashcost shed`."""

    schedule_file: str | None = Field(
        default=None, description="CSV with start, end, to_kw, by_kw; read again when it changes."
    )
