"""`eigen sim sweep`: one scenario with many settings, on processes; one Parquet with a row a run.

Knows nothing of engines: `run` does the work, this module chooses settings and gathers figures.
"""

import contextlib
import itertools
import json
import os
import re
import signal
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from copy import deepcopy
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from eigen.node.exit_codes import ExitCode, UserError
from eigen.simulations import measures
from eigen.simulations.record import (
    ABOUT_FILE,
    EVENTS_FILE,
    METRICS_FILE,
    SCENARIO_FILE,
    RunFolder,
    RunFolderError,
    write_atomically,
)
from eigen.simulations.report import REPORT_FILE

TABLE_FILE: Final = "runs.parquet"
PLAN_FILE: Final = "sweep.json"

RUNS_MAX: Final = 100_000
"""Runs of one sweep: a product of a few lists grows beyond any patience quickly."""

FOLDER_NAME_MAX: Final = 120
"""Characters of a run's folder name; file systems take 255 bytes."""

SPEED_PERIOD_S: Final = 7 * 24 * 3600.0
"""The time left is estimated from all runs that ended: single ones may take hours."""

Scenario = dict[str, Any]
Run = Callable[[Scenario, Path], None]
"""Runs a scenario (as `tomllib` reads one) and records it into a folder. Must be importable by name
from another process: a function of a module, no lambda."""


class SweepError(UserError):
    """The sweep cannot be made; the message names the parameter and says why."""

    def __init__(self, message: str) -> None:
        super().__init__(message, ExitCode.USAGE)


@dataclass(frozen=True, slots=True)
class Point:
    """One run of a sweep: its settings by dotted key, and where it is recorded."""

    settings: Mapping[str, Any]
    folder: Path


def sweep(
    scenario: Mapping[str, Any],
    parameters: Mapping[str, Sequence[Any]],
    into: Path,
    run: Run,
    *,
    processes: int | None = None,
    console: Console | None = None,
) -> Path:
    """Run every combination of `parameters` (dotted key to values) and return the table's path.

    Each run has a folder below `into`, named after its settings. Runs that are complete there are
    not run again, so a sweep that was stopped goes on where it was. A run that fails keeps its
    row, with `error`; the others go on. Ctrl-C stops all runs and writes the table of those that
    were complete. `processes` defaults to one a core; `console` shows progress and time left.

    Raises `SweepError` where the parameters make no sense, or `into` holds another sweep.
    """
    points = points_of(scenario, parameters, into)
    _claim(into, {"scenario": scenario, "parameters": {k: list(v) for k, v in parameters.items()}})
    left = [point for point in points if not _complete(point.folder)]
    errors: dict[Path, str] = {}
    try:
        with (
            _progress(console or Console(stderr=True)) as progress,
            contextlib.closing(
                _run_all(scenario, left, run, processes or os.cpu_count() or 1)
            ) as ended,
        ):
            task = progress.add_task("runs", total=len(points), completed=len(points) - len(left))
            for point, error in ended:
                if error is not None:
                    errors[point.folder] = error
                progress.advance(task)
    finally:
        write_table(points, errors, into / TABLE_FILE)
    return into / TABLE_FILE


def points_of(
    scenario: Mapping[str, Any], parameters: Mapping[str, Sequence[Any]], into: Path
) -> list[Point]:
    """The product of the parameters, the last one changing fastest."""
    if not parameters:
        raise SweepError("a sweep needs at least one parameter")
    number = 1
    for key, values in parameters.items():
        if not values:
            raise SweepError(f"{key}: no values to sweep over")
        if len({repr(value) for value in values}) < len(values):
            raise SweepError(f"{key}: a value is named twice")
        changed(scenario, {key: values[0]})
        number *= len(values)
    if number > RUNS_MAX:
        raise SweepError(f"{number:,} combinations; a sweep makes at most {RUNS_MAX:,} runs")
    found = []
    for index, values in enumerate(itertools.product(*parameters.values())):
        settings = dict(zip(parameters, values, strict=True))
        found.append(Point(settings, into / _folder_name(index, settings)))
    return found


