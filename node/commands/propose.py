"""`eigen propose`: put a file to the vote; seed a dataset first if a run file names a source."""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from eigen.node.commands import Invocation, pass_invocation
from eigen.node.control import call_daemon
from eigen.node.exit_codes import ExitCode, UserError
from eigen.node.member_file import Table
from eigen.node.proposal_file import ProposalFile, changed_spec, load_proposal_file
from eigen.node.run_file import DatasetSource, dataset_source
from eigen.protocol.cid import raw_cid
from eigen.protocol.run import ModelSpec, RunSpec
from eigen.protocol.types import Cid
from eigen.protocol.wire import decode_bare, encode_bare

if TYPE_CHECKING:
    from eigen.training.datasets import Samples

SPEC_BYTES_MAX = 64 * 1024
"""A run spec with all its options."""
PROPOSE_TIMEOUT_S = 120.0
"""Two confirmations on a slow chain."""


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pass_invocation
def command(invocation: Invocation, file: Path, as_json: bool) -> None:
    """Put what FILE says to the DAO's vote: a run, a change of one, a payment, other validators.

    See docs/dao.md for what stands in FILE.
    """
    read = load_proposal_file(file)
    socket = invocation.paths.control_socket
    params = read.params
    if (run_file := read.run_file) is not None:
        model, seed = run_file.spec(raw_cid(b"")).model, int(run_file.table.get("seed", 0))
        manifest = _manifest(socket, file, run_file.dataset, model, seed)
        params = params | {"spec": encode_bare(run_file.spec(manifest)).hex()}
    elif read.kind == "parameters":
        params = params | _changed(socket, read)
    result = call_daemon(socket, "propose", PROPOSE_TIMEOUT_S, kind=read.kind, **params)
    if as_json:
        click.echo(json.dumps(result))
        return
    click.echo(f"proposal {result['proposal']}")
    for line in result["does"]:
        click.echo(f"does     {line}")
    if result["run"]:
        click.echo(f"run      {result['run']}")
    name = result["run"] if result["kind"] == "run" else result["proposal"]
    click.echo(f"vote with: eigen vote {name[:12]} --for")


def _changed(socket: Path, read: ProposalFile) -> dict[str, str]:
    """The run in full, and its spec with the changes."""
    known = call_daemon(socket, "run_spec", run=read.params["run"])
    spec = decode_bare(bytes.fromhex(known["spec"]), RunSpec, bytes_max=SPEC_BYTES_MAX)
    manifest = spec.dataset
    changed_spec(read, spec, manifest)  # before anything is stored or sent for it
    if "dataset" in read.changes:
        source = dataset_source(Table(read.path, read.changes).sub("dataset"))
        manifest = _manifest(socket, read.path, source, spec.model, spec.seed)
    return {"run": known["run"], "spec": encode_bare(changed_spec(read, spec, manifest)).hex()}


def _manifest(socket: Path, file: Path, source: DatasetSource, model: ModelSpec, seed: int) -> Cid:
    """The dataset's manifest: the one named, or of the source, which the daemon then seeds."""
    if source.manifest:
        return source.manifest
    if not 1 <= source.shards <= 64:
        raise UserError(f"{file}: dataset.shards: 1 to 64", ExitCode.CONFIGURATION)
    from eigen.training.datasets import split, write_shard

    train, held_out = load_source(file, source, model, seed)
    with tempfile.TemporaryDirectory(dir=socket.parent) as scratch:
        shards = []
        for index, samples in enumerate(split(train, source.shards, seed)):
            path = Path(scratch) / f"shard-{index}"
            path.write_bytes(write_shard(samples))
            shards.append({"path": str(path), "samples": len(samples)})
        holdout = Path(scratch) / "holdout"
        holdout.write_bytes(write_shard(held_out))
        result = call_daemon(
            socket,
            "seed",
            name=source.source,
            shards=shards,
            holdout=str(holdout),
            sealed=source.sealed,
        )
    return Cid(result["manifest"])


def load_source(
    file: Path, source: DatasetSource, model: ModelSpec, seed: int
) -> "tuple[Samples, Samples]":
    """The source's samples, to train on and held out. `UserError` if the model cannot read them."""
    from eigen.training.architectures import declare
    from eigen.training.datasets import digits, read_shard, write_shard
    from eigen.training.errors import ShardError
    from eigen.training.text import UnknownText, standard_library

    declared = declare(model)
    wrong = f"{file}: dataset.source: "
    try:
        if source.source == "digits":
            samples = digits(seed)
        elif source.source == "stdlib":
            samples = standard_library(declared.inputs, unpinned=source.unpinned)
        else:
            raise UserError(
                f"{wrong}there are digits and stdlib, not {source.source!r}", ExitCode.CONFIGURATION
            )
        read_shard(
            write_shard(samples[1]),
            inputs=declared.inputs,
            classes=declared.classes,
            text=declared.sequences,
        )
    except UnknownText as error:
        hint = "dataset.unpinned = true takes it as it is"
        raise UserError(f"{wrong}{error}; {hint}", ExitCode.CONFIGURATION) from error
    except ShardError as error:
        raise UserError(
            f"{wrong}the model cannot read {source.source}: {error}", ExitCode.CONFIGURATION
        ) from error
    return samples
