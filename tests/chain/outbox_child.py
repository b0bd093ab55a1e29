"""A daemon's outbox in a process of its own, for tests that kill it.

Usage: outbox_child.py URL OUTBOX SECRET_HEX COUNT [stored|sent]

Transfers i wei to account i, for i from 1 to COUNT, all at once; prints a line when the outbox is
open, and another one when all have landed. With `stored` or `sent` it kills itself with SIGKILL at
the first broadcast, before or after the bytes have left.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any, Never

import trio
from web3.types import RPCEndpoint, RPCResponse

from eigen.chain.bindings import REVERTS
from eigen.chain.outbox import Outbox, OutboxSettings
from eigen.chain.provider import TrioHTTPProvider
from eigen.chain.rpc import Rpc
from eigen.protocol.types import Address


def die() -> Never:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


class DyingProvider(TrioHTTPProvider):
    """Ends the process around its first broadcast."""

    moment = ""

    async def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        broadcast = method == "eth_sendRawTransaction"
        if broadcast and self.moment == "stored":
            die()
        reply = await super().make_request(method, params)
        if broadcast and self.moment == "sent":
            die()
        return reply


def recipient(number: int) -> Address:
    return Address(b"\xee" * 16 + number.to_bytes(4))


async def main(url: str, path: str, secret: str, count: str, moment: str = "") -> None:
    provider = DyingProvider([url], chain_id=31337)
    provider.moment = moment
    outbox = Outbox(
        Rpc(provider, REVERTS),
        bytes.fromhex(secret),
        Path(path),
        chain_id=31337,
        settings=OutboxSettings(poll_s=0.02),
    )
    async with provider, outbox, trio.open_nursery() as nursery:
        print("open", flush=True)
        for number in range(1, int(count) + 1):

            async def pay(number: int = number) -> None:
                await outbox.submit(f"pay {number}", recipient(number), b"", value_wei=number)

            nursery.start_soon(pay)
    print("all landed", flush=True)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
