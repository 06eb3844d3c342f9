"""Commands from afar: signed, for this site, in time, once; refused by the site where its own limits say so."""

import asyncio
import binascii
import json
import os
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import nkeys
import pytest

from agent.config import ConfigError, parse
from agent.errors import StorageError, UsageError
from agent.federation.connection import Servers
from agent.federation.listener import COMMANDS, Desk, command_subject
from agent.federation.overview import SiteView
from agent.federation.signing import LONGEST, SignedCommand, private_key, public_key, sign
from agent.federation.telling import (
    RECORD_FILE,
    Sender,
    UnreachableError,
    known_sites,
    load_key,
    plan_shedding,
    print_answers,
    tell,
)
from agent.rows import to_ms
from agent.service import Agent
from agent.simulated.nats import Cluster, server_program
from agent.store import Reader
from agent.stored import stored_picture
from tests.agent.builders import (
    NOW,
    FakeDriver,
    HandClock,
    asleep,
    eventually,
    failure,
    machine,
    reading,
    running,
    stored_site,
)
from tests.agent.processes import hashcost, hashcost_here
from tests.agent.test_service import known
from tests.agent.test_uplink import SITES

pytestmark = [
    # nats-py leaves sockets of servers that went away to the garbage collector
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
real_servers = pytest.mark.skipif(server_program() is None, reason="needs nats-server")


def key():
    """A user's seed and public key, as `nk` writes them."""
    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    return seed.decode(), nkeys.from_seed(bytearray(seed)).public_key.decode()


ANN_SEED, ANN = key()
BOB_SEED, BOB = key()


def command(**changes):
    usual = SignedCommand(
        v=1, command_id="0" * 32, org="acme", site="denver", person="ann", command="hold", arguments={},
        issued_ms=to_ms(NOW), expires_ms=to_ms(NOW) + 60_000,
    )  # fmt: skip
    return replace(usual, **changes)


def signed(seed=ANN_SEED, **changes):
    return sign(command(**changes), private_key(seed))


class Site:
    """A desk with what it did and what it remembers."""

    def __init__(self):
        self.done, self.memory, self.clock = [], None, HandClock()
        self.broken = False
        self.start()

    def start(self):
        async def handle(request):
            self.done.append((request.command, request.user, dict(request.arguments)))
            if request.command == "shed":
                raise UsageError("shed: below the site's minimum")
            return {"held": True, "count": len(self.done)}

        async def load():
            return self.memory

        async def save(told):
            if self.broken:
                raise StorageError("disk full")
            self.memory = told

        self.desk = Desk(
            handle, {"ann": public_key(ANN)}, org="acme", site="denver", now=self.clock, load=load, save=save
        )


@pytest.fixture
def site():
    return Site()


def test_keys_are_read_as_nats_writes_them_and_mistakes_in_them_are_found():
    assert private_key(ANN_SEED).public_key().public_bytes_raw() == public_key(ANN).public_bytes_raw()
    for wrong in (ANN[:-1] + ("A" if ANN[-1] != "A" else "B"), ANN_SEED, "", "U", "nonsense", ANN[:20]):
        with pytest.raises(ValueError):
            public_key(wrong)
    with pytest.raises(ValueError) as caught:
        private_key(ANN)
    assert ANN_SEED not in str(caught.value)


async def test_a_command_is_done_in_the_name_of_the_one_who_signed_it(site):
    assert await site.desk.answer(signed()) == {"result": {"held": True, "count": 1}}
    assert site.done == [("hold", "fleet:ann", {})]


async def test_the_site_may_refuse_with_a_reason(site):
    answer = await site.desk.answer(signed(command="shed", arguments={"by_kw": 5.0}))
    assert answer == {"error": {"code": "usage", "message": "shed: below the site's minimum"}}


async def test_a_command_that_comes_again_is_answered_again_and_not_done_again(site):
    first = await site.desk.answer(signed())
    assert await site.desk.answer(signed()) == first
    site.start()  # the agent was started anew
    assert await site.desk.answer(signed()) == first
    assert len(site.done) == 1
    site.clock.forward(seconds=61)
    assert (await site.desk.answer(signed()))["error"]["message"].startswith("expired")
    await site.desk.answer(
        signed(command_id="1" * 32, issued_ms=to_ms(site.clock()), expires_ms=to_ms(site.clock()) + 1000)
    )
    assert list(json.loads(site.memory)) == ["1" * 32]


async def test_one_that_had_begun_when_the_agent_went_down_is_not_begun_again(site):
    class Crash(BaseException):
        pass

    async def crash(request):
        site.done.append(request.command)
        raise Crash

    site.desk._handle = crash
    with pytest.raises(Crash):
        await site.desk.answer(signed())
    site.start()
    assert (await site.desk.answer(signed()))["error"]["code"] == "unknown"
    assert site.done == ["hold"]


async def test_what_cannot_be_recorded_is_not_done(site):
    site.broken = True
    with pytest.raises(StorageError):
        await site.desk.answer(signed())
    assert site.done == []


def tampered():
    envelope = json.loads(signed())
    return json.dumps(envelope | {"body": envelope["body"].replace("hold", "resume")}).encode()


REFUSED = [
    (signed(BOB_SEED), "not that person's"),
    (signed(person="bob"), "nobody who is known"),
    (tampered(), "not that person's"),
    (signed(site="tulsa"), "another site"),
    (signed(org="other"), "another site"),
    (signed(command="curtail"), "not to be given from afar"),
    (signed(expires_ms=to_ms(NOW)), "holds for too long"),
    (signed(expires_ms=to_ms(NOW + LONGEST) + 1), "holds for too long"),
    (signed(issued_ms=to_ms(NOW) - 70_000, expires_ms=to_ms(NOW) - 1), "expired"),
    (signed(issued_ms=to_ms(NOW) + 61_000, expires_ms=to_ms(NOW) + 90_000), "from the future"),
    (signed(v=2), "version 2"),
    (signed(command_id="../x"), "not a command"),
    (signed(command_id=7), "not a command"),
    (signed(arguments=[1]), "not a command"),
    (signed(issued_ms="now"), "not a command"),
    (b"x" * 70_000, "too large"),
    (b"noise", "not a command"),
    (b"[]", "not a command"),
    (b'{"body": 1, "signature": ""}', "not a command"),
    (json.dumps({"body": '{"person": ["ann"]}', "signature": ""}).encode(), "not a command"),
    (json.dumps({"body": '{"person": "ann", "x": "\ud800"}', "signature": "eHh4"}).encode(), "not that person's"),
    (b"[" * 60_000, "not a command"),
]  # fmt: skip


@pytest.mark.parametrize(("payload", "why"), REFUSED)
async def test_what_is_not_to_be_obeyed_is_refused_counted_and_changes_nothing(site, payload, why):
    answer = await site.desk.answer(payload)
    assert answer["error"]["code"] == "refused"
    assert why in answer["error"]["message"]
    assert (site.done, site.memory, site.desk.refused) == ([], None, 1)


async def test_a_forger_does_not_fill_the_log(site, lines):
    for _ in range(20):
        await site.desk.answer(b"noise")
    assert site.desk.refused == 20
    assert len(lines("event=fleet_command_refused")) == 1


def test_keys_of_operators_are_checked_in_the_configuration():
    good = f'[fleet]\nservers = ["nats://h:4222"]\norg = "acme"\n[fleet.operators]\nann = "{ANN}"\n'
    assert parse(good, source="x").fleet.operators == {"ann": ANN}
    with pytest.raises(ConfigError, match="operators: ann: an nkey with a mistake") as caught:
        parse(good.replace(ANN, ANN[:-2] + ("AA" if ANN[-2:] != "AA" else "BB")), source="x")
    assert len(caught.value.problems) == 1


def site_view(tmp_path, name, *machines, price=0.06):
    path = tmp_path / f"{name}.db"
    stored_site(path, *machines)
    return SiteView(site=name, stored=stored_picture(path, NOW), problem=None)


def test_the_machines_that_earn_least_go_first_whatever_site_they_are_at(tmp_path):
    good, poor = reading(hashrate_ths=230.0), reading(hashrate_ths=120.0)
    sites = [
        site_view(
            tmp_path,
            "denver",
            machine(1, good),
            machine(2, poor),
            machine(3, asleep()),
            machine(4, failure()),
        ),
        site_view(tmp_path, "tulsa", machine(1, reading()), machine(2, poor)),
    ]
    assert plan_shedding(sites, 7.0) == {"denver": 3.5, "tulsa": 3.5}
    assert plan_shedding(sites, 9.0) == pytest.approx({"denver": 3.5, "tulsa": 5.5})
    assert plan_shedding(sites, 1e6) == {"denver": 7.0, "tulsa": 7.0}
    silent = replace(sites[1], stored=stored_picture(tmp_path / "tulsa.db", NOW + timedelta(hours=1)))
    assert plan_shedding([sites[0], silent], 1e6) == {"denver": 7.0}
    assert plan_shedding([], 5.0) == {}


def test_a_site_that_did_not_answer_is_counted_as_not_shed(capsys):
    answers = {
        "denver": {"result": {"kw": 3.0, "call": {"call_id": "c1"}, "machines": []}},
        "tulsa": {"error": {"code": "unreachable", "message": "no answer"}},
    }
    assert print_answers(answers, as_json=False, by_kw=7.0) == 3
    said = capsys.readouterr().out
    assert "denver: call c1, kw 3.0" in said
    assert "tulsa: unreachable: no answer" in said
    assert "3.0 of 7.0 kW taken on; SHORT by 4.0 kW" in said
    assert print_answers({"denver": answers["denver"]}, as_json=True, by_kw=3.0) == 0
    assert json.loads(capsys.readouterr().out)["taken_on_kw"] == 3.0
    assert print_answers({"tulsa": answers["tulsa"]}, as_json=False) == 1


def test_a_key_that_cannot_be_used_is_refused_without_showing_it(tmp_path):
    file = tmp_path / "key"
    with pytest.raises(UsageError, match="cannot be used as a key"):
        load_key(file)
    file.write_text(ANN_SEED[:-1])
    with pytest.raises(UsageError) as caught:
        load_key(file)
    assert ANN_SEED[:-1] not in str(caught.value)
    with pytest.raises(UsageError, match="no such site"):
        known_sites(tmp_path, ["denver"])


class Quiet(Agent):
    """A site of one machine, real behind the driver."""

    def _driver(self, machine_id):
        async def fresh():
            return reading(began_at=datetime.now(UTC), ended_at=datetime.now(UTC))

        return FakeDriver(fresh)

    async def _scan_loop(self):
        await asyncio.Event().wait()


@asynccontextmanager
async def agent_of(path, cluster, seed_file=None):
    known(path, machine(1))
    nkey = f'nkey_file = "{seed_file}"\n' if seed_file else ""
    config = parse(
        f'[fleet]\nservers = ["{cluster.urls[0]}"]\norg = "acme"\nsite = "denver"\n{nkey}'
        f'[fleet.operators]\nann = "{ANN}"\n[poll]\ninterval_s = 60.0\n',
        source="test",
    )
    async with Quiet(config, path) as agent, running(agent):
        await eventually(lambda: agent._rounds >= 1)
        yield agent


def sender(cluster, directory, seed=ANN_SEED, person="ann", **options):
    directory.mkdir(exist_ok=True)
    servers = Servers(addresses=cluster.urls, name=f"desk-{person}", **options)
    return Sender(servers=servers, org="acme", person=person, key=private_key(seed), directory=directory)


@pytest.fixture
def patient(monkeypatch):
    """Whoever is there may take a minute to answer."""
    monkeypatch.setattr("agent.federation.telling.CONNECTED_WITHIN_S", 60.0)
    monkeypatch.setattr("agent.federation.telling.ANSWER_WITHIN_S", 60.0)


async def answer_of_denver(sender, command, arguments):
    """It takes a moment to listen."""
    async with asyncio.timeout(60):
        while True:
            (answer,) = (await asyncio.to_thread(tell, sender, {"denver": (command, arguments)})).values()
            if answer.get("error", {}).get("code") != "unreachable":
                return answer


def from_the_command_line(cluster, tmp_path, *words, run=hashcost):
    """`hashcost fleet tell resume denver`, or other words, as ann."""
    (tmp_path / "fleet").mkdir(exist_ok=True)
    if not (tmp_path / "fleet" / "denver.db").exists():
        stored_site(tmp_path / "fleet" / "denver.db", machine(1, reading()))
    (tmp_path / "ann.nk").write_text(ANN_SEED)
    servers = f'servers = ["{cluster.urls[0]}"]\norg = "acme"\n' if cluster else ""
    (tmp_path / "fleet.toml").write_text(f"[fleet]\n{servers}")
    return run(
        "fleet", *(words or ("tell", "resume", "denver")), "--as", "ann", "--key", str(tmp_path / "ann.nk"), "--json",
        "--config", str(tmp_path / "fleet.toml"), "--fleet", str(tmp_path / "fleet"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("tell", "resume", "denver"), "there is nobody to tell"),
        (("tell", "release"), "release needs --call"),
        (("shed", "--by-kw", "5"), "there is nobody to tell"),
    ],
)
def test_what_makes_no_sense_on_the_command_line_is_said(tmp_path, words, why):
    said = from_the_command_line(None, tmp_path, *words, run=hashcost_here)
    assert said.returncode == 2
    assert why in said.stderr


