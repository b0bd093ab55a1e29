"""What a simulated run leaves on disk, and reading it back.

A run folder holds the scenario as it was read, `run.json` about the run, and two Parquet tables:
`events.parquet` (what a node began, and when) and `metrics.parquet` (what was measured). The format
is described in docs/simulator.md. This module knows nothing of machines or of plots.
"""

import json
import math
import os
import platform
import subprocess
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import pyarrow as pa
import pyarrow.parquet as pq

from eigen.node.exit_codes import ExitCode, UserError

FORMAT: Final = 1
"""Grows when an older reader would misread the folder."""

SCENARIO_FILE: Final = "scenario.toml"
ABOUT_FILE: Final = "run.json"
EVENTS_FILE: Final = "events.parquet"
METRICS_FILE: Final = "metrics.parquet"

BATCH_ROWS: Final = 65_536
"""Rows that wait in memory before they become a row group: at most about 10 MB a table."""

ABOUT_NEEDED: Final = ("name", "question", "seed", "tier")
"""What whoever records a run has to say about it."""

_WORD = pa.dictionary(pa.int32(), pa.string())
EVENTS_SCHEMA: Final = pa.schema(
    [
        ("time_s", pa.float64()),
        ("node", _WORD),
        ("kind", _WORD),
        ("round", pa.int32()),
        ("attempt", pa.int32()),
        ("detail", pa.string()),
    ]
)
METRICS_SCHEMA: Final = pa.schema(
    [
        ("time_s", pa.float64()),
        ("name", _WORD),
        ("value", pa.float64()),
        ("node", _WORD),
        ("round", pa.int32()),
    ]
)

VERSIONS_OF: Final = ("eigen", "numpy", "torch", "pyarrow", "plotly")


class RunFolderError(UserError):
    """A folder cannot be recorded into, or is none of a run; the message names it and says why."""

    def __init__(self, folder: Path, message: str) -> None:
        super().__init__(f"{folder}: {message}", ExitCode.CONFIGURATION)


class _Table:
    """Rows of one Parquet file: a list a column, flushed as a row group when a batch is full.

    The file has another name until it is closed, because without its footer nobody can read it.
    """

    def __init__(self, path: Path, schema: Any) -> None:
        self.path = path
        self.schema = schema
        self.columns: tuple[list[Any], ...] = tuple([] for _ in schema)
        self.rows_written = 0
        self._unfinished = path.with_name(f".{path.name}.new")
        self._writer = pq.ParquetWriter(self._unfinished, schema, compression="zstd")

    def flush(self) -> None:
        """Write what waits. An interrupted append leaves columns of unequal length: cut them."""
        columns, self.columns = self.columns, tuple([] for _ in self.schema)
        rows = min(map(len, columns))
        if rows == 0:
            return
        arrays = [
            pa.array(column[:rows], field.type)
            for column, field in zip(columns, self.schema, strict=True)
        ]
        self._writer.write_batch(pa.record_batch(arrays, schema=self.schema))
        self.rows_written += rows

    def close(self) -> None:
        """Write what waits and the footer, and give the file its name."""
        self.flush()
        self._writer.close()
        self._unfinished.replace(self.path)


