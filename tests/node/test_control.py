"""The control socket: who may open it, and what it answers to calls that are none."""

import json
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eigen.node import control
from eigen.node.control import REQUEST_BYTES_MAX, ControlError, ControlServer, call_daemon
from eigen.node.exit_codes import ExitCode, UserError


async def echo(params: dict[str, Any]) -> dict[str, Any]:
    return params


async def refuse(_: dict[str, Any]) -> None:
    raise ControlError("not while it rains", ExitCode.FAILED)


async def fail(_: dict[str, Any]) -> None:
    raise ZeroDivisionError("a bug")


@asynccontextmanager
async def serving(path: Path, **methods: Any) -> AsyncIterator[Path]:
    table = {"echo": echo, "refuse": refuse, "fail": fail, **methods}
    async with trio.open_nursery() as nursery:
        await nursery.start(ControlServer(path, table).run)
        yield path
        nursery.cancel_scope.cancel()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


def call(path: Path, method: str, **params: Any) -> Any:
    return trio.to_thread.run_sync(partial(call_daemon, path, method, 5.0, **params))


async def say(path: Path, line: bytes) -> bytes:
    """Send bytes, close the sending side, read all."""
    stream = await trio.open_unix_socket(path)
    async with stream:
        try:
            await stream.send_all(line)
            await stream.send_eof()
        except trio.BrokenResourceError:
            pass  # it has heard enough
        data = b""
        with trio.fail_after(10):
            while chunk := await stream.receive_some(65536):
                data += chunk
    return data


async def test_a_call_is_answered(path: Path) -> None:
    async with serving(path):
        assert await call(path, "echo", text="Grüße", number=3) == {"text": "Grüße", "number": 3}


async def test_only_the_owner_can_open_the_socket_and_it_goes_with_the_server(
    path: Path, tmp_path: Path
) -> None:
    async with serving(path):
        mode = os.stat(path).st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
    assert os.listdir(tmp_path) == []


async def test_a_stale_socket_file_does_not_block(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    async with serving(path):
        assert await call(path, "echo") == {}


BAD = [
    b"\n",
    b"no json\n",
    b"[]\n",
    b"3\n",
    b"null\n",
    b"{}\n",
    b'{"method": []}\n',
    b'{"method": "__init__"}\n',
    b'{"method": "echo", "params": [1]}\n',
    b'{"method": "echo", "params": "text"}\n',
    b"\xff\xfe\n",
    b"[" * 100_000 + b"\n",
    b'{"method":' * 50_000 + b"\n",
]


@pytest.mark.parametrize("line", BAD, ids=[repr(line[:30]) for line in BAD])
async def test_a_malformed_call_is_told_so_and_the_server_goes_on(path: Path, line: bytes) -> None:
    async with serving(path):
        reply = json.loads(await say(path, line))
        assert reply == {"error": "no such call", "code": ExitCode.USAGE}
        assert await call(path, "echo") == {}


async def test_an_unknown_method_is_a_usage_error_at_the_caller(path: Path) -> None:
    async with serving(path):
        with pytest.raises(UserError, match="no such call") as caught:
            await call(path, "no-such-method")
        assert caught.value.exit_code == ExitCode.USAGE


async def test_an_oversized_line_is_refused_with_its_limit(path: Path) -> None:
    async with serving(path):
        with pytest.raises(UserError, match=str(REQUEST_BYTES_MAX)) as caught:
            await call(path, "echo", text="x" * REQUEST_BYTES_MAX)
        assert caught.value.exit_code == ExitCode.USAGE
        assert await call(path, "echo") == {}


async def test_a_refusal_and_a_bug_reach_the_caller_and_nobody_else(path: Path) -> None:
    async with serving(path):
        with pytest.raises(UserError, match="not while it rains") as caught:
            await call(path, "refuse")
        assert caught.value.exit_code == ExitCode.FAILED
        with pytest.raises(UserError, match="ZeroDivisionError: a bug"):
            await call(path, "fail")
        assert await call(path, "echo") == {}


async def test_clients_do_not_wait_for_each_other(path: Path) -> None:
    gate = trio.Event()
    order: list[str] = []

    async def slow(_: dict[str, Any]) -> str:
        await gate.wait()
        return "slow"

    async with serving(path, slow=slow):

        async def first() -> None:
            order.append(await call(path, "slow"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(first)
            await trio.sleep(0.05)
            order.append((await call(path, "echo", said="quick"))["said"])
            gate.set()
    assert order == ["quick", "slow"]


async def test_a_client_that_leaves_or_says_nothing_harms_nobody(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "READ_TIMEOUT_S", 0.2)

    async def large(_: dict[str, Any]) -> str:
        return "x" * 4_000_000

    async with serving(path, large=large):
        for line in (b"", b'{"method": "large"}\n', b'{"method": "ec'):
            stream = await trio.open_unix_socket(path)
            await stream.send_all(line)
            await stream.aclose()
        mute = await trio.open_unix_socket(path)
        with trio.fail_after(5):
            assert await mute.receive_some(1) == b"", "dropped after the time-out"
        await mute.aclose()
        assert await call(path, "echo") == {}


async def test_no_daemon_is_an_exit_code_of_its_own(path: Path) -> None:
    with pytest.raises(UserError, match="eigen up") as caught:
        await call(path, "status")
    assert caught.value.exit_code == ExitCode.NOT_RUNNING
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    with pytest.raises(UserError, match="eigen up") as caught:
        await call(path, "status")
    assert caught.value.exit_code == ExitCode.NOT_RUNNING


async def test_a_daemon_that_ends_during_a_call_or_does_not_answer(path: Path) -> None:
    started = trio.Event()

    async def hang(_: dict[str, Any]) -> None:
        started.set()
        await trio.sleep_forever()

    async def ask(timeout_s: float, caught: list[UserError]) -> None:
        with pytest.raises(UserError) as error:
            await trio.to_thread.run_sync(call_daemon, path, "hang", timeout_s)
        caught.append(error.value)

    caught: list[UserError] = []
    async with trio.open_nursery() as nursery, serving(path, hang=hang):
        await ask(0.2, caught)
        started = trio.Event()
        nursery.start_soon(ask, 5.0, caught)
        await started.wait()
    codes = [error.exit_code for error in caught]
    assert codes == [ExitCode.TIMED_OUT, ExitCode.NOT_RUNNING]


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=8))
def test_no_bytes_end_the_server(path: Path, lines: list[bytes]) -> None:
    async def play() -> None:
        async with serving(path):
            for line in lines:
                data = await say(path, line.replace(b"\n", b"") + b"\n")
                assert json.loads(data)["code"] == ExitCode.USAGE
            assert await call(path, "echo", ok=1) == {"ok": 1}

    trio.run(play)
