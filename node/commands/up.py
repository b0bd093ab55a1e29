"""`eigen up`: run the node until a signal, and end it cleanly."""

import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import structlog
import trio

from eigen.node.commands import Invocation, pass_invocation
from eigen.node.exit_codes import ExitCode, UserError
from eigen.node.lock import HomeLock

if TYPE_CHECKING:
    from trio_typing import TaskStatus

RECURSION_MAX = 1000
"""Python's own default. py_ecc, which web3 imports, sets 100,000: what peers or endpoints nest
that deep (JSON, say) would overflow the C stack and end the process instead of raising."""
DRAIN_S = 10.0
"""What the first signal leaves for closing down; after it the process ends in any case."""


@click.command()
@pass_invocation
def command(invocation: Invocation) -> None:
    """Run this home's node: train, exchange, vote and settle, as its settings say.

    The first Ctrl-C (or SIGTERM) ends it within ten seconds, the second at once.
    """
    loaded = invocation.load()
    paths = invocation.paths
    configure_log(loaded.config.log.level, loaded.config.log.format)
    if not paths.home.is_dir():
        raise UserError(
            f"there is no home folder {paths.home}; make it with: eigen init",
            ExitCode.CONFIGURATION,
        )
    with HomeLock(paths.lock_file):
        network = invocation.network(loaded)
        from eigen.crypto.keystore import load_identity
        from eigen.crypto.sealing_key import load_sealing_key

        passphrase = invocation.passphrase(loaded)
        identity = load_identity(paths.key_file, passphrase)
        sealing = load_sealing_key(paths.sealing_key_file, passphrase)

        from eigen.node.app import Home, run_node
        from eigen.node.libp2p.errors import ListenError

        sys.setrecursionlimit(RECURSION_MAX)
        home = Home(paths, loaded.config, network, identity, sealing)

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                await nursery.start(_end_on_signal, running := trio.CancelScope())
                with running:
                    await run_node(home)
                nursery.cancel_scope.cancel()

        try:
            trio.run(main)
        except* ListenError as group:
            raise UserError(str(_first(group)), ExitCode.PORT_IN_USE) from group


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _end_on_signal(
    running: trio.CancelScope, *, task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED
) -> None:
    """The first signal cancels the node; what is not closed after `DRAIN_S` is left as it is."""
    log = structlog.get_logger()
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for number in signals:
            log.info("ending; a second signal ends at once", signal=signal.Signals(number).name)
            running.cancel()
            break
        with trio.move_on_after(DRAIN_S):
            async for _ in signals:
                os._exit(ExitCode.INTERRUPTED)
        os._exit(ExitCode.TIMED_OUT)


def configure_log(level: str, style: str, file: Path | None = None) -> None:
    """Structured logs to stderr (or a file): lines for people, or one JSON object a line."""
    target = sys.stderr if file is None else file.open("a")
    colours = target.isatty()
    render: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if style == "json"
        else structlog.dev.ConsoleRenderer(colors=colours, pad_event_to=0)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S.%f" if style != "json" else "iso"),
            structlog.processors.format_exc_info,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(target),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, stream=target, format="%(levelname)s %(message)s")
