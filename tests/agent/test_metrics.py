"""Metrics as Prometheus reads them: what they say, how few they stay, and who may disturb the page (nobody)."""

import asyncio
import json
import re
import socket
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families as families

from agent import publisher
from agent.clock import Clock
from agent.config import Config, ConfigError, MetricsSection, PollSection, parse
from agent.curtailment import Mode
from agent.exposition import LABEL_LIMIT, Exposition, bounded
from agent.fleet import Fleet
from agent.market.quote import SourceStatus
from agent.metrics import metrics_text
from agent.orders import OrderState
from agent.publisher import Listen, MetricsFile, MetricsPage
from agent.vitals import Disk, Vitals
from tests.agent.builders import (
    NOW,
    FakeDriver,
    HandClock,
    asleep,
    eventually,
    failure,
    identity,
    mac,
    machine,
    market,
    order,
    picture,
    reading,
    round_row,
)
from tests.agent.test_service import SiteOfFakes, known

MONITORING = Path(__file__).parents[2] / "systemd" / "monitoring"


def vitals(*machines, **changes):
    usual = {
        "picture": picture(Fleet(machines), market(0.08)),
        "mode": Mode.AUTO,
        "orders": [order(), order(order_id=2, state=OrderState.CONFIRMED)],
        "given_up": frozenset({"02:13:00:00:00:01"}),
        "obligation_kw": 5.0,
        "round": round_row(machines=len(machines)),
        "loops": {"poll": {"late": True, "failures": 2, "progress_age_s": 1.0, "error": None}},
        "sources": [
            SourceStatus(name="kraken", url="http://x", answered_at=NOW),
            SourceStatus(name="luxor", url="y", failure="HTTP 503"),
        ],
        "disk": Disk(database_bytes=4096, free_bytes=100, total_bytes=1000),
    }
    return Vitals(**usual | changes)


