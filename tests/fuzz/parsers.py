"""Every parser that reads bytes from outside, with honest answers to start from, and the only errors it may raise."""

import json
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agent import openadr
from agent.config import ConfigError
from agent.config import parse as parse_config
from agent.control import RequestMessage
from agent.fetch import Page, SourceError, told
from agent.grid import target_of
from agent.market.sources import BitcoinCore, Endpoint, known_sources
from agent.mqtt import Heard
from agent.obligations import ScheduleError, read_schedule
from agent.selector import SelectorError
from agent.selector import parse as parse_selector
from agent.tariff.feeds import MARKETS, Wanted
from agent.tariff.intervals import absurd
from drivers import antminer_answers, antminer_configuration, whatsminer_answers
from drivers._pyasic import btminer, whatsminer_token
from drivers.addresses import AddressError, parse_targets
from drivers.catalogue import nameplate
from drivers.http import HttpAnswer
from drivers.transport import CgminerAnswer, decode_object
from drivers.values import mapping

CORPUS = Path(__file__).parents[1] / "drivers" / "corpus"
NOW = datetime(2026, 2, 1, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Parser:
    """`call` is given the bytes and may raise `errors` and nothing else; its result is looked at for numbers that are
    none."""

    name: str
    seeds: tuple[bytes, ...]
    call: Callable[[bytes], Any]
    errors: tuple[type[Exception], ...]


def corpus(*patterns: str) -> tuple[bytes, ...]:
    return tuple(path.read_bytes() for pattern in patterns for path in sorted(CORPUS.glob(pattern)))


# -- machines -------------------------------------------------------------------------------------------


def cgminer(body: bytes) -> Any:
    """As it arrives: in two pieces, then the end."""
    take = CgminerAnswer()
    received = bytearray(body[: len(body) // 2])
    for more, ended in ((b"", False), (body[len(body) // 2 :], False), (b"", True)):
        received += more
        if (answer := take(received, ended)) is not None:
            return answer
    return None


def http(body: bytes) -> Any:
    """As it arrives: in two pieces, then the end."""
    take = HttpAnswer()
    received = bytearray(body[: len(body) // 2])
    for more, ended in ((b"", False), (body[len(body) // 2 :], False), (b"", True)):
        received += more
        if (response := take(received, ended)) is not None:
            return response.status, len(response.body)
    return None


def antminer(body: bytes) -> Any:
    """Everything that is made of a stock Antminer's answers, each taken for each."""
    answer = decode_object(body)
    live = antminer_answers.live(answer, answer, 3)
    found = [
        live,
        antminer_answers.chain_power_w(answer),
        antminer_answers.mode(answer),
        antminer_answers.pools(answer),
        antminer_answers.errors(answer),
        antminer_answers.firmware(answer),
        antminer_answers.model(answer),
        nameplate(antminer_answers.model(answer) or "", live.expected_ths),
    ]
    if antminer_configuration.flaw(answer) is None:
        point = antminer_configuration.restore_point(answer)
        posted = antminer_configuration.waking(answer, point), antminer_configuration.sleeping(answer)
        assert all(each["pools"] == answer["pools"] for each in posted)  # never without its pools
        json.dumps(posted)
    return found


def antminer_power(body: bytes) -> Any:
    return antminer_answers.port_power_w(body)


def whatsminer_v2(body: bytes) -> Any:
    answer = decode_object(body)
    return [
        whatsminer_answers.v2_live(answer, answer, answer),
        whatsminer_answers.v2_told_to_sleep(answer),
        whatsminer_answers.v2_errors(answer),
        whatsminer_answers.pools(answer),
        whatsminer_answers.v2_who(answer, answer, answer, answer),
        whatsminer_answers.refusal(answer),
    ]


def whatsminer_v3(body: bytes) -> Any:
    message = mapping(whatsminer_answers.v3_message(decode_object(body)))
    return [
        whatsminer_answers.v3_live(message, message, message),
        whatsminer_answers.v3_pools(message),
        whatsminer_answers.v3_who(message),
    ]


TOKEN = whatsminer_token("admin", {"time": "5626", "salt": "BQ5hoXV9", "newsalt": "jbzkfQls"})
SEALED = json.loads(btminer.create_privileged_cmd(TOKEN, {"cmd": "power_off"}))


def whatsminer_sealed(body: bytes) -> Any:
    answer = {"enc": body.decode("latin-1")}
    return bool(btminer.parse_btminer_priviledge_data(TOKEN, answer))


# -- people and files -----------------------------------------------------------------------------------


def schedule(body: bytes) -> Any:
    with tempfile.NamedTemporaryFile() as file:
        file.write(body)
        file.flush()
        return read_schedule(Path(file.name))


def control(body: bytes) -> Any:
    return RequestMessage.model_validate_json(body).command


def config(body: bytes) -> Any:
    return parse_config(body.decode(errors="replace"), source="fuzz") and None


# -- sources --------------------------------------------------------------------------------------------


class OnePage:
    """A fetcher to which every address answers the same."""

    def __init__(self, body: bytes) -> None:
        self._page = Page(body=body, fetched_at=NOW)

    async def get(self, url: str, *_: Any, **__: Any) -> Page:
        if url.endswith("/tip/height") and self._page.body.startswith(b"{"):
            return Page(body=b"927000", fetched_at=NOW)  # the one page that is no JSON
        return self._page

    post = get


def at_once(asking: Any) -> Any:
    """The outcome of something that waits for nothing."""
    try:
        asking.send(None)
    except StopIteration as done:
        return done.value
    finally:
        asking.close()
    raise AssertionError("it waited for something")


def source(name: str) -> Callable[[bytes], Any]:
    ask, to = known_sources()[name], Endpoint(name=name, url="http://x")
    return lambda body: at_once(told(ask(OnePage(body), to)))


def node(body: bytes) -> Any:
    calls = [("getblockchaininfo", [])]
    return (
        at_once(told(BitcoinCore()._call(OnePage(body), Endpoint(name="x", url="x"), ("a", "b"), calls)))[0]
        and None
    )


def feed(name: str) -> Callable[[bytes], Any]:
    market = MARKETS[name]
    wanted = Wanted(
        location="HB_WEST", time_column="start", price_column="price", pointer="/a", time_pointer="/b"
    )

    async def ask(body: bytes) -> Any:
        prices = market.parse(body, wanted, NOW)
        return None if absurd(prices, market.band) else [each.usd_per_kwh for each in prices]

    return lambda body: at_once(told(ask(body)))


def openadr_events(body: bytes) -> Any:
    events = json.loads(body)
    with warnings.catch_warnings(action="ignore"):  # of dateutil, about zones that it does not know
        return _calls(events)


def _calls(events: Any) -> Any:
    return openadr.calls_of(events if isinstance(events, list) else [events], NOW, shed_to_kw=100.0, by="vtn")


def mqtt_target(body: bytes) -> Any:
    return at_once(told(_target(body)))


async def _target(body: bytes) -> Any:
    return target_of(Heard(body=body, at=NOW, retained=False))


EVENT = {
    "id": "e1", "createdDateTime": "2026-02-01T11:00:00Z", "objectType": "EVENT", "programID": "p1", "eventName": "x",
    "intervalPeriod": {"start": "2026-02-01T13:00:00Z", "duration": "PT1H"},
    "payloadDescriptors": [
        {"objectType": "EVENT_PAYLOAD_DESCRIPTOR", "payloadType": "DISPATCH_SETPOINT", "units": "KW"},
    ],
    "intervals": [{"id": 0, "payloads": [{"type": "DISPATCH_SETPOINT", "values": [500.0]}]}],
}  # fmt: skip
FEEDS: dict[str, tuple[bytes, ...]] = {
    "comed": (b'[{"millisUTC":"1769943600000","price":"2.5"},{"millisUTC":"1769943900000","price":"-1.1"}]',),
    "octopus": (
        b'{"results":[{"value_exc_vat":15.2,"valid_from":"2026-02-01T12:00:00Z","valid_to":"2026-02-01T12:30:00Z"}]}',
    ),
    "nord_pool": (
        (
            b'{"currency":"EUR","multiAreaEntries":[{"deliveryStart":"2026-02-01T12:00:00Z",'
            b'"deliveryEnd":"2026-02-01T12:15:00Z","entryPerArea":{"HB_WEST":52.1}}]}'
        ),
    ),
    "ercot": (
        (
            b'{"fields":[{"name":"SCEDTimestamp"},{"name":"repeatHourFlag"},{"name":"settlementPoint"},{"name":"LMP"}],'
            b'"data":[["2026-02-01T06:00:11",false,"HB_WEST",23.5]]}'
        ),
    ),
    "miso": (
        (
            b'{"LMPData":{"RefId":"01-Feb-2026 - Interval 07:00 EST","FiveMinLMP":{"PricingNode":'
            b'[{"name":"HB_WEST","LMP":"21.3"}]}}}'
        ),
    ),
    "nyiso": (b'"Time Stamp","Name","PTID","LBMP ($/MWHr)"\n"02/01/2026 07:05:00","HB_WEST",61752,31.05\n',),
    "json": (
        b'{"a":0.05,"b":"2026-02-01T12:00:00Z"}',
        b'{"a":[{"start":"2026-02-01T12:00:00Z","price":0.05}]}',
    ),
    "csv": (b"start,price\n2026-02-01T12:00:00Z,0.05\n2026-02-01T13:00:00Z,0.06\n",),
}
SOURCES: dict[str, tuple[bytes, ...]] = {
    "coinbase": (b'{"data":{"amount":"92870.12","base":"BTC"}}',),
    "kraken": (b'{"error":[],"result":{"XXBTZUSD":{"c":["92870.1","0.01"]}}}',),
    "bitstamp": (b'{"last":"92870","timestamp":"1769947200"}',),
    "gemini": (b'{"last":"92870.00"}',),
    "mempool": (
        b"927000",
        b'{"currentDifficulty":1.493e14,"startBlock":1,"endBlock":144,"totalFee":"38","difficultyChange":1.5,"USD":92870}',
    ),
    "braiins": (b'{"hash_price":0.0394,"difficulty":149300000000000}',),
    "blockchain_info": (b'{"difficulty":1.493e14,"n_blocks_total":927000}',),
}
NODE = b'[{"result":{"chain":"main","blocks":927000,"headers":927000,"difficulty":1e14},"error":null,"id":0}]'
SCHEDULE = b"start,end,to_kw,by_kw\n2026-02-01T15:00Z,2026-02-01T18:00Z,100,\n"
CONFIG = b"""[scan]
addresses = ["10.0.0.0/28", "10.0.1-2.1-5"]
[power]
kind = "time_of_use"
[[power.periods]]
price_usd_per_kwh = 0.1
hours = "16:00-21:00"
[groups]
row = ["10.0.0.1"]
[overrides.row]
custom_power_w = 3000.0
"""

PAGES = (
    b'HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{"a":1}',
    b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n{"a":1}\r\n0\r\n\r\n',
    b'HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Digest realm="x", nonce="5d", qop="auth"\r\n\r\n<html>',
)

PARSERS = (
    Parser("cgminer", corpus("*/*/*.json"), cgminer, (ValueError,)),
    Parser("http", PAGES, http, (ValueError,)),
    Parser("antminer", corpus("antminer/*/*.json"), antminer, (ValueError,)),
    Parser("antminer_power", (*corpus("antminer/*/*.txt"), b"miner power:3500"), antminer_power, ()),
    Parser("whatsminer_v2", corpus("whatsminer_v2/*/*.json"), whatsminer_v2, (ValueError,)),
    Parser("whatsminer_v3", corpus("whatsminer_v3/*/*.json"), whatsminer_v3, (ValueError,)),
    Parser("whatsminer_sealed", (SEALED["data"].encode(),), whatsminer_sealed, (ValueError, TypeError, KeyError)),
    Parser("schedule", (SCHEDULE,), schedule, (ScheduleError,)),
    Parser("control", (b'{"v":1,"command":"approve","arguments":{"orders":[1,2]}}',), control, (ValidationError,)),
    Parser("config", (CONFIG,), config, (ConfigError,)),
    Parser(
        "addresses",
        (b"10.0.0.0/30", b"10.0.1-2.1-9", b"gateway.example:14028", b"10.0.0.7"),
        lambda body: len(parse_targets([body.decode(errors="replace")])),
        (AddressError,),
    ),
    Parser(
        "selector",
        (b"margin<0 & model:S19", b"(group:row | 10.0.0.0/28) & !sn:ABC", b"load:1500kw", b"efficiency>=30.5"),
        lambda body: parse_selector(body.decode(errors="replace")) and None,
        (SelectorError,),
    ),
    Parser("openadr", (json.dumps([EVENT]).encode(),), openadr_events, (SourceError, ValueError, RecursionError)),
    Parser("mqtt_target", (b'{"target":100,"timestamp":1769947200}',), mqtt_target, (SourceError,)),
    Parser("bitcoin_core", (NODE,), node, (SourceError,)),
    *(Parser(f"source_{name}", seeds, source(name), (SourceError,)) for name, seeds in SOURCES.items()),
    *(Parser(f"feed_{name}", seeds, feed(name), (SourceError,)) for name, seeds in FEEDS.items()),
)  # fmt: skip