def changed(scenario: Mapping[str, Any], settings: Mapping[str, Any]) -> Scenario:
    """The scenario with these settings (by dotted key), the given one left as it is."""
    copy = deepcopy(dict(scenario))
    for key, value in settings.items():
        *tables, last = key.split(".")
        table = copy
        for depth, name in enumerate(tables, 1):
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                raise SweepError(f"{key}: {'.'.join(tables[:depth])} is a value, not a table")
        table[last] = value
    return copy


def write_table(points: Sequence[Point], errors: Mapping[Path, str], path: Path) -> None:
    """One row a run: its settings, the figures of its report, its folder, and its error."""
    rows = []
    for point in points:
        row: dict[str, Any] = {**point.settings, "folder": point.folder.name}
        try:
            for name, value in measures.headline(RunFolder.open(point.folder)).items():
                row[f"{name} (measured)" if name in point.settings else name] = value
            row["error"] = errors.get(point.folder)
        except RunFolderError as error:
            row["error"] = errors.get(point.folder, str(error))
        rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row)
    table = pa.table({name: _column([row.get(name) for row in rows]) for name in names})
    temporary = path.with_name(f".{path.name}.new")
    pq.write_table(table, temporary, compression="zstd")
    temporary.replace(path)


def _run_all(
    scenario: Mapping[str, Any], points: Sequence[Point], run: Run, processes: int
) -> Generator[tuple[Point, str | None], None, None]:
    """Each point once its run has ended, with what went wrong.

    No more runs are handed out than there are processes, so that after an interrupt none begins. A
    process that is killed (for memory, say) takes the runs beside it along; the rest go on.
    """
    left, waiting = iter(points), dict[Future[str | None], Point]()
    pool = _pool(processes)
    try:
        while True:
            for point in itertools.islice(left, processes - len(waiting)):
                _clear(point.folder)
                given = changed(scenario, point.settings)
                waiting[pool.submit(_interruptible, run, given, point.folder)] = point
            if not waiting:
                return
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            broken = any(isinstance(future.exception(), BrokenProcessPool) for future in done)
            if broken:
                done, _ = wait(waiting)
                pool.shutdown()
                pool = _pool(processes)
            for future in done:
                error = future.exception()
                yield waiting.pop(future), _said(error) if error else future.result()
    finally:
        pool.shutdown()


def _pool(processes: int) -> ProcessPoolExecutor:
    """Fresh processes that share nothing; they leave Ctrl-C alone unless they run something."""
    ignore = (signal.SIGINT, signal.SIG_IGN)
    return ProcessPoolExecutor(processes, get_context("spawn"), signal.signal, ignore)


def _interruptible(run: Run, scenario: Scenario, folder: Path) -> str | None:
    """In a process of the pool: run, and say what went wrong. Ctrl-C ends the run as anywhere.

    The error goes back as text: not every exception survives the way between processes.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        run(scenario, folder)
    except Exception as error:
        return _said(error)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return None


def _said(error: BaseException) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def _claim(into: Path, plan: Mapping[str, Any]) -> None:
    """Remember what is swept here. Raises `SweepError` where it was something else."""
    path = into / PLAN_FILE
    text = json.dumps(plan, indent=1, sort_keys=True, default=str) + "\n"
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise SweepError(f"{into}: holds another sweep ({PLAN_FILE} differs); name another folder")
    into.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text)


def _complete(folder: Path) -> bool:
    try:
        return not RunFolder.open(folder).partial
    except RunFolderError:
        return False


def _clear(folder: Path) -> None:
    """Take away what an incomplete run left; other files stay, and the recorder refuses them."""
    for name in (SCENARIO_FILE, ABOUT_FILE, EVENTS_FILE, METRICS_FILE, REPORT_FILE):
        (folder / name).unlink(missing_ok=True)
        (folder / f".{name}.new").unlink(missing_ok=True)


def _folder_name(index: int, settings: Mapping[str, Any]) -> str:
    words = [f"{key.rpartition('.')[2]}={value}" for key, value in settings.items()]
    return re.sub(r"[^\w.=+-]+", "_", f"{index:05}-{'-'.join(words)}")[:FOLDER_NAME_MAX]


def _column(values: Sequence[Any]) -> Any:
    """An Arrow array; values of several types become JSON."""
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if value is None else json.dumps(value) for value in values])


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        speed_estimate_period=SPEED_PERIOD_S,
    )
