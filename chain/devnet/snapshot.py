"""A devnet's saved state: the last whole one survives a crash in the middle of saving.

Anvil rewrites its state file in place. So it loads from one file and saves to another, `….live`,
which takes the first one's place at the next start, if it is whole.
"""

import json
import os
from pathlib import Path


def live_path(state_path: Path) -> Path:
    """Where a running devnet saves to."""
    return state_path.with_name(state_path.name + ".live")


def newest_state(state_path: Path) -> Path | None:
    """Settle what the last run saved; returns the file to load, None where there is none.

    A half-written file is set aside as `….broken`, and the state before it is used. Blocks: it
    parses the file, which takes a second per 50 MB or so.
    """
    live = live_path(state_path)
    if live.exists():
        if _is_whole(live):
            os.replace(live, state_path)
        else:
            os.replace(live, state_path.with_name(state_path.name + ".broken"))
    return state_path if state_path.exists() else None


def _is_whole(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return isinstance(json.load(file), dict)
    except ValueError:
        return False
