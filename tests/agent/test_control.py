"""Commands over the socket: who asks is what the kernel says, and no client disturbs the agent or another client."""

import asyncio
import contextlib
import errno
import grp
import json
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from blockbuster import BlockBuster
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import control
from agent.control import (
    LINE_LIMIT_BYTES,
    MAX_CLIENTS,
    MAX_VIEWERS,
    BadCommandError,
    ControlError,
    ControlServer,
    Groups,
    Peer,
    Role,
    ask,
    call,
    permitted,
)
from agent.errors import AgentError, UsageError
from tests.agent.builders import eventually
from tests.agent.processes import NOBODY, child_environment, open_directory

NO_GROUP = "hashcost-no-such-group"
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="becoming somebody else takes root")


@pytest.fixture(autouse=True)
def no_blocking_calls():
    blockbuster = BlockBuster(scanned_modules=["agent"])
    blockbuster.activate()
    yield
    blockbuster.deactivate()


@pytest.fixture
def directory():
    """A short path, for the kernel takes no long ones, and open to everybody."""
    with open_directory() as path:
        yield path


@pytest.fixture
def path(directory) -> Path:
    return directory / "agent.sock"


class Echo:
    """A handler that answers with what it was asked, and keeps it."""

    def __init__(self):
        self.requests = []

    async def __call__(self, request):
        self.requests.append(request)
        match request.command:
            case "usage":
                raise UsageError("there is no such machine")
            case "failing":
                raise AgentError("the disk is full")
            case "broken":
                raise KeyError("a mistake")
            case "unspeakable":
                return {"margin": float("nan")}
            case "big":
                return {"text": "x" * request.arguments["size"]}
            case "slow":
                await asyncio.sleep(request.arguments["takes_s"])
        return {"command": request.command, "arguments": dict(request.arguments)}


@contextlib.asynccontextmanager
async def serving(path, handle=None, **options) -> AsyncIterator[Echo]:
    handle = handle or Echo()
    server = ControlServer(path, handle, **{"operator_group": NO_GROUP} | options)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(server.run())
        async with asyncio.timeout(60):
            await server.ready.wait()
        yield handle
        task.cancel()


async def exchange(path, *lines: bytes) -> list[dict]:
    """The answers to raw bytes, until the server hangs up or each line has its answer."""
    reader, writer = await asyncio.open_unix_connection(path, limit=1 << 20)
    try:
        async with asyncio.timeout(60):
            for line in lines:
                writer.write(line)
            answers = []
            while len(answers) < len(lines) and (answer := await reader.readline()):
                answers.append(json.loads(answer))
            return answers
    finally:
        writer.close()


def request(command="status", **changes) -> bytes:
    return json.dumps({"v": 1, "command": command, "arguments": {}} | changes).encode() + b"\n"


async def test_a_command_arrives_with_its_arguments_and_who_gave_it(path):
    async with serving(path) as echo:
        result = await call(path, "hold", why="maintenance", count=3)
    assert result == {"command": "hold", "arguments": {"why": "maintenance", "count": 3}}
    (got,) = echo.requests
    assert (got.uid, got.role) == (os.geteuid(), Role.OPERATOR)
    assert got.user in {"root", f"uid:{got.uid}"} or got.uid != 0


async def test_many_commands_go_over_one_connection_in_order(path):
    async with serving(path):
        answers = await exchange(path, *(request(arguments={"n": n}) for n in range(5)))
    assert [answer["result"]["arguments"]["n"] for answer in answers] == [0, 1, 2, 3, 4]
    assert all(answer["v"] == 1 for answer in answers)


@pytest.mark.parametrize(
    ("command", "code", "words", "exit_status"),
    [
        ("usage", "usage", "there is no such machine", 2),
        ("failing", "failed", "the disk is full", 1),
        ("broken", "internal", "its log says why", 1),
        ("unspeakable", "internal", "its log says why", 1),
    ],
)
async def test_what_goes_wrong_comes_back_as_a_code_and_the_agent_goes_on(
    path, command, code, words, exit_status
):
    async with serving(path):
        with pytest.raises(ControlError, match=words) as caught:
            await call(path, command)
        assert (await call(path, "status"))["command"] == "status"
    assert (caught.value.code, caught.value.exit_status) == (code, exit_status)
    assert isinstance(caught.value, BadCommandError) is (code == "usage")