@real_servers
@pytest.mark.usefixtures("patient")
async def test_a_real_site_is_held_by_whom_it_knows_and_by_nobody_else(tmp_path):
    (tmp_path / "nats").mkdir()
    with Cluster(tmp_path / "nats", nodes=1) as cluster:
        async with agent_of(tmp_path / "hashcost.db", cluster) as agent:
            forger = sender(cluster, tmp_path / "forger", BOB_SEED)
            answer = await answer_of_denver(forger, "hold", {})
            assert answer["error"]["code"] == "refused"
            assert not agent.curtailer.held
            ann = sender(cluster, tmp_path / "fleet")
            shed = {"denver": ("shed", {"by_kw": 1.0, "dry_run": True})}
            answers = await asyncio.to_thread(tell, ann, shed)
            assert answers["denver"]["result"]["kw"] == pytest.approx(3.46)
            wanted = {"denver": ("hold", {}), "tulsa": ("hold", {})}
            answers = await asyncio.to_thread(tell, ann, wanted)
            assert answers["denver"] == {"result": {"held": True}}
            assert answers["tulsa"]["error"]["code"] == "unreachable"
            assert agent.curtailer.held
            said = await asyncio.to_thread(from_the_command_line, cluster, tmp_path)
            assert said.returncode == 0, said.stderr
            assert json.loads(said.stdout) == {"sites": {"denver": {"result": {"held": False}}}}
            assert not agent.curtailer.held
    with Reader(tmp_path / "hashcost.db") as reader:
        assert any("fleet:ann" in event.detail for event in reader.events() if event.kind == "command_hold")
    record = [json.loads(line) for line in (tmp_path / "fleet" / RECORD_FILE).read_text().splitlines()]
    assert [each["told"]["person"] for each in record if "told" in each] == ["ann"] * 4
    assert not any(ANN_SEED in json.dumps(each) for each in record)


