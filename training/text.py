"""Text to train on that every machine with Python has: its own standard library.

Text is cut into sequences of ASCII codes; what is not ASCII becomes `?`. Modules differ between
versions of Python, and with them every figure, so the text's hash is checked. Knows no torch.
"""

import hashlib
import platform
import sysconfig
from pathlib import Path

import numpy as np

from eigen.training.datasets import Samples, sequences

# fmt: off
MODULES = (
    "_collections_abc", "_osx_support", "_pydecimal", "_pyio", "_strptime", "bz2", "cmd", "code",
    "compileall", "copy", "csv", "difflib", "filecmp", "fractions", "ftplib", "functools", "glob",
    "graphlib", "gzip", "hashlib", "heapq", "imaplib", "lzma", "mailbox", "mimetypes",
    "modulefinder", "numbers", "operator", "optparse", "os", "pickle", "pickletools", "poplib",
    "posixpath", "pprint", "pstats", "pyclbr", "queue", "random", "runpy", "shelve", "shlex",
    "smtplib", "socketserver", "statistics", "string", "symtable", "tabnanny", "textwrap",
    "tokenize", "tracemalloc", "types", "uuid", "warnings", "weakref", "webbrowser", "zipimport",
)
# fmt: on
"""Modules that are there in Python 3.11 to 3.13 and change little: 1.8 MB."""
KNOWN = {
    "d3bd30c364984073cc23bbc153b37c9a3574276234359c54ca3af5906b17d6e8": "3.11.2, 3.11.7",
    "905538979dd5ad1994a487d224126367bc75acb3af88e9493dd9b96792f667a9": "3.12.1",
    "1b07ba4a4b4499c14dd2dded7abbc7ba43fe899eae1a0366e3be164d4cc0a56b": "3.13.0",
}
"""SHA-256 of the modules' text, and versions of Python that have it."""
VOCABULARY = 128
"""ASCII."""
_HELD_OUT = 20
"""Of every module, the last 20th is not trained on."""


class UnknownText(Exception):
    """This Python's library is not one that figures were measured on."""


def standard_library(tokens: int, *, unpinned: bool = False) -> tuple[Samples, Samples]:
    """Python's own modules as sequences of `tokens` ASCII codes and the next: training, held out.

    Sequences follow each other without overlap, so that each character is foretold once. Raises
    `UnknownText` where the text is not that of a version in `KNOWN`, unless it may be `unpinned`;
    OSError where a module is missing.
    """
    texts = [_ascii(module) for module in MODULES]
    digest = hashlib.sha256(b"\0".join(texts)).hexdigest()
    if digest not in KNOWN and not unpinned:
        raise UnknownText(
            f"the library of Python {platform.python_version()} has SHA-256 {digest[:16]}…, not "
            f"that of Python {', '.join(sorted(KNOWN.values()))}"
        )
    training, held_out = [], []
    for text in texts:
        codes = np.frombuffer(text, np.uint8)
        cut = np.lib.stride_tricks.sliding_window_view(codes, tokens + 1)[::tokens]
        kept = len(cut) - len(cut) // _HELD_OUT
        training.append(cut[:kept])
        held_out.append(cut[kept:])
    return sequences(np.concatenate(training)), sequences(np.concatenate(held_out))


def _ascii(module: str) -> bytes:
    path = Path(sysconfig.get_path("stdlib")) / f"{module}.py"
    return path.read_text("utf-8").encode("ascii", "replace")
