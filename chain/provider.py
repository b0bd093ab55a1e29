"""web3's transport under Trio: JSON-RPC over httpx, to the first of several endpoints that answers.

Knows endpoints and their health, not what is asked of them; a JSON-RPC error that is the answer to
the request (a revert, a refused transaction) is returned as it came.
"""

import logging
import random
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, Self, TypeVar
from urllib.parse import urlsplit

import httpx
import trio
from web3.providers.async_base import AsyncJSONBaseProvider
from web3.types import RPCEndpoint, RPCResponse

from eigen.chain.agreement import COMPARED_EVERY_S, common_block, judged
from eigen.chain.port import ChainUnreachable, WrongChain

T = TypeVar("T")
log = logging.getLogger(__name__)

TIMEOUT_S: Final = 10.0
"""One request to one endpoint, from the first byte sent to the last received."""
CONNECTIONS_MAX: Final = 8
"""A daemon has a watcher, an outbox and a few readers at a time."""
REPLY_BYTES_MAX: Final = 4 * 1024 * 1024
"""About 4,000 logs. Parsing holds the event loop; who asks for more asks in smaller pieces."""
ROUNDS_OF_TRIES: Final = 3
"""How often a read goes over all endpoints before it gives up."""
BACKOFF_S: Final = 0.25
"""Wait before the second round of tries; doubled each time, less a random part."""
COOL_DOWN_S_MAX: Final = 60.0
"""Longest time that a failed endpoint is asked last. It is never left out."""
ENDPOINTS_MAX: Final = 16
"""More would make a read wait for minutes before it is told that nobody answers."""

READS: Final = frozenset(
    RPCEndpoint(name)
    for name in (
        "eth_blockNumber",
        "eth_call",
        "eth_chainId",
        "eth_estimateGas",
        "eth_feeHistory",
        "eth_getBalance",
        "eth_getBlockByHash",
        "eth_getBlockByNumber",
        "eth_getCode",
        "eth_getLogs",
        "eth_getTransactionByHash",
        "eth_getTransactionCount",
        "eth_getTransactionReceipt",
        "net_version",
        "web3_clientVersion",
    )
)
"""Asking twice changes nothing, so these are tried again and elsewhere."""
RESENDABLE: Final = frozenset({RPCEndpoint("eth_sendRawTransaction")})
"""Signed bytes may go to every endpoint, but the outbox decides when to send them again."""

HASH_CHARS: Final = 66
"""`0x` and 32 bytes; of a longer answer the rest is not shown."""
LIMIT_EXCEEDED: Final = -32005
"""EIP-1474: the endpoint refuses because of its quota, so another may answer."""


class _EndpointFailed(Exception):
    """This endpoint gave no answer; the message says why, without its URL."""


@dataclass(slots=True)
class _Endpoint:
    url: str
    label: str
    failures: int = 0
    asked_last_until_s: float = 0.0
    chain_seen: bool = False  # its chain id was compared since it last failed
    doubted: str = ""  # why it is not believed, as long as it is not