def test_the_mistake_in_a_command_is_in_the_log_and_not_in_the_answer(path, caplog):
    async def scenario():
        async with serving(path):
            with pytest.raises(ControlError) as caught:
                await call(path, "broken")
            return str(caught.value)

    assert "a mistake" not in asyncio.run(scenario())
    assert "a mistake" in caplog.text


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"\n", "malformed"),
        (b"hello\n", "malformed"),
        (b"GET / HTTP/1.1\r\n", "malformed"),
        (b"[]\n", "malformed"),
        (b"null\n", "malformed"),
        (b'{"v": 1}\n', "malformed"),
        (b'{"v": 1, "command": 7}\n', "malformed"),
        (b'{"v": 1, "command": "rm -rf"}\n', "malformed"),
        (b'{"v": 1, "command": "status", "arguments": []}\n', "malformed"),
        (b'{"v": 1, "command": "status", "uid": 0}\n', "malformed"),
        (b'{"v": 1, "command": "status", "arguments": {"a": ' + b"[" * 30_000 + b"]" * 30_000 + b"}}\n", "malformed"),
        (b'{"v": 1, "command": "status"\xff}\n', "malformed"),
        (b"\x00" * 100 + b"\n", "malformed"),
        (request(v=2), "version"),
        (request(v="1"), "version"),
        (request(arguments={"text": "x" * LINE_LIMIT_BYTES}), "too_long"),
        (b"x" * 200_000, "too_long"),
    ],
    ids=lambda value: repr(value[:40]) if isinstance(value, bytes) else "",
)  # fmt: skip
async def test_what_is_no_request_is_told_so_and_disturbs_nobody(path, line, code):
    async with serving(path) as echo:
        (answer,) = await exchange(path, line)
        assert answer["error"]["code"] == code
        assert len(answer["error"]["message"]) < 400
        assert echo.requests == []
        assert (await call(path, "status"))["command"] == "status"


async def test_after_a_malformed_line_the_same_client_may_go_on(path):
    async with serving(path):
        answers = await exchange(path, b"nonsense\n", request())
    assert ["error" in answer for answer in answers] == [True, False]


@given(st.binary(max_size=300))
@settings(max_examples=40)
def test_any_bytes_are_survived(rubbish):
    async def scenario(path):
        async with serving(path):
            with contextlib.suppress(ConnectionError):
                await exchange(path, rubbish + b"\n")
            assert (await call(path, "status"))["command"] == "status"

    with open_directory() as directory:
        asyncio.run(scenario(directory / "agent.sock"))


async def test_a_request_of_just_the_limit_is_taken(path):
    overhead = len(request(arguments={"text": ""}))
    line = request(arguments={"text": "x" * (LINE_LIMIT_BYTES - overhead)})
    assert len(line) == LINE_LIMIT_BYTES
    async with serving(path):
        (answer,) = await exchange(path, line)
    assert "result" in answer


async def test_an_answer_may_be_long(path):
    async with serving(path):
        assert len((await call(path, "big", size=3_000_000))["text"]) == 3_000_000


@pytest.mark.parametrize("sends", [b"", b'{"v": 1, '], ids=["nothing", "half a line"])
async def test_a_silent_client_is_hung_up_on(path, sends):
    loop = asyncio.get_running_loop()
    async with serving(path, idle_s=0.2):
        began = loop.time()
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(sends)
        assert await reader.read() == b""
        writer.close()
    assert 0.15 < loop.time() - began < 2


