"""What Home Assistant is told over a real MQTT connection to a simulated broker."""

import asyncio
import json
import re
from contextlib import asynccontextmanager, suppress

import pytest

from agent import home_assistant
from agent.clock import Clock
from agent.config import ConfigError, parse
from agent.home_assistant import SENSORS, Announcer, Place, discovery, figures
from agent.mqtt import Broker
from agent.simulated.broker import SimulatedBroker
from tests.agent.builders import FakeDriver, HandClock, eventually, mac, machine, reading
from tests.agent.test_metrics import SITE, vitals
from tests.agent.test_service import SiteOfFakes, known

LOGIN = ("ha", "canary-broker-31")


def place(port=1883):
    broker = Broker(host="127.0.0.1", port=port, username=LOGIN[0], password=LOGIN[1])
    return Place(broker=broker, site="pecos", prefix="homeassistant")


@asynccontextmanager
async def announcing(broker):
    announcer = Announcer(place(broker.port))
    running = asyncio.create_task(announcer.run())
    try:
        yield announcer
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


def heard(broker):
    """What the broker was told to keep, and whatever else was said."""
    return broker._retained


async def test_the_sensors_are_named_and_the_figures_follow_each_round(monkeypatch):
    said = []
    async with SimulatedBroker(login=LOGIN) as broker:
        publish = broker.publish
        monkeypatch.setattr(
            broker,
            "publish",
            lambda topic, body, *, retain=False: (
                said.append((topic, body)),
                publish(topic, body, retain=retain),
            ),
        )
        async with announcing(broker) as announcer:
            announcer.tell(vitals(*SITE), alerts=2)
            await eventually(lambda: any(topic == "hashcost/pecos/state" for topic, _ in said))
            kept = heard(broker)
            assert kept["hashcost/pecos/availability"] == b"online"
            assert set(discovery(place())) <= set(kept)
            state = json.loads(next(body for topic, body in said if topic == "hashcost/pecos/state"))
            assert (state["machines_mining"], state["machines_unknown"], state["alerts"]) == (2, 1, 2)
            assert state["power_kw"] == 7.025
            announcer.tell(vitals(*SITE), alerts=0)
            await eventually(lambda: [topic for topic, _ in said].count("hashcost/pecos/state") == 2)
    assert b"canary" not in b"".join(body for _, body in said)


async def test_a_broker_that_goes_is_told_once_and_told_all_again_when_it_is_back(monkeypatch, lines):
    monkeypatch.setattr(home_assistant, "RETRY_S", 0.05)
    monkeypatch.setattr(home_assistant, "LONGEST_RETRY_S", 0.1)
    async with SimulatedBroker(login=LOGIN) as broker:
        port = broker.port
        async with announcing(broker):
            await eventually(lambda: heard(broker).get("hashcost/pecos/availability") == b"online")
            await broker.__aexit__()
            await eventually(lambda: lines("home_assistant_lost"))
            async with SimulatedBroker(login=LOGIN, port=port) as again:
                await eventually(lambda: heard(again).get("hashcost/pecos/availability") == b"online")
                assert set(discovery(place())) <= set(heard(again))
    assert len(lines("home_assistant_lost")) == 1
    assert len(lines("home_assistant_back")) == 1
    assert "canary" not in "".join(lines("home_assistant"))


def test_every_sensor_has_its_figure_and_a_place_of_its_own():
    state = figures(vitals(*SITE), 0)
    assert set(state) == {sensor.key for sensor in SENSORS}
    told = list(discovery(place()).values())
    assert len({each["unique_id"] for each in told}) == len(SENSORS)
    for each in told:
        (key,) = re.fullmatch(r"\{\{ value_json\.(\w+) \}\}", each["value_template"]).groups()
        assert key in state
    json.dumps(state)


async def test_the_agent_tells_each_round(tmp_path, monkeypatch):
    monkeypatch.setenv("BROKER", LOGIN[1])
    known(tmp_path / "h.db", machine(1))
    async with SimulatedBroker(login=LOGIN) as broker:
        text = f"""
            poll.interval_s = 1.0
            poll.deadline_s = 1.0
            mqtt = {{host = "127.0.0.1", port = {broker.port}, username = "ha", password_env = "BROKER"}}
            home_assistant.site = "pecos"
        """
        agent = SiteOfFakes(parse(text, source="test"), tmp_path / "h.db", clock=Clock(now=HandClock()))
        agent.fakes = {mac(1): FakeDriver(reading())}
        async with agent:
            running = asyncio.create_task(agent.run())
            await eventually(lambda: heard(broker).get("hashcost/pecos/availability") == b"online")
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('home_assistant.site = "pecos"', "need a broker"),
        ('mqtt.host = "x"\nhome_assistant.site = "Pecos/+"', "home_assistant.site"),
        ('mqtt.host = "x"', "used for nothing"),
    ],
)
def test_what_makes_no_sense_is_told(text, said):
    with pytest.raises(ConfigError, match=said):
        parse(text, source="test")
