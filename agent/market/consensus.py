"""From what many sources say to one hashprice: plausibility, agreement, age, and what may be acted on. Pure.

Thresholds and ages are those that an operator can defend: BTC/USD is the median of at least two tickers of the last two
minutes, those more than 2 % off left out; the chain's numbers come from the most trusted source that makes sense; the
hashprice is computed, and checked against what an index publishes.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from agent.market.quote import Figure, Forecast, HashpriceQuote, PriceState

BLOCKS_PER_RETARGET = 2016
TICKER_AGE = timedelta(seconds=120)
OUTLIER = 0.02
JUMP = 0.25
FEES_JUMP_BTC = 0.5
"""A mean over 144 blocks does not move by more at once: a block of it would have had to earn some 70 BTC."""
DIFFICULTY_STEP = 4.0
"""A retarget moves difficulty by no more than this factor."""
DIFFICULTY_AGREEMENT = 0.005
WARN, STOP = 0.03, 0.10
"""How far the computed hashprice may be from a published index: said, and not acted on any more."""
INDEX_AGE = timedelta(hours=6)


class Kind(StrEnum):
    """What a source can tell."""

    DIFFICULTY = "difficulty"
    HEIGHT = "height"
    """Of the chain's tip."""
    FEES = "fees_btc"
    """Mean fees of a block over the last 144, BTC."""
    PRICE = "btc_usd"
    RETARGET = "retarget"
    """Expected change of difficulty at the next retarget, as a fraction."""
    INDEX = "index_usd_per_ph_day"
    """A published hashprice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One number that one source gave at one time."""

    kind: Kind
    value: float
    source: str
    observed_at: datetime


