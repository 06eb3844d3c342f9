"""`recommend`, `explain` and the commands to the agent, as a person types them."""

import asyncio
import json
import subprocess
import sys

import pytest

from agent.commands import Commands
from agent.control import ControlServer
from agent.store import Store
from tests.agent.builders import asleep, failure, machine, reading, stored_site
from tests.agent.processes import CLI, child_environment, hashcost, open_directory
from tests.agent.test_commands import PROPOSALS, Agent, mac, slept, viewed

FOR_EVER_S = 1e9


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    path = tmp_path_factory.mktemp("site") / "hashcost.db"
    outcomes = (reading(), reading(power_w=9000.0), failure("refused"), asleep(), reading(power_w=8000.0))
    machines = [machine(number, outcome) for number, outcome in enumerate(outcomes, start=1)]
    stored_site(path, *machines, valid_s=FOR_EVER_S)
    return path


def test_only_what_is_to_be_switched_is_recommended_worst_first(site):
    ran = hashcost("recommend", "--database", site)
    assert (ran.returncode, ran.stderr) == (0, "")
    shown = [line.split()[0] for line in ran.stdout.splitlines() if line.startswith("10.0.0.")]
    assert shown == ["10.0.0.2", "10.0.0.5"]
    assert "saves 8.59 USD/day" in ran.stdout
    assert "STALE" not in ran.stdout


def test_recommendations_are_json_if_asked(site):
    data = json.loads(hashcost("recommend", "--json", "--database", site).stdout)
    assert [each["address"] for each in data["machines"]] == ["10.0.0.2", "10.0.0.5"]
    assert data["totals"]["to_curtail"] == 2
    assert data["age_s"] > 0


def test_that_nothing_is_recommended_is_said(tmp_path):
    stored_site(tmp_path / "db", machine(1, reading()), valid_s=FOR_EVER_S)
    ran = hashcost("recommend", "--database", tmp_path / "db")
    assert "nothing is recommended" in ran.stdout


def test_what_has_grown_stale_recommends_nothing(tmp_path):
    stored_site(tmp_path / "db", machine(1, reading(power_w=9000.0)))
    ran = hashcost("recommend", "--database", tmp_path / "db")
    assert "nothing is recommended" in ran.stdout
    assert "STALE" in ran.stdout
    assert "stale_reading" in hashcost("explain", "10.0.0.1", "--database", tmp_path / "db").stdout


@pytest.mark.parametrize("name", ["02:13:00:00:00:02", "02-13-00-00-00-02", "10.0.0.2"])
def test_a_machine_is_explained_by_id_or_address(site, name):
    ran = hashcost("explain", name, "--database", site)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("02:13:00:00:00:02  10.0.0.2  Antminer S21")
    assert "curtail: below_breakeven" in ran.stdout
    assert "It would be left running under a power price of 0.0367 USD/kWh (now 0.0600)" in ran.stdout
    assert "STALE" not in ran.stdout


def test_an_explanation_is_json_if_asked(site):
    data = json.loads(hashcost("explain", "10.0.0.3", "--json", "--database", site).stdout)
    assert (data["reason"], data["failure"], data["power_w"]) == ("unreachable", "refused", None)
    assert data["polled_at"] == "2026-02-01T12:00:00+00:00"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("10.0.0.9", "no machine is there"),
        ("all", "means 5 machines and not one"),
        ("S21", "accepted: a machine id"),
    ],
)
def test_what_is_not_one_machine_is_not_explained(site, name, words):
    ran = hashcost("explain", name, "--database", site)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert words in ran.stderr


@pytest.mark.parametrize("arguments", [("recommend",), ("explain", "10.0.0.1")])
def test_a_database_without_a_round_is_told(tmp_path, arguments):
    with Store(tmp_path / "db"):
        pass
    ran = hashcost(*arguments, "--database", tmp_path / "db")
    assert ran.returncode == 2
    assert "no poll round yet" in ran.stderr


# -- commands to the agent ---------------------------------------------------------------------------


