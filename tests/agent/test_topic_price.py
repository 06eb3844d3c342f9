"""A power price over a site's broker: what a message says, since when, and what is not taken for a price."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest

from agent.clock import Clock
from agent.config import Config, MqttSection
from agent.config.power import PowerSection
from agent.feeds import Feeds
from agent.market.quote import PriceState
from agent.simulated.broker import SimulatedBroker
from agent.supervision import Pulse
from tests.agent.builders import NOW, HandClock, eventually

TOPIC = "site/price"


@pytest.fixture(autouse=True)
def nobody_waits_long(monkeypatch):
    monkeypatch.setattr("agent.tariff.live.FIRST_MESSAGE_S", 0.3)


@asynccontextmanager
async def feeds(broker, clock, **power):
    config = Config(
        mqtt=MqttSection(host="127.0.0.1", port=broker.port),
        power=PowerSection(kind="mqtt", topic=TOPIC, **power),
    )
    async with Feeds(config, Clock(now=clock), Pulse()) as live:
        yield live


async def price(live, clock):
    quote = await live.power.quote(clock())
    return None if quote is None else (round(quote.price_usd_per_kwh, 6), quote.state)


async def told(live, clock, wanted):
    async with asyncio.timeout(60):
        while await price(live, clock) != wanted:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("power", "body", "usd_per_kwh"),
    [
        ({}, b"0.061", 0.061),
        ({"unit": "usd_per_mwh"}, b"61", 0.061),
        ({"pointer": "/now/price"}, b'{"now": {"price": "0.061"}}', 0.061),
        (
            {"pointer": "/price", "time_pointer": "/at"},
            json.dumps({"price": 0.061, "at": NOW.timestamp()}).encode(),
            0.061,
        ),
    ],
)
async def test_a_message_is_the_price_for_its_interval(power, body, usd_per_kwh):
    clock = HandClock()
    async with SimulatedBroker() as broker:
        broker.publish(TOPIC, b"0.5")  # nobody listened
        async with feeds(broker, clock, **power) as live:
            await eventually(lambda: broker.subscribers(TOPIC) == 1)
            broker.publish(TOPIC, body)
            await told(live, clock, (usd_per_kwh, PriceState.LIVE))
            clock.forward(minutes=21)  # its five minutes, fifteen of grace, and one
            assert await price(live, clock) == (usd_per_kwh, PriceState.HELD)


async def test_the_last_of_an_interval_s_messages_counts_and_a_new_interval_begins_anew():
    clock = HandClock()
    async with SimulatedBroker() as broker, feeds(broker, clock) as live:
        await eventually(lambda: broker.subscribers(TOPIC) == 1)
        for minutes, said in ((0, 0.05), (4, 0.07), (1, 0.2)):
            clock.forward(minutes=minutes)
            broker.publish(TOPIC, str(said).encode())
            await told(live, clock, (said, PriceState.LIVE))


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"61", "implausible"),
        (b"dear", "malformed"),
        (b"null", "malformed"),
        (b"[]", "unknown"),
        (b"", "malformed"),
    ],
)
async def test_what_is_no_price_changes_none(body, kind):
    clock = HandClock()
    async with SimulatedBroker() as broker, feeds(broker, clock) as live:
        await eventually(lambda: broker.subscribers(TOPIC) == 1)
        broker.publish(TOPIC, b"0.061")
        await told(live, clock, (0.061, PriceState.LIVE))
        broker.publish(TOPIC, body)
        await eventually(lambda: str(live.power.status.failure).startswith(kind))
        assert (await price(live, clock))[0] == 0.061


async def test_what_a_broker_kept_is_of_no_known_age_unless_it_says_so():
    clock = HandClock()
    timed = json.dumps({"price": 0.061, "at": NOW.timestamp() - 3600 * 5}).encode()
    async with SimulatedBroker() as broker:
        broker.publish(TOPIC, b"0.061", retain=True)
        async with feeds(broker, clock) as live:
            assert live.power.status.failure.startswith("unknown: the broker kept this message")
            assert await price(live, clock) is None
        broker.publish(TOPIC, timed, retain=True)
        async with feeds(broker, clock, pointer="/price", time_pointer="/at") as live:
            assert await price(live, clock) == (0.061, PriceState.HELD)
