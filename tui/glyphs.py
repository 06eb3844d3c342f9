"""What stands for a state where there is no room for words: always with a word beside it somewhere, never colour alone.
One set for terminals that show Unicode, one for those that show ASCII only."""

import locale
import os
from collections.abc import Mapping
from dataclasses import dataclass

from agent.summary import STATE_STYLE
from drivers.reading import RunState

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII_LEVELS = "_.-=+*#@"


@dataclass(frozen=True, slots=True)
class Glyphs:
    """One set. Every glyph is one cell wide; `levels` are from low to high."""

    states: Mapping[RunState, str]
    levels: str
    bar: str
    line: str
    mark: str
    up: str
    down: str
    handle: str


UNICODE = Glyphs(
    states={
        RunState.MINING: "●",
        RunState.RAMPING: "◐",
        RunState.ASLEEP: "○",
        RunState.STOPPED: "✕",
        RunState.UNKNOWN: "?",
    },
    levels=BLOCKS,
    bar="█",
    line="─",
    mark="✓",
    up="▲",
    down="▼",
    handle="◆",
)
ASCII = Glyphs(
    states={
        RunState.MINING: "*",
        RunState.RAMPING: "~",
        RunState.ASLEEP: "o",
        RunState.STOPPED: "x",
        RunState.UNKNOWN: "?",
    },
    levels=ASCII_LEVELS,
    bar="#",
    line="-",
    mark="+",
    up="^",
    down="v",
    handle="O",
)


def glyphs() -> Glyphs:
    """The set for this terminal: ASCII where HASHCOST_ASCII is set, on the Linux console, or in a locale that has no
    Unicode."""
    plain = os.environ.get("HASHCOST_ASCII") or os.environ.get("TERM") == "linux"
    encoding = (locale.getpreferredencoding(do_setlocale=False) or "").lower().replace("-", "")
    return ASCII if plain or encoding not in {"utf8", "utf16", "utf32"} else UNICODE


def state_cell(state: RunState, shown: Glyphs) -> tuple[str, str]:
    """Glyph, word and style of a state."""
    return f"{shown.states[state]} {state.value}", STATE_STYLE[state]