class TrioHTTPProvider(AsyncJSONBaseProvider):
    """Endpoints of one chain, in order of preference.

    Every endpoint must be `chain_id` (EIP-155) before anything else is asked of it; where that is
    None no endpoint is checked. With `compare_depth`, what several of them say of a block so deep
    is compared now and then: one that contradicts the majority is not asked until it agrees again,
    and none is where there is no majority. URLs may carry credentials, so messages name scheme,
    host and port alone. Proxies and `.netrc` of the environment are ignored.

    Cancelling a request closes its connection at once and leaves the provider usable.
    """

    global_ccip_read_enabled = False  # EIP-3668 would let a contract name URLs to fetch

    def __init__(
        self,
        urls: Sequence[str],
        *,
        chain_id: int | None,
        timeout_s: float = TIMEOUT_S,
        reply_bytes_max: int = REPLY_BYTES_MAX,
        backoff_s: float = BACKOFF_S,
        compare_depth: int | None = None,
        compared_every_s: float = COMPARED_EVERY_S,
    ) -> None:
        """Raises ValueError for no URL, too many of them, or one that is not http(s)."""
        super().__init__()
        # At INFO httpx logs each URL whole, with the key that may be in it.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        if not 0 < len(urls) <= ENDPOINTS_MAX:
            raise ValueError(f"rpc urls: give 1 to {ENDPOINTS_MAX}, not {len(urls)}")
        self._endpoints = [_Endpoint(url, _label(url)) for url in urls]
        self._chain_id = chain_id
        self._timeout_s = timeout_s
        self._reply_bytes_max = reply_bytes_max
        self._backoff_s = backoff_s
        self._compare_depth = compare_depth if len(urls) > 1 else None
        self._compared_every_s = compared_every_s
        self._compared_at_s = float("-inf")
        self._comparing = trio.Lock()
        self._jitter = random.Random()  # noqa: S311 - spreads retries, guards nothing
        self._client = httpx.AsyncClient(
            timeout=timeout_s,  # between bytes; `_post` sets a deadline on the whole exchange
            limits=httpx.Limits(
                max_connections=CONNECTIONS_MAX, max_keepalive_connections=CONNECTIONS_MAX
            ),
            headers={"Content-Type": "application/json", "Accept-Encoding": "identity"},
            trust_env=False,
        )

    def __repr__(self) -> str:
        return f"TrioHTTPProvider({', '.join(endpoint.label for endpoint in self._endpoints)})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close pooled connections. The provider cannot be used afterwards."""
        await self._client.aclose()

    async def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        """One JSON-RPC exchange; its error object, if any, is in the reply.

        Reads go over all endpoints up to `ROUNDS_OF_TRIES` times; signed transactions once; any
        other method goes to the first endpoint alone, once, as it may not be safe to repeat.
        Raises `ChainUnreachable` naming what was tried, `WrongChain` where all of them are another
        chain.
        """
        body = self.encode_rpc_request(method, params)
        await self._compare_if_due()
        rounds = ROUNDS_OF_TRIES if method in READS else 1
        alone = method not in READS and method not in RESENDABLE
        tried: dict[str, str] = {}
        for round_index in range(rounds):
            if round_index:
                pause_s = self._backoff_s * 2 ** (round_index - 1)
                await trio.sleep(pause_s * self._jitter.uniform(0.5, 1.0))
            asked = self._believed()[:1] if alone else self._by_health()
            strangers: list[WrongChain] = []
            for endpoint in asked:
                try:
                    return await self._ask(endpoint, body)
                except _EndpointFailed as failure:
                    tried[endpoint.label] = str(failure)
                    self._failed(endpoint)
                except WrongChain as stranger:
                    strangers.append(stranger)
                    tried[endpoint.label] = str(stranger)
                    self._failed(endpoint)
            if len(strangers) == len(asked):
                raise strangers[0]
        causes = "; ".join(f"{label}: {cause}" for label, cause in tried.items())
        raise ChainUnreachable(f"no RPC endpoint answered {method} ({causes})")

    def _by_health(self) -> list[_Endpoint]:
        """Healthy ones as configured, then those cooling down, soonest first."""
        now_s = trio.current_time()
        return sorted(self._believed(), key=lambda e: max(e.asked_last_until_s - now_s, 0.0))

    def _believed(self) -> list[_Endpoint]:
        """As configured, without those that are doubted. Raises `ChainUnreachable` for none."""
        believed = [endpoint for endpoint in self._endpoints if not endpoint.doubted]
        if not believed:
            told = "; ".join(
                f"{endpoint.label}: {endpoint.doubted}" for endpoint in self._endpoints
            )
            raise ChainUnreachable(
                f"the RPC endpoints contradict each other, and none has a majority ({told}): take"
                " the wrong ones out of chain.rpc_urls, or add another"
            )
        return believed

    async def _compare_if_due(self) -> None:
        if self._compare_depth is None:
            return
        async with self._comparing:
            if trio.current_time() - self._compared_at_s >= self._compared_every_s:
                await self._compare(self._compare_depth)
                self._compared_at_s = trio.current_time()

    async def _compare(self, depth: int) -> None:
        """Ask all of them at once for one block. Who does not answer is not judged."""
        heads = await self._of_each("eth_blockNumber", [], lambda result: int(str(result), 16))
        if len(heads) < 2:
            return
        block = common_block(heads, depth)
        hashes = await self._of_each(
            "eth_getBlockByNumber",
            [hex(block), False],
            lambda result: str(result["hash"])[:HASH_CHARS],
        )
        found = judged(heads, block, hashes)
        for endpoint in self._endpoints:
            if endpoint.url not in hashes:
                continue
            doubt = found.doubted.get(endpoint.url, "")
            if doubt and doubt != endpoint.doubted:
                log.error("rpc: %s is not believed: %s", endpoint.label, doubt)
            if endpoint.doubted and not doubt:
                log.warning("rpc: %s is believed again", endpoint.label)
            endpoint.doubted = doubt
            if lag := found.lagging.get(endpoint.url):
                log.warning("rpc: %s is asked last: %s", endpoint.label, lag)
                endpoint.asked_last_until_s = trio.current_time() + 2 * self._compared_every_s

    async def _of_each(self, method: str, params: Any, read: Callable[[Any], T]) -> dict[str, T]:
        """What each endpoint answers that is not cooling down, by its URL."""
        body, found = self.encode_rpc_request(RPCEndpoint(method), params), dict[str, T]()

        async def ask(endpoint: _Endpoint) -> None:
            try:
                found[endpoint.url] = read((await self._ask(endpoint, body))["result"])
            except (_EndpointFailed, WrongChain):
                self._failed(endpoint)
            except (LookupError, TypeError, ValueError):
                pass  # it has no such block, or says so in an odd way

        now_s = trio.current_time()
        async with trio.open_nursery() as nursery:
            for endpoint in self._endpoints:
                if endpoint.asked_last_until_s <= now_s or endpoint.doubted:
                    nursery.start_soon(ask, endpoint)
        return found

    def _failed(self, endpoint: _Endpoint) -> None:
        endpoint.failures += 1
        endpoint.chain_seen = False  # whatever comes back there may be something else
        cool_down_s = min(2.0 ** min(endpoint.failures, 6), COOL_DOWN_S_MAX)
        endpoint.asked_last_until_s = trio.current_time() + cool_down_s

    async def _ask(self, endpoint: _Endpoint, body: bytes) -> RPCResponse:
        if self._chain_id is not None and not endpoint.chain_seen:
            asking = self.encode_rpc_request(RPCEndpoint("eth_chainId"), [])
            _check_chain(await self._post(endpoint, asking), self._chain_id, endpoint.label)
            endpoint.chain_seen = True
        reply = await self._post(endpoint, body)
        endpoint.failures, endpoint.asked_last_until_s = 0, 0.0
        return reply

    async def _post(self, endpoint: _Endpoint, body: bytes) -> RPCResponse:
        try:
            with trio.fail_after(self._timeout_s):
                request = self._client.build_request("POST", endpoint.url, content=body)
                request.stream = _Body(body)
                response = await self._client.send(request, stream=True)
                async with aclosing(response):
                    content = await self._read_bounded(response)
        except trio.TooSlowError as error:
            raise _EndpointFailed(f"no whole reply in {self._timeout_s:g} s") from error
        except httpx.HTTPError as error:
            raise _EndpointFailed(str(error) or type(error).__name__) from error
        return self._decoded(response, content)

    async def _read_bounded(self, response: httpx.Response) -> bytes:
        """The body, unless it is compressed (we asked for none) or longer than allowed."""
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise _EndpointFailed("compressed reply, though none was asked for")
        content = bytearray()
        with trio.CancelScope() as excess:
            async for chunk in response.aiter_raw():
                content += chunk
                if len(content) > self._reply_bytes_max:
                    excess.cancel()  # leaving the loop would not close httpcore's generators
        if len(content) > self._reply_bytes_max:
            raise _EndpointFailed(f"reply longer than {self._reply_bytes_max} bytes")
        return bytes(content)

    def _decoded(self, response: httpx.Response, content: bytes) -> RPCResponse:
        """The JSON-RPC object. Some servers answer an error with a status other than 200."""
        try:
            reply = self.decode_rpc_response(content)
        except (ValueError, RecursionError) as error:
            raise _EndpointFailed(
                f"HTTP {response.status_code}, and the reply is not JSON"
            ) from error
        if not isinstance(reply, dict) or not ("result" in reply or "error" in reply):
            raise _EndpointFailed(f"HTTP {response.status_code}, and no JSON-RPC object")
        if response.status_code != httpx.codes.OK and "error" not in reply:
            raise _EndpointFailed(f"HTTP {response.status_code}")
        refusal = reply.get("error")
        if isinstance(refusal, dict) and refusal.get("code") == LIMIT_EXCEEDED:
            raise _EndpointFailed("over its request quota")
        return reply


class _Body(httpx.AsyncByteStream):
    """A request's bytes. Not the async generator that httpx makes of them: a cancelled send would
    leave that one unclosed, which Trio warns of."""

    def __init__(self, data: bytes) -> None:
        self._unsent = [data]

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if not self._unsent:
            raise StopAsyncIteration
        return self._unsent.pop()


def _label(url: str) -> str:
    """Scheme, host and port: paths, queries and user parts often hold an API key."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("rpc url: must begin with http:// or https:// and name a host")
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}"


def _check_chain(reply: RPCResponse, expected: int, label: str) -> None:
    try:
        found = int(str(reply.get("result")), 16)
    except ValueError as error:
        raise _EndpointFailed("did not tell its chain id") from error
    if found != expected:
        raise WrongChain(f"{label} is chain {found}, but the network file names chain {expected}")
