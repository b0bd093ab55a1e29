"""Where everything of one node lies on disk: one home folder, which `--home` moves whole."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from eigen.config.errors import HomeError

HOME_VARIABLE: Final = "EIGEN_HOME"
HOME_DEFAULT: Final = "~/.eigen"

SOCKET_PATH_BYTES_MAX: Final = 103
"""`sun_path` holds 104 bytes on macOS (108 on Linux), the last of them zero."""


@dataclass(frozen=True, slots=True)
class Paths:
    """The files of the node whose home is `home`. Only names: nothing is created or opened."""

    home: Path

    @property
    def config_file(self) -> Path:
        """What a person set (TOML)."""
        return self.home / "config.toml"

    @property
    def network_file(self) -> Path:
        """The network that the node joined, unless the setting `network.file` names another."""
        return self.home / "network.toml"

    @property
    def key_file(self) -> Path:
        """The node's identity. Its folder is open to its owner alone."""
        return self.home / "keys" / "node.key"

    @property
    def sealing_key_file(self) -> Path:
        """The key to which shards' data keys are wrapped."""
        return self.home / "keys" / "sealing.key"

    @property
    def database(self) -> Path:
        """The record store (SQLite)."""
        return self.home / "node.sqlite3"

    @property
    def blobs(self) -> Path:
        """The folder of content-addressed blocks."""
        return self.home / "blobs"

    @property
    def states(self) -> Path:
        """The folder of what trainers go on from: optimizer states, and their own last updates."""
        return self.home / "states"

    @property
    def jobs(self) -> Path:
        """The folder of this node's own private jobs: encoded rows, sealed keys, results."""
        return self.home / "jobs"

    @property
    def calibration_file(self) -> Path:
        """How far honest replays may be off on this machine (TOML)."""
        return self.home / "calibration.toml"

    @property
    def outbox(self) -> Path:
        """Transactions that are not final yet (SQLite)."""
        return self.home / "outbox.sqlite3"

    @property
    def index(self) -> Path:
        """What the DAO's contracts told so far (SQLite); read anew where it is deleted."""
        return self.home / "index.sqlite3"

    @property
    def peerstore(self) -> Path:
        """Addresses of peers seen before."""
        return self.home / "peerstore"

    @property
    def control_socket(self) -> Path:
        """Where the daemon listens for the command line.

        Raises `HomeError` where the home's path is too long for a Unix socket in it.
        """
        path = self.home / "control.sock"
        length = len(bytes(path))
        if length > SOCKET_PATH_BYTES_MAX:
            raise HomeError(
                f"the home folder's path is {length - SOCKET_PATH_BYTES_MAX} bytes too long for a "
                f"Unix socket ({path}); choose a shorter one with --home or {HOME_VARIABLE}"
            )
        return path

    @property
    def lock_file(self) -> Path:
        """Held by the daemon that runs in this home; names its process id."""
        return self.home / "node.lock"

    @property
    def log_file(self) -> Path:
        """What the daemon logs when it does not log to the terminal."""
        return self.home / "node.log"

    def items(self) -> Mapping[str, Path]:
        """All of them by name, the home first. Raises what `control_socket` raises."""
        names = (
            "home config_file network_file key_file sealing_key_file database blobs states jobs "
            "calibration_file outbox index peerstore control_socket lock_file log_file"
        )
        return {name: getattr(self, name) for name in names.split()}


def find_paths(flag: str | None, environ: Mapping[str, str]) -> Paths:
    """The home that `--home`, else `EIGEN_HOME`, else the default names, as an absolute path.

    Raises `HomeError` where that is no usable path or is something else than a folder.
    """
    if flag is not None:
        text, source = flag, "--home"
    elif HOME_VARIABLE in environ:
        text, source = environ[HOME_VARIABLE], HOME_VARIABLE
    else:
        text, source = HOME_DEFAULT, "the default home"
    if not text.strip() or "\0" in text:
        raise HomeError(f"{source} is empty: give it a folder's path")
    try:
        home = Path(text).expanduser().absolute()
    except RuntimeError as error:
        raise HomeError(f"{source} ({text}): no home folder is known for ~") from error
    if home.exists() and not home.is_dir():
        raise HomeError(f"{home} ({source}) is not a folder: choose another with --home")
    return Paths(home)
