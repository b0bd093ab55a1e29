"""What is written as TOML is read back the same, and keys are found on their lines."""

import math
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eigen.config.toml_text import Plain, document, line_of, literal

text = st.text(st.characters(exclude_categories=["Cs"]))
integers = st.integers(-(2**63), 2**63 - 1)
scalars = st.one_of(st.booleans(), integers, st.floats(allow_nan=False), text)
values = st.one_of(scalars, st.lists(scalars, max_size=5))
names = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)


@given(st.dictionaries(names, st.dictionaries(names, values, max_size=5), max_size=4))
def test_documents_are_read_back_by_tomllib(tables: dict[str, dict[str, Plain]]) -> None:
    assert tomllib.loads(document(tables)) == tables


@given(st.dictionaries(names, values, max_size=5))
def test_the_first_table_may_have_no_header(rows: dict[str, Plain]) -> None:
    assert tomllib.loads(document({"": rows})) == rows


@pytest.mark.parametrize("value", [math.inf, -math.inf, 1e300, 5e-324, 0.1])
def test_all_floats_have_a_literal(value: float) -> None:
    assert tomllib.loads(f"x = {literal(value)}")["x"] == value


FILE = """\
# a comment with p2p.mdns = true
top = 1

[p2p]
listen = [
  "/ip4/127.0.0.1/tcp/1",
]
"mdns" = true

[ training ]  # spaces
threads=2
chain.poll_s = 3
"""


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("top", 2),
        ("p2p", 4),
        ("p2p.listen", 5),
        ("p2p.mdns", 8),
        ("training", 10),
        ("training.threads", 11),
        ("training.chain.poll_s", 12),
        ("p2p.threads", None),
        ("mdns", None),
    ],
)
def test_lines_are_found(key: str, line: int | None) -> None:
    tomllib.loads(FILE)
    assert line_of(FILE, key) == line


def test_dotted_keys_at_the_top_are_found() -> None:
    assert line_of("# x\np2p.mdns = true\n", "p2p.mdns") == 2
    assert line_of("# x\np2p.mdns = true\n", "p2p") == 2
    assert line_of("p2p = { mdns = 1 }\n", "p2p") == 1
