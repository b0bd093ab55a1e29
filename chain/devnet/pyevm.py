"""An EVM in this process (py-evm through eth-tester), behind web3's provider interface, under Trio.

For unit tests that want contracts and no Anvil. It runs on the event loop: a test under a mock
clock stays deterministic, and a daemon must not use it.
"""

import ast
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import trio
from eth_abi.abi import encode
from eth_utils.hexadecimal import decode_hex, encode_hex
from web3.providers.async_base import AsyncBaseProvider
from web3.providers.eth_tester.defaults import API_ENDPOINTS
from web3.providers.eth_tester.middleware import request_formatters, result_formatters
from web3.types import RPCEndpoint, RPCResponse

if TYPE_CHECKING:
    from eth_tester import EthereumTester

CHAIN_ID = 1337
GAS_LIMIT = 30_000_000  # as Anvil's, so that what fits there fits here
CLIENT = "py-evm"

METHOD_NOT_FOUND = -32601
EXECUTION_REVERTED = 3  # geth's code for a revert; `data` holds the ABI-encoded error
SERVER_ERROR = -32000
ERROR_STRING = bytes.fromhex("08c379a0")  # selector of Solidity's Error(string)

CALLS = {"eth_call", "eth_estimateGas"}  # may name no sender; eth-tester wants one with gas money
AT_BLOCK = {"eth_call", "eth_getBalance", "eth_getCode", "eth_getTransactionCount"}  # or at latest

Handler = Callable[["EthereumTester", Any], Any]
Formatter = Callable[[Any], Any]


class EthTesterTrioProvider(AsyncBaseProvider):
    """`AsyncWeb3(EthTesterTrioProvider())`: a fresh chain at the Prague fork.

    Every transaction is mined at once. Beside the standard methods it knows Anvil's
    `evm_increaseTime`, `evm_mine`, `evm_snapshot`, `evm_revert` and `anvil_setBalance`. A revert is
    answered as geth answers it: code 3, the revert data in `data`. Unlike a node it has no pool: a
    nonce that is not the next one is refused, and even a call's sender needs gas money. `tester` is
    eth-tester's own interface to the same chain; its accounts are well known and funded.

    Requests are answered one after another, each in one step, so a cancel leaves nothing half done.
    """

    def __init__(self, chain_id: int = CHAIN_ID) -> None:
        """The first one imports py-evm, which takes half a second.

        Raises ImportError where eth-tester or py-evm is not installed.
        """
        from eth_tester import EthereumTester, PyEVMBackend

        super().__init__()
        self._chain_id = chain_id
        parameters = PyEVMBackend.generate_genesis_params({"gas_limit": GAS_LIMIT})
        backend = PyEVMBackend(genesis_parameters=parameters)
        type(
            backend.chain
        ).chain_id = chain_id  # a class of this backend's own; eth-tester fixes it
        self.tester: EthereumTester = EthereumTester(backend)
        self._handlers: Mapping[str, Handler] = {
            "web3_clientVersion": lambda _tester, _params: CLIENT,
            "eth_chainId": lambda _tester, _params: hex(chain_id),
            "net_version": lambda _tester, _params: str(chain_id),
            "eth_sendRawTransaction": self._send_raw,
            "evm_increaseTime": _increase_time,
            "evm_mine": lambda tester, _params: tester.mine_blocks(1),
            "anvil_setBalance": _set_balance,
        }

    async def is_connected(self, show_traceback: bool = False) -> bool:  # noqa: ARG002
        """Always: there is nothing to connect to."""
        return True

    async def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        """Answer one JSON-RPC request. Never raises for what the request asks; see `error`."""
        await trio.lowlevel.checkpoint()
        return cast(RPCResponse, {"jsonrpc": "2.0", "id": 1, **self._answer(method, params)})

    def _answer(self, method: RPCEndpoint, params: Any) -> dict[str, Any]:
        from eth_tester.exceptions import TransactionFailed

        handler = self._handlers.get(method) or _eth_tester_handler(method)
        if handler is None:
            return _error(METHOD_NOT_FOUND, f"the method {method} does not exist")
        try:
            return {"result": _as_json(handler(self.tester, params))}
        except TransactionFailed as failure:
            data = encode_hex(_revert_data(failure.args[0]))
            return _error(EXECUTION_REVERTED, "execution reverted", data)
        except NotImplementedError:
            return _error(METHOD_NOT_FOUND, f"the method {method} is not available")
        except Exception as refusal:  # whatever the EVM says of a bad request is the answer to it
            return _error(SERVER_ERROR, f"{type(refusal).__name__}: {refusal}")

    def _send_raw(self, tester: "EthereumTester", params: Any) -> Any:
        """py-evm would run a transaction that was signed for another chain (EIP-155)."""
        encoded = decode_hex(params[0])
        builder = tester.backend.chain.get_vm().get_transaction_builder()
        signed_for = builder.decode(encoded).chain_id
        if signed_for not in (self._chain_id, None):
            raise ValueError(f"the transaction is for chain {signed_for}, this is {self._chain_id}")
        return tester.send_raw_transaction(params[0])