BANDS: Mapping[Kind, tuple[float, float]] = {
    Kind.DIFFICULTY: (1e13, 1e16),
    Kind.HEIGHT: (840_000, 20_000_000),
    Kind.FEES: (0.0, 3.0),
    Kind.PRICE: (1_000.0, 10_000_000.0),
    Kind.RETARGET: (-0.75, 3.0),
    Kind.INDEX: (0.1, 10_000.0),
}
"""Outside of these a number is absurd, whoever says it: most often it is in another unit."""
AUTOMATIC_AGE = {
    Kind.DIFFICULTY: timedelta(hours=6),
    Kind.HEIGHT: timedelta(hours=6),
    Kind.FEES: timedelta(hours=24),
    Kind.PRICE: timedelta(minutes=15),
}
"""Until then a number may be acted on."""
SHOWN_AGE = {
    Kind.DIFFICULTY: timedelta(days=2),
    Kind.HEIGHT: timedelta(days=2),
    Kind.FEES: timedelta(days=3),
    Kind.PRICE: timedelta(hours=6),
}
"""Until then it is shown and recommended on; after that it is missing."""
TRUST = ("bitcoin_core", "mempool", "braiins", "blockchain_info")
"""Whose word on the chain counts, the most trusted first: that of one's own node even against another source, though
not against two that agree."""
TICKERS = frozenset({"coinbase", "kraken", "bitstamp", "gemini"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Consensus:
    """What is believed now. `quote` is None while a number is missing; `accepted` is carried to the next time."""

    figures: Sequence[Figure]
    quote: HashpriceQuote | None
    accepted: Mapping[Kind, Figure]


def agree(observations: Iterable[Observation], accepted: Mapping[Kind, Figure], now: datetime) -> Consensus:
    """Judge what the sources said last, given what was accepted before."""
    said = [each for each in observations if each.observed_at <= now]
    figures = {
        Kind.DIFFICULTY: _of_the_chain(Kind.DIFFICULTY, said, accepted, now),
        Kind.HEIGHT: _of_the_chain(Kind.HEIGHT, said, accepted, now),
        Kind.FEES: _of_the_chain(Kind.FEES, said, accepted, now),
        Kind.PRICE: _price(said, accepted, now),
    }
    certain = {
        kind: figure
        for kind, figure in figures.items()
        if figure.state is PriceState.LIVE and figure.automatic
    }
    return Consensus(
        figures=list(figures.values()),
        quote=_quote(figures, said, now),
        accepted={**accepted, **certain},
    )


# -- one number ---------------------------------------------------------------------------------------


def _price(said: Sequence[Observation], accepted: Mapping[Kind, Figure], now: datetime) -> Figure:
    """BTC/USD: the median of the tickers that agree."""
    told = [each for each in said if each.kind is Kind.PRICE and now - each.observed_at <= TICKER_AGE]
    sane = [each for each in told if _plausible(each)]
    tickers = [each for each in sane if each.source in TICKERS]
    if tickers:
        middle = statistics.median(each.value for each in tickers)
        tickers = [each for each in tickers if abs(each.value / middle - 1) <= OUTLIER]
    if len(tickers) >= 2:
        left_out = sorted({each.source for each in told} - {each.source for each in tickers} - {"mempool"})
        return _live(
            Kind.PRICE,
            statistics.median(each.value for each in tickers),
            "median of " + ", ".join(sorted(each.source for each in tickers)),
            min(each.observed_at for each in tickers),
            detail=f"left out: {', '.join(left_out)}" if left_out else "",
        )
    return _unconfirmed(Kind.PRICE, sane, told, accepted, now)


def _of_the_chain(
    kind: Kind, said: Sequence[Observation], accepted: Mapping[Kind, Figure], now: datetime
) -> Figure:
    """Difficulty, height or fees: from the most trusted source that makes sense, if no two others contradict it."""
    told = [each for each in said if each.kind is kind and now - each.observed_at <= AUTOMATIC_AGE[kind]]
    sane = sorted((each for each in told if _plausible(each)), key=_rank)
    if not sane:
        return _unconfirmed(kind, sane, told, accepted, now)
    best = sane[0]
    with_it = [each for each in sane if _agrees(kind, each.value, best.value)]
    against = [each for each in sane if each not in with_it]
    if len(against) > len(with_it):  # the most trusted one is alone
        best, with_it, against = against[0], against, with_it
    before = _witness(kind, accepted, now)
    if _jumps(kind, best.value, before) and len(with_it) < 2:
        return _unconfirmed(kind, [best], told, accepted, now)
    figure = _live(kind, best.value, best.source, best.observed_at)
    if against and len(with_it) == len(against) and best.source != TRUST[0]:
        names = ", ".join(f"{each.source} says {each.value:g}" for each in against)
        return replace(figure, automatic=False, detail=f"contradicted: {names}")
    return replace(
        figure, detail=f"left out: {', '.join(each.source for each in against)}" if against else ""
    )


def _witness(kind: Kind, accepted: Mapping[Kind, Figure], now: datetime) -> Figure | None:
    """What was accepted before, if it is young enough to say anything of now."""
    before = accepted.get(kind)
    if before is None or before.observed_at is None or now - before.observed_at > SHOWN_AGE[kind]:
        return None
    return before


def _agrees(kind: Kind, one: float, other: float) -> bool:
    match kind:
        case Kind.HEIGHT:
            return abs(one - other) <= 3
        case Kind.FEES:
            return abs(one - other) <= 0.05
        case _:
            return abs(one / other - 1) <= DIFFICULTY_AGREEMENT


def _jumps(kind: Kind, value: float, before: Figure | None) -> bool:
    if before is None or before.value is None:
        return False
    match kind:
        case Kind.DIFFICULTY:
            return not 1 / DIFFICULTY_STEP <= value / before.value <= DIFFICULTY_STEP
        case Kind.HEIGHT:
            return value < before.value - 6 or value > before.value + BLOCKS_PER_RETARGET
        case Kind.PRICE:
            return abs(value / before.value - 1) > JUMP
        case Kind.FEES:
            return value > before.value + FEES_JUMP_BTC
        case _:
            return False


def _unconfirmed(
    kind: Kind,
    sane: Sequence[Observation],
    told: Sequence[Observation],
    accepted: Mapping[Kind, Figure],
    now: datetime,
) -> Figure:
    """Too little, too absurd or too contradictory to accept: what was accepted before is held while it may be."""
    absurd = [each for each in told if not _plausible(each)]
    before = _witness(kind, accepted, now)
    jumping = [each for each in sane if _jumps(kind, each.value, before)]
    odd = [*absurd, *jumping]
    state = PriceState.QUARANTINED if odd else PriceState.HELD
    detail = "; ".join(f"{each.source} says {each.value:g}" for each in odd)
    age = None if before is None or before.observed_at is None else now - before.observed_at
    # a negative age is a clock that was set back: nothing says how old it really is
    if before is not None and age is not None and timedelta() <= age <= SHOWN_AGE[kind]:
        young = age <= AUTOMATIC_AGE[kind]
        return replace(before, state=state, automatic=young and not odd, detail=detail or "no new value")
    fair = [each for each in sane if each not in jumping]
    disagree = kind is Kind.PRICE and _spread(fair) > OUTLIER
    if fair and not disagree:
        only = max(fair, key=lambda each: each.source in TICKERS)
        return replace(
            _live(kind, only.value, only.source, only.observed_at),
            state=PriceState.HELD,
            automatic=False,
            detail="too few sources say so",
        )
    return Figure(
        name=kind.value,
        value=None,
        source=None,
        observed_at=None,
        state=PriceState.QUARANTINED if odd or disagree else PriceState.MISSING,
        automatic=False,
        detail=detail or ("the sources contradict each other" if disagree else "no source tells"),
    )


def _spread(observations: Sequence[Observation]) -> float:
    """How far apart the furthest two are, as a fraction."""
    values = [each.value for each in observations]
    return max(values) / min(values) - 1 if values else 0.0


def _live(kind: Kind, value: float, source: str, observed_at: datetime, *, detail: str = "") -> Figure:
    return Figure(
        name=kind.value,
        value=value,
        source=source,
        observed_at=observed_at,
        state=PriceState.LIVE,
        automatic=True,
        detail=detail,
    )


def _plausible(observation: Observation) -> bool:
    low, high = BANDS[observation.kind]
    return low <= observation.value <= high


def _rank(observation: Observation) -> int:
    return TRUST.index(observation.source) if observation.source in TRUST else len(TRUST)


# -- the hashprice --------------------------------------------------------------------------------------


def _quote(
    figures: Mapping[Kind, Figure], said: Sequence[Observation], now: datetime
) -> HashpriceQuote | None:
    values = {kind: figure.value for kind, figure in figures.items()}
    difficulty, height = values[Kind.DIFFICULTY], values[Kind.HEIGHT]
    fees, price = values[Kind.FEES], values[Kind.PRICE]
    if difficulty is None or height is None or fees is None or price is None:
        return None
    retarget = _newest(said, Kind.RETARGET, now)
    doubts = [
        f"{figure.name}: {figure.detail or figure.state.value}"
        for figure in figures.values()
        if not figure.automatic
    ]
    if (int(height) + 1) % BLOCKS_PER_RETARGET == 0:
        doubts.append("the next block has another difficulty, which is only estimated")
        difficulty *= 1 + (retarget.value if retarget is not None else 0.0)
    quote = HashpriceQuote(
        difficulty=difficulty,
        height=int(height),
        fees_btc=fees,
        btc_usd=price,
        source="live",
        observed_at=min(each.observed_at for each in figures.values() if each.observed_at is not None),
        figures=list(figures.values()),
    )
    against = _cross_check(quote, said, now)
    if against is not None and against[0] > STOP:
        doubts.append(against[1])
    warnings = [against[1]] if against is not None and WARN < against[0] <= STOP else []
    return replace(
        quote,
        automatic=not doubts,
        detail="; ".join([*doubts, *warnings]),
        forecast=_forecast(quote, retarget),
    )


def _cross_check(
    quote: HashpriceQuote, said: Sequence[Observation], now: datetime
) -> tuple[float, str] | None:
    """How far the nearest published index is from the computed hashprice, and that in words. None without any."""
    indices = [
        each
        for each in said
        if each.kind is Kind.INDEX and _plausible(each) and now - each.observed_at <= INDEX_AGE
    ]
    ours = quote.hashprice_usd_per_ph_day
    apart = [(abs(ours / each.value - 1), each) for each in indices]
    if not apart:
        return None
    share, nearest = min(apart, key=lambda pair: pair[0])
    return share, f"computed {ours:.2f} USD/PH/day, {nearest.source} publishes {nearest.value:.2f}"


def _newest(said: Sequence[Observation], kind: Kind, now: datetime) -> Observation | None:
    fresh = [
        each
        for each in said
        if each.kind is kind and _plausible(each) and now - each.observed_at <= timedelta(hours=6)
    ]
    return max(fresh, key=lambda each: each.observed_at, default=None)


def _forecast(quote: HashpriceQuote, retarget: Observation | None) -> Forecast | None:
    if retarget is None:
        return None
    next_height = quote.height + 1
    if next_height % BLOCKS_PER_RETARGET == 0:  # what was expected is there with the next block
        return None
    blocks = BLOCKS_PER_RETARGET - next_height % BLOCKS_PER_RETARGET
    then = replace(quote, difficulty=quote.difficulty * (1 + retarget.value), height=quote.height + blocks)
    return Forecast(
        difficulty=then.difficulty,
        hashprice_usd_per_ph_day=then.hashprice_usd_per_ph_day,
        blocks=blocks,
        source=retarget.source,
    )
