"""The configuration of a stock Antminer as it is written back: whole, with nothing changed but the mode; pure.

`set_miner_conf` replaces what it is given and may drop what it is not, so everything that `get_miner_conf` said
goes back: pools, fans, keys that nobody here knows. Which of two keys carries the mode depends on firmware, so
both do. The frequency level is read as `bitmain-freq-level` and written as `freq-level`.
"""

from collections.abc import Mapping
from typing import Any

from drivers.antminer_answers import MODE_KEYS, POWER_MODES, SLEEP_MODE
from drivers.driver import RestorePoint
from drivers.reading import PowerMode
from drivers.transport import Answer
from drivers.values import whole

MODE_NUMBERS = {mode: number for number, mode in POWER_MODES.items()}
_FREQUENCY_READ = "bitmain-freq-level"
_FREQUENCY_WRITTEN = "freq-level"
_POOL_KEYS = ("url", "user", "pass")


def flaw(configuration: Answer) -> str | None:
    """Why a configuration must not be written back; None if it is complete: a mode, and whole pools of which
    one has an address."""
    pools = configuration.get("pools")
    if not isinstance(pools, list) or not pools:
        return "it has no pools"
    if not all(
        isinstance(pool, dict) and all(_is_text(pool.get(key)) for key in _POOL_KEYS) for pool in pools
    ):
        return "a pool in it is incomplete"
    if not any(pool["url"].strip() for pool in pools):
        return "no pool in it has an address"
    modes = present_modes(configuration)
    if not modes:
        return "it has no work mode"
    unreadable = [key for key, value in modes.items() if whole(value) is None]
    return f"its {unreadable[0]} cannot be read" if unreadable else None


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def present_modes(configuration: Answer) -> dict[str, Any]:
    """The mode keys that it has, as they are."""
    return {key: configuration[key] for key in MODE_KEYS if key in configuration}


def sleeps(configuration: Answer) -> bool:
    """Whether it tells the machine to sleep."""
    return any(whole(value) == SLEEP_MODE for value in present_modes(configuration).values())


def restore_point(configuration: Answer) -> RestorePoint:
    """What `waking` needs, of a complete configuration that does not sleep."""
    modes = present_modes(configuration)
    settings = {key: str(whole(value)) for key, value in modes.items()}
    frequency = _frequency(configuration)
    if frequency is not None:
        settings[_FREQUENCY_WRITTEN] = str(frequency)
    return RestorePoint(power_mode=POWER_MODES.get(whole(next(iter(modes.values()))) or 0), settings=settings)


def sleeping(configuration: Answer) -> Answer:
    """What to post for sleep."""
    return _posted(configuration, dict.fromkeys(MODE_KEYS, SLEEP_MODE))


def in_mode(configuration: Answer, mode: PowerMode) -> Answer:
    """What to post for another mode."""
    return _posted(configuration, dict.fromkeys(MODE_KEYS, MODE_NUMBERS[mode]))


def waking(configuration: Answer, point: RestorePoint) -> Answer:
    """What to post to wake as it was: each mode key with its own former number, the other one with the same.
    Raises ValueError for a point that is no mode to mine in."""
    known = {key: number for key in MODE_KEYS if (number := whole(point.settings.get(key))) is not None}
    if not known and point.power_mode in MODE_NUMBERS:
        known = {MODE_KEYS[0]: MODE_NUMBERS[point.power_mode]}
    if not known or SLEEP_MODE in known.values():
        raise ValueError("the restore point has no mode to mine in")
    default = next(iter(known.values()))
    modes = {key: known.get(key, default) for key in MODE_KEYS}
    return _posted(configuration, modes, point.settings.get(_FREQUENCY_WRITTEN))


def with_texts(posted: Answer) -> Answer:
    """The same for firmware that wants its modes as texts."""
    return {key: str(value) if key in MODE_KEYS else value for key, value in posted.items()}


def _posted(configuration: Answer, modes: Mapping[str, int], frequency: str | None = None) -> Answer:
    posted = {**configuration, **modes}
    present = _frequency(configuration)
    if frequency is not None and str(present) != frequency:
        present = int(frequency) if isinstance(present, int) and frequency.isdigit() else frequency
        posted |= {key: present for key in (_FREQUENCY_READ,) if key in configuration}
    return posted if present is None else posted | {_FREQUENCY_WRITTEN: present}


def _frequency(configuration: Answer) -> Any:
    return configuration.get(_FREQUENCY_READ, configuration.get(_FREQUENCY_WRITTEN))
