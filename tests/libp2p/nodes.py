"""Nodes for tests: real hosts over loopback, found by name."""

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from eigen.node.libp2p.config import Libp2pConfig
from eigen.node.libp2p.network import Libp2pNetwork

LOOPBACK = ("/ip4/127.0.0.1/tcp/0",)


def make(**changes: object) -> Libp2pNetwork:
    """A node that listens on loopback and is alone."""
    settings: dict[str, object] = {"network_id": "test", "listen": LOOPBACK, "mdns": False}
    secret = changes.pop("secret", None) or secrets.token_bytes(32)
    around = changes.pop("around", None)
    return Libp2pNetwork(Libp2pConfig(**(settings | changes)), secret, around)


@asynccontextmanager
async def running(node: Libp2pNetwork) -> AsyncIterator[Libp2pNetwork]:
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        try:
            yield node
        finally:
            nursery.cancel_scope.cancel()


async def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Wait for a condition; fails the test when it does not come true."""
    with trio.fail_after(timeout_s):
        while not condition():  # noqa: ASYNC110 (a test may watch anything)
            await trio.sleep(0.01)
