"""A devnet: one real Anvil on a loopback port, for as long as a Trio task runs.

Knows how Anvil is started, asked and stopped; nothing of our contracts. For development and tests:
whoever reaches the port can mint money and act as any account.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import trio

from eigen.chain.devnet.binary import find_anvil
from eigen.chain.devnet.child import Child, child_process
from eigen.chain.devnet.errors import DevnetFailed, DevnetUnavailable
from eigen.chain.devnet.snapshot import live_path, newest_state
from eigen.crypto.identity import Identity
from eigen.protocol.types import Address

if TYPE_CHECKING:
    from trio_typing import TaskStatus

__all__ = ["AnvilConfig", "AnvilProcess", "find_anvil", "run_anvil"]

COIN_WEI = 10**18
ACCOUNTS_MAX = 256  # each costs one request at the start
BLOCK_TIME_S_MIN = 0.01  # a block takes Anvil about 2 ms
LOG_BYTES_MAX = 4 * 1024 * 1024  # Anvil writes about 150 bytes a block and one line a request
LOG_CHECK_S = 30.0
LOG_TAIL_CHARS = 600  # of the log, repeated in an error message
START_POLL_S = 0.02
REQUEST_TIMEOUT_S = 10.0
STATE_INTERVAL_S = 30  # how much a devnet forgets when the machine loses power
HARDFORK = "prague"  # what the contracts are compiled for


@dataclass(frozen=True, slots=True)
class AnvilConfig:
    """How a devnet runs. Raises ValueError, naming the field, for what cannot work.

    `block_time_s` None mines a block for each transaction and none besides, so the chain's clock
    stands still in between and a vote does not end by itself. `accounts` fresh accounts and every
    address in `fund` get `balance_wei`. With `state_path` the chain is saved when it ends and every
    `STATE_INTERVAL_S`, and goes on from there at the next start. `keep_history` keeps the state of
    old blocks for calls and reorganisations (about 250 kB a block); logs, blocks and receipts are
    there either way (about 2 kB a block).
    """

    log_path: Path
    chain_id: int = 31337
    port: int = 0  # 0: a free one
    block_time_s: float | None = 1.0
    accounts: int = 0
    fund: Sequence[Address] = ()
    balance_wei: int = 10_000 * COIN_WEI
    state_path: Path | None = None
    keep_history: bool = False
    binary: Path | None = None  # None: find_anvil(cache_dir)
    cache_dir: Path | None = None
    start_timeout_s: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.chain_id < 2**63:
            raise ValueError(f"chain_id: a positive number below 2**63, not {self.chain_id}")
        if not 0 <= self.port < 2**16:
            raise ValueError(f"port: 0 for a free one, or 1 to 65535, not {self.port}")
        if self.block_time_s is not None and not BLOCK_TIME_S_MIN <= self.block_time_s < 3600:
            raise ValueError(
                f"block_time_s: {BLOCK_TIME_S_MIN} to 3600 seconds, or None to mine on demand, "
                f"not {self.block_time_s}"
            )
        if self.accounts < 0 or self.accounts + len(self.fund) > ACCOUNTS_MAX:
            raise ValueError(f"accounts, fund: together 0 to {ACCOUNTS_MAX} accounts")
        if not 0 <= self.balance_wei < 2**128:
            raise ValueError(f"balance_wei: 0 to 2**128 wei, not {self.balance_wei}")
        if self.start_timeout_s <= 0:
            raise ValueError(f"start_timeout_s: more than 0, not {self.start_timeout_s}")


@dataclass(frozen=True, slots=True)
class AnvilProcess:
    """A devnet that answers. `accounts` are fresh and funded; their keys exist nowhere else."""

    url: str
    chain_id: int
    version: str  # such as 1.7.1
    pid: int
    accounts: tuple[Identity, ...] = field(repr=False)


async def run_anvil(
    config: AnvilConfig,
    *,
    task_status: "TaskStatus[AnvilProcess]" = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a devnet until cancelled; `await nursery.start(run_anvil, config)` gives `AnvilProcess`.

    It listens on 127.0.0.1 alone, answers no web page (no CORS), and has none of Anvil's well-known
    accounts. A cancel saves the state and ends it; so does the death of this process (on Linux).

    Raises `DevnetUnavailable` where there is no Anvil, `DevnetFailed` with the end of its log where
    it does not answer within `start_timeout_s` or ends by itself.
    """
    binary = config.binary or await find_anvil(config.cache_dir)
    if not os.access(binary, os.X_OK):
        raise DevnetUnavailable(f"binary: {binary} is not an executable file")
    arguments, scratch = await trio.to_thread.run_sync(_prepare, config)
    try:
        async with child_process(binary, arguments, config.log_path) as child:
            task_status.started(await _started(config, child))
            while not child.ended:
                with trio.move_on_after(LOG_CHECK_S):
                    await child.wait()
                await trio.to_thread.run_sync(rotate_log, config.log_path, LOG_BYTES_MAX)
            status = child.process.returncode
            tail = _log_tail(config.log_path)
            raise DevnetFailed(f"Anvil ended by itself, status {status}{tail}")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _prepare(config: AnvilConfig) -> tuple[list[str], str]:
    """Files in place; returns the command line and a scratch folder. Blocks for file access."""
    config.log_path.parent.mkdir(parents=True, exist_ok=True)
    if config.log_path.exists():
        config.log_path.replace(_older(config.log_path))
    scratch = tempfile.mkdtemp(prefix="eigen-anvil-")
    arguments = ["--host", "127.0.0.1", "--port", str(config.port), "--no-cors"]
    arguments += ["--chain-id", str(config.chain_id), "--hardfork", HARDFORK]
    arguments += ["--accounts", "0", "--color", "never", "--cache-path", scratch]
    if config.block_time_s is not None:
        arguments += ["--block-time", f"{config.block_time_s:g}"]
    if not config.keep_history:
        arguments += ["--prune-history"]
    if config.state_path is not None:
        config.state_path.parent.mkdir(parents=True, exist_ok=True)
        saved = newest_state(config.state_path)
        arguments += ["--load-state", str(saved)] if saved is not None else []
        arguments += ["--dump-state", str(live_path(config.state_path))]
        arguments += ["--state-interval", str(STATE_INTERVAL_S)]
    return arguments, scratch


