"""Under whose terms a machine runs, the site's, its group's or its own, and on whose account it is curtailed. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from agent.appraisal import Terms
from drivers.reading import MachineId


class Economics(StrEnum):
    """On whose account a machine may be curtailed."""

    SITE = "site"
    """It is the site's own."""
    NONE = "none"
    """A customer's: on nobody's."""
    OWNER = "owner"
    """A customer's, who wants it curtailed when it loses money at what they pay."""
    HOST = "host"
    """A customer's, whose contract lets the host curtail it on the host's account."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineTerms:
    """What a machine runs under. `owner` is empty for the site's own machines; `grid` says whether obligations to the
    grid may take it; `custom_power_w` are watts that somebody measured for it once."""

    terms: Terms
    owner: str = ""
    economics: Economics = Economics.SITE
    grid: bool = True
    custom_power_w: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TermsBook:
    """The terms of a whole site: by machine id, by group, and of everybody else."""

    site: Terms = field(default_factory=Terms)
    own: Mapping[str, MachineTerms] = field(default_factory=dict)

    def of(self, machine_id: MachineId, group: str) -> MachineTerms:
        """A machine's own terms, else its group's, else the site's."""
        found = self.own.get(machine_id) or self.own.get(group)
        return MachineTerms(terms=self.site) if found is None else found
