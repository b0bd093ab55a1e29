"""One HTML file of figures, tables and text that opens anywhere and loads nothing.

Plotly's script is part of the file, and a content security policy forbids the page every request.
Knows nothing of runs.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

from plotly.io import to_html
from plotly.offline import get_plotlyjs

from eigen.simulations.record import write_atomically

POLICY: Final = "; ".join(
    [
        "default-src 'none'",
        "script-src 'unsafe-inline'",
        "style-src 'unsafe-inline'",
        "img-src data: blob:",  # what plotly's camera button makes
        "font-src data:",
    ]
)

STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1c1c1c; background: #fff;
       max-width: 72rem; margin: 2rem auto 6rem; padding: 0 1.25rem; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.5rem 0 .25rem; }
p { margin: .25rem 0 .75rem; color: #444; max-width: 60rem; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid #e4e4e4;
         vertical-align: top; overflow-wrap: anywhere; }
th { font-weight: 600; } .wide { overflow-x: auto; }
.columns { display: flex; flex-wrap: wrap; gap: 0 3rem; }
.answer { font-size: 1.15rem; font-weight: 600; padding: .6rem .9rem; border-left: 5px solid;
          margin: 1rem 0; }
.yes { border-color: #009e73; background: #eef8f4; color: #0b5a43; }
.no { border-color: #d55e00; background: #fdf3ec; color: #8a3c00; }
.open { border-color: #777; background: #f4f4f4; color: #333; }
pre { font-size: .8rem; background: #f6f6f6; padding: 1rem; overflow-x: auto; }
summary { cursor: pointer; margin-top: 2rem; font-weight: 600; }
"""

PLOT_CONFIG: Final = {
    "displaylogo": False,
    "modeBarButtonsToRemove": ["select2d", "lasso2d"],
    "plotlyServerURL": "",
    "responsive": True,
    "showSendToCloud": False,  # plotly 7 shows a button that uploads the data unless told not to
}


def answer(text: str, held: bool | None) -> str:
    """The one line that a reader looks for; None where the question stays open."""
    kind = {True: "yes", False: "no", None: "open"}[held]
    return f'<div class="answer {kind}">{escape(text)}</div>'


def section(heading: str, text: str, body: str = "") -> str:
    """A heading, a paragraph of plain text where there is any, and HTML below it."""
    paragraph = f"<p>{escape(text)}</p>" if text else ""
    return f"<h2>{escape(heading)}</h2>{paragraph}{body}"


def plot(figure: Any) -> str:
    """A plotly figure as HTML that needs the page's script."""
    html: str = to_html(figure, PLOT_CONFIG, include_plotlyjs=False, full_html=False)
    return html


def drawn(heading: str, text: str, figure: Any) -> str:
    """A section of one figure, which says so where the figure is None."""
    if figure is None:
        return section(heading, "Nothing was recorded of this.")
    return section(heading, text, plot(figure))


def table(rows: Iterable[Sequence[object]], head: Sequence[object] = ()) -> str:
    """Rows of plain values; the first cell of each row names it."""
    top = "".join(f"<th>{escape(shown(cell))}</th>" for cell in head)
    lines = [f"<tr>{top}</tr>"] if head else []
    for first, *rest in rows:
        cells = "".join(f"<td>{escape(shown(cell))}</td>" for cell in rest)
        lines.append(f"<tr><th>{escape(shown(first))}</th>{cells}</tr>")
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


def columns(rows: Sequence[Sequence[object]], number: int = 3) -> str:
    """A long table of short rows, in so many tables side by side."""
    length = -(-len(rows) // number)
    tables = [table(rows[start : start + length]) for start in range(0, len(rows), length or 1)]
    return f'<div class="columns">{"".join(tables)}</div>'


def details(summary: str, text: str) -> str:
    """Text that is shown on a click."""
    return f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>"


def shown(value: object) -> str:
    """A value as people read it: four digits of a fraction, thousands apart, a dash for none."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}" if abs(value) >= 10_000 else str(value)
        case float() if value.is_integer() and 1e4 <= abs(value) < 1e15:
            return f"{value:,.0f}"
        case float():
            return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"
        case Mapping():
            return ", ".join(f"{key} {shown(item)}" for key, item in value.items())
        case list() | tuple():
            return ", ".join(map(shown, value))
    return str(value)


def write_page(path: Path, title: str, parts: Iterable[str]) -> Path:
    """Write the page; returns `path`. An older one is replaced as a whole."""
    head = (
        '<meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style><script>{get_plotlyjs()}</script>"
    )
    body = "\n".join([f"<h1>{escape(title)}</h1>", *parts])
    write_atomically(
        path,
        f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n',
    )
    return path
