"""A private job that pays, between real daemons and by the command line; its owner dies in it."""

import json
import signal
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from daemon_homes import NETWORK, Daemon, eigen, free_port, make_home, multiaddr, running

from eigen.chain.deploy import DaoSpec, deploy_dao, fund
from eigen.chain.devnet.anvil import AnvilConfig, run_anvil
from eigen.chain.outbox import OutboxSettings
from eigen.chain.port import DaoContracts
from eigen.chain.provider import TrioHTTPProvider
from eigen.config.addresses import format_address
from eigen.config.network import NetworkFile, Parameters, dump_network
from eigen.crypto.keystore import load_identity
from eigen.node.networks import addresses_of
from eigen.node.run_file import TOKEN

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

JOB = """
name = "tumours"
[data]
source = "breast_cancer"
[head]
kind = "logistic"
[training]
rounds = 8
patience = 0
[trainers]
shards = 2
round_s = 5
audit_percent = 100
[payment]
token = "{token}"
amount = "{amount}"
deadline_hours = {deadline_s} / 3600
dispute_hours = 0.001
"""


def job_file(folder: Path, contracts: DaoContracts, *, amount: str, deadline_s: int) -> str:
    token = format_address(contracts.token)
    text = JOB.replace("{token}", token).replace("{amount}", amount)
    text = text.replace("{deadline_s} / 3600", f"{deadline_s / 3600:.6f}")
    path = folder / f"{amount}.toml"
    path.write_text(text)
    return str(path)


async def test_a_job_is_paid_and_another_comes_back(tmp_path: Path) -> None:
    names = ("owner", "trainer", "validator")
    ports = [free_port() for _ in names]
    homes: list[Path] = []
    for name, port in zip(names, ports, strict=True):
        settings = {"p2p__listen": f"/ip4/127.0.0.1/tcp/{port}"}
        if homes:
            settings["p2p__bootstrap"] = multiaddr(homes[0], ports[0])
        if name == "owner":
            settings["training__enabled"] = "false"
        if name == "validator":
            settings["validator__enabled"] = "true"
        homes.append(make_home(tmp_path / name, None, **settings))
    people = [load_identity(home / "keys" / "node.key", None) for home in homes]
    spec = DaoSpec(
        token_name="T",
        token_symbol="T",
        founders=[(people[0].address, 10 * TOKEN)],
        validators=[people[2].address],
        quorum=1,
        voting_delay_s=0,
        voting_period_s=10,
        timelock_delay_s=1,
        proposal_threshold=TOKEN,
        quorum_percent=10,
    )
    anvil = AnvilConfig(tmp_path / "anvil.log", block_time_s=0.5, accounts=1)
    async with trio.open_nursery() as nursery:
        chain = await nursery.start(run_anvil, anvil)
        settings = OutboxSettings(poll_s=0.05)
        provider = TrioHTTPProvider([chain.url], chain_id=chain.chain_id)
        secret = chain.accounts[0].secret
        contracts = await deploy_dao(provider, secret, spec, settings=settings)
        await fund(provider, secret, {p.address: TOKEN for p in people}, settings=settings)
        await provider.aclose()
        file = replace(
            NETWORK,
            rpc_urls=(chain.url,),
            contracts=addresses_of(contracts),
            parameters=Parameters(
                heartbeat_s=2.0, heartbeat_ttl_s=8.0, confirmations=0, relay_delay_s=2.0
            ),
        )
        await trio.to_thread.run_sync(story, tmp_path, homes, file, contracts)
        nursery.cancel_scope.cancel()


def story(folder: Path, homes: list[Path], file: NetworkFile, contracts: DaoContracts) -> None:
    for home in homes:
        (home / "network.toml").write_text(dump_network(file))
    with ExitStack() as stack:
        owner, trainer, validator = (stack.enter_context(running(home)) for home in homes)
        for daemon in (owner, trainer, validator):
            daemon.answers()
        owner.until(lambda: (s := owner.status()) and s["trainers"] == 1, 40)

        poor = job_file(folder, contracts, amount="11", deadline_s=600)
        refused = eigen(homes[0], "job", "create", poor, timeout_s=120)
        assert refused.returncode != 0
        assert "(1 whole ones) to 0x" in refused.stderr, refused.stderr
        assert "Traceback" not in refused.stderr

        first = create(homes[0], job_file(folder, contracts, amount="6", deadline_s=600))
        assert first["payment"]["held"] == "6"
        owner.until(lambda: payment(owner, first["job"])["round"] >= 1, 60)
        owner.process.send_signal(signal.SIGKILL)
        owner.process.wait()
        owner = stack.enter_context(running(homes[0]))
        owner.answers()
        owner.until(lambda: payment(owner, first["job"])["payment"]["state"] == "closed", 90)
        claimed = eigen(homes[1], "job", "claim", timeout_s=60)
        assert claimed.returncode == 0, claimed.stderr
        assert f"claimed 6 of {format_address(contracts.token)} in 0x" in claimed.stdout
        again = eigen(homes[1], "job", "claim")
        assert "all that was earned is claimed" in again.stderr

        trainer.process.kill()  # nobody trains the second one
        second = create(homes[0], job_file(folder, contracts, amount="4", deadline_s=15))
        cancelled = eigen(homes[0], "job", "cancel", second["job"][:12])
        assert cancelled.returncode == 0, cancelled.stderr
        done = owner.until(
            lambda: (row := payment(owner, second["job"]))["payment"]["state"] == "closed" and row,
            60,
        )
        owner.until(lambda: payment(owner, second["job"])["payment"]["held"] == "0", 20)
        assert done["stage"] == "failed"
        shown = eigen(homes[0], "job", "status", second["job"][:12])
        assert f"pays 4 of {format_address(contracts.token)}: closed, 0 held" in shown.stdout
        third = create(homes[0], job_file(folder, contracts, amount="4", deadline_s=600))
        assert third["payment"]["held"] == "4", "what came back can be spent again"


def create(home: Path, file: str) -> dict[str, Any]:
    made = eigen(home, "job", "create", file, "--json", timeout_s=120)
    assert made.returncode == 0, made.stderr
    return dict(json.loads(made.stdout))


def payment(daemon: Daemon, job: str) -> dict[str, Any]:
    [row] = daemon.call("job_status", job=job[:12])["jobs"]
    return dict(row)
