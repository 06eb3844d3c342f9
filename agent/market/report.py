"""How the market's numbers and their sources are doing, as data for the store, screens and `--json`."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from agent.market.quote import Figure, Market, PriceState, SourceStatus, figure_of


def report(market: Market, figures: Iterable[Figure], sources: Iterable[SourceStatus]) -> dict[str, Any]:
    """Each number with source, age, state and whether it may be acted on; the power price; doubts; the forecast after
    the next retarget; and each source with its last answer and failure."""
    hashprice, power = market.hashprice, market.power
    return {
        "at": market.at.isoformat(),
        "automatic": market.automatic,
        "doubts": market.doubts,
        "notes": [quote.detail for quote in (hashprice, power) if quote is not None and quote.detail],
        "figures": [each.as_data(market.at) for each in figures],
        "power": None
        if power is None
        else {
            "price_usd_per_kwh": power.price_usd_per_kwh,
            "market_usd_per_kwh": power.market_usd_per_kwh,
            "source": power.source,
            "state": (PriceState.FIXED if power.fixed else power.state).value,
            "age_s": (market.at - power.observed_at).total_seconds(),
            "valid_until": power.valid_until and power.valid_until.isoformat(),
            "automatic": power.automatic,
        },
        "forecast": None if hashprice is None or hashprice.forecast is None else asdict(hashprice.forecast),
        "sources": [_source(each) for each in sources],
    }


def accepted_figures(prices: Mapping[str, Any]) -> list[Figure]:
    """The numbers of a report that were live and acted on when it was made; none of what cannot be read."""
    try:
        at = datetime.fromisoformat(prices["at"])
        figures = [figure_of(each, at) for each in prices["figures"]]
    except (KeyError, TypeError, ValueError):  # of another version
        return []
    return [each for each in figures if each.state is PriceState.LIVE and each.automatic]


def _source(status: SourceStatus) -> dict[str, Any]:
    return {
        "name": status.name,
        "url": status.url,
        "answered_at": _text(status.answered_at),
        "failed_at": _text(status.failed_at),
        "failure": status.failure,
        "values": status.values,
    }


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def report_lines(prices: Mapping[str, Any]) -> list[str]:
    """What a person must know of the prices: why the agent does not act on them, sources that fail, and what comes."""
    lines = [f"prices: {doubt}; the agent only proposes" for doubt in prices.get("doubts", ())]
    lines += [
        f"price {each['name']}: {each['state']} ({each['detail']})"
        for each in prices.get("figures", ())
        if each["value"] is None
    ]
    failing = [each for each in prices.get("sources", ()) if each["failure"] is not None]
    if failing:
        lines.append(
            "sources failing: " + "; ".join(f"{each['name']} ({each['failure']})" for each in failing)
        )
    forecast = prices.get("forecast")
    if forecast is not None:
        lines.append(
            f"after the next retarget, in {forecast['blocks']} blocks: "
            f"{forecast['hashprice_usd_per_ph_day']:.2f} USD/PH/day ({forecast['source']})"
        )
    return lines
