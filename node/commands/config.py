"""`eigen config`: the settings that hold, and where each comes from."""

import json

import click

from eigen.config.schema import OPTIONS, SECTIONS
from eigen.config.toml_text import literal
from eigen.node.commands import Invocation, pass_invocation


@click.group()
def command() -> None:
    """Show the settings and where each comes from."""


@command.command()
@click.option("--origin", is_flag=True, help="Say of each value where it comes from.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pass_invocation
def show(invocation: Invocation, origin: bool, as_json: bool) -> None:
    """Show every setting as it holds for this home, flags and environment included.

    As TOML, or with --json as an object of sections; with --origin, each value of that object is
    one of "value" and "origin".
    """
    loaded = invocation.load()
    plain = {
        option.key: option.kind.plain(getattr(getattr(loaded.config, option.section), option.name))
        for option in OPTIONS.values()
    }
    if as_json:
        sections: dict[str, dict[str, object]] = {section: {} for section in SECTIONS}
        for option in OPTIONS.values():
            value = plain[option.key]
            sections[option.section][option.name] = (
                {"value": value, "origin": loaded.origins[option.key]} if origin else value
            )
        click.echo(json.dumps(sections, indent=2, ensure_ascii=False))
        return
    for section in SECTIONS:
        click.echo(f"[{section}]")
        for option in (option for option in OPTIONS.values() if option.section == section):
            value = plain[option.key]
            # TOML has no null: what is not set stands as a comment.
            line = f"{option.name} = {literal(value)}" if value is not None else f"# {option.name}"
            click.echo(f"{line}  # {loaded.origins[option.key]}" if origin else line)
        click.echo()
