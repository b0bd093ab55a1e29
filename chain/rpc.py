"""The RPC calls that this folder makes, typed, with every failure translated to `ChainError`.

Knows web3 and what its errors mean; knows neither contracts nor the outbox.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, cast

from eth_typing import ChecksumAddress
from eth_utils.address import to_checksum_address
from hexbytes import HexBytes
from web3 import AsyncWeb3
from web3.exceptions import (
    BlockNotFound,
    ContractLogicError,
    MethodUnavailable,
    TransactionNotFound,
    Web3Exception,
    Web3RPCError,
)
from web3.providers.async_base import AsyncBaseProvider
from web3.types import BlockIdentifier, FilterParams, TxParams, Wei

from eigen.chain.port import EndpointRefused, TransactionReverted
from eigen.chain.reverts import Refusal, RevertReader
from eigen.protocol.types import Address, Digest

FEE_BLOCKS: Final = 5
"""Recent blocks whose tips are looked at."""
MESSAGE_CHARS_MAX: Final = 300
"""Of an endpoint's error text that we repeat."""


@dataclass(frozen=True, slots=True)
class Call:
    """A message call or, where `to` is None, a contract creation."""

    sender: Address
    to: Address | None
    data: bytes
    value_wei: int = 0


@dataclass(frozen=True, slots=True)
class Mined:
    """A transaction's receipt, as the endpoint has it now; it may still be reorganised away."""

    tx: Digest
    block: int
    gas_used: int
    succeeded: bool
    contract: Address | None


@dataclass(frozen=True, slots=True)
class Log:
    """One event of one contract. `block_hash` tells histories apart."""

    account: Address
    topics: tuple[bytes, ...]
    data: bytes
    tx: Digest
    block: int
    block_hash: Digest
    index: int


