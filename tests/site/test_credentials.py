"""Passwords: each machine is opened with its own, those of the factory are found out, and none is ever shown."""

import asyncio
import base64
import json
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from agent.clock import Clock
from agent.config import parse
from agent.credentials import check_machines
from agent.logins import logins
from agent.market.sources import KEYLESS
from agent.options import read_options
from agent.service import Agent
from drivers.reading import Address, Family
from drivers.simulator.faults import Fault
from tests.agent.builders import eventually
from tests.agent.processes import CLI, child_environment, hashcost
from tui.app import HashcostApp
from tui.bindings import SCREENS
from tui.source import Source

GROUP_PASSWORD, MACHINE_PASSWORD, SITE_PASSWORD = "canary-group-7c1", "canary-machine-90d", "canary-site-3b2"
SOURCE_PASSWORD, NODE_PASSWORD, TARGET_PASSWORD = "canary-luxor-5e5", "canary-node-aa8", "canary-hook-d17"
CANARIES = (GROUP_PASSWORD, MACHINE_PASSWORD, SITE_PASSWORD, SOURCE_PASSWORD, NODE_PASSWORD, TARGET_PASSWORD)
SECRETS = {
    "GROUP": GROUP_PASSWORD,
    "MACHINE": MACHINE_PASSWORD,
    "SOURCE": SOURCE_PASSWORD,
    "NODE": NODE_PASSWORD,
    "TARGET": f"json://hook:{TARGET_PASSWORD}@127.0.0.1:9/",
}


def of_family(site, family):
    return [each for each in site.machines if each.exemplar.family is family]


def configured(site, secrets, *, more=""):
    """A site whose first two Antminers have passwords of their own, and whose Whatsminers share one."""
    first, second, *_ = of_family(site, Family.ANTMINER)
    site.set_fault(first.address, Fault.WRONG_PASSWORD, password=GROUP_PASSWORD)
    site.set_fault(second.address, Fault.WRONG_PASSWORD, password=MACHINE_PASSWORD)
    (secrets / "site").write_text(SITE_PASSWORD + "\n")
    return f"""
[scan]
addresses = {json.dumps(site.scan_targets)}
[poll]
interval_s = 1.0
deadline_s = 1.0
[groups]
row-1 = ["{first.address}", "{second.address}"]
[credentials.whatsminer_v2]
username = "admin"
password_file = "{secrets / "site"}"
[overrides.row-1.credentials.antminer]
username = "root"
password_env = "GROUP"
[overrides."{second.mac}".credentials.antminer]
username = "root"
password_env = "MACHINE"
{more}
"""


