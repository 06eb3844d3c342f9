"""Whom the agent tells of what is wrong, and when."""

from datetime import datetime, timedelta
from importlib.util import find_spec
from typing import Annotated, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, model_validator

from agent.alerts import Limits, Severity
from agent.config.hours import clocks, span
from agent.config.secret import SecretSection
from agent.config.section import Section
from agent.herald import Habits
from agent.messenger import MISSING, Target


class TargetSection(SecretSection):
    """Somebody who is told: an address of apprise, such as `mailtos://...`, which is a secret."""

    least: Annotated[Severity, Field(strict=False)] = Field(
        default=Severity.WARNING, description="warning: everything; critical: only that."
    )

    @model_validator(mode="after")
    def _one_reference(self) -> Self:
        self.check_secret(needed=True)
        return self


class AlertsSection(Section):
    """Limits of what somebody is told of; 0 switches one off."""

    losing_usd_per_day: Annotated[float, Field(ge=0)] = Field(
        default=10.0, description="What machines under break-even lose together, USD/day."
    )
    chip_temp_c: Annotated[float, Field(ge=0, le=200)] = Field(
        default=95.0, description="The hottest chip, degrees Celsius."
    )
    offline_share: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.05, description="Share of the machines that cannot be read."
    )
    disk_free_share: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.1, description="Share of the database's disk that is still free."
    )
    hold_s: Annotated[float, Field(ge=0, le=86_400)] = Field(
        default=600.0,
        description="Seconds that something must be so, or be over, before it is told; critical: 120 at most.",
    )
    remind_s: Annotated[float, Field(ge=0, le=604_800)] = Field(
        default=21_600.0,
        description="Seconds after which a critical alert that nobody acknowledged is told again.",
    )
    quiet_hours: Annotated[str, AfterValidator(span)] | None = Field(
        default=None,
        description="Wall clock of power.time_zone in which only what is critical is told: 22:00-06:00.",
    )
    site: str = Field(
        default="hashcost", description="Name of the site in messages.", min_length=1, max_length=60
    )
    targets: dict[str, TargetSection] = Field(default={}, description="Who is told.")

    @model_validator(mode="after")
    def _can_be_sent(self) -> Self:
        if self.targets and find_spec("apprise") is None:
            raise ValueError(MISSING)
        return self

    def recipients(self) -> list[Target]:
        """Who is told, addresses resolved."""
        return [
            Target(name=name, address=section.secret(), least=section.least)
            for name, section in self.targets.items()
        ]

    def habits(self, zone: str) -> Habits:
        """The same as the agent wants it."""
        limits = Limits(
            losing_usd_per_day=self.losing_usd_per_day or None,
            chip_temp_c=self.chip_temp_c or None,
            offline_share=self.offline_share or None,
            disk_free_share=self.disk_free_share or None,
            hold=timedelta(seconds=self.hold_s),
            remind=timedelta(seconds=self.remind_s) if self.remind_s else None,
        )
        return Habits(
            limits=limits, targets=self.recipients(), site=self.site, is_quiet=self._quiet(ZoneInfo(zone))
        )

    def _quiet(self, zone: ZoneInfo) -> "Quiet":
        return Quiet(self.quiet_hours, zone)


class Quiet:
    """Whether a moment is within the quiet hours of a site, which may go over midnight."""

    def __init__(self, text: str | None, zone: ZoneInfo) -> None:
        self._hours = None if text is None else clocks(text)
        self._zone = zone

    def __call__(self, moment: datetime) -> bool:
        """Whether it is."""
        if self._hours is None:
            return False
        start, end = self._hours
        clock = moment.astimezone(self._zone).time()
        return start <= clock < end if start < end else clock >= start or clock < end
