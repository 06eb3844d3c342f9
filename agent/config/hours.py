"""Hours of the day, as a configuration writes them: 16:00-21:00."""

from datetime import time


def span(text: str) -> str:
    """The text itself. Raises `ValueError` if it is no span of hours."""
    clocks(text)
    return text


def clocks(text: str) -> tuple[time, time]:
    """Start and end of `16:00-21:00`; 24:00 is 00:00. Raises `ValueError`."""
    start, _, end = text.partition("-")
    try:
        return time.fromisoformat(start.strip()), time.fromisoformat(end.strip().replace("24:00", "00:00"))
    except ValueError as error:
        raise ValueError(f"{text!r} is no time of day; write it like 16:00-21:00") from error
