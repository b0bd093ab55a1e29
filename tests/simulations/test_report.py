"""Reports: self-contained, complete, and safe with whatever a run holds."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from runs import SCENARIO, about, record_diverged, record_empty, record_run

from eigen.simulations import charts, page
from eigen.simulations.record import Recorder, RunFolderError
from eigen.simulations.report import write_report


class Loads(HTMLParser):
    """Collects what a browser would fetch, the policy, headings, and text outside scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.policy = ""
        self.headings: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.add(tag)
        self._inside = tag
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"]
        loading = ("src", "href", "data", "action", "poster", "srcset")
        self.fetched += [values[name] for name in loading if name in values]

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "h2":
            self.headings.append(data)
        if self._inside not in ("script", "style"):
            self.text += data


def loads(path: Path) -> Loads:
    parser = Loads()
    parser.feed(path.read_text())
    return parser


def figures(path: Path) -> list[list[dict[str, Any]]]:
    """The traces of each figure, parsed from the page as a browser would."""
    found = re.findall(r'Plotly\.newPlot\(\s*"[^"]+",\s*(\[.*?\]),\s*\{"', path.read_text(), re.S)
    return [json.loads(traces) for traces in found]


SECTIONS = [
    "Figures",
    "Run",
    "Loss",
    "Accuracy",
    "Rounds",
    "Phases of the rounds",
    "Phases of the nodes",
    "Bytes",
    "Bytes sent by node",
    "Nodes",
    "Credited against contributed",
    "Who was caught when",
]


def test_a_report_has_a_section_of_everything(tmp_path: Path) -> None:
    record_run(tmp_path)
    path = write_report(tmp_path)
    assert path == tmp_path / "report.html"
    read = loads(path)
    assert read.headings == SECTIONS
    assert "Does the filter keep liars out?" in read.text
    assert "Yes: 1 assertion held" in read.text
    assert "Honest nodes penalized: none." in read.text
    assert "Nothing was recorded" not in read.text
    assert 'rule = "cosine-filter"' in read.text
    assert len(figures(path)) == len(SECTIONS) - 2 + 1  # two are tables; who was caught has two


def test_a_report_opens_without_any_request(tmp_path: Path) -> None:
    record_run(tmp_path)
    path = write_report(tmp_path)
    read = loads(path)
    assert read.fetched == []
    assert not read.tags & {"link", "img", "iframe", "object", "embed", "base"}
    assert "default-src 'none'" in read.policy  # so that not even plotly's script can
    assert "http" not in read.policy
    own = path.read_text().replace(page.get_plotlyjs(), "")
    assert not re.search(r"https?://", own)
    assert "plotly.js v" in path.read_text()
    assert '"showSendToCloud": false' in own


def test_what_is_drawn_is_what_was_recorded(tmp_path: Path) -> None:
    record_run(tmp_path)
    traces = [trace for figure in figures(write_report(tmp_path)) for trace in figure]
    names = {trace.get("name") for trace in traces}
    assert names >= {"loss", "accuracy", "alive", "seated", "fault", "fair", "honest", "train"}
    assert names >= {"sign-flip", "copycat", "sign-flip (2 of 2)", "copycat (1 of 1)"}
    fault = next(trace for trace in traces if trace.get("name") == "fault")
    assert fault["text"] == ["partition: t005 apart"]
    why = [t["text"] for t in traces if t.get("name") == "copycat" and "by v0" in t["text"][0]]
    assert why == [["its update points away from the mean (by v0)"]]


def test_a_failed_assertion_is_the_answer(tmp_path: Path) -> None:
    record_run(tmp_path, held=False)
    read = loads(write_report(tmp_path))
    assert "No: 1 of 1 assertions failed: accuracy >= 0.8" in read.text
    assert "it is 0.85" in read.text


def test_an_empty_run_gives_a_report_that_says_so(tmp_path: Path) -> None:
    record_empty(tmp_path)
    path = write_report(tmp_path)
    read = loads(path)
    assert "Open: the scenario asserts nothing" in read.text
    assert read.text.count("Nothing was recorded of this.") == 7
    assert "Nobody was penalized." in read.text
    assert figures(path) == []


