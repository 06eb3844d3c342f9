"""What the agent last decided of each machine, since when and from what: kept for people, screens and audits."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from agent.curtailment import WORTH_CYCLES
from agent.orders import OrderAction
from agent.policy import Reason
from agent.rows import from_ms, to_ms
from drivers.reading import MachineId, PowerMode

DECISION_COLUMNS = (
    "machine_id", "action", "target_mode", "reason", "automatic", "regret_usd", "switching_cost_usd", "since_ms",
    "snapshot",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRecord:
    """One machine's decision. `action` None leaves it as it is, for `reason`.

    It has been the same since `since`, when it was made from `snapshot`: readings, prices, sources. `automatic` says
    that nobody need approve. `regret_usd` is what not switching had cost when it was last written; what makes a
    switch worth it is a part of `switching_cost_usd`, that of a cycle.
    """

    machine_id: MachineId
    action: OrderAction | None
    target_mode: PowerMode | None
    reason: Reason
    automatic: bool
    regret_usd: float
    switching_cost_usd: float
    since: datetime
    snapshot: Mapping[str, Any]

    @property
    def verdict(self) -> tuple[OrderAction | None, PowerMode | None, Reason, bool]:
        """What it says, whatever waiting has cost by now."""
        return self.action, self.target_mode, self.reason, self.automatic

    def as_data(self) -> dict[str, Any]:
        """As plain data; times as ISO-8601 UTC."""
        return {
            "action": self.action and self.action.value,
            "target_mode": self.target_mode and self.target_mode.value,
            "reason": self.reason.value,
            "automatic": self.automatic,
            "regret_usd": self.regret_usd,
            "switching_cost_usd": self.switching_cost_usd,
            "since": self.since.isoformat(),
            "snapshot": dict(self.snapshot),
        }

    def in_words(self) -> str:
        """For a person."""
        what = "left as it is" if self.action is None else self.action.value.replace("_", " ")
        if self.target_mode is not None:
            what += f" to {self.target_mode.value}"
        who = "" if self.action is None else ", by itself" if self.automatic else ", if a person approves"
        cost = ""
        if self.reason is Reason.ACCUMULATING:
            due_usd = self.switching_cost_usd * WORTH_CYCLES
            cost = f"; waiting cost {self.regret_usd:.4f} USD, a switch is due at {due_usd:.4f}"
        return f"{what}{who}: {self.reason.value}{cost} (since {self.since:%Y-%m-%d %H:%M:%S} UTC)"


def decision_row(record: DecisionRecord) -> tuple[object, ...]:
    """As the store keeps it."""
    return (
        record.machine_id,
        record.action and record.action.value,
        record.target_mode and record.target_mode.value,
        record.reason.value,
        int(record.automatic),
        record.regret_usd,
        record.switching_cost_usd,
        to_ms(record.since),
        json.dumps(record.snapshot),
    )


def decision_of(row: Mapping[str, Any]) -> DecisionRecord:
    """As the store kept it."""
    return DecisionRecord(
        machine_id=MachineId(row["machine_id"]),
        action=row["action"] and OrderAction(row["action"]),
        target_mode=row["target_mode"] and PowerMode(row["target_mode"]),
        reason=Reason(row["reason"]),
        automatic=bool(row["automatic"]),
        regret_usd=row["regret_usd"],
        switching_cost_usd=row["switching_cost_usd"],
        since=from_ms(row["since_ms"]),
        snapshot=json.loads(row["snapshot"]),
    )


def decision_lines(decisions: Mapping[MachineId, DecisionRecord]) -> list[str]:
    """How many machines the agent decides what of; none where it decided nothing yet."""
    counts = Counter(
        f"{'leave' if record.action is None else record.action.value} {record.reason.value}"
        for record in decisions.values()
    )
    return (
        [f"decided: {', '.join(f'{count} {what}' for what, count in counts.most_common())}"] if counts else []
    )
