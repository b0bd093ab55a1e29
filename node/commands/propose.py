"""`eigen propose`: put a file to the vote; seed a dataset first if a run file names a source."""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from eigen.node.commands import Invocation, pass_invocation
from eigen.node.control import call_daemon
from eigen.node.exit_codes import ExitCode, UserError
from eigen.node.proposal_file import load_proposal_file
from eigen.node.run_file import DatasetSource, RunFile
from eigen.protocol.cid import raw_cid
from eigen.protocol.types import Cid
from eigen.protocol.wire import encode_bare

if TYPE_CHECKING:
    from eigen.training.datasets import Samples

PROPOSE_TIMEOUT_S = 120.0
"""Two confirmations on a slow chain."""


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pass_invocation
def command(invocation: Invocation, file: Path, as_json: bool) -> None:
    """Put what FILE says to the DAO's vote: a training run, a payment, other validators.

    See docs/dao.md for what stands in FILE.
    """
    read = load_proposal_file(file)
    socket = invocation.paths.control_socket
    params = read.params
    if (run_file := read.run_file) is not None:
        manifest = run_file.dataset.manifest or _seed(socket, run_file, run_file.dataset)
        params = params | {"spec": encode_bare(run_file.spec(manifest)).hex()}
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


def _seed(socket: Path, run_file: RunFile, source: DatasetSource) -> Cid:
    """Split the source into shards and hand them to the daemon, which seals and announces them."""
    if not 1 <= source.shards <= 64:
        raise UserError(f"{run_file.path}: dataset.shards: 1 to 64", ExitCode.CONFIGURATION)
    from eigen.training.datasets import split, write_shard

    seed = int(run_file.table.get("seed", 0))
    train, held_out = load_source(run_file, source, seed)
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


def load_source(run_file: RunFile, source: DatasetSource, seed: int) -> "tuple[Samples, Samples]":
    """The source's samples, to train on and held out. `UserError` if the model cannot read them."""
    from eigen.training.architectures import declare
    from eigen.training.datasets import digits, read_shard, write_shard
    from eigen.training.errors import ShardError
    from eigen.training.text import UnknownText, standard_library

    declared = declare(run_file.spec(raw_cid(b"")).model)
    wrong = f"{run_file.path}: dataset.source: "
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
