"""`eigen sim report`: what one run showed, as a page that a researcher wants to look at."""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Final

import numpy as np

from eigen.simulations import charts, measures, page
from eigen.simulations.measures import PHASES, Curve, Spans
from eigen.simulations.record import RunFolder

REPORT_FILE: Final = "report.html"

DRAWN: Final = frozenset(
    {
        "loss",
        "accuracy",
        "round_s",
        "bytes_sent",
        "bytes_received",
        "seated",
        "credited",
        "contributed",
        "alive",
        "attempts",
    }
)
"""Metrics that have a section of their own. Any other that an engine records gets a plain one."""

FACTS: Final = (
    "seed",
    "tier",
    "commit",
    "versions",
    "started",
    "trace_hash",
)


def write_report(folder: Path) -> Path:
    """Write `report.html` into a run folder and return its path; it needs no network to open.

    Raises `RunFolderError` where the folder holds no readable run. A partial run is reported and
    says that it is one.
    """
    run = RunFolder.open(folder)
    parts = [
        *headline(run),
        *learning(run),
        *timing(run),
        *traffic(run),
        *population(run),
        *pay(run),
        *caught(run),
        *others(run),
        page.details("Scenario", run.scenario_text),
    ]
    return page.write_page(folder / REPORT_FILE, str(run.about["name"]), parts)


def verdict(run: RunFolder) -> tuple[str, bool | None]:
    """The answer to the run's question in a sentence, and whether its assertions held."""
    assertions = run.about["assertions"]
    failed = [a["what"] for a in assertions if not a["held"]]
    if failed:
        return (
            f"No: {len(failed)} of {len(assertions)} assertions failed: {'; '.join(failed)}",
            False,
        )
    if run.partial:
        return f"Open: the run is partial ({run.about.get('ended', 'no reason given')})", None
    if not assertions:
        return "Open: the scenario asserts nothing", None
    return f"Yes: {_count(len(assertions), 'assertion')} held", True


def headline(run: RunFolder) -> list[str]:
    """Question, answer, assertions, figures."""
    text, held = verdict(run)
    figures = [row for row in measures.headline(run).items() if row[1] is not None]
    facts = [(name, run.about[name]) for name in FACTS if run.about.get(name) is not None]
    assertions = [
        (a["what"], "held" if a["held"] else "failed", a.get("detail", ""))
        for a in run.about["assertions"]
    ]
    partial = f"This run is partial: {run.about.get('ended', '')}." if run.partial else ""
    return [
        f"<p>{escape(str(run.about['question']))}</p>",
        page.answer(text, held),
        f"<p><strong>{escape(partial)}</strong></p>" if partial else "",
        page.table(assertions, ("assertion", "", "measured")) if assertions else "",
        page.section("Figures", "", page.columns(figures)),
        page.section("Run", "", page.table(facts)),
    ]


def learning(run: RunFolder) -> list[str]:
    """Loss and accuracy of the canonical model."""
    parts = []
    for name in ("loss", "accuracy"):
        curve = measures.curve(run, name)
        text = f"Of the canonical model after each round. {_not_finite(curve)}"
        parts.append(page.drawn(name.capitalize(), text, charts.lines({name: curve}, name)))
    return parts


def timing(run: RunFolder) -> list[str]:
    """Round times, attempts, and the phases as timelines."""
    spans = measures.phase_spans(run)
    whole, cut = _first(measures.round_spans(spans), charts.SPANS_MAX)
    present, lane = np.unique(whole.phase, return_inverse=True)
    parts = [
        page.drawn(
            "Rounds",
            "Virtual seconds from one canonical model to the next, and the attempts that it took.",
            charts.rounds_and_attempts(
                measures.curve(run, "round_s"), measures.curve(run, "attempts")
            ),
        ),
        page.drawn(
            "Phases of the rounds",
            "Each bar reaches from the first node that began the phase to the last that left it. "
            f"Drag to zoom, double-click for all.{cut}",
            charts.timeline(whole, [PHASES[i] for i in present], lane),
        ),
    ]
    if 0 < len(spans.nodes) <= charts.NODES_DRAWN_MAX:
        order = sorted(range(len(spans.nodes)), key=lambda i: spans.nodes[i])
        rank = np.argsort(np.array(order))
        single, cut = _first(spans, charts.SPANS_MAX)
        lanes = [spans.nodes[i] for i in order]
        figure = charts.timeline(single, lanes, rank[single.node])
        parts.append(page.drawn("Phases of the nodes", f"What each node was doing.{cut}", figure))
    return parts


