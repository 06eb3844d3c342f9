"""What stands between hashprice and a machine's margin."""

from typing import Annotated

from pydantic import Field

from agent.appraisal import Terms
from agent.config.section import Section


class EconomicsSection(Section):
    """What stands between hashprice and a machine's margin."""

    pool_fee: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        default=0.0, description="Pool fee as a fraction: 2.5 % is 0.025."
    )
    dev_fee: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        default=0.0, description="Fee of third-party firmware as a fraction."
    )
    reject: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        default=0.0, description="Share of rejected and stale work as a fraction."
    )
    overhead: Annotated[float, Field(ge=0.5, le=3)] = Field(
        default=1.0, description="Avoidable overhead on energy: cooling and losses that fall with the load."
    )
    sleep_power_w: Annotated[float, Field(ge=0, le=1000)] = Field(
        default=40.0, description="Watts reckoned for a machine that sleeps."
    )
    machine_price_usd_per_ths: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Price of a TH/s of machine, USD; only for payback days."
    )

    def terms(self, *, credit_usd_per_kwh: float = 0.0, price_usd_per_kwh: float | None = None) -> Terms:
        """The same as the appraisal wants it: pool and firmware fee combined, one after the other."""
        return Terms(
            fee=1 - (1 - self.pool_fee) * (1 - self.dev_fee),
            reject=self.reject,
            overhead=self.overhead,
            sleep_power_w=self.sleep_power_w,
            machine_price_usd_per_ths=self.machine_price_usd_per_ths,
            credit_usd_per_kwh=credit_usd_per_kwh,
            price_usd_per_kwh=price_usd_per_kwh,
        )
