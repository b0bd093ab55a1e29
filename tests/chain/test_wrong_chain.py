"""Which chain it is and whether the contracts are there, before anything is signed."""

from dataclasses import replace
from pathlib import Path

import pytest
from web3.types import RPCResponse

from eigen.chain.evm import EvmChain
from eigen.chain.port import (
    Contracts,
    TransactionReverted,
    WrongChain,
)
from eigen.chain.provider import TrioHTTPProvider
from eigen.chain.reader import _readable
from eigen.crypto.identity import Identity

from .conftest import (
    CHAIN_ID,
    QUICK,
    Anvil,
    Between,
    Dao,
    OpenChain,
    Send,
)


async def test_info_names_chain_and_node(open_chain: OpenChain) -> None:
    async with open_chain() as chain:
        info = await chain.info()
        assert info.chain_id == CHAIN_ID
        assert info.label.startswith("anvil 1.")
    async with open_chain(label="anvil (embedded)") as chain:
        assert (await chain.info()).label == "anvil (embedded)"


async def test_methods_that_some_endpoints_lack_are_not_needed(
    open_chain: OpenChain, anvil: Anvil, dao: Dao
) -> None:
    source = Between(anvil)
    lacking = ("web3_clientVersion", "eth_feeHistory")

    async def unknown(send: Send) -> RPCResponse:
        error = {"code": -32601, "message": "the method does not exist"}
        return {"jsonrpc": "2.0", "id": 1, "error": error}  # type: ignore[typeddict-item]

    source.interfere = dict.fromkeys(lacking, unknown)
    async with open_chain(provider=source) as chain:
        assert (await chain.info()).label == "evm"
        await chain.propose(dao.proposal())
    assert all(source.asked[method] for method in lacking)


async def test_another_chain_is_refused_before_anything_is_signed(
    anvil: Anvil, dao: Dao, tmp_path: Path
) -> None:
    path = tmp_path / "outbox"
    for checked_by_provider in (1, None):
        chain = EvmChain(
            TrioHTTPProvider([anvil.url], chain_id=checked_by_provider),
            dao.contracts,
            chain_id=1,
            secret=dao.founders[0].secret,
            outbox_path=path,
            settings=QUICK,
        )
        async with chain:
            for attempt in (chain.info(), chain.propose(dao.proposal())):
                with pytest.raises(WrongChain, match="31337"):
                    await attempt
            assert await chain.unfinished_writes() == 0


@pytest.mark.parametrize("field", ["token", "governor", "timelock", "ledger", "membership"])
async def test_a_contract_that_is_not_there_is_named(
    open_chain: OpenChain, dao: Dao, field: str
) -> None:
    nobody = Identity.generate().address
    contracts: Contracts = replace(dao.contracts, **{field: nobody})
    async with open_chain(contracts=contracts) as chain:
        with pytest.raises(WrongChain, match=rf"contracts.{field}: there is no contract"):
            await chain.propose(dao.proposal())
        assert await chain.unfinished_writes() == 0


async def test_contracts_that_do_not_belong_together_are_named(
    open_chain: OpenChain, dao: Dao
) -> None:
    swapped = replace(dao.contracts, token=dao.contracts.timelock, timelock=dao.contracts.token)
    async with open_chain(contracts=swapped) as chain:
        with pytest.raises(WrongChain, match=r"\.token\(\) is"):
            await chain.info()
    async with open_chain(contracts=replace(dao.contracts, ledger=dao.contracts.token)) as chain:
        with pytest.raises((WrongChain, TransactionReverted)):
            await chain.info()


async def test_reading_no_contract_is_no_zero(open_chain: OpenChain, dao: Dao) -> None:
    nobody = replace(dao.contracts, token=Identity.generate().address)
    async with open_chain(contracts=nobody) as chain:
        with pytest.raises(WrongChain, match="is not our contract"):
            await chain.balance(chain.address)


@pytest.mark.parametrize(
    ("version", "label"),
    [
        ("anvil/v1.7.1", "anvil 1.7.1"),
        ("Geth/v1.15.0-stable-abc/linux/go1.24", "Geth 1.15.0"),
        ("reth/v1.3.0-1e965ca/x86_64", "reth 1.3.0"),
        ("", "evm"),
        ("x\x1b[31m" + "y" * 90, "x?[31m" + "y" * 34),
    ],
)
def test_labels_are_short_and_printable(version: str, label: str) -> None:
    assert _readable(version) == label
