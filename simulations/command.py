"""`eigen sim`: see `--help`."""

import json
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from eigen.config.toml_text import document
from eigen.node.exit_codes import ExitCode, UserError

if TYPE_CHECKING:
    from eigen.simulations.outcome import Answer
    from eigen.simulations.record import RunFolder
    from eigen.simulations.scenario import Scenario

LIBRARY: Final = Path(__file__).parent / "library"


@click.group()
def command() -> None:
    """Simulate networks: thousands of nodes, one seed, one answer."""


@command.command("list")
def list_() -> None:
    """List the scenarios that come with Eigen, and their questions."""
    from eigen.simulations.scenario import load_scenario

    for path in sorted(LIBRARY.glob("*.toml")):
        scenario, _ = load_scenario(path)
        click.echo(f"{scenario.name:<20} {scenario.question}")


@command.command()
@click.argument("name")
@click.option("--like", default="calm", show_default=True, help="A scenario to begin from.")
def new(name: str, like: str) -> None:
    """Write NAME.toml, a copy of a scenario that comes with Eigen."""
    path = Path(f"{name}.toml")
    if path.exists():
        raise UserError(f"{path} exists already", ExitCode.CONFIGURATION)
    loaded, text = _load(like)
    path.write_text(text.replace(f'name = "{loaded.name}"', f'name = "{name}"', 1))
    click.echo(f"wrote {path}; run: eigen sim run {path}")


@command.command()
@click.argument("scenario")
@click.option("--into", type=click.Path(path_type=Path), help="Folder of the run; it must be new.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Another seed than the scenario's.")
@click.option(
    "--tier",
    type=click.IntRange(1, 3),
    default=1,
    show_default=True,
    help="1: protocol machines; 2: the daemon's services; both on virtual time. 3: processes.",
)
@click.option("--no-report", is_flag=True, help="Write no report.html.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def run(
    scenario: str,
    into: Path | None,
    seed: int | None,
    tier: int,
    no_report: bool,
    as_json: bool,
) -> None:
    """Run SCENARIO, a file or the name of one that `eigen sim list` shows.

    The exit status is 0 if all that the scenario expects held, else 1.
    """
    loaded, text = _load(scenario)
    if seed is not None:
        text = _with_seed(text, seed)
        loaded, text = _parse(text, Path(scenario))
    folder = into or Path("runs") / f"{loaded.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    _check_tier(loaded, tier)
    if tier == 2:
        from eigen.simulations.tiers import hash_alike

        hash_alike()
    answer = play_into(loaded, text, folder, tier, progress=not as_json)
    if not no_report:
        from eigen.simulations.report import write_report

        write_report(folder)
    failed = [what for what, held, _ in answer.held if not held]
    if as_json:
        expected = [{"what": w, "held": h, "figure": f} for w, h, f in answer.held]
        told = {"folder": str(folder), "rounds": answer.rounds, "virtual_s": answer.virtual_s}
        click.echo(json.dumps({**told, "trace": answer.trace, "expected": expected}))
    else:
        click.echo(loaded.question)
        for what, held, figure in answer.held:
            click.echo(f"  {'yes' if held else 'NO '}  {what}: {figure}")
        seconds = "seconds" if tier == 3 else "virtual seconds"
        click.echo(f"{answer.rounds} rounds in {answer.virtual_s:.1f} {seconds}: {folder}")
    if failed:
        sys.exit(ExitCode.FAILED)


def play_into(
    scenario: "Scenario", text: str, folder: Path, tier: int = 1, *, progress: bool = False
) -> "Answer":
    """Run a scenario and record it. Ctrl-C leaves a partial run that can be read."""
    from rich.console import Console
    from rich.progress import Progress

    from eigen.simulations.record import Recorder
    from eigen.simulations.tiers import play

    about = {
        "name": scenario.name,
        "question": scenario.question,
        "seed": scenario.seed,
        "tier": tier,
    }
    with ExitStack() as stack:
        record = stack.enter_context(Recorder(folder, text, about))
        if tier == 2:
            from eigen.node.commands.up import configure_log

            configure_log("warning", "console", folder / "nodes.log")
        playing = play(scenario, tier, record)
        record.describe(adversaries=playing.adversaries)
        told = None
        if progress:
            bar = stack.enter_context(Progress(console=Console(stderr=True), transient=True))
            task = bar.add_task(scenario.name, total=scenario.run.rounds)

            def told(now_s: float, round_: int) -> None:
                bar.update(task, completed=round_, description=f"{scenario.name} {now_s:.0f} s")

        answer = playing.run(told)
        record.finish(
            virtual_s=answer.virtual_s,
            events=answer.events,
            trace_hash=answer.trace,
            assertions=[{"what": w, "held": h, "detail": f} for w, h, f in answer.held],
        )
    return answer


@command.command()
@click.argument("folder", type=click.Path(path_type=Path))
def report(folder: Path) -> None:
    """Write FOLDER/report.html, which needs nothing else to be opened."""
    from eigen.simulations.report import write_report

    click.echo(write_report(folder))


@command.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--to", type=click.Path(path_type=Path), help="The page to write.")
def compare(folders: tuple[Path, ...], to: Path | None) -> None:
    """Lay runs over each other on one page."""
    from eigen.simulations.compare import compare as laid_over

    click.echo(laid_over(folders, to))


