"""Months in a bad state do not fill the log: a line when something begins, and one when it is over."""

import re
from collections import Counter

import pytest

from agent.appraisal import Terms
from agent.clock import Clock
from agent.config import Config
from agent.poller import MAX_BACKOFF_ROUNDS
from agent.service import FIT_AGAIN
from agent.store import Store
from drivers.discovery import ScanFailure, ScanResult
from drivers.driver import NoAnswer
from drivers.reading import Address
from tests.agent.builders import FakeDriver, HandClock, eventually, mac, machine, reading
from tests.agent.test_service import SiteOfFakes

ROUNDS = 300
SILENT, FAULTY, FLAKY = (mac(number) for number in (1, 2, 3))
OF_MACHINES = [f"machine={each}" for each in (SILENT, FAULTY, FLAKY)]
ALERTS = ("offline", "prices_in_doubt", "source_lost:file", "storage")
BEGUN = Counter(
    [
        *(f"event=read_failed {each}" for each in OF_MACHINES),
        *(f"event=alert_began alert={each}" for each in ALERTS),
        "event=driver_fault address=10.0.0.2", "event=metrics_unavailable", "event=rounds_skipped",
        "event=scan_failure machine=-", "event=scanned", "event=schedule_refused", "event=source_failed source=file",
        "event=storage_failed",
    ]
)  # fmt: skip
OVER = Counter(
    [
        *(f"event=read_recovered {each}" for each in OF_MACHINES),
        *(f"event=alert_ended alert={each}" for each in ALERTS),
        "event=metrics_available", "event=rounds_fit_again", "event=scanned", "event=schedule_taken",
        "event=source_recovered source=file", "event=storage_recovered",
    ]
)  # fmt: skip


@pytest.fixture
def files(tmp_path):
    """What people and other programs hand to the agent, all of it wrong."""
    (tmp_path / "calls.csv").write_text("nonsense\n1\n")
    return tmp_path


@pytest.fixture
def agent(files):
    config = Config.model_validate(
        {
            "poll": {"interval_s": 1, "deadline_s": 1},
            "power": {"kind": "file", "file": str(files / "prices.csv"), "poll_s": 60},
            "obligations": {"schedule_file": str(files / "calls.csv")},
            "metrics": {"textfile": str(files / "nowhere" / "hashcost.prom")},
            "alerts": {"hold_s": 0},
        }
    )
    database = files / "hashcost.db"
    with Store(database) as store:
        store.save_machines([machine(number) for number in (1, 2, 3)], Terms())
    agent = SiteOfFakes(config, database, clock=Clock(now=HandClock(), speed=1000.0))
    down = NoAnswer("10.0.0.1", "nobody there")
    agent.fakes = {
        SILENT: FakeDriver(down, number=1),
        FAULTY: FakeDriver(KeyError("rate"), number=2),
        FLAKY: FakeDriver(*[down, reading()] * ROUNDS, number=3),
    }
    return agent


async def rounds(agent, count):
    for number in range(count):
        agent._clock.now.forward(seconds=30)
        await agent.poll_once()
        agent._count_skipped(number % 2)


async def scan(agent, monkeypatch, failures):
    """A scan that finds these; what a hostile address says is other each time."""

    async def scanned(*_, **__):
        return ScanResult(found=(), failures=tuple(failures), silent=0)

    monkeypatch.setattr("agent.service.scan", scanned)
    await agent.scan()


def by_subject(told):
    """How often each thing was said of each."""
    return Counter(
        re.sub(r" (kind|count|detail|skipped|after_failures|addresses|file).*", "", each) for each in told
    )


async def test_a_steady_bad_state_is_a_line_when_it_begins_and_one_when_it_is_over(
    agent, files, lines, monkeypatch
):
    hostile = Address(host="10.0.0.9")
    async with agent:
        for number in range(3):
            agent._store._db.conn.execute(f"pragma query_only = {number == 2}")
            await rounds(agent, ROUNDS // 3)
            rubbish = ScanFailure(address=hostile, kind="malformed", detail=f"said {number}")
            await scan(agent, monkeypatch, [rubbish])
        assert by_subject(lines("event=")) == BEGUN

        seen = len(lines("event="))
        agent._store._db.conn.execute("pragma query_only = off")
        now = agent._clock.now()
        well = reading(began_at=now, ended_at=now)
        agent.fakes = {machine_id: FakeDriver(well) for machine_id in agent.fakes}
        (files / "nowhere").mkdir()
        (files / "calls.csv").write_text("start,end,to_kw,by_kw\n")
        (files / "prices.csv").write_text(f"start,price\n{now:%Y-%m-%dT%H}:00:00Z,0.05\n")
        await eventually(lambda: lines("event=source_recovered"))
        for _ in range(MAX_BACKOFF_ROUNDS + FIT_AGAIN):
            await agent.poll_once()
            agent._count_skipped(0)
        for _ in range(2):
            await scan(agent, monkeypatch, [])
        assert by_subject(lines("event=")[seen:]) == OVER
