"""docs/protocol.md says what the code does: its tables, topics, phases and stages."""

import re

import pytest
from protocol_tables import PAGE, filled

from eigen.node.gossip import TYPES
from eigen.protocol import limits
from eigen.protocol.committee import Stage
from eigen.protocol.messages import Topic
from eigen.protocol.trainer import Phase

TEXT = PAGE.read_text()


def test_the_tables_are_as_the_code_has_them() -> None:
    again = filled(TEXT)
    assert again == TEXT, "run `python tests/protocol/protocol_tables.py`"


def test_every_limit_has_its_reason() -> None:
    names = {name for name in vars(limits) if name.isupper()}
    told = set(re.findall(r"^\| `([A-Z0-9_]+)` \|", TEXT, re.MULTILINE))
    assert names <= told


def test_topics_phases_and_stages_are_named() -> None:
    for topic in Topic:
        assert f"`{topic}`" in TEXT
    for state in (*Phase, *Stage):
        assert state.name in TEXT


def test_topics_carry_what_the_daemon_lets_through() -> None:
    for topic, kinds in TYPES.items():
        names = ", ".join(kind.__name__ for kind in kinds)
        assert f"| `{topic}` | {names} |" in TEXT


def test_a_table_that_is_not_there_is_missed() -> None:
    with pytest.raises(ValueError, match="0 tables named messages"):
        filled("no tables")
