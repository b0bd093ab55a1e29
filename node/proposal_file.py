"""Proposal files: what a member writes to put something to the DAO's vote, as TOML.

kind = "payment"              # from the treasury
description = "Hosting in March"
to = "0x…"
amount = 120.5                # whole tokens
token = "dao"                 # or "coin", or a token's address

kind = "validators"           # replace all of them
validators = ["0x…", "0x…", "0x…"]
quorum = 2

kind = "parameters"           # of a run that is open
run = "3fa2c1"                # the beginning of its id
from_round = 40
[inner]                       # any of a run file's tables; what is left out stays
lr = 0.001

kind = "model"                # put a run's model on record
run = "3fa2c1"                # the beginning of its id
owner = "dao"                 # or an address
royalty_percent = 5           # of each sale, to its contributors
parent = "81b0"               # the model that it was fine-tuned from; left out: none
parent_round = 12             # which of its rounds on record
uri = "ipfs://…"              # where a description is; may be left out

kind = "calls"                # any calls of the DAO's timelock
[[call]]
to = "0x…"
value = "0"                   # wei
data = "0x…"

kind = "run", or none, is a run file: see `run_file`.
"""

from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from eigen.config.addresses import format_address, parse_address
from eigen.node.amounts import DIGITS_MAX
from eigen.node.member_file import MemberFileError, Table, read_table
from eigen.node.run_file import (
    RunFile,
    check_trainable,
    dataset_source,
    in_file_terms,
    load_run_file,
)
from eigen.protocol import limits
from eigen.protocol.changes import check_change
from eigen.protocol.run import AggregationSpec, RunSpec
from eigen.protocol.types import Cid
from eigen.protocol.wire import encode_bare

KINDS = ("run", "parameters", "payment", "validators", "model", "calls")
CHANGED = {"inner", "outer", "aggregation", "dataset"}
"""What a parameter change may name beside the run and the round."""
INNER_CHANGED = {"steps", "batch", "lr", "weight_decay", "micro_batches", "schedule", "warmup"}
"""What it may name of the local steps."""


@dataclass(frozen=True, slots=True)
class ProposalFile:
    """A proposal file that was read.

    `params` are what the daemon is told. `run_file` is there for a run; `changes` are the tables
    of a parameter change.
    """

    path: Path
    kind: str
    params: dict[str, Any]
    run_file: RunFile | None = None
    changes: dict[str, Any] = field(default_factory=dict)


def load_proposal_file(path: Path) -> ProposalFile:
    """Read a proposal file and check what can be checked without a chain.

    Raises `MemberFileError`, which names file and key.
    """
    table = read_table(path, "proposal file")
    top = Table(path, table)
    kind = top.take("kind", str, "run")
    if kind == "run":
        run_file = load_run_file(path)
        return ProposalFile(path, kind, {"description": run_file.description}, run_file)
    readers = {
        "parameters": _parameters,
        "payment": _payment,
        "validators": _validators,
        "model": _model,
        "calls": _calls,
    }
    if kind not in readers:
        raise top.error("kind", f"there are {', '.join(KINDS)}, not {kind!r:.40}")
    params = readers[kind](top) | {"description": top.description()}
    changes = {key: table[key] for key in CHANGED if key in table}
    return ProposalFile(path, kind, params, None, changes if kind == "parameters" else {})


def _parameters(top: Table) -> dict[str, Any]:
    top.refuse_unknown({"kind", "description", "run", "from_round"} | CHANGED)
    if not any(key in top for key in CHANGED):
        raise MemberFileError(top.path, f"it changes nothing: give one of {sorted(CHANGED)}")
    for name in CHANGED:
        top.sub(name, {})  # tables, all of them
    if "dataset" in top:
        dataset_source(top.sub("dataset"))
    from_round = top.take("from_round", int)
    if not 2 <= from_round <= limits.ROUNDS_MAX:
        raise top.error("from_round", f"2 to {limits.ROUNDS_MAX}")
    return {"run": top.take("run", str), "from_round": from_round}


def changed_spec(read: ProposalFile, spec: RunSpec, manifest: Cid) -> RunSpec:
    """A run's spec with what a parameter change names; `manifest` is the dataset's from then on.

    Raises `MemberFileError`, also for what stays while a run goes on and what cannot be trained.
    """
    top = Table(read.path, read.changes)
    inner, outer = top.sub("inner", {}), top.sub("outer", {})
    aggregation = top.sub("aggregation", {})
    inner.refuse_unknown(INNER_CHANGED)
    outer.refuse_unknown({"lr"})
    aggregation.refuse_unknown({"rule", "tolerated_percent"})
    old, rule = spec.inner, aggregation.take("rule", str, spec.aggregation.rule)
    usual_bps = 0 if rule == "mean" else spec.aggregation.tolerated_bps
    try:
        changed = replace(
            spec,
            dataset=manifest,
            inner=replace(
                old,
                steps=inner.take("steps", int, old.steps),
                batch=inner.take("batch", int, old.batch),
                lr=inner.number("lr", old.lr),
                weight_decay=inner.number("weight_decay", old.weight_decay),
                micro_batches=inner.take("micro_batches", int, old.micro_batches),
                schedule=inner.take("schedule", str, old.schedule),
                warmup=inner.take("warmup", int, old.warmup),
            ),
            outer=replace(spec.outer, lr=outer.number("lr", spec.outer.lr)),
            aggregation=AggregationSpec(
                rule, round(100 * aggregation.number("tolerated_percent", usual_bps / 100))
            ),
        )
        encode_bare(changed)  # every bound of the wire holds for what a person writes, too
        check_change(spec, changed)
    except ValueError as error:  # `WireError` is one
        raise MemberFileError(read.path, in_file_terms(str(error))) from error
    check_trainable(read.path, changed)
    return changed


