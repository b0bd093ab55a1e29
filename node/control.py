"""The control API: how `eigen` commands talk to the daemon of a home.

One JSON object a line over a Unix socket that only the home's owner can open; one connection a
call: `{"method": …, "params": {…}}`, answered by `{"result": …}` or `{"error": …, "code": …}`.
"""

import contextlib
import json
import os
import re
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
import trio

from eigen.node.exit_codes import ExitCode, UserError

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = structlog.get_logger()

REQUEST_BYTES_MAX = 1024 * 1024
"""A run spec with a long description is some kilobytes."""
REPLY_BYTES_MAX = 16 * 1024 * 1024
"""Status of a node with many runs."""
READ_TIMEOUT_S = 10.0
"""A client that opens the socket and says nothing is dropped."""

NESTING_MAX = 64
"""Calls nest to four levels. CPython's parser recurses in C: depth 100,000 overflows its stack
wherever a library has raised the recursion limit, as py_ecc does."""
_BRACKETS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)  # linear in all cases

Method = Callable[[dict[str, Any]], Awaitable[Any]]


class ControlError(UserError):
    """What a method tells its caller: one sentence and the exit code that it means."""


class OversizedRequest(Exception):
    """A line that is longer than any request."""


class ControlServer:
    """Serves methods by name on a Unix socket."""

    def __init__(self, path: Path, methods: dict[str, Method]) -> None:
        self._path = path
        self._methods = methods

    async def run(self, *, task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; the socket file is removed then."""
        self._path.unlink(missing_ok=True)  # the home lock says that nobody serves it
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        old = os.umask(0o177)  # the process's: nothing else may run until it is back
        try:
            bound.bind(str(self._path))
        finally:
            os.umask(old)
        sock = trio.socket.from_stdlib_socket(bound)
        sock.listen(16)
        try:
            async with trio.open_nursery() as nursery:
                listeners = [trio.SocketListener(sock)]
                await nursery.start(trio.serve_listeners, self._serve, listeners)
                task_status.started()
        finally:
            self._path.unlink(missing_ok=True)

    async def _serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            try:
                with trio.fail_after(READ_TIMEOUT_S):
                    line = await _read_line(stream, REQUEST_BYTES_MAX)
                reply = await self._answer(line)
            except OversizedRequest as error:
                reply = {"error": str(error), "code": int(ExitCode.USAGE)}
            except (trio.BrokenResourceError, trio.TooSlowError, ValueError) as error:
                log.debug("control call dropped", why=str(error))
                return
            with contextlib.suppress(trio.BrokenResourceError):  # the client did not wait
                await stream.send_all(json.dumps(reply).encode() + b"\n")

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            call: Any = json.loads(line) if _depth(line) <= NESTING_MAX else None
            method = self._methods[call["method"]]
            params = dict(call.get("params") or {})
        except (ValueError, TypeError, KeyError):
            return {"error": "no such call", "code": int(ExitCode.USAGE)}
        try:
            return {"result": await method(params)}
        except UserError as error:
            return {"error": str(error), "code": int(error.exit_code)}
        except Exception as error:
            log.exception("control call failed", method=call["method"])
            text = f"{type(error).__name__}: {error}"
            return {"error": text, "code": int(ExitCode.FAILED)}


def _depth(line: bytes) -> int:
    """Deepest nesting of JSON's brackets, those inside of strings not counted."""
    depth = deepest = 0
    for token in _BRACKETS.finditer(line):
        depth += (token[0] in b"[{") - (token[0] in b"]}")
        deepest = max(deepest, depth)
    return deepest


async def _read_line(stream: trio.SocketStream, bytes_max: int) -> bytes:
    data = bytearray()
    while not data.endswith(b"\n"):
        chunk = await stream.receive_some(65536)
        if not chunk:
            raise ValueError("no whole request")
        if len(data) + len(chunk) > bytes_max:
            raise OversizedRequest(f"a request of more than {bytes_max} bytes")
        data += chunk
    return bytes(data)


def call_daemon(path: Path, method: str, timeout_s: float = 60.0, **params: Any) -> Any:
    """Call the daemon of a home and wait for its answer; blocking, for commands.

    Raises `UserError`: NOT_RUNNING where no daemon answers, else what the method says.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout_s)
        try:
            sock.connect(str(path))
            sock.sendall(json.dumps({"method": method, "params": params}).encode() + b"\n")
            data = bytearray()
            while not data.endswith(b"\n"):
                chunk = sock.recv(1 << 20)
                if not chunk:
                    break
                data += chunk
        except TimeoutError:
            raise UserError(
                f"the daemon did not answer {method} within {timeout_s:g} s", ExitCode.TIMED_OUT
            ) from None
        except (FileNotFoundError, ConnectionError):
            raise UserError(
                f"no node runs in {path.parent}; start it with: eigen up", ExitCode.NOT_RUNNING
            ) from None
    if not data.endswith(b"\n"):
        raise UserError("the daemon ended during the call", ExitCode.NOT_RUNNING)
    reply = json.loads(data)
    if "error" in reply:
        raise UserError(reply["error"], ExitCode(reply["code"]))
    return reply["result"]
