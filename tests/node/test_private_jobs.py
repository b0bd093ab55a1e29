"""Private jobs between services in one process: liars, published secrets, altered blobs."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from job_nodes import job, nodes
from service_peers import host, until

from eigen.crypto.ckks import bundle
from eigen.crypto.errors import KeyFileMalformed
from eigen.crypto.identity import Identity
from eigen.node.job_folder import JobFolder
from eigen.node.ports import RequestRefused
from eigen.node.private_jobs import NoSuchJob
from eigen.protocol.private_job import JOB_ROUND, JOB_SUM, SumPush
from eigen.protocol.wire import encode
from eigen.training.errors import SecretPublished
from eigen.training.homomorphic.plan import Plan


def on_disk(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


async def test_a_job_is_trained_and_audited_and_its_blobs_go(tmp_path: Path) -> None:
    async with nodes(tmp_path, "validator", "trainer", "trainer", "validator") as made:
        owner, one, two, validator = made
        job_id = await owner.jobs.create(job(tmp_path, audit_bps=10_000))
        running = owner.jobs.owned[job_id]
        held = [running.job.keys, *(shard.cid for shard in running.job.shards)]
        await until(lambda: job_id in owner.jobs.ended, 40)
        assert owner.jobs.ended[job_id].done
        assert len(running.figures) == 3
        assert running.figures[-1].loss < running.figures[0].loss
        done = {c.trainer: c.shard_rounds for c in running.owned.progress.contributions}
        assert done == {one.peer.address: 3, two.peer.address: 3}
        await until(lambda: validator.jobs.auditor.sound > 0, 20)
        assert validator.jobs.auditor.false == 0
        for each in (owner, one):
            await until(lambda each=each: job_id not in each.jobs.trained)
        with trio.fail_after(20):
            for cid in held:
                while not await one.ports.blobs.missing(cid):  # noqa: ASYNC110
                    await trio.sleep(0.05)
        secret = running.owned.folder.secret(owner.peer.identity)
        assert secret not in on_disk(tmp_path), "sealed, wherever it is"


Gradient = Callable[..., Awaitable[None]]


async def test_a_trainer_that_makes_its_gradient_up_is_found_and_replaced(tmp_path: Path) -> None:
    """It answers with another polynomial's gradient: plausible numbers, other bytes."""
    async with nodes(tmp_path, "validator", "trainer", "trainer", "validator") as made:
        owner, honest, liar, _ = made
        true: Gradient = liar.ports.evaluations.gradient
        fired = []

        async def false(*given: Any, timeout_s: float) -> None:
            *head, k, into = given
            fired.append(k)
            await true(*head, 0.7 * k, into, timeout_s=timeout_s)

        liar.ports.evaluations.gradient = false  # type: ignore[method-assign]
        job_id = await owner.jobs.create(job(tmp_path, audit_bps=10_000, rounds=400))
        running = owner.jobs.owned[job_id]
        await until(lambda: liar.peer.address in running.machine.excluded, 40)
        assert fired
        before = len(fired)
        rounds = running.machine.round
        await until(lambda: running.machine.round >= rounds + 3, 30)
        assert len(fired) <= before + 1, "it is asked no more"
        assert honest.peer.address not in running.machine.excluded
        running_contributions = {
            c.trainer: c.excluded for c in running.owned.progress.contributions
        }
        assert running_contributions[liar.peer.address]
        owner.jobs.cancel(running)
        await until(lambda: job_id in owner.jobs.ended)
        assert owner.jobs.ended[job_id].why == "cancelled"
        assert running.owned.folder.result.exists(), "what was trained stays the owner's"


async def test_a_trainer_whose_sum_is_impossible_is_found_by_the_owner(tmp_path: Path) -> None:
    async with nodes(tmp_path, "validator", "trainer", "trainer") as made:
        owner, _, liar = made
        true: Gradient = liar.ports.evaluations.gradient

        async def huge(*given: Any, timeout_s: float) -> None:
            *head, _, into = given
            await true(*head, 9.9, into, timeout_s=timeout_s)

        liar.ports.evaluations.gradient = huge  # type: ignore[method-assign]
        job_id = await owner.jobs.create(job(tmp_path, lr=1.0))
        await until(lambda: job_id in owner.jobs.ended, 60)
        running = owner.jobs.owned[job_id]
        assert owner.jobs.ended[job_id].done
        assert running.machine.excluded == {liar.peer.address}
        assert liar.peer.address not in running.machine.contributions, "nothing of it was stepped"


