"""The processes that work on ciphertexts: rounds through both, and whatever can be wrong."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trio
from job_nodes import PLAN as LASTING
from safetensors.numpy import save_file

from eigen.crypto.ckks import bundle
from eigen.node.cipher_worker import EnterpriseWorker, EvaluationWorker, Prepared
from eigen.node.worker_process import WorkerCrashed, WorkerTimedOut
from eigen.protocol.cid import raw_cid
from eigen.protocol.messages import ShardInfo
from eigen.protocol.private_job import PrivateJob
from eigen.protocol.types import Address
from eigen.training import tensorfile
from eigen.training.errors import BadCiphertext, OutOfMemory, SecretPublished, SpecError
from eigen.training.frames import Files

PLAN = replace(LASTING, patience=5)


def files(*paths: Path) -> Files:
    return Files(tuple(map(str, paths)))


def job_of(made: Prepared, *, encrypted: bool = True) -> PrivateJob:
    blob = raw_cid(b"")
    held = tuple(ShardInfo(blob, 1, count) for count in made.counts)
    shape = (made.head, made.rows, made.features, made.outputs, encrypted)
    return PrivateJob(Address(bytes(20)), "j", *shape, blob, held, 3, 20, 0, 1)


@pytest.mark.parametrize("encrypted", [True, False], ids=["encrypted", "plain"])
async def test_rounds_go_through_both_processes(tmp_path: Path, encrypted: bool) -> None:
    plan = replace(PLAN, encrypted_weights=encrypted, kind="softmax", encoder="fourier")
    async with EnterpriseWorker() as owner, EvaluationWorker() as trainer:
        made = await owner.prepare(plan, tmp_path)
        assert (tmp_path / "rows.safetensors").stat().st_mode & 0o777 == 0o600
        job, keys, state = job_of(made, encrypted=encrypted), files(tmp_path / "keys"), made.state
        await trainer.check(job, keys, timeout_s=60)
        losses = []
        for round_ in range(3):
            weights, total = tmp_path / f"w{round_}", tmp_path / f"t{round_}"
            k = await owner.weights(plan, tmp_path, made.secret, state, weights, timeout_s=60)
            shards = [files(tmp_path / "shard-0"), files(tmp_path / "shard-1")]
            args = (job, keys, shards, files(weights), k)
            await trainer.gradient(*args, total, timeout_s=60)
            if round_ == 0:
                for index in (0, 1):
                    part = (job, keys, shards[index : index + 1], files(weights), k)
                    await trainer.gradient(*part, tmp_path / f"p{index}", timeout_s=60)
                parts = [files(tmp_path / "p0"), files(tmp_path / "p1")]
                await trainer.add(job, keys, parts, tmp_path / "added", timeout_s=60)
                assert (tmp_path / "added").read_bytes() == total.read_bytes(), "bit for bit"
            step = await owner.step(plan, tmp_path, made.secret, state, files(total), timeout_s=60)
            state = step.state
            losses.append(step.loss)
        assert step.done
        assert losses == sorted(losses, reverse=True)
        score = await owner.result(plan, tmp_path, state, tmp_path / "model.safetensors")
        assert score > 0.9
    async with EnterpriseWorker() as again:
        await again.weights(plan, tmp_path, made.secret, state, tmp_path / "w", timeout_s=60)
        assert await again.result(plan, tmp_path, state, tmp_path / "m") == score
    said, arrays = tensorfile.read((tmp_path / "model.safetensors").read_bytes())
    assert said["kind"] == "softmax"
    assert arrays["head.weight"].shape == (2, 16)
    assert {"frequencies", "phases", "mean", "matrix", "clip"} <= arrays.keys()


async def test_bad_bytes_are_named_and_the_process_lives_on(tmp_path: Path) -> None:
    async with EnterpriseWorker() as owner, EvaluationWorker() as trainer:
        made = await owner.prepare(PLAN, tmp_path)
        job, keys = job_of(made), files(tmp_path / "keys")
        weights = tmp_path / "w"
        k = await owner.weights(PLAN, tmp_path, made.secret, made.state, weights, timeout_s=60)
        await trainer.check(job, keys, timeout_s=60)
        pid = trainer.pid
        good = weights.read_bytes()
        bad = tmp_path / "bad"
        shard = [files(tmp_path / "shard-0")]
        for name, data in {
            "truncated": good[:-5],
            "oversized": good + b"x",
            "flipped": good[:14] + b"\xff" + good[15:],
            "empty": b"",
            "a shard": (tmp_path / "shard-0").read_bytes(),
        }.items():
            bad.write_bytes(data)
            with pytest.raises(BadCiphertext):
                await trainer.gradient(
                    job, keys, shard, files(bad), k, tmp_path / name, timeout_s=60
                )
            with pytest.raises(BadCiphertext):
                await trainer.add(job, keys, [files(bad)], tmp_path / name, timeout_s=60)
            with pytest.raises(BadCiphertext):
                await owner.step(PLAN, tmp_path, made.secret, made.state, files(bad), timeout_s=60)
        relin, galois = bundle.unpack((tmp_path / "keys").read_bytes(), count=2)
        leaked = tmp_path / "leaked"
        leaked.write_bytes(bundle.pack([relin, galois, made.secret]))
        with pytest.raises(SecretPublished):
            await trainer.check(job, files(leaked), timeout_s=60)
        leaked.write_bytes(bundle.pack([relin, relin]))
        with pytest.raises(BadCiphertext, match="other rotations"):
            await trainer.check(job, files(leaked), timeout_s=60)
        assert trainer.pid == pid


async def test_a_sum_of_another_owners_ciphertexts_is_not_stepped(tmp_path: Path) -> None:
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    mine.mkdir(), theirs.mkdir()
    async with EnterpriseWorker() as owner, EvaluationWorker() as trainer:
        made = await owner.prepare(PLAN, mine)
        other = await owner.prepare(replace(PLAN, seed=5), theirs)
        k = await owner.weights(PLAN, theirs, other.secret, other.state, theirs / "w", timeout_s=60)
        shards, keys = [files(theirs / "shard-0")], files(theirs / "keys")
        await trainer.gradient(
            job_of(other), keys, shards, files(theirs / "w"), k, tmp_path / "g", timeout_s=60
        )
        with pytest.raises(BadCiphertext, match="at most"):
            await owner.step(
                PLAN, mine, made.secret, made.state, files(tmp_path / "g"), timeout_s=60
            )


async def test_a_killed_or_slow_process_is_an_error_and_the_next_call_starts_another(
    tmp_path: Path,
) -> None:
    async with EnterpriseWorker() as owner:
        made = await owner.prepare(PLAN, tmp_path)
        args = (PLAN, tmp_path, made.secret, made.state)
        with pytest.raises(WorkerTimedOut):
            await owner.weights(*args, tmp_path / "w", timeout_s=0.001)
        assert owner.pid is None
        await owner.weights(*args, tmp_path / "w", timeout_s=60)
        assert owner.pid is not None
        os.kill(owner.pid, signal.SIGSTOP)
        async with trio.open_nursery() as nursery:

            async def kill() -> None:
                await trio.sleep(0.2)
                assert owner.pid is not None
                os.kill(owner.pid, signal.SIGKILL)

            nursery.start_soon(kill)
            with pytest.raises(WorkerCrashed, match="SIGKILL"):
                await owner.weights(*args, tmp_path / "w", timeout_s=60)


async def test_memory_is_bounded(tmp_path: Path) -> None:
    async with EnterpriseWorker() as owner, EvaluationWorker(memory_bytes=200 << 20) as trainer:
        plan = replace(PLAN, data="digits", kind="softmax", encoder="fourier", dimension=400)
        plan = replace(plan, features=512, shards=1, encrypted_weights=False)
        made = await owner.prepare(plan, tmp_path)
        k = await owner.weights(
            plan, tmp_path, made.secret, made.state, tmp_path / "w", timeout_s=60
        )
        with pytest.raises(OutOfMemory, match="200"):
            await trainer.gradient(
                job_of(made, encrypted=False),
                files(tmp_path / "keys"),
                [files(tmp_path / "shard-0")],
                files(tmp_path / "w"),
                k,
                tmp_path / "g",
                timeout_s=60,
            )


# an owner's mistakes ------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "field", "said"),
    [
        ({"data": "nothing.txt"}, "data.source", ".csv or .safetensors"),
        ({"data": "gone.csv"}, "data.source", "cannot be read"),
        ({"data": "nan.csv"}, "data.source", "line 3, column b: 'NaN' is no finite number"),
        ({"data": "words.csv"}, "data.source", "line 2, column a: 'hot'"),
        ({"data": "short.csv"}, "data.source", "line 3: 2 of 3 columns"),
        ({"data": "good.csv", "label": "no"}, "data.label", "no column 'no'"),
        ({"data": "nan.safetensors"}, "data.source", "row 1, column 0"),
        ({"data": "good.csv", "kind": "softmax"}, "head.kind", "without gaps"),
        ({"data": "digits"}, "head.kind", "10: softmax"),
        ({"shards": 999}, "shards", "999 shards of"),
        ({"encoder": "fourier", "dimension": 100}, "encoder.dimension", "choose 2 to 65"),
        ({"encoder": "file", "encoder_file": "gone"}, "encoder.file", "gone"),
        ({"encoder": "file", "encoder_file": "wide.safetensors"}, "encoder.file", "9 inputs"),
        ({"trainer_memory_mb": 150}, "encoder", "use more shards"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_a_plan_that_cannot_be_is_refused_before_anything_is_encrypted(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, object],
    field: str,
    said: str,
) -> None:
    from eigen.protocol.wire import encode_bare
    from eigen.training.homomorphic.enterprise import Enterprise

    monkeypatch.chdir(tmp_path)
    Path("nan.csv").write_text("a,b,label\n1,2,0\n1,NaN,1\n")
    Path("words.csv").write_text("a,b,label\nhot,2,0\n1,3,1\n")
    Path("short.csv").write_text("a,b,label\n1,2,0\n1,3\n")
    Path("good.csv").write_text("a,b,label\n" + "1,2,0\n4,5,2\n" * 20)
    x = np.array([[1.0], [np.nan], [2.0]], np.float32)
    save_file({"x": x, "label": np.zeros(3, np.float32)}, "nan.safetensors")
    save_file({"0.weight": np.ones((64, 9), np.float32)}, "wide.safetensors")
    folder = tmp_path / "job"
    folder.mkdir()
    with pytest.raises(SpecError) as caught:
        Enterprise().prepare(encode_bare(replace(PLAN, **changes)), str(folder))  # type: ignore[arg-type]
    assert caught.value.field == field
    assert said in caught.value.reason
    assert not list(folder.iterdir()), "nothing was written"


def test_any_sequential_stack_encodes(tmp_path: Path) -> None:
    import torch

    from eigen.training.homomorphic.layers import load_layers

    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.GELU("tanh"), torch.nn.Linear(7, 3))
    arrays = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    save_file(arrays, tmp_path / "e.safetensors", {"activation": "gelu"})
    x = np.random.default_rng(0).standard_normal((4, 5))
    wanted = model(torch.tensor(x, dtype=torch.float32)).detach().numpy()
    assert np.allclose(load_layers(tmp_path / "e.safetensors")(x), wanted, atol=1e-5)
    save_file(arrays, tmp_path / "e.safetensors", {"activation": "swish"})
    with pytest.raises(SpecError, match="there are relu, gelu, tanh"):
        load_layers(tmp_path / "e.safetensors")
    (tmp_path / "e.safetensors").write_bytes(b"\x05" + bytes(30))
    with pytest.raises(SpecError, match="no safetensors file"):
        load_layers(tmp_path / "e.safetensors")


def test_rows_go_through_the_encoder_that_the_owner_names(tmp_path: Path) -> None:
    from eigen.training.homomorphic.rows import Rows, prepare_rows

    draw = np.random.default_rng(0)
    weight = draw.standard_normal((40, 64)).astype(np.float32)
    save_file({"0.weight": weight, "0.bias": np.zeros(40, np.float32)}, tmp_path / "e.safetensors")
    plan = replace(PLAN, data="digits", kind="softmax", encoder="file", dimension=12)
    rows = prepare_rows(replace(plan, encoder_file=str(tmp_path / "e.safetensors"), shards=3))
    assert [x.shape for x, _ in rows.shards] == [(480, 12), (479, 12), (479, 12)]
    assert rows.holdout[0].shape == (359, 12)
    assert np.all(rows.holdout[0][:, -1] == 1), "the bias"
    again = Rows.from_bytes(rows.to_bytes())
    assert np.array_equal(again.shards[1][0], rows.shards[1][0])
    assert again.head == rows.head
    assert again.encoder.keys() == {"mean", "matrix", "clip"}
