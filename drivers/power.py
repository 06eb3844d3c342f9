"""Which wattage is believed: reported by the machine, else nameplate efficiency times measured hashrate."""

from dataclasses import dataclass

from drivers.catalogue import MAX_OF_NAMEPLATE, Nameplate
from drivers.reading import PowerSource

REPORTED_ERROR = 0.05
"""Half-width of the band around a wattage that a machine reports about itself, as a fraction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """Watts, where they come from, and the half-width of their error band as a fraction."""

    power_w: float | None
    source: PowerSource
    error: float | None


UNKNOWN_POWER = Power(power_w=None, source=PowerSource.UNKNOWN, error=None)


def power_truth(reported_w: float | None, hashrate_ths: float | None, plate: Nameplate | None) -> Power:
    """The best wattage there is.

    A reported 0 W is not one: a machine that answers draws something. Without a report a machine that
    hashes draws its nameplate J/TH for each TH/s it really does; one that does not hash draws an unknown,
    and so does one whose hashrate is beyond belief.
    """
    if reported_w is not None and reported_w > 0:
        return Power(power_w=reported_w, source=PowerSource.REPORTED, error=REPORTED_ERROR)
    if plate is None or hashrate_ths is None or hashrate_ths <= 0:
        return UNKNOWN_POWER
    if hashrate_ths > MAX_OF_NAMEPLATE * plate.hashrate_ths:
        return UNKNOWN_POWER
    estimate_w = plate.efficiency_j_per_th * hashrate_ths
    return Power(power_w=estimate_w, source=PowerSource.NAMEPLATE, error=plate.error)
