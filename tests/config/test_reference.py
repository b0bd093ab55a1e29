"""The page on settings says what the schema says."""

import tomllib
from pathlib import Path

import pytest

from eigen.config.reference import config_template, network_table, settings_table

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


@pytest.mark.parametrize(
    ("name", "table"), [("settings", settings_table()), ("network file", network_table())]
)
def test_the_tables_in_the_docs_are_the_schemas(name: str, table: str) -> None:
    _, begin, rest = PAGE.read_text().partition(f"<!-- begin: {name} -->\n")
    inside, end, _ = rest.partition(f"<!-- end: {name} -->")
    assert begin
    assert end
    assert inside.strip() == table.strip(), (
        f"docs/configuration.md: {name} differs from eigen.config.reference"
    )


def test_every_default_in_the_template_is_a_value_that_is_accepted() -> None:
    uncommented = "\n".join(
        line.removeprefix("#") if line.startswith("#") and not line.startswith("# ") else line
        for line in config_template().splitlines()
        if not line.endswith(" =")
    )
    tables = tomllib.loads(uncommented)
    assert tables["p2p"]["listen"] == ["/ip4/0.0.0.0/tcp/4001"]
    assert tables["log"] == {"level": "info", "format": "console"}
