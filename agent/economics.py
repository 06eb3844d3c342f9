"""Pure money: what hashing earns, what it costs, and where the two meet.

Every function is keyword-only, takes plain floats with their unit in the name, and knows no clock and no I/O.
Unknown in, unknown out: an argument that is None gives None, never a zero.

Symbols as in the field: H TH/s, W wall watts while hashing, Ws watts asleep, h hashprice USD/PH/day, p power price
USD/kWh, f pool and firmware fee, q rejected share of shares, k overhead (cooling and losses that fall with load).
Sources: Bitcoin consensus rules for subsidy and difficulty; Hashrate Index for the FPPS convention of hashprice.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

SATOSHI_PER_BTC = 100_000_000
BLOCKS_PER_HALVING = 210_000
BLOCKS_PER_RETARGET = 2_016
SECONDS_PER_BLOCK = 600
SECONDS_PER_DAY = 86_400
HASHES_PER_DIFFICULTY = 2**32
HOURS_PER_DAY = 24
MINING_YEARS = range(2009, 2141)
"""From the first block until the last subsidy. A time outside of them is somebody's mistake."""


def subsidy_sat(height: int) -> int:
    """Subsidy of the block at `height`, in satoshi: 50 BTC, halved (integer shift) every 210,000 blocks."""
    if height < 0:
        raise ValueError(f"block height {height} is negative")
    halvings = height // BLOCKS_PER_HALVING
    return 0 if halvings >= 64 else (50 * SATOSHI_PER_BTC) >> halvings


def subsidy_btc(height: int) -> float:
    """Subsidy of the block at `height`, in BTC. Hashprice is about the *next* block: pass tip + 1."""
    return subsidy_sat(height) / SATOSHI_PER_BTC


def days_to_halving(height: int) -> float:
    """Days until the next halving at ten minutes a block, seen from the block at `height`."""
    blocks = BLOCKS_PER_HALVING - height % BLOCKS_PER_HALVING
    return blocks * SECONDS_PER_BLOCK / SECONDS_PER_DAY


def network_hashrate_ths(difficulty: float) -> float:
    """Network hashrate in TH/s that `difficulty` implies: D * 2^32 hashes every 600 s."""
    return difficulty * HASHES_PER_DIFFICULTY / SECONDS_PER_BLOCK / 1e12


def difficulty_of(network_hashrate_ths: float) -> float:
    """Difficulty at which `network_hashrate_ths` finds a block every 600 s."""
    return network_hashrate_ths * 1e12 * SECONDS_PER_BLOCK / HASHES_PER_DIFFICULTY


def hashprice_btc_per_ph_day(
    *, difficulty: float | None, subsidy_btc: float | None, fees_btc: float | None
) -> float | None:
    """BTC that 1 PH/s is expected to earn in a day: its share of blocks times subsidy and mean fees of a block."""
    if difficulty is None or subsidy_btc is None or fees_btc is None:
        return None
    blocks_per_day = SECONDS_PER_DAY * 1e15 / (difficulty * HASHES_PER_DIFFICULTY)
    return blocks_per_day * (subsidy_btc + fees_btc)


def hashprice_usd_per_ph_day(
    *, difficulty: float | None, subsidy_btc: float | None, fees_btc: float | None, btc_usd: float | None
) -> float | None:
    """Hashprice in USD/PH/day before pool fees. `fees_btc` is the mean of the last 144 blocks (FPPS)."""
    in_btc = hashprice_btc_per_ph_day(difficulty=difficulty, subsidy_btc=subsidy_btc, fees_btc=fees_btc)
    return None if in_btc is None or btc_usd is None else in_btc * btc_usd


def efficiency_j_per_th(*, hashrate_ths: float | None, power_w: float | None) -> float | None:
    """J/TH; None for a machine that does not hash, or next to nothing: it is not infinitely inefficient."""
    if not hashrate_ths or power_w is None:
        return None
    efficiency = power_w / hashrate_ths
    return efficiency if math.isfinite(efficiency) else None


