"""What is known of machines and firmwares that a person should know before relying on them, and what to do about it.

What the drivers get right by themselves is not listed: only what they cannot, or what somebody must do on site.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from drivers._pyasic import Firmware, firmware_of
from drivers.antminer import cannot_sleep
from drivers.catalogue import nameplate
from drivers.reading import Address, Family, Identity


@dataclass(frozen=True, slots=True, kw_only=True)
class Quirk:
    """`fits` says whether a machine has it."""

    name: str
    fits: Callable[[Identity], bool]
    advice: str


def _is(family: Family) -> Callable[[Identity], bool]:
    return lambda identity: identity.family is family


def _runs(firmware: Firmware) -> Callable[[Identity], bool]:
    return lambda who: who.family is Family.GENERIC and firmware_of(who.driver_class) is firmware


QUIRKS = (
    Quirk(
        name="no login",
        fits=lambda who: who.family is Family.ANTMINER and who.mac is None,
        advice="they tell neither MAC nor mode, because they refuse the configured login or their web interface is not "
        "reached: they can be read and not commanded; give their login in [credentials.antminer] or [overrides]",
    ),
    Quirk(
        name="cannot sleep over the API",
        fits=lambda who: who.family is Family.ANTMINER and cannot_sleep(who.model),
        advice="this generation of stock firmware can only be read, or stopped over SSH with [credentials.ssh]",
    ),
    Quirk(
        name="no nameplate",
        fits=lambda who: nameplate(who.model, expected_hashrate_ths=None) is None,
        advice="the model is not in the catalogue, so watts that it does not report stay unknown and it is never "
        "curtailed; measure one and give overrides.NAME.custom_power_w",
    ),
    Quirk(
        name="Whatsminer V2",
        fits=_is(Family.WHATSMINER_V2),
        advice="takes no command (code 45) until its factory password was changed once with the vendor's tool",
    ),
    Quirk(
        name="Whatsminer V3",
        fits=_is(Family.WHATSMINER_V3),
        advice="takes no command (code 45 or -4) while its password is the factory's, or not the configured one",
    ),
    Quirk(
        name="LuxOS",
        fits=_runs(Firmware.LUXOS),
        advice="takes commands from one session at a time: another tool that stays logged in blocks ours (code 402)",
    ),
    Quirk(
        name="Marathon firmware",
        fits=_runs(Firmware.MARATHON),
        advice="tells no watts: measure them and give overrides.NAME.custom_power_w",
    ),
    Quirk(
        name="read only",
        fits=lambda who: who.family is Family.GENERIC and firmware_of(who.driver_class) is None,
        advice="no call of this firmware that stops mining is known, so it is never commanded",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuirkFinding:
    """A quirk with the machines that have it."""

    quirk: Quirk
    addresses: tuple[Address, ...]


def known_quirks(machines: Iterable[tuple[Address, Identity]]) -> list[QuirkFinding]:
    """The quirks that these machines have, in the order of the list."""
    machines = list(machines)
    found = [
        QuirkFinding(
            quirk=quirk, addresses=tuple(address for address, identity in machines if quirk.fits(identity))
        )
        for quirk in QUIRKS
    ]
    return [each for each in found if each.addresses]