def traffic(run: RunFolder) -> list[str]:
    """Bytes a node and round."""
    names = ("bytes_sent", "bytes_received")
    figure = charts.bands(
        {name.removeprefix("bytes_"): measures.by_round(run, name) for name in names},
        "bytes of a node",
    )
    text = "Sent and received by a node in a round: median, 10th to 90th percentile, largest."
    parts = [page.drawn("Bytes", text, figure)]
    each = measures.by_node(run, "bytes_sent", charts.NODES_DRAWN_MAX)
    if each is not None:
        text = "Who carries the load."
        parts.append(page.drawn("Bytes sent by node", text, charts.by_node(each, "bytes")))
    return parts


def population(run: RunFolder) -> list[str]:
    """Nodes that are up and seated, and the faults."""
    curves = {name: measures.curve(run, name) for name in ("alive", "seated")}
    figure = charts.lines(curves, "nodes", step=True)
    faults = measures.faults(run)
    text = "Nodes that are up, and those that took part in the round."
    if figure is not None:
        figure.update_yaxes(rangemode="tozero")
        if faults:
            charts.mark_faults(figure, faults)
            text += f" Crosses: {_count(len(faults), 'fault')}."
    return [page.drawn("Nodes", text, figure)]


def pay(run: RunFolder) -> list[str]:
    """Credited against contributed."""
    share = measures.shares(run)
    figure = charts.share_scatter({"": share})
    text = (
        "Each point is a node. On the line it was paid what its honest work was worth; above it, "
        "more. Crosses are adversaries."
    )
    return [page.drawn("Credited against contributed", text, figure)]


def caught(run: RunFolder) -> list[str]:
    """Penalties by adversary and time."""
    known, penalties = measures.adversaries(run), measures.penalties(run)
    cheats, first = known or {}, penalties.first()
    virtual_s = float(run.about.get("virtual_s") or 0)
    accused = sorted(node for node in first if node not in cheats)
    rows = []
    for behaviour in sorted(set(cheats.values())):
        nodes = [node for node, its in cheats.items() if its == behaviour]
        times = [first[node] for node in nodes if node in first]
        median = float(np.median(times)) if times else None
        rows.append((behaviour, len(nodes), len(times), median))
    head = ("behaviour", "nodes", "penalized", "median first penalty (virtual s)")
    whose = (
        "Penalized (the run does not say who is honest)"
        if known is None
        else "Honest nodes penalized"
    )
    text = f"{_count(len(penalties.whom), 'penalty', 'penalties')} in all. "
    text += f"{whose}: {', '.join(accused[:20]) or 'none'}"
    text += f" and {len(accused) - 20} more." if len(accused) > 20 else "."
    if not first and not cheats:
        who = (
            "Nobody was penalized" if known is None else "No adversaries, and nobody was penalized"
        )
        return [page.section("Who was caught when", f"{who}.")]
    parts = [page.section("Who was caught when", text, page.table(rows, head) if rows else "")]
    for figure in (
        charts.caught_curves(cheats, first, virtual_s),
        charts.penalty_strip(penalties, cheats),
    ):
        if figure is not None:
            parts.append(page.plot(figure))
    return parts


def others(run: RunFolder) -> list[str]:
    """Metrics that have no section of their own: over time, or over nodes by round."""
    parts = []
    for name in measures.metric_names(run):
        if name in DRAWN:
            continue
        figure = charts.lines({name: measures.curve(run, name)}, name) or charts.bands(
            {name: measures.by_round(run, name)}, name
        )
        parts.append(page.drawn(name, "", figure))
    return parts


def _first(spans: Spans, most: int) -> tuple[Spans, str]:
    """The spans of the first rounds, `most` at most, and a sentence about what is missing."""
    if len(spans) <= most:
        return spans, ""
    counts: Mapping[int, int] = dict(zip(*np.unique(spans.round, return_counts=True), strict=True))
    total, last = 0, min(counts)
    for round_ in sorted(counts):
        total += counts[round_]
        if total > most:
            break
        last = round_
    kept = np.flatnonzero(spans.round <= last)[:most]
    mask = np.zeros(len(spans), dtype=bool)
    mask[kept] = True
    return spans.where(mask), f" Only rounds up to {last} are drawn."


def _not_finite(curve: Curve) -> str:
    bad = np.flatnonzero(~np.isfinite(curve.value))
    if not bad.size:
        return ""
    return f"From round {curve.round[bad[0]]} on, {_count(bad.size, 'value')} are not finite."


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
