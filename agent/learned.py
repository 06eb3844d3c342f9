"""Learns from a database: its orders, the readings around them, and the baselines of its machines."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from agent.baseline import Baseline
from agent.curtailment import CurtailmentPolicy
from agent.learning import AFTER, BEFORE, ModelLearned, SwitchSeen, learn, switch_seen
from agent.orders import OrderAction
from agent.reader import Reader
from agent.rows import to_ms

MOST_OF_A_MODEL = 60
"""Switches that are looked at, the last ones: what a firmware did a year ago says little."""


def learned(database: Path, policy: CurtailmentPolicy) -> list[ModelLearned]:
    """What the database tells of every model in the live picture. Blocks. Raises `StoreError`."""
    with Reader(database) as reader:
        models = {view.machine_id: view.model for view in reader.latest()}
        seen: dict[str, list[tuple[OrderAction, SwitchSeen]]] = {}
        for order, next_sent_at in reader.switch_orders(MOST_OF_A_MODEL):
            sent_at = order.dispatched_at
            if sent_at is None or order.machine_id not in models:
                continue
            end = min(sent_at + AFTER, next_sent_at or sent_at + AFTER)
            readings = reader.readings_of(order.machine_id, sent_at - BEFORE, end)
            if (found := switch_seen(order.action, to_ms(sent_at), readings)) is not None:
                seen.setdefault(models[order.machine_id], []).append((order.action, found))
        baselines: dict[str, list[Baseline]] = {}
        for machine_id, model in models.items():
            baselines.setdefault(model, []).extend(reader.baselines(machine_id))
        paid = _paid_hashprice(reader)
    priors = {model: policy.switching_cost_of(model) for model in models.values()}
    settled = {model for model in priors if policy.is_cost_configured(model)}
    return learn(seen, baselines, priors, settled, paid_usd_per_ph_day=paid)


def with_learned_costs(policy: CurtailmentPolicy, models: Sequence[ModelLearned]) -> CurtailmentPolicy:
    """The policy with what was learned in the place of what is known beforehand; what is configured stays."""
    return replace(policy, learned_cost_by_model={each.model: each.switching_cost_usd for each in models})


def _paid_hashprice(reader: Reader) -> float | None:
    conditions = reader.conditions()
    if conditions is None or conditions[0].hashprice_usd_per_ph_day is None:
        return None
    market, terms = conditions
    assert market.hashprice_usd_per_ph_day is not None  # noqa: S101 - just seen
    return market.hashprice_usd_per_ph_day * (1 - terms.fee) * (1 - terms.reject)