async def test_dripping_bytes_gains_no_time(path):
    loop = asyncio.get_running_loop()
    async with serving(path, idle_s=0.3):
        reader, writer = await asyncio.open_unix_connection(path)
        began = loop.time()
        with contextlib.suppress(ConnectionError):
            while not (reader.at_eof() or writer.is_closing()) and loop.time() - began < 3:
                writer.write(b" ")
                await asyncio.sleep(0.02)
        writer.close()
    assert loop.time() - began < 1.5


async def test_a_client_that_does_not_read_its_answers_is_hung_up_on(path):
    async with serving(path, idle_s=0.2) as echo:
        deaf = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        deaf.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(deaf, str(path))
        with contextlib.suppress(ConnectionError):
            await loop.sock_sendall(deaf, request("big", arguments={"size": 5_000_000}))
        await asyncio.sleep(0.8)
        received = 0
        with contextlib.suppress(ConnectionError):
            while chunk := await loop.sock_recv(deaf, 1 << 20):
                received += len(chunk)
        deaf.close()
        assert len(echo.requests) == 1
        assert received < 5_000_000


async def test_a_client_that_leaves_before_its_answer_disturbs_nobody(path):
    async with serving(path) as echo:
        _, writer = await asyncio.open_unix_connection(path)
        writer.write(request("slow", arguments={"takes_s": 0.2}))
        await writer.drain()
        writer.transport.abort()
        assert (await call(path, "status"))["command"] == "status"
        await asyncio.sleep(0.3)
        assert {each.command for each in echo.requests} == {"slow", "status"}


async def test_one_slow_command_does_not_hold_up_another(path):
    async with serving(path), asyncio.TaskGroup() as group:
        slow = group.create_task(call(path, "slow", takes_s=0.5))
        await asyncio.sleep(0.05)
        await call(path, "status")
        assert not slow.done()


async def test_too_many_clients_are_told_and_the_places_are_free_again_later(path):
    async with serving(path):
        crowd = [await asyncio.open_unix_connection(path) for _ in range(MAX_CLIENTS)]
        for _, writer in crowd:
            writer.write(request())
        for reader, _ in crowd:
            assert "result" in json.loads(await reader.readline())
        reader, writer = await asyncio.open_unix_connection(path)
        assert json.loads(await reader.readline())["error"]["code"] == "busy"
        writer.close()
        for _, each in crowd:
            each.close()
        await asyncio.sleep(0.1)
        assert (await call(path, "status"))["command"] == "status"


async def test_stopping_hangs_up_on_clients_and_removes_the_socket(path):
    async with serving(path):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(request())
        await reader.readline()
    assert await reader.read() == b""
    writer.close()
    assert not path.exists()


# -- who it is ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "role"),
    [
        (Peer(uid=0, gids=frozenset({0})), Role.OPERATOR),
        (Peer(uid=900, gids=frozenset({900})), Role.OPERATOR),
        (Peer(uid=1000, gids=frozenset({1000, 77})), Role.OPERATOR),
        (Peer(uid=1000, gids=frozenset({77})), Role.OPERATOR),
        (Peer(uid=1000, gids=frozenset({1000, 0, 900})), Role.VIEWER),
    ],
    ids=["root", "the agent", "member", "member at first hand", "anybody"],
)
def test_the_role_follows_from_who_it_is(peer, role):
    assert peer.role(agent_uid=900, groups=Groups(operator_gid=77)) is role


@pytest.mark.parametrize(
    ("gids", "role"),
    [({77}, Role.OPERATOR), ({88}, Role.VIEWER), ({99}, Role.STRANGER)],
    ids=["operator", "viewer", "neither"],
)
def test_where_there_is_a_group_of_viewers_only_they_may_look(gids, role):
    groups = Groups(operator_gid=77, has_viewers=True, viewer_gid=88)
    assert Peer(uid=1000, gids=frozenset(gids)).role(agent_uid=900, groups=groups) is role
    missing = Groups(operator_gid=77, has_viewers=True, viewer_gid=None)
    assert Peer(uid=1000, gids=frozenset({99})).role(agent_uid=900, groups=missing) is Role.STRANGER
    assert not permitted("status", Role.STRANGER)


