"""Proxies that shape real connections as a scenario's lines say: one before each node of tier 3.

A node announces its proxy's address in place of its own. Who dials is found in Linux's tables of
sockets, since all nodes share one address.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from eigen.simulations.lines import CHUNK_BYTES, Lines

if TYPE_CHECKING:
    from trio_typing import TaskStatus

HOST: Final = "127.0.0.1"
BEHIND: Final = "127.0.0.2"
"""Where nodes listen: nobody guesses it from the address that a connection comes from."""
UNSENT_BYTES: Final = 64 * 1024
"""What a proxy holds of a connection before its line; then it reads no more."""
CHUNKS_MAX: Final = 256
"""What a proxy holds of a connection that is on its way."""


@dataclass(frozen=True, slots=True)
class Fronted:
    """One node: the port of its proxy, and its own port and process, while it has any."""

    front: int
    port: Callable[[], int]
    pid: Callable[[], int | None]


class Proxies:
    """All proxies of one network. Run it in a nursery; a cancel closes every connection."""

    def __init__(self, lines: Lines, nodes: Mapping[str, Fronted]) -> None:
        self._lines = lines
        self._nodes = nodes
        self._changed = trio.Event()

    def changed(self) -> None:
        """Lines were cut or healed."""
        self._changed.set()
        self._changed = trio.Event()

    async def run(self, *, task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Listen for everybody; `started` once all do."""
        async with trio.open_nursery() as nursery:
            for name, node in self._nodes.items():

                async def serve(stream: trio.SocketStream, name: str = name) -> None:
                    await self._serve(stream, name)

                [listener] = await trio.open_tcp_listeners(node.front, host=HOST)
                nursery.start_soon(trio.serve_listeners, serve, [listener])
            task_status.started()

    async def _serve(self, dialled: trio.SocketStream, to: str) -> None:
        node = self._nodes[to]
        pids = {name: pid for name, other in self._nodes.items() if (pid := other.pid())}
        sender = dialler(dialled.socket.getpeername()[1], pids)
        async with dialled:
            if sender is None:
                return  # it has gone already
            dialled_s = trio.current_time()
            while self._lines.apart(sender, to):
                await self._changed.wait()
            await trio.sleep_until(dialled_s + 2.0 * self._lines.way_s(sender, to))
            try:
                reached = await trio.open_tcp_stream(BEHIND, node.port())
            except OSError:
                return
            async with reached, trio.open_nursery() as nursery:
                nursery.start_soon(self._carry, dialled, reached, sender, to, nursery)
                nursery.start_soon(self._carry, reached, dialled, to, sender, nursery)

    async def _carry(
        self,
        source: trio.SocketStream,
        target: trio.SocketStream,
        sender: str,
        to: str,
        both: trio.Nursery,
    ) -> None:
        """Bytes of one direction until they end; then the connection is closed both ways."""
        send, receive = trio.open_memory_channel[tuple[float, bytes]](CHUNKS_MAX)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_deliver, receive, target)
            unsent_s = UNSENT_BYTES / self._lines.bytes_s(sender)
            last_s = 0.0
            async with send:
                while True:
                    data = await _received(source)
                    while self._lines.apart(sender, to):
                        await self._changed.wait()
                    now_s = trio.current_time()
                    left_s, at_s = self._lines.carry(now_s, sender, to, len(data))
                    last_s = max(last_s, at_s)
                    await send.send((last_s, data))
                    if not data:
                        break
                    await trio.sleep_until(left_s - unsent_s)
        both.cancel_scope.cancel()


async def _received(source: trio.SocketStream) -> bytes:
    try:
        return bytes(await source.receive_some(CHUNK_BYTES))
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return b""


async def _deliver(
    receive: trio.MemoryReceiveChannel[tuple[float, bytes]], target: trio.SocketStream
) -> None:
    async for at_s, data in receive:
        await trio.sleep_until(at_s)
        try:
            if data:
                await target.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return


def dialler(port: int, pids: Mapping[str, int]) -> str | None:
    """Whose process holds the socket that is bound to this port of 127.0.0.1, if any's does."""
    ending = f"0100007F:{port:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1] == ending:
            return _holder(f"socket:[{fields[9]}]", pids)
    return None


def _holder(socket: str, pids: Mapping[str, int]) -> str | None:
    for name, pid in pids.items():
        if any(_names(pid, number) == socket for number in _descriptors(pid)):
            return name
    return None


def _descriptors(pid: int) -> Sequence[str]:
    try:
        return os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return ()


def _names(pid: int, number: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/fd/{number}")
    except OSError:
        return ""