class Rpc:
    """One chain through one web3 provider. Block arguments are numbers, `latest` or `pending`."""

    def __init__(self, provider: AsyncBaseProvider, reverts: RevertReader) -> None:
        self._provider = provider
        # No middleware: fees, gas and nonces are the outbox's, names are not resolved.
        self._w3 = AsyncWeb3(provider, middleware=[], ens=cast(Any, None))
        self._reverts = reverts

    async def aclose(self) -> None:
        """Close the provider, where it holds connections."""
        if close := getattr(self._provider, "aclose", None):
            await close()

    async def client_version(self) -> str:
        """What the node calls itself, `anvil/v1.7.1` or the like."""
        with self._translated():
            return str(await self._w3.client_version)

    async def chain_id(self) -> int:
        """EIP-155 id."""
        with self._translated():
            return int(await self._w3.eth.chain_id)

    async def block_number(self) -> int:
        """Number of the newest block."""
        with self._translated():
            return int(await self._w3.eth.block_number)

    async def block_hash(self, number: int) -> Digest | None:
        """Hash of a block, None where there is none of this number."""
        with self._translated():
            try:
                block = await self._w3.eth.get_block(number)
            except BlockNotFound:
                return None
            return Digest(bytes(block["hash"]))

    async def timestamp_s(self) -> int:
        """Time of the newest block, unix seconds."""
        with self._translated():
            return int((await self._w3.eth.get_block("latest"))["timestamp"])

    async def code(self, account: Address) -> bytes:
        """Code at an address, empty where there is no contract."""
        with self._translated():
            return bytes(await self._w3.eth.get_code(_checksum(account)))

    async def balance_wei(self, account: Address) -> int:
        """Gas money of an account."""
        with self._translated():
            return int(await self._w3.eth.get_balance(_checksum(account)))

    async def transaction_count(self, account: Address, block: int | str) -> int:
        """The account's next nonce as of a block."""
        with self._translated():
            at = cast(BlockIdentifier, block)
            return int(await self._w3.eth.get_transaction_count(_checksum(account), at))

    async def fee_market(self) -> tuple[int, Sequence[int]]:
        """The next block's base fee and the median tips of recent blocks, in wei."""
        with self._translated():
            with suppress(MethodUnavailable):
                history = await self._w3.eth.fee_history(FEE_BLOCKS, "latest", [50.0])
                if history["baseFeePerGas"]:
                    tips = [int(row[0]) for row in history.get("reward") or [] if row]
                    return int(history["baseFeePerGas"][-1]), tips
            return int((await self._w3.eth.get_block("latest"))["baseFeePerGas"]), []

    async def call(self, call: Call, block: int | str = "latest") -> bytes:
        """Result of a call that changes nothing. Raises `TransactionReverted`."""
        with self._translated():
            return bytes(await self._w3.eth.call(_params(call), cast(BlockIdentifier, block)))

    async def estimate_gas(self, call: Call) -> int:
        """Gas that a transaction needs now. Raises `TransactionReverted`."""
        with self._translated():
            return int(await self._w3.eth.estimate_gas(_params(call)))

    async def send_raw(self, raw: bytes) -> None:
        """Hand over signed bytes. Raises `EndpointRefused` with the pool's own words."""
        with self._translated():
            await self._w3.eth.send_raw_transaction(HexBytes(raw))

    async def receipt(self, tx: Digest) -> Mined | None:
        """The receipt of a mined transaction, None for one that is pending or unknown."""
        with self._translated():
            try:
                found = await self._w3.eth.get_transaction_receipt(HexBytes(tx))
            except TransactionNotFound:
                return None
            contract = found.get("contractAddress")
            return Mined(
                tx=tx,
                block=int(found["blockNumber"]),
                gas_used=int(found["gasUsed"]),
                succeeded=int(found["status"]) == 1,
                contract=_raw_address(contract) if contract else None,
            )

    async def logs(
        self,
        accounts: Sequence[Address],
        topics: Sequence[Sequence[bytes] | bytes],
        first: int,
        last: int,
    ) -> list[Log]:
        """Logs of contracts in blocks `first` to `last`, both included, in the chain's order."""
        wanted = cast(
            FilterParams,
            {
                "address": [_checksum(account) for account in accounts],
                "topics": [_topic(topic) for topic in topics],
                "fromBlock": first,
                "toBlock": last,
            },
        )
        with self._translated():
            found = [
                Log(
                    account=_raw_address(str(entry["address"])),
                    topics=tuple(bytes(topic) for topic in entry["topics"]),
                    data=bytes(entry["data"]),
                    tx=Digest(bytes(entry["transactionHash"])),
                    block=int(entry["blockNumber"]),
                    block_hash=Digest(bytes(entry["blockHash"])),
                    index=int(entry["logIndex"]),
                )
                for entry in await self._w3.eth.get_logs(wanted)
            ]
        return sorted(found, key=lambda log: (log.block, log.index))

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except ContractLogicError as error:
            refusal = self._refusal(error)
            raise TransactionReverted(refusal.words, name=refusal.name) from error
        except Web3RPCError as error:
            refused = cast(dict[str, Any], (error.rpc_response or {}).get("error") or {})
            message = str(refused.get("message", error))[:MESSAGE_CHARS_MAX]
            raise EndpointRefused(message, int(refused.get("code", 0))) from error
        except (Web3Exception, LookupError, TypeError, ValueError, AttributeError) as error:
            told = str(error)[:MESSAGE_CHARS_MAX]
            raise EndpointRefused(f"the endpoint's answer makes no sense: {told}") from error

    def _refusal(self, error: ContractLogicError) -> Refusal:
        data = error.data if isinstance(error.data, str) else ""
        text = data.removeprefix("Reverted ").removeprefix("0x")
        try:
            return self._reverts.read(bytes.fromhex(text), str(error.message))
        except ValueError:
            return self._reverts.read(b"", str(error.message))


def _params(call: Call) -> TxParams:
    params: TxParams = {
        "from": _checksum(call.sender),
        "data": HexBytes(call.data),
        "value": Wei(call.value_wei),
    }
    if call.to is not None:
        params["to"] = _checksum(call.to)
    return params


def _checksum(account: Address) -> ChecksumAddress:
    return to_checksum_address(account)


def _raw_address(text: str) -> Address:
    return Address(bytes.fromhex(text.removeprefix("0x")))


def _topic(topic: Sequence[bytes] | bytes) -> str | list[str]:
    return "0x" + topic.hex() if isinstance(topic, bytes) else ["0x" + one.hex() for one in topic]