class Recorder:
    """Records one run into a new folder; use it as a context manager.

    Leaving the block before `finish` (an error, Ctrl-C) closes the tables and marks the run as
    partial: it can be read and reported like any other. A killed process leaves `run.json` and the
    scenario alone. Not safe to share between threads.
    """

    def __init__(self, folder: Path, scenario_text: str, about: Mapping[str, object]) -> None:
        """Create `folder` (it may exist if it is empty) and describe the run in it.

        Raises `RunFolderError` where the folder cannot be used, `ValueError` where `about` lacks
        one of `ABOUT_NEEDED`.
        """
        if missing := [key for key in ABOUT_NEEDED if key not in about]:
            raise ValueError(f"a run needs {', '.join(missing)}")
        self.folder = folder
        self._about: dict[str, object] = {
            "format": FORMAT,
            "commit": source_commit(),
            "versions": versions(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "assertions": [],
            **about,
            "partial": True,
            "ended": "still running, or killed",
        }
        self._began = time.monotonic()
        self._closed = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise RunFolderError(folder, "the folder is not empty; name another for this run")
            (folder / SCENARIO_FILE).write_text(scenario_text, encoding="utf-8")
            self._write_about()
            self._events = _Table(folder / EVENTS_FILE, EVENTS_SCHEMA)
            self._metrics = _Table(folder / METRICS_FILE, METRICS_SCHEMA)
        except OSError as error:
            raise RunFolderError(folder, f"cannot record there: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._closed:
            return
        if kind is None:
            ended = "left before it was finished"
        elif issubclass(kind, KeyboardInterrupt):
            ended = "stopped with Ctrl-C"
        else:
            ended = f"{kind.__name__}: {error}"
        self._close(partial=True, ended=ended)

    def event(
        self, time_s: float, node: str, kind: str, round_: int, attempt: int, detail: str = ""
    ) -> None:
        """One row of `events.parquet`: at the virtual time `time_s` the node began `kind`."""
        assert not self._closed, "the run is already closed"
        times, nodes, kinds, rounds, attempts, details = self._events.columns
        times.append(time_s)
        nodes.append(node)
        kinds.append(kind)
        rounds.append(round_)
        attempts.append(attempt)
        details.append(detail)
        if len(details) >= BATCH_ROWS:
            self._events.flush()

    def metric(
        self, time_s: float, name: str, value: float, node: str = "", round_: int = 0
    ) -> None:
        """One row of `metrics.parquet`; `node` is empty for what is true of the whole network."""
        assert not self._closed, "the run is already closed"
        times, names, values, nodes, rounds = self._metrics.columns
        times.append(time_s)
        names.append(name)
        values.append(value)
        nodes.append(node)
        rounds.append(round_)
        if len(rounds) >= BATCH_ROWS:
            self._metrics.flush()

    def describe(self, **about: object) -> None:
        """Add to or replace what `run.json` will say, whether or not the run gets finished."""
        self._about.update(about)

    def finish(self, **about: object) -> None:
        """Close the run as complete, with the last of what there is to say about it."""
        self.describe(**about)
        self._close(partial=False, ended="finished")

    def _close(self, *, partial: bool, ended: str) -> None:
        self._closed = True
        self._events.close()
        self._metrics.close()
        self._about.setdefault("wall_s", time.monotonic() - self._began)
        self._about |= {
            "partial": partial,
            "ended": ended,
            "rows": {"events": self._events.rows_written, "metrics": self._metrics.rows_written},
        }
        self._write_about()

    def _write_about(self) -> None:
        text = json.dumps(_plain(self._about), indent=1, allow_nan=False)
        write_atomically(self.folder / ABOUT_FILE, text + "\n")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A run that was recorded. `about` is `run.json`, `scenario` the parsed scenario."""

    path: Path
    about: Mapping[str, Any]
    scenario: Mapping[str, Any]
    scenario_text: str

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read a folder's description; its tables are read when they are asked for.

        A partial run opens like a complete one (`about["partial"]`). Raises `RunFolderError` where
        the folder holds no run, one of a newer format, or one that was killed or still goes on.
        """
        about = _read_about(path)
        try:
            text = (path / SCENARIO_FILE).read_text(encoding="utf-8")
            scenario = tomllib.loads(text)
        except (OSError, ValueError) as error:
            raise RunFolderError(path, f"{SCENARIO_FILE} cannot be read: {error}") from error
        for name, schema in ((EVENTS_FILE, EVENTS_SCHEMA), (METRICS_FILE, METRICS_SCHEMA)):
            _check_table(path, name, schema)
        return cls(path, about, scenario, text)

    @property
    def partial(self) -> bool:
        """Whether the run ended before its scenario did."""
        return bool(self.about["partial"])

    def events(self, kinds: Sequence[str] | None = None) -> Any:
        """A `pyarrow.Table` of `EVENTS_SCHEMA`, of these kinds or of all, as they were recorded."""
        return self._read(EVENTS_FILE, "kind", kinds)

    def metrics(self, names: Sequence[str] | None = None) -> Any:
        """A `pyarrow.Table` of `METRICS_SCHEMA`, of these names or of all."""
        return self._read(METRICS_FILE, "name", names)

    def _read(self, name: str, column: str, wanted: Sequence[str] | None) -> Any:
        filters = None if wanted is None else [(column, "in", list(wanted))]
        return pq.read_table(self.path / name, filters=filters).unify_dictionaries()


def _read_about(path: Path) -> dict[str, Any]:
    """`run.json`, checked for what every reader relies on."""
    try:
        about = json.loads((path / ABOUT_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RunFolderError(path, f"no run folder: it has no {ABOUT_FILE}") from error
    except (OSError, ValueError) as error:
        raise RunFolderError(path, f"{ABOUT_FILE} cannot be read: {error}") from error
    if not isinstance(about, dict) or not isinstance(about.get("format"), int):
        raise RunFolderError(path, f"{ABOUT_FILE} is not one of a simulated run")
    if about["format"] > FORMAT:
        raise RunFolderError(
            path, f"recorded in format {about['format']}, this version reads up to {FORMAT}: update"
        )
    if missing := [key for key in (*ABOUT_NEEDED, "assertions", "partial") if key not in about]:
        raise RunFolderError(path, f"{ABOUT_FILE} lacks {', '.join(missing)}")
    return about


def _check_table(path: Path, name: str, schema: Any) -> None:
    try:
        found = pq.read_schema(path / name)
    except FileNotFoundError as error:
        message = f"{name} is missing: the run still goes on, or was killed before it could close"
        raise RunFolderError(path, message) from error
    except (OSError, pa.ArrowException) as error:
        raise RunFolderError(path, f"{name} cannot be read: {error}") from error
    if not found.equals(schema):
        raise RunFolderError(path, f"{name} has other columns than format {FORMAT} has")


def write_atomically(path: Path, text: str) -> None:
    """Replace a text file: after a crash it holds the old text or the new."""
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def source_commit() -> str | None:
    """The git commit of this code, with `+` where the tree was changed; None outside a checkout."""
    git = ["git", "-C", str(Path(__file__).resolve().parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, check=True)
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.decode().strip() + ("+" if changed.stdout else "")


def versions() -> dict[str, str]:
    """Versions of Python and of what a result depends on; what is not installed is left out."""
    found = {"python": platform.python_version()}
    for name in VERSIONS_OF:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _plain(value: object) -> object:
    """A value that JSON has: what is not finite becomes null."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
