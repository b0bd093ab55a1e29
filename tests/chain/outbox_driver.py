"""What the tests of the outbox share: submissions in the background, and looks at the chain."""

from collections.abc import Callable
from typing import Any

import trio
from eth_account import Account
from eth_account.typed_transactions import TypedTransaction
from hexbytes import HexBytes

from eigen.chain.fees import GWEI
from eigen.chain.outbox import Outbox
from eigen.chain.port import (
    Receipt,
)
from eigen.crypto.hashing import keccak256
from eigen.crypto.identity import Identity
from eigen.protocol.types import Address

from .conftest import CHAIN_ID, Anvil, Between

OpenOutbox = Callable[..., Outbox]


PAYEE = Address(b"\xaa" * 20)


async def balance(anvil: Anvil, account: Address = PAYEE) -> int:
    return int(await anvil.control("eth_getBalance", "0x" + account.hex(), "latest"), 16)


async def nonce(anvil: Anvil, account: Address) -> int:
    count = await anvil.control("eth_getTransactionCount", "0x" + account.hex(), "latest")
    return int(count, 16)


class Submission:
    """A submission in the background of a test, and how it ended."""

    def __init__(self, nursery: trio.Nursery, outbox: Outbox, key: str, **options: Any) -> None:
        self.receipt: Receipt | None = None
        self.error: BaseException | None = None
        self.ended = trio.Event()
        nursery.start_soon(self._run, outbox, key, options)

    async def _run(self, outbox: Outbox, key: str, options: dict[str, Any]) -> None:
        to, data = options.pop("to", PAYEE), options.pop("data", b"")
        try:
            self.receipt = await outbox.submit(key, to, data, **options)
        except Exception as error:
            self.error = error
        self.ended.set()


async def until(condition: Callable[[], Any]) -> None:
    """Wait for an awaitable condition to hold."""
    with trio.fail_after(20):
        while not await condition():  # noqa: ASYNC110 - it is a process that we wait for
            await trio.sleep(0.01)


async def equals(coroutine: Any, value: int) -> bool:
    return bool(await coroutine == value)


def transaction(raw: str) -> dict[str, int]:
    return TypedTransaction.from_bytes(HexBytes(raw)).as_dict()


def tx_hash(raw: str) -> str:
    return "0x" + keccak256(bytes.fromhex(raw[2:])).hex()


async def at_least(things: list[str], count: int) -> bool:
    return len(things) >= count


async def distinct(between: Between) -> int:
    return len(set(between.sent))


async def send_elsewhere(
    anvil: Anvil, account: Identity, *, nonce: int, to: Address = PAYEE, wei: int = 0, gwei: int = 5
) -> None:
    """A transaction that the same account signs elsewhere."""
    signed = Account.from_key(account.secret).sign_transaction(
        {
            "type": 2,
            "chainId": CHAIN_ID,
            "nonce": nonce,
            "to": to,
            "value": wei,
            "data": b"",
            "gas": 21_000,
            "maxFeePerGas": gwei * GWEI,
            "maxPriorityFeePerGas": gwei * GWEI,
        }
    )
    await anvil.control("eth_sendRawTransaction", "0x" + signed.raw_transaction.hex())


async def only_first(anvil: Anvil) -> Address:
    """A contract that accepts one call, and refuses the second with `Error("taken")`."""
    contract = Identity.generate().address
    reason = (
        bytes.fromhex("08c379a0") + (32).to_bytes(32) + (5).to_bytes(32) + b"taken".ljust(32, b"\0")
    )
    # if (slot0 != 0) { copy the reason after this code; revert } slot0 = 1
    code = bytes.fromhex("600054600c57600160005500") + bytes.fromhex("5b")
    code += bytes.fromhex(f"60{len(reason):02x}601960003960{len(reason):02x}6000fd")
    assert len(code) == 0x19
    await anvil.control("anvil_setCode", "0x" + contract.hex(), "0x" + (code + reason).hex())
    return contract
