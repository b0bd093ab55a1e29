"""Figures of what runs measured. Several runs lie over each other in the colours of `COLOURS`.

Each function returns None where there is nothing to draw, so that a page can say so instead.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from eigen.simulations.measures import (
    HONEST,
    PHASES,
    QUANTILES,
    UNKNOWN,
    ByNode,
    ByRound,
    Curve,
    Floats,
    Ints,
    Penalties,
    Shares,
    Spans,
)

COLOURS: Final = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#6a3d9a",
    "#7f7f7f",
)
"""Okabe and Ito's palette, which colour-blind people can tell apart, without its yellow."""

PHASE_COLOURS: Final = dict(zip(PHASES, COLOURS, strict=True))
POINTS_MAX: Final = 5_000
"""Points that a curve keeps: more than a screen has columns."""
SPANS_MAX: Final = 4_000
"""Bars of a timeline: above it, browsers stutter when they zoom."""
NODES_DRAWN_MAX: Final = 40
"""Nodes that a timeline shows line by line."""
MARKS_MAX: Final = 500
"""Faults and penalties that are marked one by one."""

Figure = Any
Fault = tuple[float, str]


def colour(index: int) -> str:
    """The colour of the run or group with this number."""
    return COLOURS[index % len(COLOURS)]


def lines(
    curves: Mapping[str, Curve], unit: str, *, step: bool = False, log: bool = False
) -> Figure | None:
    """Curves over virtual time; `unit` names the vertical axis."""
    figure = go.Figure()
    for index, (label, curve) in enumerate(curves.items()):
        if not np.isfinite(curve.value).any():
            continue
        kept = thinned(curve.value.size)
        figure.add_scatter(
            x=curve.time_s[kept],
            y=curve.value[kept],
            customdata=curve.round[kept],
            name=label,
            mode="lines+markers" if curve.value.size <= 60 else "lines",
            line={"color": colour(index), "shape": "hv" if step else "linear"},
            hovertemplate="%{y:.4g} at %{x:.4g} s, round %{customdata}",
        )
    if log:
        figure.update_yaxes(type="log")
    return _finished(figure, "virtual time (s)", unit)


def mark_faults(figure: Figure, faults: Sequence[Fault]) -> None:
    """Dotted lines at the times of faults, with what happened on hovering."""
    drawn = faults[:MARKS_MAX]
    for time_s, _ in drawn[:50]:
        figure.add_vline(time_s, line={"color": "#888", "width": 1, "dash": "dot"})
    figure.add_scatter(
        x=[time_s for time_s, _ in drawn],
        y=[0] * len(drawn),
        text=[what for _, what in drawn],
        name="fault",
        mode="markers",
        marker={"symbol": "x", "size": 9, "color": "#d55e00"},
        hovertemplate="%{text} at %{x:.4g} s",
    )


def bands(measures: Mapping[str, ByRound], unit: str) -> Figure | None:
    """Median, 10th to 90th percentile and largest over the nodes, by round."""
    figure = go.Figure()
    for index, (label, measure) in enumerate(measures.items()):
        if not np.isfinite(measure.quantiles).any():
            continue
        low, middle, high, top = (measure.quantiles[:, i] for i in range(len(QUANTILES)))
        line = {"color": colour(index)}
        figure.add_scatter(
            x=np.concatenate([measure.round, measure.round[::-1]]),
            y=np.concatenate([high, low[::-1]]),
            fill="toself",
            mode="none",
            fillcolor=_pale(colour(index)),
            legendgroup=label,
            showlegend=False,
            hoverinfo="skip",
        )
        figure.add_scatter(
            x=measure.round, y=middle, name=f"{label}, median", legendgroup=label, line=line
        )
        figure.add_scatter(
            x=measure.round,
            y=top,
            name=f"{label}, largest",
            legendgroup=label,
            line={**line, "dash": "dot", "width": 1},
        )
    figure.update_traces(hovertemplate="%{y:.4s}, round %{x}", selector={"mode": None})
    return _finished(figure, "round", unit)


def by_node(measure: ByNode, unit: str) -> Figure | None:
    """A map of nodes and rounds, for runs whose nodes fit on a page."""
    if not np.isfinite(measure.value_nr).any():
        return None
    heat = go.Heatmap(
        x=measure.round,
        y=measure.nodes,
        z=measure.value_nr,
        colorscale="Cividis",
        colorbar={"title": unit},
        hovertemplate="%{y}, round %{x}: %{z:.4s}",
        name="",
    )
    figure = go.Figure(heat)
    return _finished(figure, "round", "", height=160 + 16 * len(measure.nodes))


