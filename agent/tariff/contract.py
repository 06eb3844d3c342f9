"""What a kWh more or less really costs a site, given what the market asks. Pure."""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What the contract makes of the market's price."""

    INDEX = "index"
    """The site pays the market's price."""
    BLOCK = "block"
    """The site bought a block ahead and sells back what it does not use: a kWh more is one sold less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """`losses` is the share that is lost on the way to the site, `adder_usd_per_kwh` all that is charged by the kWh on
    top (transmission, taxes, the supplier's margin). Fixed and demand charges are not avoided by sleeping, and are not
    here. Of a block, `sell_back_fee_usd_per_kwh` is what selling costs."""

    kind: Kind = Kind.INDEX
    losses: float = 0.0
    adder_usd_per_kwh: float = 0.0
    sell_back_fee_usd_per_kwh: float = 0.0

    def marginal_usd_per_kwh(self, market_usd_per_kwh: float) -> float:
        """Marginal price in USD/kWh. Of a block it is what selling the kWh would have brought, and neither what the
        block cost nor what delivery adds, which is paid for the whole block."""
        if self.kind is Kind.BLOCK:
            return market_usd_per_kwh - self.sell_back_fee_usd_per_kwh
        return market_usd_per_kwh * (1 + self.losses) + self.adder_usd_per_kwh