def test_without_the_group_nobody_more_is_an_operator():
    assert (
        Peer(uid=1000, gids=frozenset({1000})).role(agent_uid=900, groups=Groups(operator_gid=None))
        is Role.VIEWER
    )
    assert control._gid(NO_GROUP) is None


def test_the_kernel_tells_who_is_at_the_other_end():
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        peer = control._peer(one)
    assert peer.uid == os.geteuid()
    assert peer.gids == {os.getegid(), *os.getgroups()}


def test_a_user_without_a_name_is_named_by_number():
    assert control._user(2_000_000_123) == "uid:2000000123"


SOMEBODY = """
import asyncio, encodings.idna, json, os, socket, sys, time
from pathlib import Path
from agent.control import ControlError, ask
path, uid, groups, command = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]), sys.argv[4]
os.setgroups(groups); os.setgid(uid); os.setuid(uid)
"""
ASK = """
try:
    print(json.dumps(ask(Path(path), command)))
except ControlError as error:
    print(json.dumps([error.code, str(error)]))
"""


async def somebody(path, command="status", *, code=ASK, groups=(), uid=NOBODY):
    """What the command gives when somebody else gives it, from another process."""
    arguments = [str(path), str(uid), json.dumps(list(groups)), command]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-B", "-c", SOMEBODY + code, *arguments,
        env=child_environment(), cwd="/", stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert err == b"", err.decode()
    return json.loads(out)


@AS_ROOT
async def test_anybody_is_a_viewer_and_may_look_but_not_touch(path):
    async with serving(path) as echo:
        assert (await somebody(path, "status"))["command"] == "status"
        code, message = await somebody(path, "hold")
    assert code == "forbidden"
    assert f"group {NO_GROUP}" in message
    (got,) = echo.requests
    assert (got.uid, got.role) == (NOBODY, Role.VIEWER)


INSIST = """
client = socket.socket(socket.AF_UNIX); client.settimeout(60)
client.connect(str(path))
client.sendall(b'{"v": 1, "command": "hold"}\\n' * 30)
answers = client.makefile()
print(json.dumps([json.loads(answers.readline())["error"]["code"] for _ in range(30)]))
"""


@AS_ROOT
async def test_who_insists_on_what_is_not_for_them_does_not_fill_the_log(path, lines):
    async with serving(path):
        assert set(await somebody(path, code=INSIST)) == {"forbidden"}
    assert lines("event=command_forbidden") == [
        f"event=command_forbidden command=hold user=nobody uid={NOBODY} count=1"
    ]


async def test_that_no_client_can_be_let_in_is_told_once_and_that_they_can_again_once(
    path, lines, monkeypatch
):
    monkeypatch.setattr(control, "ACCEPT_PAUSE_S", 0.001)
    loop, refusals = asyncio.get_running_loop(), iter([1] * 5 + [0] + [1] * 5)
    accept = loop.sock_accept

    async def short_of_descriptors(listener):
        if next(refusals, 0):
            raise OSError(errno.EMFILE, "Too many open files")
        return await accept(listener)

    monkeypatch.setattr(loop, "sock_accept", short_of_descriptors)
    async with serving(path):
        for served in range(1, control.ACCEPTED_AGAIN + 2):
            await call(path, "hold")
            assert len(lines("event=control_accepts")) == (served > control.ACCEPTED_AGAIN)
    assert len(lines("event=control_accept_failed")) == 1


@AS_ROOT
async def test_a_member_of_the_operators_group_is_an_operator(path):
    group = grp.getgrall()[-1]
    async with serving(path, operator_group=group.gr_name) as echo:
        assert (await somebody(path, "hold", groups=[3, group.gr_gid], uid=4321))["command"] == "hold"
        assert (await somebody(path, "hold", groups=[3], uid=4321))[0] == "forbidden"
    assert [(each.user, each.uid, each.role) for each in echo.requests] == [("uid:4321", 4321, Role.OPERATOR)]


