"""What a value in a machine's answer means: numbers, flags and texts, and None for what is none of them."""

import math
import re
from collections.abc import Mapping
from typing import Any

# possessive, so that a text of a machine's cannot make it try every way to share out the blanks
_NUMBER = re.compile(r"\s*+([-+]?\d++(?:\.\d*+)?(?:[eE][-+]?\d++)?)\s*+[A-Za-z%/]*+\s*+")
_MAC = re.compile(r"[0-9A-F]{12}")
_MAX_TEXT = 200
_FLAGS = {"true": True, "1": True, "false": False, "0": False}


def number(value: Any) -> float | None:
    """A finite number, also from texts such as `"37603.30"` and `"3250 W"`.

    NaN, infinities, `"nan"`, empty texts and booleans are None: nobody measured them.
    """
    kind = type(value)  # of what JSON holds there are no subclasses
    if kind is float:
        return value if math.isfinite(value) else None
    if kind is int:
        return _finite(value)
    if kind is not str:
        return None
    if value.isdecimal():
        return _finite(value)
    match = _NUMBER.fullmatch(value)
    return _finite(match[1]) if match else None


def _finite(value: float | str) -> float | None:
    try:
        result = float(value)
    except (OverflowError, ValueError):
        return None
    return result if math.isfinite(result) else None


def positive(value: Any) -> float | None:
    """A number above zero, else None: for what is never zero on a machine that answers, such as watts."""
    result = number(value)
    return result if result is not None and result > 0 else None


def whole(value: Any) -> int | None:
    """A number without its fraction."""
    result = number(value)
    return None if result is None else int(result)


def text(value: Any) -> str | None:
    """A non-empty text without surrounding blanks and quotes (Whatsminers quote their firmware twice).

    It ends on terminals and in files: what cannot be printed is left out, and what is too long is cut.
    """
    if not isinstance(value, str):
        return None
    printable = value[:_MAX_TEXT]
    if not printable.isprintable():
        printable = "".join(character for character in printable if character.isprintable())
    return printable.strip().strip("'").strip() or None


def flag(value: Any) -> bool | None:
    """True and false, also as texts in any case, 0 and 1."""
    if isinstance(value, bool):
        return value
    return _FLAGS.get(str(value).strip().lower())


def mac(value: Any) -> str | None:
    """A MAC as `02:13:AB:..`; None for anything else, and for the all-zero and broadcast addresses."""
    if not isinstance(value, str):
        return None
    digits = re.sub(r"[:.\-\s]", "", value).upper()
    if not _MAC.fullmatch(digits) or digits in {"0" * 12, "F" * 12}:
        return None
    return ":".join(digits[i : i + 2] for i in range(0, 12, 2))


def mapping(value: Any) -> Mapping[str, Any]:
    """The value if it is a mapping, else an empty one: for walking into answers of unknown shape."""
    return value if isinstance(value, dict) else {}


def rows(value: Any) -> list[Mapping[str, Any]]:
    """The mappings in a list, else nothing."""
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []
