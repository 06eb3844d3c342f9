"""The site as the store has it, for every screen: what is too old to stand is shown as unknown, never as it was."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from agent.database import StoreError
from agent.decisions import DecisionRecord
from agent.policy import Action, Reason
from agent.reader import Reader
from agent.rows import Event
from agent.view import MachineView, Picture, by_margin
from drivers.reading import MachineId, PowerSource, RunState

DEFAULT_VALIDITY = timedelta(seconds=75)
"""2.5 rounds at the default interval; for a store without a reading, where nothing says how long one may stand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPicture:
    """The site at `now`: as of the last round, which began at `polled_at`, less what has grown stale since.

    A reading, and the whole picture, may stand for `validity`. `doubts` are what the last scan that found anything to
    tell could not identify, tell apart or read; `decisions` what the agent last decided of each machine.
    """

    picture: Picture
    polled_at: datetime
    now: datetime
    validity: timedelta
    doubts: Sequence[Event]
    decisions: Mapping[MachineId, DecisionRecord]
    prices: Mapping[str, Any]
    """How the numbers of the market and their sources are doing, as the agent last wrote it."""

    @property
    def age(self) -> timedelta:
        """Since the last round."""
        return self.now - self.polled_at

    @property
    def is_stale(self) -> bool:
        """The agent has not polled for so long that nothing of it stands any more."""
        return self.age > self.validity


def stored_picture(database: Path, now: datetime) -> StoredPicture:
    """Load it. Raises `StoreError` while there is none."""
    refuse_what_is_no_file(database)
    with Reader(database) as reader, reader.one_moment():
        return picture_of(reader, reader.latest(), reader.decisions(), now)


def picture_of(
    reader: Reader, views: Iterable[MachineView], decisions: Mapping[MachineId, DecisionRecord], now: datetime
) -> StoredPicture:
    """The picture of machines and decisions that were read from an open store. Raises `StoreError` before the first
    round. A site of a fleet whose clock is fast tells of a time that has not come: nothing was later than when it was
    heard here."""
    conditions, polled_at = reader.conditions(), reader.last_round_at()
    if conditions is None or polled_at is None:
        raise StoreError(f"{reader.path}: no poll round yet; is `hashcost run` running?")
    market, terms = conditions
    validity = reader.validity() or DEFAULT_VALIDITY
    if (heard_at := reader.heard_at()) is not None:
        polled_at = min(polled_at, heard_at)
        views = (_not_after(view, heard_at) for view in views)
    return StoredPicture(
        picture=Picture(
            market=market, terms=terms, views=by_margin(_as_of(view, now, validity) for view in views)
        ),
        polled_at=polled_at,
        now=now,
        validity=validity,
        doubts=[event for event in reader.last_scan() if event.is_doubt],
        decisions=decisions,
        prices=reader.prices(),
    )


def aged(snapshot: StoredPicture, now: datetime) -> StoredPicture:
    """The same picture at a later time, where nothing newer can be read: what has grown stale since is unknown."""
    picture = snapshot.picture
    views = [_as_of(view, now, snapshot.validity) for view in picture.views]
    if all(old is new for old, new in zip(picture.views, views, strict=True)):
        return replace(snapshot, now=now)
    return replace(snapshot, now=now, picture=replace(picture, views=views))


def refuse_what_is_no_file(database: Path) -> None:
    """Raise `StoreError` for a directory or an empty file, with what to do."""
    try:
        if database.is_dir():
            raise StoreError(f"{database}: is a directory; name the database in it")
        if database.stat().st_size == 0:
            raise StoreError(
                f"{database}: is empty, no agent has written to it; start it with `hashcost run`"
            )
    except OSError:  # not there, or not for us to see: opening it will say so
        return


def _not_after(view: MachineView, at: datetime) -> MachineView:
    seen_at = view.seen_at
    if view.at <= at and (seen_at is None or seen_at <= at):
        return view
    return replace(view, at=min(view.at, at), seen_at=None if seen_at is None else min(seen_at, at))


def _as_of(view: MachineView, now: datetime, validity: timedelta) -> MachineView:
    """The view of a machine as it may be shown at `now`. A failure is as old as the round that tried."""
    if view.reason is Reason.STALE_READING and view.run_state is RunState.UNKNOWN and view.failure is None:
        return view  # it is outdated already
    since = view.at if view.failure is not None or view.seen_at is None else view.seen_at
    return view if now - since <= validity else _outdated(view)


def _outdated(view: MachineView) -> MachineView:
    """Who it is and when it was seen; nothing of what it did or was worth."""
    return replace(
        view,
        run_state=RunState.UNKNOWN,
        failure=None,
        implausible=None,
        hashrate_ths=None,
        power_w=None,
        power_source=PowerSource.UNKNOWN,
        power_mode=None,
        chip_temp_c=None,
        basis=None,
        efficiency_j_per_th=None,
        revenue_usd_per_day=None,
        energy_cost_usd_per_day=None,
        margin_usd_per_day=None,
        decision_margin_usd_per_day=None,
        hashcost_usd_per_ph_day=None,
        strike_price_usd_per_kwh=None,
        breakeven_hashprice_usd_per_ph_day=None,
        payback_days=None,
        action=Action.HOLD,
        reason=Reason.STALE_READING,
        marginal=False,
    )
