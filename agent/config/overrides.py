"""What is different for some machines: their price, fees and watts, and whose they are."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from agent.appraisal import Terms
from agent.config.economics import EconomicsSection
from agent.config.machines import CredentialSections, resolved
from agent.config.section import Section
from agent.terms import Economics, MachineTerms
from drivers.driver import Credentials


class OverrideSection(Section):
    """Of a group or of one machine; what is not given is as it is for the site."""

    price_usd_per_kwh: Annotated[float, Field(gt=-1, lt=1)] | None = Field(
        default=None,
        description="What their energy costs, USD/kWh; of a customer's machines, the hosting rate.",
    )
    pool_fee: Annotated[float, Field(ge=0, lt=0.5)] | None = Field(
        default=None, description="Pool fee as a fraction."
    )
    dev_fee: Annotated[float, Field(ge=0, lt=0.5)] | None = Field(
        default=None, description="Fee of third-party firmware as a fraction."
    )
    reject: Annotated[float, Field(ge=0, lt=0.5)] | None = Field(
        default=None, description="Share of rejected and stale work as a fraction."
    )
    overhead: Annotated[float, Field(ge=0.5, le=3)] | None = Field(
        default=None, description="Avoidable overhead on energy."
    )
    sleep_power_w: Annotated[float, Field(ge=0, le=1000)] | None = Field(
        default=None, description="Watts asleep."
    )
    custom_power_w: Annotated[float, Field(gt=0, le=50_000)] | None = Field(
        default=None,
        description="Watts that somebody measured once; better than a nameplate, not than a report.",
    )
    owner: str = Field(default="", description="Whose they are, if not the site's.", max_length=80)
    economics: Literal["none", "owner", "host"] = Field(
        default="none",
        description="Of a customer's machines: curtail them on nobody's account, the owner's or the host's.",
    )
    grid: bool | None = Field(
        default=None, description="Whether obligations to the grid may take them; a customer's are not taken."
    )
    credentials: CredentialSections = Field(
        default={}, description="Their logins by family, where they are not the site's."
    )

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.economics != "none" and not self.owner:
            raise ValueError("economics is for machines of a customer: give their owner")
        if self.economics == "owner" and self.price_usd_per_kwh is None:
            raise ValueError("economics is owner: give price_usd_per_kwh, what the owner pays")
        return self

    def logins(self) -> dict[str, Credentials]:
        """Their own logins, secrets resolved."""
        return resolved(self.credentials)

    def machine_terms(self, site: EconomicsSection, credit_usd_per_kwh: float) -> MachineTerms:
        """The terms of these machines. On the host's account it is the site's price that counts."""
        names = ("pool_fee", "dev_fee", "reject", "overhead", "sleep_power_w")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        terms: Terms = site.model_copy(update=given).terms(
            credit_usd_per_kwh=credit_usd_per_kwh,
            price_usd_per_kwh=None if self.economics == "host" else self.price_usd_per_kwh,
        )
        return MachineTerms(
            terms=terms,
            owner=self.owner,
            economics=Economics(self.economics) if self.owner else Economics.SITE,
            grid=not self.owner if self.grid is None else self.grid,
            custom_power_w=self.custom_power_w,
        )
