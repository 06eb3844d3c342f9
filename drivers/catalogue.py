"""Nameplate hashrate, watts and efficiency by model, whatever spelling of the model a machine uses."""

import csv
import functools
import re
import statistics
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files

_ERROR_BY_CONFIDENCE = {"A": 0.10, "B": 0.15, "C": 0.20}
_GUESSED_VARIANT_ERROR = 0.15
MAX_OF_NAMEPLATE = 1.6
"""More than this share of the nameplate is a unit bug, not overclocking."""
_MAKE = re.compile(r"^(BITMAIN|ANTMINER|WHATSMINER|MICROBT)")
_WHATSMINER = re.compile(r"^(M\d+[A-Z]*?\+{0,2})(V[A-Z]?\d*)?$")
_TERAHASH = re.compile(r"\d+(\.\d+)?TH?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Nameplate:
    """What the maker promises. `error` is the half-width of the wattage's error band as a fraction."""

    model: str
    hashrate_ths: float
    power_w: float
    efficiency_j_per_th: float
    cooling: str
    error: float


def nameplate(model: str, expected_hashrate_ths: float | None = None) -> Nameplate | None:
    """The nameplate of a model, or None if it is not in the catalogue.

    Several nameplates share one spelling ("Antminer S19j Pro" is 96, 100 or 104 TH/s): the one nearest to
    `expected_hashrate_ths` if the machine says what it should do, else the middle one with a wider error.
    """
    key = spelling(model)
    variants = _BY_SPELLING.get(key) or _BY_SPELLING.get(_TERAHASH.sub("", key), [])
    exact = [each for each in variants if spelling(each.model) == key]
    candidates = exact or variants
    if not candidates:
        return None
    if len(candidates) == 1:
        return candidates[0]
    if expected_hashrate_ths:
        return min(candidates, key=lambda each: abs(each.hashrate_ths - expected_hashrate_ths))
    return _middle(candidates)


@lru_cache(maxsize=1024)
def rated_hashrate_ths(model: str) -> float | None:
    """TH/s of a model's nameplate, of the middle one where several share its spelling."""
    plate = nameplate(model)
    return None if plate is None else plate.hashrate_ths


def _middle(candidates: list[Nameplate]) -> Nameplate:
    median = statistics.median_low(each.hashrate_ths for each in candidates)
    chosen = next(each for each in candidates if each.hashrate_ths == median)
    return replace(chosen, error=max(chosen.error, _GUESSED_VARIANT_ERROR))


@functools.lru_cache(maxsize=1024)
def spelling(model: str) -> str:
    """A model in one spelling: no make, firmware, blanks or chip variant; "M60S_VK40" is "M60S"."""
    key = re.sub(r"\(.*?\)", "", model.upper())
    key = re.sub(r"[\s_.\-]", "", key)
    key = _MAKE.sub("", key).replace("HYDRO", "HYD").replace("PLUS", "+").removesuffix("NOPIC")
    whatsminer = _WHATSMINER.match(key)
    return whatsminer[1] if whatsminer else key


def _by_spelling() -> dict[str, list[Nameplate]]:
    """All nameplates under their spelling, and under that without the terahashes."""
    found: dict[str, list[Nameplate]] = {}
    for each in sorted(_load(), key=lambda plate: plate.hashrate_ths):
        key = spelling(each.model)
        for alias in {key, _TERAHASH.sub("", key)}:
            found.setdefault(alias, []).append(each)
    return found


def _load() -> list[Nameplate]:
    content = files("drivers").joinpath("models.csv").read_text(encoding="utf-8")
    lines = [line for line in content.splitlines() if line and not line.startswith("#")]
    return [
        Nameplate(
            model=row["model"],
            hashrate_ths=float(row["hashrate_ths"]),
            power_w=float(row["power_w"]),
            efficiency_j_per_th=float(row["efficiency_j_per_th"]),
            cooling=row["cooling"],
            error=_ERROR_BY_CONFIDENCE[row["confidence"]],
        )
        for row in csv.DictReader(lines)
    ]


def models() -> list[Nameplate]:
    """Every nameplate of the catalogue."""
    return _load()


_BY_SPELLING = _by_spelling()