def revenue_usd_per_day(
    *,
    hashrate_ths: float | None,
    hashprice_usd_per_ph_day: float | None,
    fee: float = 0.0,
    reject: float = 0.0,
) -> float | None:
    """R = H/1000 * h * (1-f) * (1-q): what the pool pays."""
    if hashrate_ths is None or hashprice_usd_per_ph_day is None:
        return None
    return hashrate_ths / 1000 * hashprice_usd_per_ph_day * (1 - fee) * (1 - reject)


def energy_cost_usd_per_day(
    *, power_w: float | None, price_usd_per_kwh: float | None, overhead: float = 1.0
) -> float | None:
    """C = W/1000 * 24 * p * k. Negative while the price is: then running is paid for."""
    if power_w is None or price_usd_per_kwh is None:
        return None
    return power_w / 1000 * HOURS_PER_DAY * price_usd_per_kwh * overhead


def margin_usd_per_day(
    *,
    hashrate_ths: float | None,
    power_w: float | None,
    hashprice_usd_per_ph_day: float | None,
    price_usd_per_kwh: float | None,
    fee: float = 0.0,
    reject: float = 0.0,
    overhead: float = 1.0,
) -> float | None:
    """Gross margin M = R - C: what an operator is shown and an accountant adds up."""
    revenue = revenue_usd_per_day(
        hashrate_ths=hashrate_ths, hashprice_usd_per_ph_day=hashprice_usd_per_ph_day, fee=fee, reject=reject
    )
    cost = energy_cost_usd_per_day(power_w=power_w, price_usd_per_kwh=price_usd_per_kwh, overhead=overhead)
    return None if revenue is None or cost is None else revenue - cost


def decision_margin_usd_per_day(
    *,
    hashrate_ths: float | None,
    power_w: float | None,
    sleep_power_w: float | None,
    hashprice_usd_per_ph_day: float | None,
    price_usd_per_kwh: float | None,
    fee: float = 0.0,
    reject: float = 0.0,
    overhead: float = 1.0,
    other_avoidable_usd_per_day: float = 0.0,
    curtailment_credit_usd_per_day: float = 0.0,
) -> float | None:
    """What running earns over sleeping: only avoidable cost counts, and sleep still draws `sleep_power_w`.

    Run if and only if it is positive. Zero at the strike price and at the break-even hashprice.
    Rent, lease and staff are not avoidable.
    """
    if power_w is None or sleep_power_w is None:
        return None
    gross = margin_usd_per_day(
        hashrate_ths=hashrate_ths,
        power_w=power_w - sleep_power_w,
        hashprice_usd_per_ph_day=hashprice_usd_per_ph_day,
        price_usd_per_kwh=price_usd_per_kwh,
        fee=fee,
        reject=reject,
        overhead=overhead,
    )
    if gross is None:
        return None
    return gross - other_avoidable_usd_per_day - curtailment_credit_usd_per_day


def hashcost_usd_per_ph_day(
    *, efficiency_j_per_th: float | None, price_usd_per_kwh: float | None, overhead: float = 1.0
) -> float | None:
    """What a PH/s costs in energy per day: 24 * e * p * k; 1 J/TH at 1 USD/kWh is 24 USD/PH/day."""
    if efficiency_j_per_th is None or price_usd_per_kwh is None:
        return None
    return HOURS_PER_DAY * efficiency_j_per_th * price_usd_per_kwh * overhead


def strike_price_usd_per_kwh(
    *,
    hashrate_ths: float | None,
    power_w: float | None,
    sleep_power_w: float | None,
    hashprice_usd_per_ph_day: float | None,
    fee: float = 0.0,
    reject: float = 0.0,
    overhead: float = 1.0,
) -> float | None:
    """p* = R / ((W-Ws)/1000 * 24 * k): the power price at which the decision margin is zero.

    None where sleeping saves nothing (W <= Ws): no price makes such a machine worth curtailing.
    """
    revenue = revenue_usd_per_day(
        hashrate_ths=hashrate_ths, hashprice_usd_per_ph_day=hashprice_usd_per_ph_day, fee=fee, reject=reject
    )
    if revenue is None or power_w is None or sleep_power_w is None or power_w <= sleep_power_w:
        return None
    return revenue / ((power_w - sleep_power_w) / 1000 * HOURS_PER_DAY * overhead)