@command.command()
@click.argument("scenario")
@click.argument("settings", nargs=-1, required=True)
@click.option("--into", type=click.Path(path_type=Path), required=True, help="Folder of the runs.")
@click.option("--processes", type=click.IntRange(1, 4096), default=os.cpu_count() or 1)
def sweep(scenario: str, settings: tuple[str, ...], into: Path, processes: int) -> None:
    """Run SCENARIO with every combination of SETTINGS, such as seed=1,2,3 run.rounds=10,20."""
    import tomllib

    from eigen.simulations.sweep import sweep as sweep_

    _, text = _load(scenario)
    table = tomllib.loads(text)
    click.echo(sweep_(table, _settings(settings), into, play_table, processes=processes))


def play_table(table: dict[str, Any], folder: Path) -> None:
    """Run a scenario as `tomllib` reads one: what a sweep calls in each of its processes."""
    text = _toml(table)
    scenario, _ = _parse(text, folder / "scenario.toml")
    play_into(scenario, text, folder)


@command.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--at", "at_s", type=float, help="Virtual time; the end if it is left out.")
@click.option("--node", "wanted", help="Name of one node, such as trainers-3.")
@click.option(
    "--next", "following", type=click.IntRange(0, 10_000), default=0, help="Events after."
)
def replay(folder: Path, at_s: float | None, wanted: str | None, following: int) -> None:
    """Play FOLDER's run again up to a time, and show where each node stands then."""
    from eigen.simulations.play import Play
    from eigen.simulations.record import RunFolder

    recorded = RunFolder.open(folder)
    scenario, _ = _load(str(folder / "scenario.toml"))
    if recorded.about.get("tier") == 2:
        _replay_services(recorded, scenario, at_s, wanted, following)
        return
    if recorded.about.get("tier") == 3:
        raise UserError("a run of tier 3 took real time, which does not come back", ExitCode.FAILED)
    playing = Play(scenario)
    playing.run_until(scenario.until_s if at_s is None else at_s)
    network = playing.network
    if at_s is None and not recorded.partial:
        same = network.trace == recorded.about.get("trace_hash")
        click.echo("the same trace as recorded" if same else "NOT the trace that was recorded")
    click.echo(f"at {network.now:.3f} s, after {network.events} events")
    for line in playing.states(wanted):
        click.echo(line)
    for line in playing.next_events(following):
        click.echo(line)


def _replay_services(
    recorded: "RunFolder",
    scenario: "Scenario",
    at_s: float | None,
    wanted: str | None,
    following: int,
) -> None:
    from eigen.simulations.tier2 import ServicesPlay
    from eigen.simulations.tiers import hash_alike

    if following:
        raise UserError("--next steps through runs of tier 1 only", ExitCode.USAGE)
    hash_alike()
    playing = ServicesPlay(scenario)
    answer = playing.run(until_s=at_s)
    if at_s is None and not recorded.partial:
        same = answer.trace == recorded.about.get("trace_hash")
        click.echo("the same trace as recorded" if same else "NOT the trace that was recorded")
    click.echo(f"at {answer.virtual_s:.3f} s, after {answer.events} events")
    for line in playing.states:
        if wanted in (None, line.split()[0]):
            click.echo(line)


# scenario files -----------------------------------------------------------------------------------
def _load(scenario: str) -> tuple["Scenario", str]:
    from eigen.simulations.scenario import ScenarioError, load_scenario

    ours = LIBRARY / f"{scenario}.toml"
    try:
        return load_scenario(ours if ours.exists() and "/" not in scenario else Path(scenario))
    except ScenarioError as error:
        raise UserError(str(error), ExitCode.CONFIGURATION) from error


def _parse(text: str, source: Path) -> tuple["Scenario", str]:
    from eigen.simulations.scenario import ScenarioError, parse_scenario

    try:
        return parse_scenario(text, source), text
    except ScenarioError as error:
        raise UserError(str(error), ExitCode.CONFIGURATION) from error


def _with_seed(text: str, seed: int) -> str:
    lines = [line for line in text.split("\n") if not line.startswith("seed = ")]
    return f"seed = {seed}\n" + "\n".join(lines)


def _settings(given: tuple[str, ...]) -> dict[str, list[Any]]:
    """`key=a,b` as lists of TOML values."""
    import tomllib

    found = {}
    for one in given:
        key, sign, values = one.partition("=")
        try:
            found[key.strip()] = tomllib.loads(f"values = [{values}]")["values"]
        except tomllib.TOMLDecodeError:
            found[key.strip()] = [value.strip() for value in values.split(",")]
        if not sign or not found[key.strip()]:
            raise UserError(f"{one}: write key=value,value", ExitCode.CONFIGURATION)
    return found


def _toml(table: dict[str, Any]) -> str:
    """A scenario's tables as TOML again."""
    plain = {k: v for k, v in table.items() if not isinstance(v, dict | list) or k == "latency_ms"}
    text = document({"": plain})
    for name, value in table.items():
        if isinstance(value, dict):
            text += "\n" + document({name: value})
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for item in value:
                text += "\n" + document({name: item}).replace(f"[{name}]", f"[[{name}]]", 1)
    return text


def _check_tier(scenario: "Scenario", tier: int) -> None:
    """Refuse what the tier cannot play, or this machine cannot hold."""
    from eigen.simulations import tiers
    from eigen.simulations.scenario import ScenarioError

    try:
        tiers.check(scenario, tier)
    except ScenarioError as error:
        raise UserError(str(error), ExitCode.CONFIGURATION) from error
    needed = tiers.memory_bytes(scenario, tier)
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > free:
        raise UserError(
            f"the nodes need about {needed >> 20} MiB, and {free >> 20} MiB are free: "
            "fewer nodes, or another machine",
            ExitCode.FAILED,
        )