async def _started(config: AnvilConfig, child: Child) -> AnvilProcess:
    """Wait until it answers, then fund the accounts."""
    with trio.move_on_after(config.start_timeout_s) as deadline:
        url = await _listening(config.log_path, child)
        async with httpx.AsyncClient(trust_env=False, timeout=REQUEST_TIMEOUT_S) as client:
            chain_id = int(await _ask(client, url, "eth_chainId"), 16)
            version = str(await _ask(client, url, "web3_clientVersion")).removeprefix("anvil/v")
            accounts = tuple(Identity.generate() for _ in range(config.accounts))
            for address in (*(account.address for account in accounts), *config.fund):
                wei = hex(config.balance_wei)
                await _ask(client, url, "anvil_setBalance", "0x" + address.hex(), wei)
    if deadline.cancelled_caught:
        raise DevnetFailed(
            f"Anvil did not answer within {config.start_timeout_s:g} s{_log_tail(config.log_path)}"
        )
    return AnvilProcess(url, chain_id, version, child.pid, accounts)


async def _listening(log_path: Path, child: Child) -> str:
    """The URL that Anvil announces once it is bound: the one way to learn a port it chose."""
    while True:
        url = _announced(log_path)
        if url is not None:
            return url
        if child.ended:
            status = child.process.returncode
            raise DevnetFailed(f"Anvil ended at once, status {status}{_log_tail(log_path)}")
        await trio.sleep(START_POLL_S)


def _announced(log_path: Path) -> str | None:
    found = re.search(rb"Listening on (127\.0\.0\.1:\d+)\s", log_path.read_bytes())
    return None if found is None else f"http://{found[1].decode()}"


async def _ask(client: httpx.AsyncClient, url: str, method: str, *params: str) -> Any:
    request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    try:
        reply = (await client.post(url, json=request)).raise_for_status().json()
        return reply["result"]
    except (httpx.HTTPError, ValueError, KeyError) as error:
        raise DevnetFailed(f"Anvil did not answer {method}: {error!r}") from error


def rotate_log(path: Path, bytes_max: int) -> None:
    """Move a log that has grown past a size to `….1`. Anvil appends, so it writes on from 0."""
    if path.stat().st_size > bytes_max:
        shutil.copyfile(path, _older(path))
        os.truncate(path, 0)


def _older(path: Path) -> Path:
    return path.with_name(path.name + ".1")


def _log_tail(path: Path) -> str:
    text = path.read_bytes()[-LOG_TAIL_CHARS:].decode(errors="replace").strip()
    return f": {text} (log: {path})" if text else f" (log: {path})"
