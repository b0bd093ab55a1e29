"""What the outbox carries, and whether each intent lands exactly once whatever goes wrong.

`relayed_tx_s`: transactions a second that land on an Anvil, of so many submitted at once, from the
first submission to the last receipt with its confirmations; wall time, so quote it of a machine
that is at rest. `relayed_cpu_s`: the relayer's own CPU time for all of them.

`chaos_*`: as many again, through an endpoint that is out for whole seconds, answers 429, hangs up,
loses replies; on a chain that is reorganised by 1 to confirmations + 1 blocks; in processes that
are killed with SIGKILL at random moments. Each intent pays its own account its own sum once, which
is what is compared in the end: `chaos_wrong` must be 0.
"""

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import trio

from eigen.chain.bindings import REVERTS
from eigen.chain.devnet.anvil import AnvilConfig, AnvilProcess, run_anvil
from eigen.chain.outbox import Outbox, OutboxSettings
from eigen.chain.port import ChainUnreachable, EndpointRefused
from eigen.chain.provider import TrioHTTPProvider
from eigen.chain.rpc import Rpc
from eigen.crypto.identity import Identity
from eigen.protocol.types import Address

SECRET = "RELAYER_SECRET"
CONFIRMATIONS = 2
AT_ONCE = 1000
CALM_S = 60.0
"""After the last fault, at the latest, everything must have landed within so long."""


def payee(number: int) -> Address:
    return Address(b"\xee" * 16 + number.to_bytes(4))


async def relay(url: str, path: Path, secret: bytes, count: int) -> None:
    """Pay i wei to account i, for i from 1 to `count`, all at once; returns when all landed."""
    settings = OutboxSettings(confirmations=CONFIRMATIONS, poll_s=0.2, bump_after_s=5.0)
    provider = TrioHTTPProvider([url], chain_id=31337, timeout_s=3.0, backoff_s=0.05)
    outbox = Outbox(Rpc(provider, REVERTS), secret, path, chain_id=31337, settings=settings)
    limit = trio.CapacityLimiter(AT_ONCE)

    async def pay(number: int) -> None:
        async with limit:
            while True:
                try:
                    await outbox.submit(f"pay {number}", payee(number), b"", value_wei=number)
                    return
                except (ChainUnreachable, EndpointRefused):
                    await trio.sleep(0.2)

    async with provider, outbox, trio.open_nursery() as nursery:
        for number in range(1, count + 1):
            nursery.start_soon(pay, number)


@dataclass
class Faults:
    """A proxy before the chain that misbehaves as its dice say; counts what it did."""

    url: str
    dice: random.Random
    rough: bool = True
    out_until_s: float = 0.0
    done: Counter[str] = field(default_factory=Counter)

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream, httpx.AsyncClient() as client:
            while (body := await self._request(stream)) is not None:
                if not await self._answer(stream, client, body):
                    return

    async def _answer(
        self, stream: trio.SocketStream, client: httpx.AsyncClient, body: bytes
    ) -> bool:
        fate = self.dice.random() if self.rough else 1.0
        if self.rough and trio.current_time() < self.out_until_s:
            self.done["outage"] += 1
            return False
        if fate < 0.001:
            self.out_until_s = trio.current_time() + self.dice.uniform(0.5, 3.0)
        if fate < 0.01:
            self.done["hung up"] += 1
            return False
        if fate < 0.04:
            self.done["429"] += 1
            await _send(stream, b"slow down", "429 Too Many Requests")
            return True
        reply = (await client.post(self.url, content=body, headers=JSON)).content
        if fate < 0.05:
            self.done["reply lost"] += 1  # it was done, and nobody is told
            return False
        await _send(stream, reply)
        return True

    async def _request(self, stream: trio.SocketStream) -> bytes | None:
        data = b""
        try:
            while b"\r\n\r\n" not in data:
                if not (more := await stream.receive_some()):
                    return None
                data += more
            head, body = data.split(b"\r\n\r\n", 1)
            wanted = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            while len(body) < wanted:
                if not (more := await stream.receive_some()):
                    return None
                body += more
        except trio.BrokenResourceError:
            return None
        return body


JSON = {"Content-Type": "application/json"}


async def _send(stream: trio.SocketStream, body: bytes, status: str = "200 OK") -> None:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n"
    with suppress(trio.BrokenResourceError):  # it was killed meanwhile
        await stream.send_all(head.encode() + body)


async def control(devnet: AnvilProcess, method: str, *params: Any) -> Any:
    async with TrioHTTPProvider([devnet.url], chain_id=31337) as provider:
        return (await provider.make_request(method, list(params))).get("result")  # type: ignore[arg-type]