def timeline(spans: Spans, lanes: Sequence[str], lane: Ints) -> Figure | None:
    """Bars from start to end, `lane[i]` being the row of span i; zoom with the mouse."""
    figure = go.Figure()
    for index, phase in enumerate(PHASES):
        mask = spans.phase == index
        if not mask.any():
            continue
        figure.add_bar(
            orientation="h",
            base=spans.start_s[mask],
            x=(spans.end_s - spans.start_s)[mask],
            y=lane[mask],
            customdata=np.stack(
                [spans.round[mask], spans.attempt[mask], spans.end_s[mask]], axis=-1
            ),
            name=phase,
            marker={"color": PHASE_COLOURS[phase], "line": {"width": 0}},
            hovertemplate=(
                f"{phase}, round %{{customdata[0]}}, attempt %{{customdata[1]}}: "
                "%{x:.4g} s, until %{customdata[2]:.6g} s"
            ),
        )
    figure.update_layout(barmode="overlay", bargap=0.25)
    figure.update_yaxes(
        tickmode="array",
        tickvals=list(range(len(lanes))),
        ticktext=list(lanes),
        autorange="reversed",
        fixedrange=True,
    )
    return _finished(figure, "virtual time (s)", "", height=180 + 20 * max(6, len(lanes)))


def rounds_and_attempts(times: Curve, attempts: Curve) -> Figure | None:
    """How long each round took, and below it in how many attempts."""
    if not np.isfinite(np.concatenate([times.value, attempts.value])).any():
        return None
    figure = make_subplots(2, 1, shared_xaxes=True, row_heights=[0.7, 0.3], vertical_spacing=0.06)
    figure.add_scatter(
        x=times.round,
        y=times.value,
        line={"color": colour(0)},
        hovertemplate="%{y:.4g} s, round %{x}",
        name="",
        row=1,
        col=1,
    )
    figure.add_bar(
        x=attempts.round,
        y=attempts.value,
        marker={"color": "#9a9a9a"},
        hovertemplate="%{y} attempts, round %{x}",
        name="",
        row=2,
        col=1,
    )
    _finished(figure, "round", "")
    figure.update_layout(showlegend=False)
    figure.update_xaxes(title="", row=1, col=1)
    figure.update_yaxes(title="virtual seconds", rangemode="tozero", row=1, col=1)
    figure.update_yaxes(title="attempts", rangemode="tozero", row=2, col=1)
    return figure


def boxes(values: Mapping[str, Floats], unit: str) -> Figure | None:
    """A distribution a run; points beyond the whiskers are single rounds."""
    figure = go.Figure()
    for index, (label, numbers) in enumerate(values.items()):
        finite = numbers[np.isfinite(numbers)]
        if finite.size:
            kept = finite[thinned(finite.size)]
            figure.add_box(y=kept, name=label, marker={"color": colour(index)}, boxmean=True)
    figure.update_layout(showlegend=False)
    return _finished(figure, "", unit)


def counts(values: Mapping[str, Floats], unit: str) -> Figure | None:
    """Of each run the share of its rounds that have each whole value, as bars side by side."""
    figure = go.Figure()
    for index, (label, numbers) in enumerate(values.items()):
        value, count = np.unique(numbers[np.isfinite(numbers)], return_counts=True)
        if value.size:
            figure.add_bar(
                x=value,
                y=count / count.sum(),
                name=label,
                marker={"color": colour(index)},
                hovertemplate="%{x}: %{y:.1%} of the rounds",
            )
    figure.update_xaxes(dtick=1)
    figure.update_yaxes(tickformat=".0%")
    return _finished(figure, unit, "rounds")


