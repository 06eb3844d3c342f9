"""Where the machines are, how they are read, and who logs in to them."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from agent.config.secret import SecretSection
from agent.config.section import Addresses, Section
from drivers.driver import Credentials


class ScanSection(Section):
    """Where the machines are."""

    addresses: Addresses = Field(
        default=[], description="Where to look: 10.0.0.0/22, 10.0.1-4.1-200, @file, host:port."
    )
    interval_s: Annotated[float, Field(ge=60, le=604_800)] = Field(
        default=3600.0, description="Seconds between scans for new and moved machines."
    )


class PollSection(Section):
    """How machines are read."""

    interval_s: Annotated[float, Field(ge=1, le=3600)] = Field(
        default=30.0, description="Seconds between the starts of poll rounds."
    )
    deadline_s: Annotated[float, Field(gt=0, le=60)] = Field(
        default=10.0, description="Seconds that one read of one machine may take."
    )
    workers: Annotated[int, Field(ge=1, le=500)] = Field(
        default=64, description="Machines read at the same time."
    )
    slow_interval_s: Annotated[float, Field(ge=60, le=86_400)] = Field(
        default=600.0,
        description="Seconds between reads of what rarely changes: configuration, pools, errors.",
    )

    @model_validator(mode="after")
    def _deadline_fits(self) -> Self:
        if self.deadline_s > self.interval_s:
            raise ValueError(
                f"deadline_s ({self.deadline_s:g}) must not exceed interval_s ({self.interval_s:g})"
            )
        return self


class CredentialSection(SecretSection):
    """Login of one family's machines; the password by reference."""

    username: str = Field(description="User name of the machines' interface.")

    @model_validator(mode="after")
    def _one_reference(self) -> Self:
        self.check_secret(needed=True)
        return self

    def resolve(self) -> Credentials:
        """The login itself. Raises `ValueError` naming what is not there."""
        return Credentials(username=self.username, password=self.secret())


CredentialFamily = Literal["antminer", "whatsminer_v2", "whatsminer_v3", "generic", "ssh"]
CredentialSections = dict[CredentialFamily, CredentialSection]


def resolved(sections: CredentialSections) -> dict[str, Credentials]:
    """Every login of these sections, secrets resolved; they were there when the file was validated."""
    return {family: section.resolve() for family, section in sections.items()}
