"""`eigen creation`, on a real chain: a work, and where it comes from."""

import hashlib
from pathlib import Path

import pytest

from eigen.chain.decisions import OpenRun, RegisterModel
from eigen.config.addresses import format_address
from eigen.protocol.cid import DAG_PB, cid_of
from eigen.protocol.types import Digest, RunId

from .conftest import Anvil, Dao, OpenChain
from .member_home import attest, decide, member_home, with_market

MODEL = RunId(b"\xa1" * 32)


async def test_a_work_is_minted_once_with_its_provenance_and_sold(
    open_chain: OpenChain,
    anvil: Anvil,
    dao: Dao,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    maker = dao.founders[1]
    await anvil.give(maker.address)
    contracts = await with_market(anvil, dao, maker)
    member = member_home(tmp_path / "home", capsys, anvil, contracts, maker)
    work, prompt = tmp_path / "work.png", tmp_path / "prompt.json"
    work.write_bytes(b"a picture")
    prompt.write_text('{"prompt": "a cat", "seed": 7}')
    mint = ("creation", "mint", "a1", work, "--prompt", prompt)
    async with open_chain(contracts=contracts) as chain:
        await decide(chain, anvil, dao, OpenRun(MODEL, Digest(b"\x5e" * 32), 10, 1000))
        registered = RegisterModel(MODEL, dao.contracts.timelock, None, 0, 500, "")
        await decide(chain, anvil, dao, registered)
        assert "no checkpoint is on the record" in await member.refuses(*mint)
        roots = {}
        for number in (2, 3):
            roots[number] = await attest(chain, dao, MODEL, number)
            await member("model", "record", "a1")

    made = await member(*mint, "--uri", "ipfs://cat")
    assert made["round"] == 3
    assert made["checkpoint"] == roots[3].checkpoint.hex()
    assert made["content"] == hashlib.sha256(b"a picture").hexdigest()
    assert made["prompt"] == hashlib.sha256(prompt.read_bytes()).hexdigest()
    assert made["creator"] == made["owner"] == format_address(maker.address)
    assert f"minted already: {made['id']}" in await member.refuses(*mint)
    older = cid_of(DAG_PB, roots[2].checkpoint)
    elsewhere = format_address(dao.founders[2].address)
    second = await member(*mint, "--checkpoint", older, "--to", elsewhere)
    assert (second["round"], second["owner"]) == (2, elsewhere)
    assert second["id"] != made["id"]
    strange = cid_of(DAG_PB, Digest(b"\x99" * 32))
    told = await member.refuses(*mint, "--checkpoint", strange)
    assert f"{strange} is not on the record" in told
    assert "--checkpoint: not a CIDv1" in await member.refuses(*mint, "--checkpoint", "Qm")

    made.pop("tx")
    assert await member("creation", "show", made["id"]) == made
    assert "no work has the id" in await member.refuses("creation", "show", "ff" * 32)
    assert "64 hexadecimal digits" in await member.refuses("creation", "show", "ff")
    sold = await member("market", "sell", made["id"], "--creation", "--price", 1)
    assert (sold["offer"]["kind"], sold["offer"]["token"]) == ("creation", made["id"])