def share_scatter(shares: Mapping[str, Shares]) -> Figure | None:
    """Credited against contributed share of each node; on the diagonal pay is fair.

    One run is coloured by behaviour; several are coloured by run, adversaries being crosses.
    """
    if not any(share.contributed.any() for share in shares.values()):
        return None
    figure = go.Figure()
    most, groups = 0.0, 0
    for label, share in shares.items():
        for behaviour in sorted(set(share.behaviour), key=lambda b: (b != HONEST, b)):
            mask = np.array([b == behaviour for b in share.behaviour], dtype=bool)
            rows = np.flatnonzero(mask)
            rows = rows[thinned(rows.size)]
            most = max(most, share.credited[rows].max(), share.contributed[rows].max())
            index = groups if len(shares) == 1 else list(shares).index(label)
            groups += 1
            figure.add_scatter(
                x=share.contributed[rows],
                y=share.credited[rows],
                text=[share.nodes[i] for i in rows],
                name=behaviour if len(shares) == 1 else f"{label}, {behaviour}",
                mode="markers",
                marker={
                    "color": colour(index),
                    "symbol": "circle" if behaviour in (HONEST, UNKNOWN) else "x",
                    "size": 8 if rows.size <= 300 else 5,
                    "opacity": 0.75,
                },
                hovertemplate="%{text}: credited %{y:.2%} for %{x:.2%}",
            )
    figure.add_scatter(
        x=[0, most],
        y=[0, most],
        name="fair",
        mode="lines",
        line={"color": "#999", "dash": "dot", "width": 1},
        hoverinfo="skip",
    )
    figure.update_xaxes(tickformat=".3~p")
    figure.update_yaxes(tickformat=".3~p")
    return _finished(figure, "contributed (mean share of a round)", "credited (mean share)")


def caught_curves(
    adversaries: Mapping[str, str], first: Mapping[str, float], virtual_s: float
) -> Figure | None:
    """Share of each behaviour's nodes that were penalized by a time."""
    figure = go.Figure()
    for index, behaviour in enumerate(sorted(set(adversaries.values()))):
        nodes = [node for node, its in adversaries.items() if its == behaviour]
        times = np.sort(np.array([first[node] for node in nodes if node in first]))
        figure.add_scatter(
            x=np.concatenate([[0.0], times, [max(virtual_s, *times, 0.0)]]),
            y=np.concatenate([[0], np.arange(1, times.size + 1), [times.size]]) / len(nodes),
            name=f"{behaviour} ({times.size} of {len(nodes)})",
            mode="lines",
            line={"color": colour(index + 1), "shape": "hv"},
            hovertemplate="%{y:.0%} by %{x:.4g} s",
        )
    figure.update_yaxes(range=[0, 1.05], tickformat=".0%")
    return _finished(figure, "virtual time (s)", "adversaries penalized")


def penalty_strip(penalties: Penalties, adversaries: Mapping[str, str]) -> Figure | None:
    """A mark for each penalty, in the row of whom it befell; honest nodes come last."""
    order = sorted(set(penalties.whom), key=lambda node: (node not in adversaries, node))
    if not order or len(order) > 2 * NODES_DRAWN_MAX:
        return None
    figure = go.Figure()
    rows = thinned(len(penalties.whom), MARKS_MAX)
    behaviour = [adversaries.get(whom, HONEST) for whom in penalties.whom]
    kinds = [HONEST, *sorted(set(adversaries.values()))]
    for index, kind in enumerate(kinds):
        kept = [i for i in rows if behaviour[i] == kind]
        if kept:
            figure.add_scatter(
                x=penalties.time_s[kept],
                y=[penalties.whom[i] for i in kept],
                text=[f"{penalties.why[i]} (by {penalties.by[i]})" for i in kept],
                name=kind,
                mode="markers",
                marker={"color": colour(index), "symbol": "circle" if index else "x", "size": 8},
                hovertemplate="%{y} at %{x:.4g} s: %{text}",
            )
    figure.update_yaxes(categoryorder="array", categoryarray=order[::-1], type="category")
    return _finished(figure, "virtual time (s)", "", height=160 + 18 * max(6, len(order)))


def thinned(size: int, most: int = POINTS_MAX) -> Ints:
    """Indices of at most `most` of `size` points, evenly apart, both ends included."""
    if size <= most:
        return np.arange(size, dtype=np.int64)
    return np.unique(np.linspace(0, size - 1, most).astype(np.int64))


def _pale(hexadecimal: str) -> str:
    red, green, blue = (int(hexadecimal[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"


def _finished(figure: Figure, x: str, y: str, height: int = 380) -> Figure | None:
    if not figure.data:
        return None
    figure.update_layout(
        template="plotly_white",
        height=height,
        margin={"l": 70, "r": 20, "t": 40, "b": 50},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        hoverlabel={"namelength": -1},
        font={"family": "system-ui, sans-serif", "size": 13},
    )
    figure.update_xaxes(title=x)
    if y:
        figure.update_layout(yaxis_title=y)
    return figure