def _eth_tester_handler(method: RPCEndpoint) -> Handler | None:
    """web3's own translation between JSON-RPC and eth-tester, where it has one."""
    namespace, _, name = method.partition("_")
    endpoint = cast(Handler | None, API_ENDPOINTS.get(namespace, {}).get(name))
    if endpoint is None:
        return None
    to_tester = cast(Formatter, request_formatters.get(method, _unchanged))
    from_tester = cast(Formatter, (result_formatters or {}).get(method, _unchanged))

    def handle(tester: "EthereumTester", params: Any) -> Any:
        if method in CALLS:
            params = [{"from": tester.get_accounts()[0], **params[0]}, *params[1:]]
        if method in AT_BLOCK and len(params) == 1:
            params = [*params, "latest"]
        return from_tester(endpoint(tester, to_tester(params)))

    return handle


def _unchanged(value: Any) -> Any:
    return value


def _increase_time(tester: "EthereumTester", params: Any) -> int:
    """Mines a block that many seconds later; Anvil would leave that to the next one."""
    seconds = int(params[0])
    tester.time_travel(tester.get_block_by_number("pending")["timestamp"] + seconds)
    return seconds


def _set_balance(tester: "EthereumTester", params: Any) -> None:
    """Brings an account up to an amount by a plain transfer; there is no other way in."""
    account, wei = params[0], int(params[1], 16)
    missing = wei - tester.get_balance(account)
    if missing < 0:
        raise ValueError("anvil_setBalance: py-evm can raise a balance, not lower it")
    sender = tester.get_accounts()[0]
    tester.send_transaction({"from": sender, "to": account, "value": missing, "gas": 21_000})


def _revert_data(reason: object) -> bytes:
    """What the contract reverted with.

    eth-tester hands it on as bytes, as an exception that holds bytes, or as the `repr` of bytes.
    It gives the text of an `Error(string)` bare, so that is encoded again.
    """
    if isinstance(reason, Exception):
        return _revert_data(reason.args[0] if reason.args else b"")
    if isinstance(reason, bytes):
        return reason
    text = str(reason)
    if text.startswith(("b'", 'b"')):
        return bytes(ast.literal_eval(text))
    return ERROR_STRING + encode(["string"], [text])


def _as_json(value: Any) -> Any:
    """Numbers and bytes as JSON-RPC writes them (Execution API: hexadecimal)."""
    if isinstance(value, Mapping):
        return {key: _as_json(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(entry) for entry in value]
    if isinstance(value, bytes):
        return encode_hex(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return hex(value)
    return value


def _error(code: int, message: str, data: str | None = None) -> dict[str, Any]:
    error: dict[str, Any] = {"code": code, "message": message}
    return {"error": error if data is None else error | {"data": data}}
