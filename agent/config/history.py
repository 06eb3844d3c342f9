"""How long the past is kept."""

from datetime import timedelta
from typing import Annotated

from pydantic import Field

from agent.config.section import Section


class HistorySection(Section):
    """How long the past is kept. What the ledger has booked stays for ever."""

    readings_days: Annotated[float, Field(ge=0, le=36_500)] = Field(
        default=60.0, description="Days for which single readings are kept once they are booked; 0: for ever."
    )

    corrections_file: str | None = Field(
        default=None,
        description="CSV of final power prices: start, usd_per_kwh or usd_per_mwh; read on change.",
    )

    def keep_readings(self) -> timedelta | None:
        """For how long; None is for ever."""
        return timedelta(days=self.readings_days) if self.readings_days else None
