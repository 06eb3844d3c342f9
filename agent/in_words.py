"""A site's prices and contract, told back in words: what a configuration means in money."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

from agent.config import Config
from agent.config.obligations import ObligationsSection
from agent.config.power import PowerSection
from agent.market.fixed import FixedHashprice
from agent.market.quote import Market
from agent.summary import breakeven_efficiency
from agent.terms import Economics
from drivers.catalogue import Nameplate, models

MOST_MODELS = 4


async def site_in_words(config: Config, market: Market) -> list[str]:
    """What this configuration comes to at these prices. Where hashprice is not known, that of the four configured
    numbers is taken, and said to be."""
    lines = list(_power(config.power, market))
    assumed = market.hashprice is None
    if assumed:
        quote = await FixedHashprice(**config.market.fixed()).quote(market.at)
        market = Market(at=market.at, hashprice=quote, power=market.power)
    lines += _breakeven(config, market, assumed=assumed)
    lines += _hosting(config)
    lines += _grid(config.obligations)
    lines.append(_mode(config))
    return lines


def _power(power: PowerSection, market: Market) -> Iterator[str]:
    quote = market.power
    kinds = {
        "fixed": "a fixed price",
        "time_of_use": f"time of use in {power.time_zone}",
        "feed": f"{power.feed} {power.location}".strip(),
        "file": f"the file {power.file}",
        "mqtt": f"the topic {power.topic}",
    }
    what = kinds[power.kind]
    if power.contract == "block":
        what += ", of a block that is sold back: what selling a kWh brings"
    extras = [
        f"losses {power.losses:.1%}" if power.losses else "",
        f"{power.adder_usd_per_kwh:.4f} USD/kWh on top" if power.adder_usd_per_kwh else "",
    ]
    charged = ", ".join(each for each in extras if each)
    what += f" ({charged})" if charged else ""
    if quote is None:
        yield f"power: {what}; no price is known now, so every machine would be left as it is"
    else:
        yield f"power: {what}; a kWh more costs {quote.price_usd_per_kwh:.4f} USD now"
    if power.kind == "time_of_use":
        yield _next_period(power, market.at)
    if power.take_or_pay_kw:
        yield f"power: {power.take_or_pay_kw:g} kW are paid for anyway: economics do not take the site below that"
    if power.curtailment_credit_usd_per_kwh:
        yield f"power: each kWh not used is paid with {power.curtailment_credit_usd_per_kwh:.4f} USD on top"


def _next_period(power: PowerSection, now: datetime) -> str:
    calendar = power.calendar()
    until = calendar.interval_at(now).end
    local = until.astimezone(ZoneInfo(power.time_zone))
    price = power.terms_of_contract().marginal_usd_per_kwh(calendar.price_at(until))
    return f"power: from {local:%a %d %b %H:%M} on it costs {price:.4f} USD"


def _breakeven(config: Config, market: Market, *, assumed: bool) -> Iterator[str]:
    hashprice = market.hashprice_usd_per_ph_day
    efficiency = breakeven_efficiency(market, config.terms_book().site)
    if hashprice is None or market.price_usd_per_kwh is None:
        return
    at = f"at {hashprice:.2f} USD/PH/day" + (
        " (the configured numbers; nothing live is known)" if assumed else ""
    )
    if efficiency is None or efficiency <= 0:
        yield f"{at} every machine earns: its energy costs nothing"
        return
    yield f"{at} your break-even efficiency is {efficiency:.1f} J/TH"
    known = sorted(models(), key=lambda model: model.efficiency_j_per_th)
    earning = [model for model in known if model.efficiency_j_per_th <= efficiency]
    losing = known[len(earning) :]
    if losing:
        yield f"under break-even, the best of them first: {_some(losing)}"
    if earning:
        yield f"earning, the worst of them first: {_some(earning[::-1])}"


def _some(plates: Sequence[Nameplate]) -> str:
    named = ", ".join(f"{plate.model} ({plate.efficiency_j_per_th:g})" for plate in plates[:MOST_MODELS])
    more = len(plates) - MOST_MODELS
    return f"{named} and {more} more" if more > 0 else named


def _hosting(config: Config) -> Iterator[str]:
    on_account = {
        Economics.NONE: "curtailed on nobody's account",
        Economics.OWNER: "curtailed when they lose money at what their owner pays",
        Economics.HOST: "curtailed on the host's account, as their contract allows",
        Economics.SITE: "curtailed like the site's own",
    }
    for name, each in config.terms_book().own.items():
        price = each.terms.price_usd_per_kwh
        rate = "at the site's price" if price is None else f"at {price:.4f} USD/kWh"
        whose = f"{each.owner}'s, " if each.owner else ""
        grid = "; taken when the grid calls" if each.grid else "; not taken when the grid calls"
        yield f"{name}: {whose}{rate}, {on_account[each.economics]}{grid}"


def _grid(obligations: ObligationsSection) -> Iterator[str]:
    """Who may call, and what their silence means."""
    callers = [
        f"the schedule {obligations.schedule_file}" if obligations.schedule_file else "",
        f"the topic {obligations.mqtt_topic}" if obligations.mqtt_topic else "",
        f"OpenADR at {obligations.openadr.url}" if obligations.openadr else "",
    ]
    named = ", ".join(each for each in callers if each)
    if not named:
        return
    yield f"the grid may call: {named}"
    if obligations.listens:
        does = (
            f"sheds to {obligations.shed_to_kw:g} kW"
            if obligations.on_silence == "shed"
            else "keeps to the last call"
        )
        yield f"the grid may call: after {obligations.silence_s:g} s of silence the site {does}"


def _mode(config: Config) -> str:
    words = {
        "observe": "the agent only appraises",
        "recommend": "the agent proposes, and does what a person approves",
        "auto": "the agent puts machines to sleep and wakes them by itself",
    }
    return f"mode {config.curtailment.mode.value}: {words[config.curtailment.mode.value]}"
