"""One module a command, each with a click command named `command`; and what all of them share.

Imports nothing heavy: `eigen --help` and a mistyped command must be quick.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

from eigen.node.exit_codes import ExitCode, UserError

if TYPE_CHECKING:
    from eigen.config.loader import Loaded
    from eigen.config.network import NetworkFile
    from eigen.config.paths import Paths
    from eigen.crypto.keystore import Passphrase

__all__ = ["Invocation", "pass_invocation"]


@dataclass(slots=True)
class Invocation:
    """The options before the command, and what follows from them."""

    home: str | None = None
    verbose: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def paths(self) -> "Paths":
        """The files of the home that `--home` or `EIGEN_HOME` names. Raises `HomeError`."""
        from eigen.config.paths import find_paths

        return find_paths(self.home, os.environ)

    def load(self) -> "Loaded":
        """The node's settings with their origins, `--set` first. Raises `ConfigError`."""
        from eigen.config.loader import load

        return load(self.paths, flags=self.settings)

    def network(self, loaded: "Loaded") -> "NetworkFile":
        """The network that this home has joined.

        Raises `UserError` where it has joined none, and `NetworkFileError`.
        """
        from eigen.config.network import load_network

        path = loaded.config.network.file or self.paths.network_file
        if not path.exists():
            raise UserError(
                f"this home has joined no network: there is no {path}; run: eigen join FILE",
                ExitCode.CONFIGURATION,
            )
        return load_network(path)

    def passphrase(self, loaded: "Loaded", *, confirm: bool = False) -> "Passphrase":
        """Where the passphrase of key files comes from; a person is asked on a terminal only.

        `confirm` asks twice, for a passphrase that is chosen now.
        """
        from eigen.crypto.keystore import passphrase_source

        def prompt() -> str:
            return str(
                click.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True)
            )

        file = loaded.config.keys.passphrase_file
        return passphrase_source(file, os.environ, prompt if sys.stdin.isatty() else None)


pass_invocation = click.make_pass_decorator(Invocation)
"""Decorates a command function whose first argument is the `Invocation`."""