def samples(text):
    """Every sample by its name and labels, as Prometheus would take it in."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families(text)
        for sample in family.samples
    }


SITE = (
    machine(1, reading(), group="row-1"),
    machine(2, reading(hashrate_ths=100.0), group="row-1"),
    machine(3, asleep(), group="row-2", ours=True),
    machine(4, failure("no_answer"), group="row-2"),
)


def test_the_page_says_what_the_site_does():
    told = samples(metrics_text(vitals(*SITE)))
    assert told["hashcost_machines", ("group", "row-1"), ("state", "mining")] == 2
    assert told["hashcost_machines", ("group", "row-2"), ("state", "unknown")] == 1
    assert told["hashcost_power_kw", ("group", "row-1")] == 7.0
    assert told["hashcost_unreadable_machines", ("kind", "no_answer")] == 1
    assert told["hashcost_lost_usd_per_day", ("group", "row-1")] > 0
    assert told["hashcost_model_machines", ("model", "Antminer S21")] == 4
    assert told["hashcost_chip_temp_c_max", ("group", "row-1")] == 62.0
    assert told[("hashcost_power_price_usd_per_kwh",)] == 0.08
    assert told["hashcost_source_up", ("source", "kraken")] == 1
    assert told["hashcost_source_up", ("source", "luxor")] == 0
    assert told["hashcost_orders", ("action", "sleep"), ("state", "confirmed")] == 1
    assert told["hashcost_mode", ("mode", "auto")] == 1
    assert told["hashcost_loop_late", ("loop", "poll")] == 1
    assert told[("hashcost_storage_failed",)] == 0
    assert told[("hashcost_disobedient_machines",)] == 1
    assert sum(value for key, value in told.items() if key[0] == "hashcost_recommendations") == len(SITE)


def test_what_is_unknown_is_left_out_and_never_zero():
    unknown = vitals(
        machine(4, failure()),
        picture=picture(Fleet(SITE), market(None, hashprice=None)),
        obligation_kw=None,
        disk=Disk(),
    )
    names = {key[0] for key in samples(metrics_text(unknown))}
    assert names.isdisjoint(
        {
            "hashcost_hashprice_usd_per_ph_day",
            "hashcost_power_price_usd_per_kwh",
            "hashcost_obligation_target_kw",
            "hashcost_disk_free_bytes",
        }
    )
    assert ("hashcost_chip_temp_c_max", ("group", "row-2")) not in samples(metrics_text(vitals(*SITE)))


def test_before_the_first_round_there_is_the_process_and_nothing_else():
    names = {key[0] for key in samples(metrics_text(None))}
    assert "hashcost_resident_bytes" in names
    assert "hashcost_machines" not in names


def test_ten_thousand_machines_that_all_lie_about_their_model_stay_few_lines():
    liars = [
        machine(
            1,
            reading(),
            identity=identity(1, model=f'Miner\n{number} "{"x" * 500}', mac=None, serial=str(number)),
            group=f"g{number % 300}",
        )
        for number in range(10_000)
    ]
    text = metrics_text(vitals(*liars))
    told = samples(text)
    assert len(told) < 20 * LABEL_LIMIT
    assert len(text) < 300_000
    assert sum(value for key, value in told.items() if key[0] == "hashcost_model_machines") == 10_000
    assert sum(value for key, value in told.items() if key[0] == "hashcost_machines") == 10_000
    assert told["hashcost_model_machines", ("model", "other")] == 10_000 - LABEL_LIMIT


@given(st.dictionaries(st.text(), st.floats(allow_nan=False), max_size=20))
def test_any_text_in_a_label_comes_back_as_it_was_or_cut(values):
    page = Exposition()
    metric = page.gauge("x", "help \\ with \n breaks")
    for text, value in values.items():
        metric.set(value, label=text)
    told = samples(page.text())
    assert {dict(key[1:])["label"] for key in told} == {text[:60] for text in values}


@given(st.lists(st.text(max_size=5)))
def test_labels_are_bounded_and_the_frequent_ones_kept(values):
    shown = bounded(values)
    assert set(shown) == set(values)
    assert len(set(shown.values())) <= LABEL_LIMIT + 1


def used_names(expression):
    return set(re.findall(r"\bhashcost_\w+", expression))


def test_rules_and_dashboard_ask_for_metrics_that_there_are():
    there = {
        key[0]
        for key in samples(
            metrics_text(vitals(*SITE, sources=[SourceStatus(name="x", url="y")], picture=live_picture()))
        )
    }
    rules = yaml.safe_load((MONITORING / "hashcost.rules.yml").read_text())
    alerts = [rule for group in rules["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in alerts}) == len(alerts) >= 10
    assert all({"alert", "expr", "for", "labels", "annotations"} == set(rule) for rule in alerts)
    dashboard = json.loads((MONITORING / "grafana.json").read_text())
    panels = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    for expression in [*panels, *(rule["expr"] for rule in alerts)]:
        assert used_names(expression) <= there, expression


def live_picture():
    quote = replace(market().hashprice, fixed=False)
    return picture(Fleet(SITE), market(hashprice=quote))


# -- the page over HTTP ---------------------------------------------------------------------------------


@asynccontextmanager
async def page(render=lambda: metrics_text(None)):
    server = MetricsPage(Listen("127.0.0.1", 0), render)
    running = asyncio.create_task(server.run())
    try:
        await eventually(lambda: server.port)
        yield server
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def ask(server, request, *, wait_s=5.0):
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(request)
        async with asyncio.timeout(wait_s):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_the_page_is_served_to_whoever_asks_on_loopback():
    async with page() as server:
        head, _, body = (await ask(server, GET)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK")
        assert b"text/plain; version=0.0.4" in head
        assert ("hashcost_start_timestamp_s",) in samples(body.decode())
        assert (await ask(server, GET.replace(b"GET", b"HEAD"))).endswith(b"\r\n\r\n")
        assert (await ask(server, b"GET / HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 404")
        assert (await ask(server, GET.replace(b"GET", b"POST"))).startswith(b"HTTP/1.1 405")


async def test_floods_slow_and_malformed_clients_do_not_stop_the_page(monkeypatch):
    monkeypatch.setattr(publisher, "ANSWER_WITHIN_S", 0.5)
    rendered = []
    async with page(lambda: rendered.append(1) or "x 1\n") as server:
        slow = [
            await asyncio.open_connection("127.0.0.1", server.port) for _ in range(3 * publisher.MAX_CLIENTS)
        ]
        await ask(server, b"\x00\xff" * 40_000)
        await asyncio.sleep(0.7)  # those who said nothing have lost their turn
        assert b"x 1" in await ask(server, GET)
        for _ in range(50):
            assert b"x 1" in await ask(server, GET)
        assert len(rendered) <= 3
        for _, writer in slow:
            writer.close()


async def test_a_port_that_is_taken_is_told_once_and_taken_when_it_is_free(monkeypatch, lines):
    monkeypatch.setattr(publisher, "RETRY_S", 0.05)
    taken = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    server = MetricsPage(Listen("127.0.0.1", taken.sockets[0].getsockname()[1]), lambda: "x 1\n")
    running = asyncio.create_task(server.run())
    await asyncio.sleep(0.3)
    assert len(lines("metrics_unavailable")) == 1
    taken.close()
    await eventually(lambda: server.port)
    assert b"x 1" in await ask(server, GET)
    assert lines("metrics_available") == [f"event=metrics_available listen=127.0.0.1:{server.port}"]
    running.cancel()


def test_the_file_is_replaced_as_a_whole_and_its_loss_is_told_once(tmp_path, lines):
    path = tmp_path / "textfile" / "hashcost.prom"
    file = MetricsFile(path)
    file.write("x 1\n")
    file.write("x 1\n")
    assert len(lines("metrics_unavailable")) == 1
    path.parent.mkdir()
    file.write("x 2\n")
    file.write("x 2\n")
    assert lines("metrics_available") == [f"event=metrics_available file={path}"]
    assert path.read_text() == "x 2\n"
    assert path.stat().st_mode & 0o777 == 0o644
    assert [each.name for each in path.parent.iterdir()] == ["hashcost.prom"]


async def test_the_agent_shows_each_round(tmp_path):
    textfile = tmp_path / "hashcost.prom"
    known(tmp_path / "h.db", machine(1))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = Config(
        poll=PollSection(interval_s=1.0, deadline_s=1.0),
        metrics=MetricsSection(listen=f"127.0.0.1:{port}", textfile=str(textfile)),
    )
    agent = SiteOfFakes(config, tmp_path / "h.db", clock=Clock(now=HandClock()))
    agent.fakes = {mac(1): FakeDriver(reading())}
    async with agent:
        assert agent.vitals() is None
        await agent.poll_once()
        told = samples(textfile.read_text())
        assert told["hashcost_machines", ("group", "site"), ("state", "mining")] == 1
        assert told[("hashcost_rounds_total",)] == 1
        assert told[("hashcost_database_bytes",)] > 0
        assert told[("hashcost_disk_free_bytes",)] > 0
        running = asyncio.create_task(agent.run())
        page = b""
        while not page:
            with suppress(ConnectionRefusedError):
                page = await ask(SimpleNamespace(port=port), GET)
            await asyncio.sleep(0.01)
        assert b"hashcost_rounds_total" in page
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


def test_every_metric_is_documented():
    reference = (MONITORING.parents[1] / "docs" / "reference.md").read_text()
    named = vitals(*SITE, picture=live_picture())
    missing = [f.name for f in families(metrics_text(named)) if f"`{f.name}" not in reference]
    assert not missing


@pytest.mark.parametrize(
    "listen", ["0.0.0.0:9469", "10.0.0.1:9469", "localhost", "127.0.0.1", "127.0.0.1:0", "[::]:9"]
)
def test_metrics_are_shown_to_this_host_alone(listen):
    with pytest.raises(ConfigError, match=r"metrics\.listen"):
        parse(f'[metrics]\nlisten = "{listen}"', source="test")


def test_the_configured_address_is_the_one_that_is_listened_on():
    config = parse('[metrics]\nlisten = "127.0.0.1:9469"', source="test")
    assert config.metrics.address() == Listen("127.0.0.1", 9469)
    assert parse('[metrics]\nlisten = "[::1]:9469"', source="test").metrics.address() == Listen("::1", 9469)
    assert Config().metrics.address() is None