@pytest.fixture
def secrets(tmp_path, monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    return tmp_path


async def test_a_machine_is_opened_with_its_own_login_then_its_groups_then_the_sites(start_site, secrets):
    site = await start_site(machines=20, speed=60.0)
    config = await asyncio.to_thread(parse, configured(site, secrets), source="test")
    book = await asyncio.to_thread(logins, config)
    options = await asyncio.to_thread(read_options, config, Clock())
    first, second, third, *_ = of_family(site, Family.ANTMINER)
    known = {Address(host=second.address): second.mac}

    def password(machine, family=Family.ANTMINER):
        return book.at(options, Address(host=machine.address), known).login(family).password

    assert [password(each) for each in (first, second, third)] == [GROUP_PASSWORD, MACHINE_PASSWORD, "root"]
    assert password(first, Family.WHATSMINER_V2) == SITE_PASSWORD
    async with await asyncio.to_thread(Agent, config, secrets / "h.db") as agent:
        await agent.scan()
        assert first.mac in agent.fleet  # its MAC is told only to who is logged in
        # nobody knows yet who the second is, so it is asked with its group's login, which is wrong
        assert second.mac not in agent.fleet
    assert GROUP_PASSWORD not in repr((config, book, options))


async def test_what_still_has_the_factorys_password_is_found_out_without_changing_anything(
    start_site, secrets
):
    site = await start_site(machines=40, speed=60.0)
    config = await asyncio.to_thread(parse, configured(site, secrets), source="test")
    changed, closed, *_ = of_family(site, Family.WHATSMINER_V2)
    site.set_fault(changed.address, Fault.WRONG_PASSWORD, password=SITE_PASSWORD)
    site.set_fault(closed.address, Fault.WRITES_CLOSED)
    first, second, third, *_ = of_family(site, Family.ANTMINER)
    found = {each.address: each for each in await check_machines(config)}
    assert len(found) == len(site.machines)
    assert found[first.address].verdict == "changed"
    assert found[second.address].verdict == "unknown"  # locked by its group's login, which is wrong for it
    assert found[third.address].verdict == "factory"
    assert (found[changed.address].verdict, found[closed.address].verdict) == ("changed", "factory")
    assert all(found[each.address].verdict == "unknown" for each in of_family(site, Family.WHATSMINER_V3))
    harmless = {"get_version", "?"}
    sent = [command.kind for each in site.machines for command in each.truth().commands if command.writes]
    assert {kind.removeprefix("v2:") for kind in sent} <= harmless


async def test_the_command_tells_machines_and_no_password(start_site, secrets):
    site = await start_site(machines=6, speed=60.0)
    path = secrets / "c.toml"
    path.write_text(configured(site, secrets))
    done = await asyncio.to_thread(hashcost, "credentials", "check", "--config", path, **SECRETS)
    assert done.returncode == 1, done.stderr
    assert "with the factory's password" in done.stdout
    assert not [each for each in (*CANARIES, "root:", "'root'") if each in done.stdout + done.stderr]


def traces(text):
    """The canaries that a text holds, plain or as the header of a login."""
    text = text.encode() if isinstance(text, str) else text
    logins_ = [
        base64.b64encode(f"{user}:{each}".encode()) for each in CANARIES for user in ("root", "node", "admin")
    ]
    return [each for each in (*(each.encode() for each in CANARIES), *logins_) if each in text]


@asynccontextmanager
async def echo():
    """A source that answers with all that it was asked, header by header."""

    async def answer(reader, writer):
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            heard = await reader.readuntil(b"\r\n\r\n")
            writer.write(
                b"HTTP/1.1 401 "
                + heard.splitlines()[-3]
                + b"\r\nContent-Length: %d\r\n\r\n" % len(heard)
                + heard
            )
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1") as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.timeout(300)  # some twenty processes, one after the other
async def test_canary_secrets_are_in_no_database_log_process_list_or_output(start_site, secrets):
    site = await start_site(machines=12, speed=60.0)
    async with echo() as url:
        sources = f"""
[market]
source = "live"
[market.sources.luxor]
url = "{url}"
password_env = "SOURCE"
[market.sources.bitcoin_core]
url = "{url}"
username = "node"
password_env = "NODE"
[metrics]
textfile = "{secrets / "hashcost.prom"}"
[alerts.targets.hook]
password_env = "TARGET"
"""
        sources += "".join(f"[market.sources.{name}]\nenabled = false\n" for name in KEYLESS)
        path, database, log = secrets / "c.toml", secrets / "h.db", secrets / "log"
        path.write_text(configured(site, secrets, more=sources))
        arguments = ["--config", path, "--database", database]
        await run_a_while([*arguments, "--socket", secrets / "s"], log, database)
        outputs = {}
        for command in commands(path, database, site):
            done = await asyncio.to_thread(hashcost, *command, **SECRETS)
            assert "Traceback" not in done.stderr, done.stderr
            outputs[" ".join(map(str, command))] = done.stdout + done.stderr
    assert "luxor" in next(iter(outputs.values()))
    outputs |= {f"screenshot {name}": picture async for name, picture in screenshots(database)}
    assert not {name: traces(each) for name, each in outputs.items() if traces(each)}
    files = [each for each in secrets.rglob("*") if each.is_file() and each.name != "site"]
    assert {"h.db", "log", "hashcost.prom"} <= {each.name for each in files}
    assert len([each for each in files if each.parent.name in {"exports", "backups"}]) > 5
    assert not {each.name: traces(each.read_bytes()) for each in files if traces(each.read_bytes())}


def commands(path, database, site):
    """Everything that prints or writes what it knows."""
    of_all = ["--from", "2020-01-01", "--to", "2100-01-01", "--database", database]
    return [
        ["check", "--config", path, "--database", database],
        ["check", "--json", "--config", path, "--database", database],
        ["credentials", "check", "--json", "--config", path],
        ["scan", "--json", "--config", path, *site.scan_targets],
        ["alerts", "test", "--config", path],
        ["status", "--json", "--database", database],
        ["recommend", "--json", "--database", database],
        ["explain", site.machines[0].address, "--database", database],
        ["whatif", "--json", "--database", database],
        ["export", "profitability", "--by", "day", *of_all],
        *(["export", kind, *of_all] for kind in ("ledger", "energy", "orders", "events", "prices")),
        ["export", "yesterday", "--directory", path.parent / "exports", "--database", database],
        ["backup", "--directory", path.parent / "backups", "--database", database],
    ]


async def screenshots(database):
    """What anybody may photograph: every screen of the terminal, as its own picture of itself."""
    app = HashcostApp(Source(database))
    async with app.run_test(size=(160, 48)) as pilot:
        await eventually(lambda: app.state is not None, 30)
        for number, screen in enumerate(SCREENS, start=1):
            await pilot.press(str(number))
            await pilot.pause(0.2)
            yield screen, app.export_screenshot()


async def run_a_while(arguments, log, database):
    """Run the agent until it has stored two rounds, and look at what everybody may see of its process."""
    with log.open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-B", "-c", CLI, "run", *map(str, arguments)],
            env={**child_environment(), **SECRETS},
            stderr=err,
            stdin=subprocess.DEVNULL,
        )
    try:
        await eventually(
            lambda: log.read_text().count("event=read_") + log.read_text().count("event=scanned") > 0, 60
        )
        await asyncio.sleep(4)
        seen = (
            Path(f"/proc/{process.pid}/cmdline").read_bytes()
            + Path(f"/proc/{process.pid}/status").read_bytes()
        )
        assert not traces(seen)
        environment = Path(f"/proc/{process.pid}/environ")
        assert environment.stat().st_mode & 0o077 == 0  # only for its own user
        assert process.poll() is None
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 20)
    assert database.exists()