async def test_a_published_secret_key_is_refused_and_the_owner_warned(tmp_path: Path) -> None:
    async with nodes(tmp_path, "validator", "trainer") as made:
        owner, _ = made
        real = owner.ports.enterprise.prepare

        async def leaking(plan: Plan, folder: Path) -> Any:
            prepared = await real(plan, folder)
            keys = folder / "keys"
            relin, _ = bundle.unpack(keys.read_bytes(), count=2)
            keys.write_bytes(bundle.pack([relin, prepared.secret]))
            return prepared

        owner.ports.enterprise.prepare = leaking  # type: ignore[method-assign]
        with pytest.raises(SecretPublished):
            await owner.jobs.create(job(tmp_path))
        assert not owner.jobs.owned, "its own node does not let it"

        async def unchecked(*_: Any, timeout_s: float) -> None:
            assert timeout_s

        check = owner.ports.evaluations.check
        owner.ports.evaluations.check = unchecked  # type: ignore[method-assign]
        job_id = await owner.jobs.create(job(tmp_path))
        owner.ports.evaluations.check = check  # type: ignore[method-assign]
        await until(lambda: job_id in owner.jobs.ended, 30)
        assert "a trainer warns, and is right: a secret key" in owner.jobs.ended[job_id].why


async def test_nobody_else_can_ask_or_hand_over(tmp_path: Path) -> None:
    async with nodes(tmp_path, "validator", "trainer", "trainer") as made:
        owner, trainer, _ = made
        job_id = await owner.jobs.create(job(tmp_path, rounds=500))
        running = owner.jobs.owned[job_id]
        await until(lambda: running.machine.round >= 1, 30)
        question = next(iter(running.machine._questions.values()), None)
        while question is None:
            await trio.sleep(0.01)
            question = next(iter(running.machine._questions.values()), None)
        stranger = host(Identity.generate())
        async with trio.open_nursery() as nursery:
            await nursery.start(stranger.run)
            for one in (owner, trainer):
                await stranger.connect(one.peer.network.listen_addrs()[0], timeout_s=5)
            forged = replace(trainer.ports, identity=Identity.generate()).signed(
                replace(question, serial=question.serial + 1_000_000)
            )
            with pytest.raises(RequestRefused):
                await stranger.request(
                    trainer.peer.address,
                    JOB_ROUND,
                    encode(forged),
                    reply_bytes_max=16,
                    timeout_s=5,
                )
            held = trainer.jobs.trained[job_id].machine
            assert held.question is not None
            assert held.question.serial <= running.machine.serial
            made_up = held._made or next(iter(running.made.values()))[1].sum
            push = SumPush((trainer.ports.signed(made_up),))
            await stranger.request(
                owner.peer.address, JOB_SUM, encode(push), reply_bytes_max=16, timeout_s=5
            )
            nursery.cancel_scope.cancel()
        rounds = running.machine.round
        await until(lambda: running.machine.round > rounds, 30)
        assert not running.machine.excluded


def test_a_secret_key_file_opens_for_its_node_and_job_alone(tmp_path: Path) -> None:
    me = Identity.generate()
    folder = JobFolder(tmp_path / "one")
    folder.keep_secret(me, b"secret" * 99)
    assert folder.secret(me) == b"secret" * 99
    other = JobFolder(tmp_path / "two")
    (tmp_path / "two" / "secret.key").write_bytes((tmp_path / "one" / "secret.key").read_bytes())
    (tmp_path / "two" / "secret.key").chmod(0o600)
    for opened, who in ((folder, Identity.generate()), (other, me)):
        with pytest.raises(KeyFileMalformed, match="altered, or is another node's"):
            opened.secret(who)


async def test_a_job_that_is_not_there_is_named(tmp_path: Path) -> None:
    async with nodes(tmp_path, "validator") as [owner]:
        with pytest.raises(NoSuchJob, match="0 jobs match 'ab'"):
            owner.jobs.find("ab")
