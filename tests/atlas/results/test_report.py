from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from atlas.results.figures import natural
from atlas.results.folder import RunFolder, read_run
from atlas.results.manifest import Manifest
from atlas.results.report import render, write_report
from atlas.results.summary import summarize


class Page(HTMLParser):
    """What a page would load, and the texts of its scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self._inside = tag
        values = dict(attrs)
        self.ids += [values["id"]] if "id" in values else []
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            if name in values:
                self.loads.append(values[name])
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts[-1] += data

    def handle_endtag(self, _tag):
        self._inside = ""

    @property
    def figures(self):
        return json.loads(self.scripts[0])


@pytest.fixture
def run(tmp_path, story):
    with RunFolder(tmp_path / "run") as folder:
        folder.write_manifest(
            Manifest.here(name="quickstart", seed=1, truth=story.truth, steps_expected=240)
        )
        folder.write_config({"rank": 8})
        folder.write_faults("name: evening\n")
        for note in story.notes:
            folder.note(note)
        folder.write_summary(
            summarize(
                story.notes,
                truth=story.truth,
                steps_expected=240,
                bytes_by_purpose=story.bytes,
                digest="9f" * 32,
                whole_step_bytes=2 * 2**30,
            )
        )
    return folder


def test_the_report_loads_nothing_from_anywhere(run):
    html = write_report(run.path).read_text()
    page = Page(html)
    assert page.loads == ["#content"]
    assert not {"link", "img", "iframe", "object"} & set(page.tags)
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in html, "the browser itself forbids to load anything"
    assert len(page.ids) == len(set(page.ids))


def test_the_report_has_the_figures_and_the_table(run):
    html = render(read_run(run.path))
    assert set(Page(html).figures) == {
        *("loss-by-step", "loss-by-time", "pairings", "bytes-by-purpose", "bytes-over-time"),
    }
    for words in ("2.60 → 0.70", "55 → 70 %", "52 %", "9f9f9f", "evening", "rank: 8", "1.7 GB"):
        assert words in html
    assert "No training step was lost and none was applied twice." in html
    assert html.count("mostly <em>") == 4


def test_the_report_tells_what_a_client_tried_before_a_repair_as_one(run):
    html = render(read_run(run.path))
    assert html.count("client-11 has no answer from edge-6 and is refused by edge-5") == 1
    assert "edge-5 can&#39;t serve client-11" not in html


def test_equal_folders_give_equal_reports(run):
    assert render(read_run(run.path)) == render(read_run(run.path))


def test_the_figures_are_what_plotly_takes(run):
    import plotly.graph_objects as go

    def colored(value):
        if isinstance(value, str) and value.startswith("--"):
            return "#123456"
        if isinstance(value, list):
            return [colored(item) for item in value]
        if isinstance(value, dict):
            return {key: colored(item) for key, item in value.items()}
        return value

    for figure in Page(render(read_run(run.path))).figures.values():
        go.Figure(colored(figure))


def test_every_color_of_a_figure_is_in_the_style_sheet(run):
    html = render(read_run(run.path))
    used = set(re.findall(r'"(--[a-z0-9-]+)"', json.dumps(Page(html).figures)))
    style = html[html.index("<style>") : html.index("</style>")]
    assert used
    for color in used:
        assert style.count(f"{color}:") == 2, f"{color} in light and in dark"


def test_names_can_not_break_out_of_the_page(tmp_path, say):
    evil = "<img src=x onerror=alert(1)></script><script>alert(2)</script>"
    chain = [{"first": 2, "last": 6, "host": evil}]
    notes = [
        say(1.0, "neighborhoods", members={evil: [evil]}),
        say(2.0, "paired", client=evil, neighborhood=evil, chain=chain),
        say(3.0, "fault", kind="crash", phase="begin", fault=evil, nodes=[evil], text=evil),
        say(4.0, "step", client=evil, round=1, step=0, loss=1.0),
        say(5.0, "evaluated", task=evil, phase="after", loss=1.0, rows=1),
    ]
    with RunFolder(tmp_path / "run") as folder:
        folder.write_manifest(Manifest(name=evil, truth={evil: evil}, steps_expected=1))
        folder.write_config({evil: evil})
        for note in notes:
            folder.note(note)
    html = render(read_run(folder.path))
    page = Page(html)
    assert "img" not in page.tags
    assert page.tags.count("script") == 3, "the data, the drawing library, our own"
    assert "<img" not in json.dumps(page.figures), "Plotly reads HTML in its texts"


def test_the_report_of_a_run_that_was_broken_off_says_so(tmp_path, story):
    with RunFolder(tmp_path / "run") as folder:
        folder.write_manifest(Manifest(name="x", truth=story.truth, steps_expected=240))
        for note in story.notes[:200]:
            folder.note(note)
    html = render(read_run(folder.path))
    assert "This run did not come to its end." in html
    assert "pairings" in Page(html).figures


def test_a_run_that_told_nothing_has_a_report(tmp_path):
    RunFolder(tmp_path / "run").close()
    html = render(read_run(tmp_path / "run"))
    assert Page(html).figures == {}
    assert len(html) < 40_000, "without a figure the drawing library is left out"


def test_nothing_heavy_is_imported_before_it_is_needed():
    heavy = ("torch", "plotly", "jinja2", "sklearn")
    code = f"import sys, atlas.results; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_names_with_numbers_are_sorted_as_people_count():
    names = ["client-10", "client-2", "client-1", "edge-0", "10", ""]
    assert sorted(names, key=natural) == ["", "10", "client-1", "client-2", "client-10", "edge-0"]
