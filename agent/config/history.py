"""How long the past is kept."""

from datetime import timedelta
from typing import Annotated

from pydantic import Field, field_validator

from agent.archive import MISSING, is_possible
from agent.config.section import Section


class HistorySection(Section):
    """How long the past is kept. What the ledger has booked stays for ever."""

    readings_days: Annotated[float, Field(ge=0, le=36_500)] = Field(
        default=60.0, description="Days for which single readings are kept once they are booked; 0: for ever."
    )

    steps_days: Annotated[float, Field(ge=0, le=36_500)] = Field(
        default=400.0,
        description="Days for which the steps of five minutes are kept that readings are rolled up into, and events, "
        "rounds, prices and orders that ended; 0: for ever.",
    )

    archive_directory: str | None = Field(
        default=None,
        description="Directory for Parquet files by day, into which steps and hours of the ledger, prices, events and "
        "orders go after `steps_days`; without it they are dropped, but for the ledger, which stays. Needs the extra "
        "`parquet`.",
    )

    corrections_file: str | None = Field(
        default=None,
        description="CSV of final power prices: start, usd_per_kwh or usd_per_mwh; read on change.",
    )

    @field_validator("archive_directory")
    @classmethod
    def _is_possible(cls, directory: str | None) -> str | None:
        if directory is not None and not is_possible():
            raise ValueError(MISSING)
        return directory

    def keep_steps(self) -> timedelta | None:
        """For how long; None is for ever."""
        return timedelta(days=self.steps_days) if self.steps_days else None

    def keep_readings(self) -> timedelta | None:
        """For how long; None is for ever."""
        return timedelta(days=self.readings_days) if self.readings_days else None