def test_a_diverged_run_is_drawn_as_far_as_it_went(tmp_path: Path) -> None:
    record_diverged(tmp_path)
    path = write_report(tmp_path)
    assert "From round 2 on, 3 values are not finite." in loads(path).text
    assert len(figures(path)) == 7
    own = path.read_text().replace(page.get_plotlyjs(), "")
    assert not re.search(r"\b(NaN|-?Infinity)\b", own)


def test_a_partial_run_says_that_it_is_one(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, SCENARIO.format(seed=1, trainers=1, rule="mean"), about())
    recorder.metric(1.0, "loss", 2.0, round_=1)
    recorder.event(1.0, "a", "seat", 1, 0)
    with pytest.raises(KeyboardInterrupt), recorder:
        raise KeyboardInterrupt
    read = loads(write_report(tmp_path))
    assert "Open: the run is partial (stopped with Ctrl-C)" in read.text
    assert "This run is partial" in read.text


def test_without_knowing_who_lies_nobody_is_called_honest(tmp_path: Path) -> None:
    with Recorder(tmp_path, "", about()) as recorder:
        recorder.event(2.0, "v", "penalize", 1, 0, "a: sent too much")
        recorder.finish()
    text = loads(write_report(tmp_path)).text
    assert "Penalized (the run does not say who is honest): a." in text
    assert "honest penalized" not in text.lower()


def test_names_cannot_break_out_of_the_page(tmp_path: Path) -> None:
    evil = '</script><img src="//evil">'
    with Recorder(tmp_path, f"name = '{evil}'", {**about(), "question": evil}) as recorder:
        recorder.describe(adversaries={evil: evil})
        for metric in ("credited", "contributed", "bytes_sent", evil):
            recorder.metric(1.0, metric, 1.0, evil, 1)
        recorder.event(1.0, evil, "seat", 1, 0)
        recorder.event(2.0, evil, "train", 1, 0)
        recorder.event(2.0, evil, "penalize", 1, 0, f"{evil}: {evil}")
        recorder.finish(assertions=[{"what": evil, "held": False, "detail": evil}])
    read = loads(write_report(tmp_path))
    assert "img" not in read.tags
    assert evil in read.text


def test_a_metric_of_one_s_own_gets_a_plot(tmp_path: Path) -> None:
    with Recorder(tmp_path, "", about()) as recorder:
        for round_ in range(3):
            recorder.metric(round_, "disagreement", 0.1, round_=round_)
            recorder.metric(round_, "mesh_peers", 6, "a", round_)
        recorder.finish()
    path = write_report(tmp_path)
    assert loads(path).headings[-2:] == ["disagreement", "mesh_peers"]
    assert len(figures(path)) == 2


def test_a_long_run_is_drawn_in_part_and_says_so(tmp_path: Path) -> None:
    rounds = 1000
    with Recorder(tmp_path, "", about()) as recorder:
        for round_ in range(rounds):
            for index, kind in enumerate(("seat", "train", "commit", "exchange", "vote", "adopt")):
                recorder.event(10 * round_ + index, "a", kind, round_, 0)
            for point in range(10):
                recorder.metric(10 * round_ + point, "loss", 1.0, round_=round_)
        recorder.finish()
    path = write_report(tmp_path)
    last = charts.SPANS_MAX // 5 - 1
    assert f"Only rounds up to {last} are drawn." in loads(path).text
    loss = next(t for f in figures(path) for t in f if t.get("name") == "loss")
    assert len(loss["x"].get("bdata", "")) < 8 * charts.POINTS_MAX * 4 / 3 + 4


def test_no_run_no_report(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="no run folder"):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (True, "yes"),
        (9_999, "9999"),
        (1_234_567, "1,234,567"),
        (0.123456, "0.1235"),
        (2.0, "2"),
        (123456.7, "123,457"),
        (1e20, "1e+20"),
        ({"a": 1, "b": [2, 3]}, "a 1, b 2, 3"),
    ],
)
def test_values_are_shown_as_people_read_them(value: object, text: str) -> None:
    assert page.shown(value) == text
