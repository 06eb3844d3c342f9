"""The simulator's own table of machine models, and the mix a site is made of.

The figures are independent of `drivers/catalogue.py` on purpose: a nameplate is what the product believes, this
table is what the simulated machines do. Model names are nameplate names ("Antminer S19j Pro 104T"); what a machine
says of itself is `reported` ("Antminer S19j Pro", "M30S+_VE40").
"""

import random
from dataclasses import dataclass
from enum import StrEnum

from drivers.reading import Family, PowerMode


class Cooling(StrEnum):
    """What carries the heat away."""

    AIR = "air"
    HYDRO = "hydro"
    IMMERSION = "immersion"


class WattsShown(StrEnum):
    """Where a stock Antminer's firmware shows its wattage. Whatsminers always show it in their summary."""

    SUMMARY = "summary"
    CHAIN_POWER = "chain_power"
    """`stats`: `STATS[1].chain_power`, as `"3250 W"`."""
    NEW_API = "new_api"
    """`stats` with `new_api`: `STATS[0].power`, a number."""
    PORT_6060 = "port_6060"
    """`GET :6060/miner_power`: `miner power:3500`."""
    NOWHERE = "nowhere"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One model. `weight` is its share of a mixed site; `watts_shown` lists the firmware variants in the field."""

    name: str
    reported: str
    family: Family
    hashrate_ths: float
    power_w: float
    sleep_power_w: float
    boards: int
    chips_per_board: int
    fans: int
    weight: int
    cooling: Cooling = Cooling.AIR
    modes: frozenset[PowerMode] = frozenset({PowerMode.NORMAL})
    watts_shown: tuple[WattsShown, ...] = (WattsShown.SUMMARY,)

    @property
    def ports(self) -> tuple[int, ...]:
        """The TCP ports a machine of this model may listen on."""
        match self.family:
            case Family.WHATSMINER_V2:
                return (4028,)
            case Family.WHATSMINER_V3:
                return (4028, 4433)
            case _ if WattsShown.PORT_6060 in self.watts_shown:
                return (80, 4028, 6060)
            case _:
                return (80, 4028)


_SILENT = (WattsShown.NOWHERE,)
_CHAIN = (WattsShown.CHAIN_POWER,)
_SOME_CHAIN = (WattsShown.CHAIN_POWER, WattsShown.NOWHERE)
_NEW = (WattsShown.NEW_API,)
_6060 = (WattsShown.PORT_6060,)
_N, _L, _E, _H = PowerMode.NORMAL, PowerMode.LOW, PowerMode.HIGH_EFFICIENCY, PowerMode.HIGH


def _antminer(  # noqa: PLR0917 - a row of a table
    name: str,
    hashrate_ths: float,
    power_w: float,
    boards: int,
    chips: int,
    weight: int,
    watts_shown: tuple[WattsShown, ...],
    *modes: PowerMode,
    reported: str | None = None,
    cooling: Cooling = Cooling.AIR,
    sleep_power_w: float = 45.0,
) -> Model:
    return Model(
        name=f"Antminer {name}",
        reported=f"Antminer {reported or name}",
        family=Family.ANTMINER,
        hashrate_ths=hashrate_ths,
        power_w=power_w,
        sleep_power_w=sleep_power_w,
        boards=boards,
        chips_per_board=chips,
        fans=4 if cooling is Cooling.AIR else 0,
        weight=weight,
        cooling=cooling,
        modes=frozenset({_N, *modes}),
        watts_shown=watts_shown,
    )


def _whatsminer(  # noqa: PLR0917 - a row of a table
    name: str,
    version: str,
    family: Family,
    hashrate_ths: float,
    power_w: float,
    boards: int,
    chips: int,
    weight: int,
    *,
    cooling: Cooling = Cooling.AIR,
    sleep_power_w: float = 30.0,
) -> Model:
    return Model(
        name=f"Whatsminer {name}",
        reported=f"{name}_{version}",
        family=family,
        hashrate_ths=hashrate_ths,
        power_w=power_w,
        sleep_power_w=sleep_power_w,
        boards=boards,
        chips_per_board=chips,
        fans=2 if cooling is Cooling.AIR else 0,
        weight=weight,
        cooling=cooling,
        modes=frozenset({_N, _L, _H}),
    )


_V2, _V3 = Family.WHATSMINER_V2, Family.WHATSMINER_V3
_HYDRO, _BATH = Cooling.HYDRO, Cooling.IMMERSION

MODELS: tuple[Model, ...] = (
    _antminer("S19", 95, 3250, 3, 76, 6, _SILENT),
    _antminer("S19 Pro", 110, 3250, 3, 114, 10, _SOME_CHAIN, _L),
    _antminer("S19j Pro 100T", 100, 3050, 3, 126, 8, _SILENT, _L, reported="S19j Pro"),
    _antminer("S19j Pro 104T", 104, 3068, 3, 126, 14, _SILENT, _L, reported="S19j Pro"),
    _antminer("S19j Pro+ 122T", 122, 3355, 3, 120, 3, _SOME_CHAIN, _L, reported="S19j Pro+"),
    _antminer("S19k Pro", 120, 2760, 3, 77, 7, _NEW, _L, _E),
    _antminer("S19 XP", 140, 3010, 3, 110, 6, _CHAIN, _L),
    _antminer("T21", 190, 3610, 3, 108, 5, _NEW, _L),
    _antminer("S21", 200, 3500, 3, 108, 12, _6060, _L),
    _antminer("S21+", 216, 3564, 3, 55, 3, _NEW, _L),
    _antminer("S21 Pro", 234, 3510, 3, 65, 6, _6060, _L),
    _antminer("S21 XP", 270, 3645, 3, 91, 2, _NEW, _L),
    _antminer(
        "S19 Pro+ Hyd",
        198,
        5445,
        4,
        180,
        1,
        _CHAIN,
        reported="S19 Pro+ Hyd.",
        cooling=_HYDRO,
        sleep_power_w=65.0,
    ),
    _antminer(
        "S21 Hyd", 335, 5360, 3, 216, 2, _NEW, _L, reported="S21 Hyd.", cooling=_HYDRO, sleep_power_w=65.0
    ),
    _whatsminer("M30S", "VE10", _V2, 86, 3268, 3, 105, 3),
    _whatsminer("M30S+", "VE40", _V2, 100, 3400, 3, 156, 5),
    _whatsminer("M30S++", "VH20", _V2, 112, 3472, 3, 86, 6),
    _whatsminer("M50", "VH50", _V2, 114, 3306, 3, 105, 5, sleep_power_w=22.0),
    _whatsminer("M50S", "VJ30", _V2, 126, 3276, 3, 123, 3, sleep_power_w=22.0),
    _whatsminer("M53", "VH30", _V2, 230, 6670, 4, 128, 1, cooling=_HYDRO, sleep_power_w=55.0),
    _whatsminer("M56S++", "VK10", _V2, 230, 5060, 4, 160, 1, cooling=_BATH, sleep_power_w=45.0),
    _whatsminer("M60", "VK30", _V3, 172, 3422, 3, 215, 4, sleep_power_w=18.0),
    _whatsminer("M60S", "VK40", _V3, 186, 3441, 3, 225, 7, sleep_power_w=18.0),
    _whatsminer("M63S", "VK20", _V3, 390, 7215, 4, 350, 2, cooling=_HYDRO, sleep_power_w=50.0),
    _whatsminer("M66S", "VK30", _V3, 298, 5513, 3, 384, 2, cooling=_BATH, sleep_power_w=40.0),
)
"""At $39.4/PH/day and $0.06/kWh machines above about 27 J/TH lose money: half of the weight does."""


def fleet(machines: int, rng: random.Random) -> list[Model]:
    """A mixed site of so many machines: by weight, every family present from three machines on, shuffled."""
    chosen = [max((m for m in MODELS if m.family is f), key=lambda m: m.weight) for f in _FAMILIES][:machines]
    rest = machines - len(chosen)
    total = sum(model.weight for model in MODELS)
    offset = rng.random()
    marks = ((i + offset) / rest * total for i in range(rest))
    upto, index = float(MODELS[0].weight), 0
    for mark in marks:
        while mark >= upto:
            index += 1
            upto += MODELS[index].weight
        chosen.append(MODELS[index])
    rng.shuffle(chosen)
    return chosen


_FAMILIES = (Family.ANTMINER, Family.WHATSMINER_V2, Family.WHATSMINER_V3)
