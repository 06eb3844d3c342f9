"""Final power prices that somebody wrote into a file, such as those of a supplier's statement; read again on change."""

import logging
from pathlib import Path

from agent.backtest.series import HistoryError, power_history
from agent.rows import Settled

log = logging.getLogger("hashcost")


class Corrections:
    """A CSV with the start of each interval and what a kWh of it cost the site: `start,usd_per_kwh`, or per MWh."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problem: str | None = None
        """Why the file is not used as it is; the last good one stays in force."""
        self._modified_ns: int | None = None
        self._prices: list[Settled] = []

    def read(self) -> list[Settled]:
        """The prices of the file, oldest first; none while there is no file. Blocks. What is wrong is logged once,
        and that it is over."""
        try:
            modified_ns = self.path.stat().st_mtime_ns
            if modified_ns != self._modified_ns:
                self._prices = _prices(self.path)
                self._modified_ns = modified_ns
        except FileNotFoundError:
            self._prices, self._modified_ns = [], None
        except (OSError, HistoryError) as error:
            if self.problem != str(error):
                log.error("event=corrections_refused detail=%r", str(error))  # noqa: TRY400 - somebody's mistake
            self.problem = str(error)
            return self._prices
        if self.problem is not None:
            log.info("event=corrections_taken")
        self.problem = None
        return self._prices


def _prices(path: Path) -> list[Settled]:
    history = power_history(path)
    return [
        Settled(
            start_ms=round(start * 1000), end_ms=round(end * 1000), price_usd_per_kwh=value, corrected=True
        )
        for start, end, value in zip(history.starts, history.ends, history.values, strict=True)
    ]
