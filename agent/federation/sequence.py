"""Puts what a site tells into its order: what comes twice is dropped, what comes too early waits. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from agent.federation.messages import Place

T = TypeVar("T")


@dataclass(slots=True)
class _Epoch(Generic[T]):
    last: int
    early: dict[int, tuple[Place, T]] = field(default_factory=dict)
    """By sequence."""
    waits_since_s: float = 0.0


class InOrder(Generic[T]):
    """One site's messages by their places. `known` is the last sequence of each epoch that was taken before.

    A message that waits for one that never comes (it was let go by the site, or the stream is too young to hold it) is
    given out after `patience_s`, or when more than `most` wait; `holes` counts how often. An epoch begins when all of
    the one before it was told, and waits for that one too.
    """

    def __init__(self, known: Mapping[str, int], *, patience_s: float, most: int) -> None:
        self._epochs: dict[str, _Epoch[T]] = {epoch: _Epoch(last) for epoch, last in known.items()}
        self._patience_s = patience_s
        self._most = most
        self.doubles = 0
        self.holes = 0

    @property
    def last(self) -> dict[str, int]:
        """The last sequence of each epoch that was given out."""
        return {epoch: each.last for epoch, each in self._epochs.items()}

    def waiting(self) -> Iterator[T]:
        """What came too early."""
        for each in self._epochs.values():
            for _, item in each.early.values():
                yield item

    def offer(self, place: Place, item: T, now_s: float) -> list[T]:
        """What can be taken now that this came, in order; `now_s` by a monotonic clock."""
        epoch = self._epochs.setdefault(place.epoch, _Epoch(0))
        if place.sequence <= epoch.last or place.sequence in epoch.early:
            self.doubles += 1
            return []
        if not epoch.early:
            epoch.waits_since_s = now_s
        epoch.early[place.sequence] = (place, item)
        found = self._ready()
        while sum(len(each.early) for each in self._epochs.values()) > self._most:
            found += self._skip(now_s)
        return found

    def overdue(self, now_s: float) -> list[T]:
        """What has waited too long for something that never came."""
        found: list[T] = []
        while (epoch := self._stuck()) is not None and now_s - epoch.waits_since_s > self._patience_s:
            found += self._skip(now_s)
        return found

    def _stuck(self) -> _Epoch[T] | None:
        """The first epoch in which something waits; those after it wait for it too."""
        return next((epoch for epoch in self._epochs.values() if epoch.early), None)

    def _skip(self, now_s: float) -> list[T]:
        epoch = self._stuck()
        assert epoch is not None  # noqa: S101 - asked for while something waits
        self.holes += 1
        epoch.last = epoch.early[min(epoch.early)][0].previous
        epoch.waits_since_s = now_s
        return self._ready()

    def _ready(self) -> list[T]:
        found: list[T] = []
        while (epoch := self._stuck()) is not None:
            place, item = epoch.early[min(epoch.early)]
            if place.previous > epoch.last:
                break
            del epoch.early[place.sequence]
            epoch.last = place.sequence
            found.append(item)
        return found
