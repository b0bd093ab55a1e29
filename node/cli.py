"""The `eigen` command: finds subcommands without importing them, and ends every error in one line.

What a command does is in `node/commands/<name>.py`, imported when it is called.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Final

import click

from eigen.node.commands import Invocation
from eigen.node.exit_codes import ExitCode, UserError

COMMANDS: Final = {
    "init": "Make this node's home folder, keys and settings.",
    "join": "Join the network that a network file describes.",
    "dao": "Found a DAO, look at it, and say who is a member.",
    "up": "Run the node until Ctrl-C.",
    "status": "Show what the running node does.",
    "propose": "Put a run, a payment or other validators to the DAO's vote.",
    "proposals": "List proposals and how their votes stand.",
    "vote": "Vote on a proposal; costs no gas.",
    "delegate": "Let another account vote for this node's tokens.",
    "runs": "List runs, their rounds and rewards.",
    "proofs": "List, show and verify proofs of contributions.",
    "model": "Put models on record, and look at where they come from.",
    "market": "Sell and buy models and licences to use them.",
    "revenue": "Stake tokens, and share in the DAO's revenue.",
    "creation": "Put works that a model generated on record.",
    "job": "Have a head trained on data that no trainer can read.",
    "pin": "Keep checkpoints on disk that would be deleted in time.",
    "claim": "Claim the rewards that this node has earned.",
    "wallet": "Show the node's account and its money; its key in and out.",
    "peers": "List connected peers.",
    "config": "Show the settings and where each comes from.",
    "paths": "Show where this node keeps its files.",
    "network": "Show the network that this node has joined.",
    "validator": "Bond tokens; measure how exactly work can be checked here.",
    "demo": "Train a model with four nodes and a chain on this machine.",
    "stop": "End the running node.",
    "sim": "Simulate networks of thousands of nodes.",
}
"""Every command with its line in `eigen --help`, in the order of a first visit."""

MODULES: Final = {"sim": "eigen.simulations.command"}
"""Commands that are elsewhere: the node does not know the simulator."""

EXIT_CODES: Final = (
    ("eigen.config.errors", "ConfigError", ExitCode.CONFIGURATION),
    ("eigen.crypto.errors", "KeyFileError", ExitCode.KEY_FILE),
    ("eigen.chain.port", "WrongChain", ExitCode.WRONG_NETWORK),
    ("eigen.chain.port", "ChainUnreachable", ExitCode.CHAIN_UNREACHABLE),
    ("eigen.chain.port", "ChainError", ExitCode.FAILED),
    ("eigen.node.libp2p.errors", "ListenError", ExitCode.PORT_IN_USE),
    ("trio", "TooSlowError", ExitCode.TIMED_OUT),
)
"""What errors that know nothing of exit codes mean here."""

CAUSES_MAX: Final = 64
"""Errors looked at in a group: a nursery of many tasks may fail many times at once."""


class CommandTable(click.Group):
    """A click group whose commands are `COMMANDS`, imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Names in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        """Import one command. Raises `click.UsageError` for a name that is none."""
        if cmd_name not in COMMANDS:
            near = get_close_matches(cmd_name, COMMANDS, 1, 0.6)
            hint = f"did you mean {near[0]}?" if near else "see: eigen --help"
            raise click.UsageError(f"there is no command {cmd_name}; {hint}", ctx)
        try:
            module = import_module(MODULES.get(cmd_name, f"eigen.node.commands.{cmd_name}"))
        except ModuleNotFoundError as error:
            if error.name is None or error.name.startswith("eigen."):
                raise
            raise UserError(
                f"eigen {cmd_name} needs the package {error.name}: pip install {error.name}",
                ExitCode.FAILED,
            ) from error
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002
        formatter: click.HelpFormatter,
    ) -> None:
        """Write the table into the help; nothing is imported for it."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _settings(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    settings = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not equals:
            raise click.BadParameter(f"{value!r}: write SECTION.NAME=VALUE", ctx, param)
        settings[key.strip()] = text
    return settings


@click.group(cls=CommandTable, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--home", metavar="DIR", help="The node's home folder.  [default: ~/.eigen]")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    callback=_settings,
    help="Give a setting for this time, such as p2p.mdns=false.",
)
@click.option("-v", "--verbose", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="eigen", message="eigen %(version)s")
@click.pass_obj
def cli(invocation: Invocation, home: str | None, settings: dict[str, str], verbose: bool) -> None:
    """Own, together with others, the AI models that you train together."""
    invocation.home = home
    invocation.settings = settings
    invocation.verbose = verbose


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `arguments` are `sys.argv[1:]` when left out.

    An error that the user can mend is one line on standard error. Any other error is one line too,
    with its traceback in the home's log file, and on standard error with `-v`.
    """
    invocation = Invocation()
    try:
        # What `cli.main` does, without its own ideas of exit codes.
        words = sys.argv[1:] if arguments is None else list(arguments)
        with cli.make_context("eigen", words, obj=invocation) as context:
            result = cli.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except BrokenPipeError:
        # Whoever read our output has enough. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except (Exception, KeyboardInterrupt, BaseExceptionGroup) as error:
        return _report(error, invocation)
    return result if isinstance(result, int) else ExitCode.OK


def _report(error: BaseException, invocation: Invocation) -> int:
    causes = list(_causes(error))
    if any(isinstance(cause, KeyboardInterrupt | click.Abort) for cause in causes):
        click.echo("eigen: interrupted", err=True)
        return ExitCode.INTERRUPTED
    if invocation.verbose:
        import traceback

        traceback.print_exception(error)
    for cause in causes:
        code = _exit_code(cause)
        if code is not None:
            click.echo(f"eigen: {_one_line(cause)}", err=True)
            return code
    cause = causes[0]
    name = type(cause).__name__
    details = _write_traceback(error, invocation) or "run it again with -v for details"
    click.echo(f"eigen: internal error: {name}: {_one_line(cause)}; {details}", err=True)
    return ExitCode.FAILED


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error itself, or what is in an exception group, as Trio's nurseries raise them."""
    waiting, seen = [error], 0
    while waiting and seen < CAUSES_MAX:
        cause = waiting.pop(0)
        if isinstance(cause, BaseExceptionGroup):
            waiting[:0] = cause.exceptions
        else:
            seen += 1
            yield cause


def _exit_code(error: BaseException) -> ExitCode | None:
    if isinstance(error, UserError):
        return error.exit_code
    for module, name, code in EXIT_CODES:
        # An error of a module that was never imported is not what was raised.
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None and isinstance(error, kind):
            return code
    return None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _write_traceback(error: BaseException, invocation: Invocation) -> str | None:
    """Append a traceback to the home's log file; what to tell the user, or None without a home."""
    import time
    import traceback

    try:
        path = invocation.paths.log_file
        if not path.parent.is_dir():
            return None
        with path.open("a", encoding="utf-8") as log:
            command = " ".join(sys.argv[1:2])
            log.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} eigen {command}\n")
            log.writelines(traceback.format_exception(error))
    except Exception:
        return None
    return f"details are in {path}"


if __name__ == "__main__":
    sys.exit(main())
