"""`eigen up` against a real Anvil: the wrong chain ends it, a chain that comes late does not."""

import re
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from daemon_homes import NETWORK, eigen, free_port, make_home, running, with_chain

from eigen.chain.deploy import DaoSpec, deploy_dao
from eigen.chain.devnet.anvil import AnvilConfig, run_anvil
from eigen.chain.outbox import OutboxSettings
from eigen.chain.provider import TrioHTTPProvider
from eigen.config.network import ContractAddresses
from eigen.crypto.identity import Identity
from eigen.node.exit_codes import ExitCode
from eigen.node.run_file import TOKEN

pytestmark = pytest.mark.timeout(120)


async def test_a_wrong_chain_ends_it_and_one_that_comes_late_does_not(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    anvil = AnvilConfig(tmp_path / "anvil.log", port=port, block_time_s=None, accounts=1)
    late = make_home(tmp_path / "late", with_chain(url))

    async with trio.open_nursery() as nursery:
        with running(late) as daemon:
            await trio.to_thread.run_sync(daemon.answers)
            await trio.to_thread.run_sync(daemon.until_log, "chain unreachable")
            chain = await nursery.start(run_anvil, anvil)

            # the contracts of the network file are not on this chain
            with trio.fail_after(30):
                code = await trio.to_thread.run_sync(daemon.process.wait)
            assert code == ExitCode.WRONG_NETWORK, daemon.log
            last = daemon.log.splitlines()[-1]
            assert last.startswith("eigen: ")
            assert re.search("no (contract|code)|not there|is not", last), last
            assert "Traceback" not in daemon.log

        other = make_home(tmp_path / "other", with_chain(url, chain_id=8453))
        done = await trio.to_thread.run_sync(eigen, other, "up")
        assert done.returncode == ExitCode.WRONG_NETWORK, done.stderr
        last = done.stderr.splitlines()[-1]
        assert "31337" in last
        assert "8453" in last
        assert "Traceback" not in done.stderr

        founder = Identity.generate()
        provider = TrioHTTPProvider([url], chain_id=31337)
        spec = DaoSpec(
            token_name="T",
            token_symbol="T",
            founders=[(founder.address, TOKEN)],
            validators=[founder.address],
            quorum=1,
            voting_delay_s=0,
            voting_period_s=10,
            timelock_delay_s=1,
            proposal_threshold=TOKEN,
            quorum_percent=10,
        )
        settings = OutboxSettings(poll_s=0.02)
        found = await deploy_dao(provider, chain.accounts[0].secret, spec, settings=settings)
        await provider.aclose()
        contracts = ContractAddresses(found.token, found.governor, found.timelock, found.ledger)
        right = replace(NETWORK, rpc_urls=(url,), contracts=contracts)
        with running(make_home(tmp_path / "right", right)) as daemon:
            await trio.to_thread.run_sync(daemon.until_log, r"chain\b.* id=31337")
            ended = await trio.to_thread.run_sync(daemon.end, signal.SIGTERM, 10)
            assert ended == 0
        nursery.cancel_scope.cancel()