async def paid(devnet: AnvilProcess, count: int) -> list[int]:
    """What each account got."""
    async with TrioHTTPProvider([devnet.url], chain_id=31337) as provider:
        rpc = Rpc(provider, REVERTS)
        return [await rpc.balance_wei(payee(number)) for number in range(1, count + 1)]


async def speed(folder: Path, count: int) -> dict[str, float]:
    async with trio.open_nursery() as nursery:
        config = AnvilConfig(folder / "anvil.log", block_time_s=1.0, accounts=1)
        devnet = await nursery.start(run_anvil, config)
        account = await funded(devnet)
        begun_s, cpu_s = time.monotonic(), time.process_time()
        await relay(devnet.url, folder / "speed.sqlite", account.secret, count)
        took_s, spent_s = time.monotonic() - begun_s, time.process_time() - cpu_s
        wrong = sum(got != i for i, got in enumerate(await paid(devnet, count), 1))
        nursery.cancel_scope.cancel()
    if wrong:
        raise SystemExit(f"relayer: {wrong} of {count} were not paid once")
    return {
        "relayed_tx_s": round(count / took_s, 1),
        "relayed_cpu_s": round(spent_s, 1),
        "relayed_count": count,
    }


async def funded(devnet: AnvilProcess) -> Identity:
    account = Identity.generate()
    await control(devnet, "anvil_setBalance", "0x" + account.address.hex(), hex(10**21))
    return account


async def chaos(folder: Path, count: int, seed: int, lives: int) -> dict[str, Any]:
    dice = random.Random(seed)
    path, reorgs, kills = folder / "chaos.sqlite", Counter[int](), 0
    async with trio.open_nursery() as nursery:
        config = AnvilConfig(folder / "chaos.log", block_time_s=0.3, accounts=1)
        devnet = await nursery.start(run_anvil, config)
        account = await funded(devnet)
        faults = Faults(devnet.url, random.Random(seed + 1))
        on_loopback = partial(trio.serve_tcp, faults.serve, 0, host="127.0.0.1")
        listeners: list[trio.SocketListener] = await nursery.start(on_loopback)
        url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"

        async def reorganise() -> None:
            while faults.rough:
                await trio.sleep(dice.uniform(2.0, 6.0))
                depth = dice.randint(1, CONFIRMATIONS + 1)
                head = int(await control(devnet, "eth_blockNumber"), 16)
                if head > depth and await control(devnet, "anvil_reorg", depth, []) is None:
                    reorgs[depth] += 1

        nursery.start_soon(reorganise)
        for life in range(lives + 1):
            last = life == lives
            if last:
                faults.rough = False
            child = child_of(url, path, account, count)
            if not last:
                await trio.sleep(dice.uniform(0.5, 12.0))
                kills += child.poll() is None
                child.kill()
            code = await trio.to_thread.run_sync(child.wait)
            if last and code != 0:
                raise SystemExit(f"relayer: the last process ended with {code}")
        # what landed and was reorganised away afterwards is found at the next look
        child = child_of(url, path, account, count)
        await trio.to_thread.run_sync(child.wait)
        got = await paid(devnet, count)
        nonce = int(
            await control(
                devnet, "eth_getTransactionCount", "0x" + account.address.hex(), "latest"
            ),
            16,
        )
        nursery.cancel_scope.cancel()
    return {
        "chaos_count": count,
        "chaos_wrong": sum(one != number for number, one in enumerate(got, 1)),
        "chaos_paid_twice": sum(one > number for number, one in enumerate(got, 1)),
        "chaos_fillers": nonce - count,
        "chaos_kills": kills,
        "chaos_reorgs": {str(depth): times for depth, times in sorted(reorgs.items())},
        "chaos_faults": dict(faults.done),
        "chaos_seed": seed,
    }


def child_of(url: str, path: Path, account: Identity, count: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, __file__, "--child", url, str(path), "--count", str(count)],
        env=os.environ | {SECRET: account.secret.hex()},
        stderr=subprocess.DEVNULL,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object (there is no other)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the submissions")
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--child", nargs=2, metavar=("URL", "OUTBOX"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        url, path = options.child
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        trio.run(relay, url, Path(path), bytes.fromhex(os.environ[SECRET]), options.count)
        return
    count = options.count or (100 if options.quick else 1000)
    with tempfile.TemporaryDirectory() as folder:
        figures: dict[str, Any] = trio.run(speed, Path(folder), count)
        figures |= trio.run(chaos, Path(folder), count, options.seed, 4 if options.quick else 12)
    figures["relayer_mb"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    print(json.dumps(figures))
    if figures["chaos_wrong"]:
        raise SystemExit(f"relayer: seed {options.seed} loses or repeats intents")


if __name__ == "__main__":
    main()
