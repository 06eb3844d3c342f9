"""How one who is asked is doing: the last answer, failures in a row, and a line in the log when they begin and end."""

import logging
from dataclasses import replace
from datetime import datetime

from agent.fetch import SourceError, pause_s
from agent.market.quote import SourceStatus
from agent.supervision import Spell

log = logging.getLogger("hashcost")


ANSWERS_AGAIN = 3
"""Answers in a row after which the log says that a source that failed is back."""


class Health:
    """One source. `failures` are those in a row, `retry_after_s` what the last of them asked for."""

    def __init__(self, name: str, url: str, *, well_in_row: int = ANSWERS_AGAIN) -> None:
        self.status = SourceStatus(name=name, url=url)
        self._spell, self._failures_of_spell = Spell(well_in_row), 0
        self.failures = 0
        self.retry_after_s: float | None = None

    def said(self, values: str, at: datetime) -> None:
        """It said this."""
        self.status = replace(self.status, answered_at=at, values=values)

    def well(self) -> None:
        """There is nothing wrong with it."""
        if self._spell.look(bad=False):
            log.info(
                "event=source_recovered source=%s after_failures=%d",
                self.status.name,
                self._failures_of_spell,
            )
            self._failures_of_spell = 0
        self.failures, self.retry_after_s = 0, None
        self.status = replace(self.status, failure=None)

    def failed(self, error: SourceError, at: datetime) -> None:
        """It could not be heard, or made no sense."""
        self._failures_of_spell += 1
        if self._spell.look(bad=True):
            name = self.status.name
            log.warning("event=source_failed source=%s kind=%s detail=%r", name, error.kind, error.detail)
        self.failures += 1
        self.retry_after_s = error.retry_after_s
        self.status = replace(self.status, failed_at=at, failure=str(error))

    def pause_s(self, interval_s: float) -> float:
        """Seconds until it is asked again."""
        return pause_s(interval_s, self.failures, self.retry_after_s)
