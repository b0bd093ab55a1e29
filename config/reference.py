"""Texts made from the schema: the file that `eigen init` writes, and the tables in the docs."""

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from textwrap import wrap
from typing import Any

from eigen.config.network import ContractAddresses, NetworkFile, Parameters
from eigen.config.schema import OPTIONS, SECTIONS
from eigen.config.toml_text import Plain, literal


def config_template(values: Mapping[str, Plain] | None = None) -> str:
    """A configuration file in which each setting stands as a comment, with its default.

    `values` maps keys such as `keys.encrypted` to what is set for real.
    """
    values = values or {}
    lines = ["# Settings of this node. Lines that begin with # show the defaults."]
    for section, made in SECTIONS.items():
        lines += ["", f"# {made.__doc__}", f"[{section}]"]
        for option in (option for option in OPTIONS.values() if option.section == section):
            explained = f"{option.description} Accepts {option.kind.accepts}."
            lines += [f"# {line}" for line in wrap(explained, 96)]
            if option.key in values:
                lines.append(f"{option.name} = {literal(values[option.key])}")
            else:
                plain = option.kind.plain(option.default) if option.default is not None else None
                lines.append(f"#{option.name} = {'' if plain is None else literal(plain)}".rstrip())
    return "\n".join(lines) + "\n"


def settings_table() -> str:
    """All settings as Markdown, one table a section."""
    blocks = []
    for section, made in SECTIONS.items():
        rows = [
            f"| `{option.name}` | {_cell(option.kind.plain, option.default)} | "
            f"{option.description} | {option.kind.accepts} | `{option.variable}` |"
            for option in OPTIONS.values()
            if option.section == section
        ]
        head = "| setting | default | meaning | accepts | variable |\n|---|---|---|---|---|"
        blocks.append("\n".join([f"### [{section}]", "", f"{made.__doc__}", "", head, *rows]))
    return "\n\n".join(blocks) + "\n"


def network_table() -> str:
    """All keys of the network file as Markdown."""
    head = "| key | default | meaning | accepts |\n|---|---|---|---|"
    return "\n".join([head, *_rows(NetworkFile, "")]) + "\n"


def _rows(made: type, prefix: str) -> Iterator[str]:
    nested: list[tuple[type, str]] = []
    for f in fields(made):
        if f.type in (ContractAddresses, Parameters):
            nested.append((f.type, f"{prefix}{f.name}."))
            continue
        kind, description = f.metadata["kind"], f.metadata["description"]
        default = _cell(kind.plain, f.default)
        yield f"| `{prefix}{f.name}` | {default} | {description} | {kind.accepts} |"
    for inner, inner_prefix in nested:
        yield from _rows(inner, inner_prefix)


def _cell(plain: Any, default: Any) -> str:
    if default is MISSING:
        return "required"
    return "none" if default is None else f"`{literal(plain(default))}`"