@AS_ROOT
async def test_who_is_not_in_the_group_of_viewers_may_not_even_look(path):
    group = grp.getgrall()[-1]
    async with serving(path, viewer_group=group.gr_name) as echo:
        code, message = await somebody(path, "status", groups=[3], uid=4321)
        assert code == "forbidden"
        assert (
            f"viewers and operators, and uid:4321 is none; ask to be added to the group {group.gr_name}"
            in message
        )
        assert (await somebody(path, "status", groups=[group.gr_gid], uid=4321))["command"] == "status"
        assert (await somebody(path, "hold", groups=[group.gr_gid], uid=4321))[0] == "forbidden"
    assert [each.role for each in echo.requests] == [Role.VIEWER]


FLOOD = """
sockets = []
for _ in range(40):
    each = socket.socket(socket.AF_UNIX); each.settimeout(60)
    each.connect(path); sockets.append(each)
answers = []
for each in sockets:
    try:
        each.sendall(b'{"v": 1, "command": "status"}\\n' * 200)
        answers.append(json.loads(each.makefile().readline())["error"]["code"])
    except KeyError:
        answers.append("served")
    except (OSError, ValueError):
        answers.append("hung up")
while not os.path.exists(path + ".over"):
    time.sleep(0.01)
print(json.dumps(answers), flush=True)
"""


@AS_ROOT
async def test_viewers_that_flood_the_socket_do_not_shut_operators_out(path):
    async with serving(path) as echo, asyncio.TaskGroup() as group:
        flood = group.create_task(somebody(path, code=FLOOD))
        await eventually(lambda: any(each.role is Role.VIEWER for each in echo.requests))
        for _ in range(50):
            assert (await call(path, "hold"))["command"] == "hold"
            await asyncio.sleep(0.01)
        path.with_name(f"{path.name}.over").touch()
    assert flood.result().count("served") == MAX_VIEWERS


# -- the socket file ---------------------------------------------------------------------------------


async def test_everybody_can_reach_the_socket_whatever_the_umask(directory):
    path = directory / "run" / "hashcost" / "agent.sock"
    old = os.umask(0o077)
    try:
        async with serving(path):
            modes = [stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent)]
    finally:
        os.umask(old)
    assert modes == [0o666, 0o755]


async def test_the_mode_of_a_directory_that_was_there_is_left_alone(directory, path):
    directory.chmod(0o711)
    async with serving(path):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o711


def leave_stale(path):
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))


async def test_a_stale_socket_is_replaced(path):
    leave_stale(path)
    async with serving(path):
        assert (await call(path, "status"))["command"] == "status"


async def test_the_socket_of_another_agent_is_left_alone(path):
    async with serving(path):
        with pytest.raises(ControlError, match="another agent listens there") as caught:
            await ControlServer(path, Echo(), operator_group=NO_GROUP).run()
        assert caught.value.code == "socket"
        assert (await call(path, "status"))["command"] == "status"


async def test_the_live_socket_of_another_program_is_left_alone(path):
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(ControlError, match="another agent listens there"):
            await ControlServer(path, Echo()).run()
        assert path.exists()


async def test_a_file_in_the_way_is_left_alone(path):
    path.write_text("precious")
    with pytest.raises(ControlError, match="in the way and not a socket"):
        await ControlServer(path, Echo()).run()
    assert path.read_text() == "precious"


async def test_a_path_that_the_kernel_does_not_take_is_told(directory):
    with pytest.raises(ControlError, match="the agent cannot listen there") as caught:
        await ControlServer(directory / ("x" * 150), Echo()).run()
    assert caught.value.code == "socket"


DYING = """
import asyncio, sys
from pathlib import Path
from agent.control import ControlServer
async def handle(request): return {}
async def main():
    server = ControlServer(Path(sys.argv[1]), handle)
    async with asyncio.TaskGroup() as group:
        group.create_task(server.run())
        await server.ready.wait()
        print("ready", flush=True)
asyncio.run(main())
"""


