"""`eigen stop`: end the daemon of a home and wait until it is gone."""

import time

import click

from eigen.node.commands import Invocation, pass_invocation
from eigen.node.control import call_daemon
from eigen.node.exit_codes import ExitCode, UserError
from eigen.node.lock import running_pid

WAIT_S = 12.0
"""The daemon's own limit for closing down, and a little."""


@click.command()
@pass_invocation
def command(invocation: Invocation) -> None:
    """End the running node; returns when it has ended."""
    paths = invocation.paths
    pid = call_daemon(paths.control_socket, "stop")["pid"]
    until = time.monotonic() + WAIT_S
    while running_pid(paths.lock_file) is not None:
        if time.monotonic() > until:
            raise UserError(f"process {pid} has not ended within {WAIT_S:g} s", ExitCode.TIMED_OUT)
        time.sleep(0.05)
    click.echo(f"ended process {pid}")