def typed(agent, *arguments):
    """What a command prints while this agent runs."""

    async def scenario(path):
        server = ControlServer(path, Commands(agent))
        async with asyncio.TaskGroup() as group:
            task = group.create_task(server.run())
            await server.ready.wait()
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", CLI, *arguments,
                env=child_environment() | {"HASHCOST_SOCKET": str(path)}, cwd="/",
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
            out, err = await process.communicate()
            task.cancel()
        return process.returncode, out.decode(), err.decode()

    with open_directory() as directory:
        return asyncio.run(scenario(directory / "agent.sock"))


def site_of_four():
    return Agent(
        viewed(1, reading()), viewed(2, reading(power_w=9000.0)), slept(3), viewed(4, reading()),
        orders=PROPOSALS, protected=[mac(4)],
    )  # fmt: skip


def test_without_yes_nothing_is_curtailed_and_it_is_said_how_to():
    agent = site_of_four()
    status, out, err = typed(agent, "curtail", "margin<0")
    assert (status, err) == (0, "")
    assert out.startswith("would curtail 1 machines, 8.9 kW less, ")
    assert out.endswith("nothing was done; to do it, add --yes\n")
    assert agent.done == [("curtail", [mac(2)], agent.done[0][2], True)]


def test_with_yes_machines_are_curtailed():
    agent = site_of_four()
    status, out, _ = typed(agent, "curtail", "margin<0", "--yes")
    assert status == 0
    assert out.startswith("ordered to sleep: 1 machines, 8.9 kW less")
    assert agent.done[0][3] is False


def test_a_selector_of_several_words_needs_no_quotes():
    agent = site_of_four()
    typed(agent, "restore", "group:site", "!10.0.0.1-2", "!10.0.0.4", "--yes")
    assert agent.done[0][:2] == ("restore", [mac(3)])


def test_what_is_done_in_part_is_exit_3_and_what_is_refused_whole_is_exit_1():
    status, out, _ = typed(site_of_four(), "curtail", "all", "--yes")
    assert status == 3
    assert "10.0.0.4         Antminer S21  site  not curtailed: protected" in out
    assert typed(site_of_four(), "curtail", "10.0.0.4", "--yes")[0] == 1


def test_the_answer_is_json_if_asked():
    status, out, _ = typed(site_of_four(), "curtail", "all", "--json")
    data = json.loads(out)
    assert (status, data["dry_run"], data["accepted"]) == (3, True, 3)


@pytest.mark.parametrize(
    ("arguments", "done"),
    [
        (["hold"], ("hold",)),
        (["resume"], ("resume",)),
        (["approve", "1", "3"], ("approve", [1, 3])),
        (["reject", "--all"], ("reject", [1, 3])),
    ],
)
def test_the_other_commands_reach_the_agent(arguments, done):
    agent = site_of_four()
    status, out, err = typed(agent, *arguments)
    assert (status, err) == (0, "")
    assert out
    assert agent.done[0][: len(done)] == done


def test_some_orders_that_are_not_proposed_are_exit_3():
    status, out, _ = typed(site_of_four(), "approve", "1", "2")
    assert status == 3
    assert "order 2 not approved: not_proposed" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["curtail", "group:nowhere"], "no machine is in that group"),
        (["curtail", "margin<"], "accepted: a machine id"),
        (["approve"], "give either the numbers of orders or all"),
        (["approve", "1", "--all"], "give either the numbers of orders or all"),
        (["approve", "first"], "not a valid integer"),
        (["curtail"], "Missing argument"),
    ],
)
def test_what_makes_no_sense_is_exit_2_and_nothing_is_done(arguments, words):
    agent = site_of_four()
    status, out, err = typed(agent, *arguments)
    assert (status, out) == (2, "")
    assert words in err
    assert agent.told == []


@pytest.mark.parametrize("command", [["hold"], ["curtail", "all"], ["approve", "--all"]])
def test_without_an_agent_the_remedy_is_told(tmp_path, command):
    ran = hashcost(*command, "--socket", tmp_path / "agent.sock")
    assert ran.returncode == 1
    assert ran.stderr.startswith(
        f"hashcost: {tmp_path}/agent.sock: no agent listens there; start it with `hashcost run`"
    )