async def test_what_a_killed_agent_left_stands_in_nobodys_way(path):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", DYING, str(path), env=child_environment(), stdout=subprocess.PIPE
    )
    assert await process.stdout.readline() == b"ready\n"
    assert await call(path, "status") == {}
    process.send_signal(signal.SIGKILL)
    await process.wait()
    assert path.exists()
    with pytest.raises(ControlError, match="no agent listens there"):
        await call(path, "status")
    async with serving(path):
        assert (await call(path, "status"))["command"] == "status"


# -- the client --------------------------------------------------------------------------------------


def test_without_an_agent_the_socket_and_the_remedy_are_named(path):
    with pytest.raises(ControlError) as caught:
        ask(path, "hold")
    assert caught.value.code == "unreachable"
    assert str(caught.value).startswith(f"{path}: no agent listens there; start it with `hashcost run`")
    leave_stale(path)
    with pytest.raises(ControlError, match="no agent listens there"):
        ask(path, "hold")


async def test_an_agent_that_does_not_answer_in_time_is_told_with_what_is_not_known(path):
    async with serving(path):
        with pytest.raises(ControlError, match="may have been carried out all the same") as caught:
            await call(path, "slow", timeout_s=0.2, takes_s=1.0)
    assert caught.value.code == "timeout"


@contextlib.asynccontextmanager
async def impostor(path, answer: bytes):
    """Something else that listens on the socket."""

    async def serve(reader, writer):
        await reader.readline()
        writer.write(answer)
        writer.close()

    async with await asyncio.start_unix_server(serve, path):
        yield


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"", "lost"),
        (b'{"v": 1, "resu', "lost"),
        (b"HTTP/1.1 400 Bad Request\n", "malformed"),
        (b'{"v": 2, "result": {}}\n', "malformed"),
        (b"[]\n", "malformed"),
    ],
)
async def test_what_is_no_agent_is_told(path, answer, code):
    async with impostor(path, answer):
        with pytest.raises(ControlError) as caught:
            await call(path, "status")
    assert caught.value.code == code
    assert str(path) in str(caught.value)


async def test_an_endless_answer_is_not_read_to_its_end(path, monkeypatch):
    monkeypatch.setattr(control, "ANSWER_LIMIT_BYTES", 1000)
    async with impostor(path, b"x" * 10_000):
        with pytest.raises(ControlError, match="longer than any honest one"):
            await call(path, "status")


def test_a_request_over_the_limit_is_not_sent(path):
    with pytest.raises(BadCommandError, match="in parts"):
        ask(path, "approve", orders=list(range(20_000)))


@AS_ROOT
async def test_a_socket_that_may_not_be_reached_is_told(directory, path):
    async with serving(path):
        directory.chmod(0o700)
        code, message = await somebody(path)
    assert code == "unreachable"
    assert "Permission denied" in message


def test_the_credentials_have_the_kernels_layout():
    assert struct.calcsize("3i") == control._CREDENTIALS.size == 12


async def test_one_that_is_stopped_while_it_takes_its_place_leaves_it_to_the_next(path, monkeypatch):
    began, go_on, made = threading.Event(), threading.Event(), []

    class Slow(control._Endpoint):
        def __init__(self, where):
            began.set()
            go_on.wait(30)
            super().__init__(where)
            made.append(self)  # not forgotten, so that nobody else closes it

    monkeypatch.setattr(control, "_Endpoint", Slow)
    first = asyncio.create_task(ControlServer(path, Echo()).run())
    await asyncio.to_thread(began.wait, 30)
    first.cancel()
    asyncio.get_running_loop().call_soon(go_on.set)
    await asyncio.wait([first])
    assert first.cancelled()
    await eventually(lambda: made)
    second = ControlServer(path, Echo())
    running = asyncio.create_task(second.run())
    await eventually(lambda: second.ready.is_set() or running.done())
    assert second.ready.is_set()
    running.cancel()
    await asyncio.wait([running])
