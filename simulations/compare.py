"""`eigen sim compare`: several runs of one scenario over each other, on one page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from eigen.node.exit_codes import ExitCode, UserError
from eigen.simulations import charts, measures, page
from eigen.simulations.record import RunFolder
from eigen.simulations.report import verdict

COMPARISON_FILE: Final = "comparison.html"

RUNS_MAX: Final = 24
"""Runs on one page: three times the colours there are. Sweeps of more have a table of their own."""

ABSENT: Final = "not set"


class ComparisonError(UserError):
    """These runs cannot be compared; the message says which, and why."""

    def __init__(self, message: str) -> None:
        super().__init__(message, ExitCode.USAGE)


def compare(folders: Sequence[Path], to: Path | None = None) -> Path:
    """Write one page about several runs and return its path: `to`, or beside the first folder.

    Raises `ComparisonError` for fewer than two or more than `RUNS_MAX` runs, for a folder named
    twice, and for runs of different scenarios (by name); `RunFolderError` for what is no run.
    """
    runs = _opened(folders)
    question = next(iter(runs.values())).about["question"]
    name = next(iter(runs.values())).about["name"]
    parts = [
        page.section("Question", str(question), _answers(runs)),
        page.section("Settings that differ", "", _settings_table(runs)),
        page.section("Figures", "", _figures_table(runs)),
        *_curves(runs),
        *_distributions(runs),
    ]
    path = to or folders[0].resolve().parent / COMPARISON_FILE
    return page.write_page(path, f"{name}: {len(runs)} runs", parts)


def differing(scenarios: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Settings by dotted key whose values are not the same in all scenarios, in their order."""
    flat = [flattened(scenario) for scenario in scenarios.values()]
    keys = dict.fromkeys(key for settings in flat for key in settings)
    found = {key: [settings.get(key, ABSENT) for settings in flat] for key in keys}
    return {key: values for key, values in found.items() if any(v != values[0] for v in values)}


def flattened(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A TOML document as one table with dotted keys; tables in arrays are numbered from 0."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        here = f"{prefix}{key}"
        if isinstance(value, list) and any(isinstance(item, dict) for item in value):
            value = {str(index): item for index, item in enumerate(value)}  # noqa: PLW2901
        if isinstance(value, dict):
            flat |= flattened(value, f"{here}.")
        else:
            flat[here] = value
    return flat


def _opened(folders: Sequence[Path]) -> dict[str, RunFolder]:
    """The runs by label, in the order given."""
    if not 2 <= len(folders) <= RUNS_MAX:
        raise ComparisonError(f"compare takes 2 to {RUNS_MAX} run folders, not {len(folders)}")
    paths = [folder.resolve() for folder in folders]
    if twice := [str(f) for f, p in zip(folders, paths, strict=True) if paths.count(p) > 1]:
        raise ComparisonError(f"{twice[0]} is named twice")
    runs = [RunFolder.open(path) for path in paths]
    first = runs[0]
    for run in runs[1:]:
        if run.about["name"] != first.about["name"]:
            raise ComparisonError(
                f"{run.path} is a run of {run.about['name']!r}, {first.path} one of "
                f"{first.about['name']!r}: compare takes runs of one scenario (one name)"
            )
    names = [path.name for path in paths]
    unique = len(set(names)) == len(names)
    return {path.name if unique else str(path): run for path, run in zip(paths, runs, strict=True)}


def _answers(runs: Mapping[str, RunFolder]) -> str:
    rows = [(label, verdict(run)[0]) for label, run in runs.items()]
    return page.table(rows, ("run", "answer"))


def _settings_table(runs: Mapping[str, RunFolder]) -> str:
    """A row a run; the seed and what recorded it count as settings."""
    settings = differing({label: run.scenario for label, run in runs.items()})
    for key in ("seed", "tier", "commit"):
        values = [run.about.get(key) for run in runs.values()]
        if key not in settings and any(value != values[0] for value in values):
            settings[key] = values
    if not settings:
        return page.table([("all settings are the same",)])
    rows = [
        (label, *(values[index] for values in settings.values()))
        for index, label in enumerate(runs)
    ]
    return page.table(rows, ("run", *settings))


def _figures_table(runs: Mapping[str, RunFolder]) -> str:
    figures = {label: measures.headline(run) for label, run in runs.items()}
    names = list(next(iter(figures.values())))
    rows = [(name, *(row[name] for row in figures.values())) for name in names]
    return page.table([row for row in rows if any(v is not None for v in row[1:])], ("", *runs))


def _curves(runs: Mapping[str, RunFolder]) -> list[str]:
    parts = []
    for name in ("loss", "accuracy"):
        curves = {label: measures.curve(run, name) for label, run in runs.items()}
        text = "Of the canonical model over virtual time."
        parts.append(page.drawn(name.capitalize(), text, charts.lines(curves, name)))
    return parts


def _distributions(runs: Mapping[str, RunFolder]) -> list[str]:
    values = {
        name: {label: measures.curve(run, name).value for label, run in runs.items()}
        for name in ("round_s", "attempts")
    }
    sent = {label: measures.by_round(run, "bytes_sent") for label, run in runs.items()}
    share = {label: measures.shares(run) for label, run in runs.items()}
    return [
        page.drawn(
            "Round time",
            "Over the rounds of each run; the dashed line is the mean.",
            charts.boxes(values["round_s"], "virtual seconds"),
        ),
        page.drawn(
            "Attempts",
            "Share of rounds that took so many attempts.",
            charts.counts(values["attempts"], "attempts of a round"),
        ),
        page.drawn(
            "Bytes sent",
            "By a node in a round: median, 10th to 90th percentile, largest.",
            charts.bands(sent, "bytes of a node"),
        ),
        page.drawn(
            "Credited against contributed",
            "Each point is a node; on the line it was paid what its work was worth. Crosses are "
            "adversaries.",
            charts.share_scatter(share),
        ),
    ]
