"""How a command ends: its exit code, and the errors that are the user's to mend."""

from enum import IntEnum
from typing import Final


class ExitCode(IntEnum):
    """What a script can tell from a command's end. Numbers never change their meaning."""

    OK = 0
    FAILED = 1
    USAGE = 2
    CONFIGURATION = 3
    KEY_FILE = 4
    HOME_LOCKED = 5
    PORT_IN_USE = 6
    WRONG_NETWORK = 7
    CHAIN_UNREACHABLE = 8
    NOT_RUNNING = 9
    TIMED_OUT = 10
    INTERRUPTED = 130


MEANINGS: Final = {
    ExitCode.OK: "done",
    ExitCode.FAILED: "refused by the chain, or an error of the program itself: see the log",
    ExitCode.USAGE: "the command line is wrong",
    ExitCode.CONFIGURATION: "a setting, the home folder or the network file is wrong",
    ExitCode.KEY_FILE: "a key file is missing, unsafe or encrypted with another passphrase",
    ExitCode.HOME_LOCKED: "another daemon runs in this home",
    ExitCode.PORT_IN_USE: "a listening address is taken",
    ExitCode.WRONG_NETWORK: "the network or the chain is not the one that the home belongs to",
    ExitCode.CHAIN_UNREACHABLE: "no endpoint of the chain answers",
    ExitCode.NOT_RUNNING: "no daemon runs in this home",
    ExitCode.TIMED_OUT: "the time given was not enough",
    ExitCode.INTERRUPTED: "stopped with Ctrl-C",
}


class UserError(Exception):
    """Something that the user can mend. The message is one sentence that says how."""

    def __init__(self, message: str, exit_code: ExitCode) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def table() -> str:
    """The codes as Markdown."""
    rows = [f"| {code.value} | {meaning} |" for code, meaning in MEANINGS.items()]
    return "\n".join(["| code | meaning |", "|---|---|", *rows]) + "\n"
