"""The best that a machine could have done: an exact dynamic programme over when to sleep, knowing every price. Pure."""

from collections.abc import Sequence

AWAKE, ASLEEP = False, True


def best_states(avoided_usd: Sequence[float], switching_cost_usd: float) -> list[bool]:
    """For each interval whether to sleep in it, so that what sleep avoids, less what switches cost, is the most.

    `avoided_usd` is what sleeping through an interval is worth, below zero where running earns. A sleep and a wake cost
    half of `switching_cost_usd` each; the machine runs before the first interval, and what it does after the last costs
    nothing. Exact: of every interval the best way to be awake and the best way to be asleep in it are kept.
    """
    half = switching_cost_usd / 2
    awake, asleep = 0.0, -half
    awake_from: list[bool] = []
    asleep_from: list[bool] = []
    first = True
    for worth in avoided_usd:
        if first:
            awake_came, asleep_came = AWAKE, AWAKE
            first = False
        else:
            awake_came = asleep - half > awake
            asleep_came = asleep >= awake - half
            awake, asleep = max(awake, asleep - half), max(asleep, awake - half)
        asleep += worth
        awake_from.append(awake_came)
        asleep_from.append(asleep_came)
    states: list[bool] = []
    state = asleep > awake
    for awake_came, asleep_came in zip(reversed(awake_from), reversed(asleep_from), strict=True):
        states.append(state)
        state = asleep_came if state else awake_came
    states.reverse()
    return states
