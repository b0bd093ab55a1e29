"""Writes the tables of docs/protocol.md: `python tests/protocol/protocol_tables.py`."""

import ast
import dataclasses
import inspect
import re
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from eigen.protocol import (
    committee,
    job_record,  # noqa: F401 (registers its messages)
    limits,
    messages,
    private_job,
    requests,
)
from eigen.protocol.run import AggregationSpec, InnerSpec, ModelSpec, OuterSpec, RunSpec
from eigen.protocol.types import Address, Cid, Digest, RunId
from eigen.protocol.wire import Length, Range, catalogue

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"
NAMED = {Address: "address", Digest: "digest", RunId: "run id", Cid: "CID"}
STRUCTS = (
    messages.Attempt,
    messages.SeatMember,
    messages.PartResult,
    messages.Credit,
    messages.Payout,
    messages.ShardInfo,
    private_job.JobSeat,
    private_job.JobPayment,
    private_job.JobContribution,
    RunSpec,
    ModelSpec,
    InnerSpec,
    AggregationSpec,
    OuterSpec,
)


def shape(hint: Any) -> str:
    """A field's type and bound in a few words."""
    kind, bound = hint, None
    if get_origin(hint) is Annotated:
        kind, bound, *_ = get_args(hint)
    if kind in NAMED:
        return NAMED[kind]
    if bound == "amount":
        return "amount"
    if get_origin(kind) is tuple:
        args = get_args(kind)
        if len(args) == 2 and args[1] is Ellipsis:
            return f"{span(bound)} of {shape(args[0])}" if bound else f"list of {shape(args[0])}"
        return "[" + ", ".join(shape(arg) for arg in args) + "]"
    if kind is int:
        low, high = (bound.least, bound.most) if isinstance(bound, Range) else (0, 2**64 - 1)
        return f"int {low} to {power(high)}"
    if kind in (bytes, str):
        return f"{'bytes' if kind is bytes else 'text'} {span(bound)}".strip()
    return str(kind.__name__)


def span(bound: Any) -> str:
    if not isinstance(bound, Length):
        return ""
    return str(bound.most) if bound.least == bound.most else f"{bound.least} to {bound.most}"


def power(value: int) -> str:
    for plus in (0, 1):
        bits = (value + plus).bit_length() - 1
        if value + plus == 2**bits and bits > 30:
            return f"2^{bits}" + (" - 1" if plus else "")
    return str(value)


def row(first: str, kind: type) -> str:
    hints = get_type_hints(kind, include_extras=True)
    fields = ", ".join(f"`{f.name}` {shape(hints[f.name])}" for f in dataclasses.fields(kind))
    said = (inspect.getdoc(kind) or "").splitlines()[0]
    return f"| {first} | {fields or '—'} | {said} |"


def message_table() -> list[str]:
    rows = [row(f"{tag} `{kind.__name__}`", kind) for tag, kind in sorted(catalogue().items())]
    return ["| message | fields, in order | what it says |", "|---|---|---|", *rows]


def struct_table() -> list[str]:
    rows = [row(f"`{kind.__name__}`", kind) for kind in STRUCTS]
    return ["| structure | fields, in order | what it is |", "|---|---|---|", *rows]


def protocol_table() -> list[str]:
    ids = [
        (name, value)
        for name, value in (*vars(requests).items(), *vars(private_job).items())
        if name.isupper() and isinstance(value, str)
    ]
    rows = [f"| `{value}` | {name} |" for name, value in ids]
    return ["| protocol id | constant |", "|---|---|", *rows]


def limit_table() -> list[str]:
    tree = ast.parse(inspect.getsource(limits))
    rows = []
    for node, after in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(node, ast.Assign) and isinstance(after, ast.Expr):
            name = ast.unparse(node.targets[0])
            why = " ".join(str(ast.literal_eval(after.value)).split())
            rows.append(f"| `{name}` | {getattr(limits, name)} | {why} |")
    return ["| limit | value | why |", "|---|---|---|", *rows]


def tables() -> dict[str, list[str]]:
    """Every generated table by the name in its markers."""
    assert committee.Promises in catalogue().values()
    return {
        "messages": message_table(),
        "structures": struct_table(),
        "protocols": protocol_table(),
        "limits": limit_table(),
    }


def filled(page: str) -> str:
    """The page with every table as the code has it."""
    for name, lines in tables().items():
        begin, end = f"<!-- {name}: generated -->", f"<!-- {name}: end -->"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        whole = "\n".join([begin, "", *lines, "", end])
        page, count = pattern.subn(lambda _, whole=whole: whole, page)
        if count != 1:
            raise ValueError(f"docs/protocol.md has {count} tables named {name}, 1 expected")
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