def breakeven_hashprice_usd_per_ph_day(
    *,
    hashrate_ths: float | None,
    power_w: float | None,
    sleep_power_w: float | None,
    price_usd_per_kwh: float | None,
    fee: float = 0.0,
    reject: float = 0.0,
    overhead: float = 1.0,
) -> float | None:
    """h* = 24 * (W-Ws)/H * p * k / ((1-f)(1-q)): the hashprice at which the decision margin is zero.

    Like the strike price it counts avoidable watts only; with Ws = 0 it is hashcost over the payout share.
    """
    if power_w is None or sleep_power_w is None:
        return None
    hashcost = hashcost_usd_per_ph_day(
        efficiency_j_per_th=efficiency_j_per_th(hashrate_ths=hashrate_ths, power_w=power_w - sleep_power_w),
        price_usd_per_kwh=price_usd_per_kwh,
        overhead=overhead,
    )
    return None if hashcost is None else hashcost / ((1 - fee) * (1 - reject))


def breakeven_efficiency_j_per_th(
    *,
    hashprice_usd_per_ph_day: float | None,
    price_usd_per_kwh: float | None,
    fee: float = 0.0,
    reject: float = 0.0,
    overhead: float = 1.0,
) -> float | None:
    """e* = h(1-f)(1-q) / (24 p k): machines above it lose money. None while power costs nothing: all earn."""
    if hashprice_usd_per_ph_day is None or price_usd_per_kwh is None or price_usd_per_kwh <= 0:
        return None
    return (
        hashprice_usd_per_ph_day * (1 - fee) * (1 - reject) / (HOURS_PER_DAY * price_usd_per_kwh * overhead)
    )


def payback_days(*, machine_price_usd: float | None, margin_usd_per_day: float | None) -> float | None:
    """Days until a machine has earned its price at today's margin. None if it never does. Shown, never decided on."""
    if machine_price_usd is None or margin_usd_per_day is None or margin_usd_per_day <= 0:
        return None
    return machine_price_usd / margin_usd_per_day


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoint:
    """One way in which a machine can run: hashrate in TH/s at wall watts."""

    hashrate_ths: float
    power_w: float


def marginal_efficiency_j_per_th(lower: OperatingPoint, upper: OperatingPoint) -> float | None:
    """dW/dH between two points: worth stepping up while it is under the break-even efficiency."""
    gained_ths = upper.hashrate_ths - lower.hashrate_ths
    return None if gained_ths == 0 else (upper.power_w - lower.power_w) / gained_ths


def best_point(
    points: Sequence[OperatingPoint],
    *,
    sleep_power_w: float,
    hashprice_usd_per_ph_day: float,
    price_usd_per_kwh: float,
    fee: float = 0.0,
    reject: float = 0.0,
    overhead: float = 1.0,
) -> OperatingPoint | None:
    """The point with the highest decision margin; None means sleep, which is worth exactly zero.

    Curves are not assumed convex: every point is tried.
    """

    def worth(point: OperatingPoint) -> float:
        margin = decision_margin_usd_per_day(
            hashrate_ths=point.hashrate_ths,
            power_w=point.power_w,
            sleep_power_w=sleep_power_w,
            hashprice_usd_per_ph_day=hashprice_usd_per_ph_day,
            price_usd_per_kwh=price_usd_per_kwh,
            fee=fee,
            reject=reject,
            overhead=overhead,
        )
        return 0.0 if margin is None else margin

    best = max(points, key=worth, default=None)
    return best if best is not None and worth(best) > 0 else None


def crossover_price_usd_per_kwh(
    lower: OperatingPoint,
    upper: OperatingPoint,
    *,
    hashprice_usd_per_ph_day: float,
    fee: float = 0.0,
    reject: float = 0.0,
    overhead: float = 1.0,
) -> float | None:
    """Power price at which two points are worth the same; sleep is the point (0 TH/s, Ws)."""
    return strike_price_usd_per_kwh(
        hashrate_ths=upper.hashrate_ths - lower.hashrate_ths,
        power_w=upper.power_w,
        sleep_power_w=lower.power_w,
        hashprice_usd_per_ph_day=hashprice_usd_per_ph_day,
        fee=fee,
        reject=reject,
        overhead=overhead,
    )