async def test_canary_secrets_are_in_no_traceback(start_site, secrets, caplog):
    """Whatever fails with the logins at hand: what is logged of it does not tell them."""
    site = await start_site(machines=6, speed=60.0)
    config = await asyncio.to_thread(parse, configured(site, secrets), source="test")

    class Broken(Agent):
        def _driver(self, machine_id):
            driver = super()._driver(machine_id)
            raise RuntimeError(
                f"{driver!r} {vars(driver)!r} {self._logins!r} {self._read_options!r} {self.config!r}"
            )

    async with await asyncio.to_thread(Broken, config, secrets / "h.db") as agent:
        await agent.scan()
        running = asyncio.create_task(agent.run())
        await eventually(lambda: "event=loop_failed" in caplog.text)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    assert "Traceback" in caplog.text
    assert not traces(caplog.text)


@pytest.mark.parametrize(
    "section",
    [
        '[credentials.antminer]\nusername = "root"\npassword = "canary-site-3b2"',
        '[credentials.antminer]\nusername = "root"\npassword_env = "GROUP"\npassword_file = "/canary"\n',
        '[overrides.x.credentials.nobody]\nusername = "root"\npassword_env = "GROUP"',
    ],
)
def test_a_mistake_about_a_password_is_told_without_it(secrets, section):
    path = secrets / "c.toml"
    path.write_text(section)
    done = hashcost("check", "--config", path, **SECRETS)
    assert done.returncode == 2
    assert "credentials" in done.stderr
    assert not traces(done.stdout + done.stderr)