@real_servers
@pytest.mark.usefixtures("patient")
async def test_the_documented_permissions_let_a_site_hear_its_own_commands_only(tmp_path):
    (tmp_path / "nats").mkdir()
    admin_seed, admin = key()
    site_seed, site_key = key()
    files = {}
    for name, seed in (("admin", admin_seed), ("site", site_seed)):
        files[name] = str(tmp_path / f"{name}.nk")
        Path(files[name]).write_text(seed)
    rules = SITES.format(
        admin=admin,
        sites=f'{{ nkey: {site_key}, permissions: {{ publish: ["hashcost.acme.denver.*"], '
        'subscribe: ["_INBOX_denver.>", "hashcost.acme.denver.command.do"], allow_responses: true } }',
    )
    with Cluster(tmp_path / "nats", nodes=1, extra=rules) as cluster:
        async with agent_of(tmp_path / "hashcost.db", cluster, files["site"]) as agent:
            ann = sender(cluster, tmp_path / "fleet", nkey_file=files["admin"])
            assert await answer_of_denver(ann, "hold", {}) == {"result": {"held": True}}
            thief = sender(cluster, tmp_path / "fleet", nkey_file=files["site"])
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("agent.federation.telling.ANSWER_WITHIN_S", 1.0)
                answers = await asyncio.to_thread(tell, thief, {"tulsa": ("hold", {})})
            assert answers["tulsa"]["error"]["code"] == "unreachable"
            assert agent.curtailer.held


@real_servers
async def test_without_servers_nobody_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("agent.federation.telling.CONNECTED_WITHIN_S", 1.0)

    class Nowhere:
        urls = ("nats://127.0.0.1:1",)

    with pytest.raises(UnreachableError, match="nothing was told"):
        await asyncio.to_thread(tell, sender(Nowhere, tmp_path / "fleet"), {"denver": ("hold", {})})


def test_commands_have_a_subject_that_no_stream_keeps():
    assert command_subject("acme", "denver") == "hashcost.acme.denver.command.do"
    assert {"hold", "resume", "shed"} <= COMMANDS
    assert binascii.crc_hqx(b"123456789", 0) == 0x31C3  # CRC-16/XMODEM, as nkeys use it