def _payment(top: Table) -> dict[str, Any]:
    top.refuse_unknown({"kind", "description", "to", "amount", "token"})
    value = top.take("amount", (str, int, float))
    try:
        amount = Decimal(value if isinstance(value, str) else repr(value))
    except InvalidOperation as error:
        raise top.error("amount", f"{value[:40]!r} is no number") from error
    if not amount.is_finite() or amount <= 0 or abs(amount.adjusted()) > DIGITS_MAX:
        raise top.error("amount", "a positive number of whole tokens")
    token = top.take("token", str, "dao")
    if token not in ("dao", "coin"):
        token = _address(top, "token", token)
    to = _address(top, "to", top.take("to", str))
    return {"to": to, "amount": f"{amount:f}", "token": token}


def _validators(top: Table) -> dict[str, Any]:
    top.refuse_unknown({"kind", "description", "validators", "quorum"})
    named = top.take("validators", list)
    if not 0 < len(named) <= limits.VALIDATORS_MAX:
        raise top.error("validators", f"name 1 to {limits.VALIDATORS_MAX}")
    validators = [_address(top, "validators", name) for name in named]
    if len(set(validators)) != len(validators):
        raise top.error("validators", "one is named twice")
    quorum = top.take("quorum", int)
    if not len(validators) < 2 * quorum <= 2 * len(validators):
        raise top.error("quorum", f"more than half of {len(validators)} validators, at most all")
    return {"validators": validators, "quorum": quorum}


def _model(top: Table) -> dict[str, Any]:
    names = {"run", "owner", "royalty_percent", "parent", "parent_round", "uri"}
    top.refuse_unknown({"kind", "description"} | names)
    owner = top.take("owner", str, "dao")
    params = {
        "run": top.take("run", str),
        "owner": owner if owner == "dao" else _address(top, "owner", owner),
        "royalty_bps": _royalty_bps(top, top.number("royalty_percent", 0)),
        "uri": top.take("uri", str, ""),
        "parent": top.take("parent", str) if "parent" in top else "",
        "parent_round": top.take("parent_round", int) if "parent" in top else 0,
    }
    if "parent_round" in top and "parent" not in top:
        raise top.error("parent_round", "of which parent?")
    return params


def _royalty_bps(top: Table, percent: float) -> int:
    hundredths = round(100 * percent)
    if not 0 <= percent <= 100 or abs(100 * percent - hundredths) > 1e-6:  # 0.07 is no binary float
        raise top.error("royalty_percent", "0 to 100, with two decimals at most")
    return hundredths


def _calls(top: Table) -> dict[str, Any]:
    top.refuse_unknown({"kind", "description", "call"})
    calls = top.take("call", list)
    if not 0 < len(calls) <= limits.PROPOSED_CALLS_MAX:
        raise top.error("call", f"give 1 to {limits.PROPOSED_CALLS_MAX}")
    return {"calls": [_call(top, index, call) for index, call in enumerate(calls)]}


def _call(top: Table, index: int, call: Any) -> dict[str, str]:
    if not isinstance(call, dict):
        raise top.error(f"call[{index}]", "a table, as [[call]]")
    table = Table(top.path, call, f"call[{index}].")
    table.refuse_unknown({"to", "value", "data"})
    value, data = table.take("value", str, "0"), table.take("data", str, "0x")
    if not value.isdecimal() or len(value) > 78 or int(value) >= 1 << 256:
        raise table.error("value", "wei, as a whole number in quotes")
    try:
        raw = bytes.fromhex(data.removeprefix("0x"))
    except ValueError as error:
        raise table.error("data", "hexadecimal digits, as 0x…") from error
    if len(raw) > limits.PROPOSED_CALL_BYTES_MAX:
        raise table.error("data", f"at most {limits.PROPOSED_CALL_BYTES_MAX} bytes")
    return {"to": _address(table, "to", table.take("to", str)), "value": value, "data": raw.hex()}


def _address(table: Table, key: str, text: Any) -> str:
    try:
        address = parse_address(str(text))
    except ValueError as error:
        raise table.error(key, f"{str(text)[:60]!r}: {error}") from error
    if not any(address):
        raise table.error(key, "the zero address is nobody's")
    return format_address(address)
