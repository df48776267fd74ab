"""Results: what a run leaves behind, and what a person sees of it.

While a run goes on, its programs' notes go to a `RunFolder` (which keeps them) and to a view
(which shows them):

    with RunFolder("runs/1") as folder, open_view() as view:
        view.expect(steps=240, truth={"client-0": "news", ...})
        ...                      # for each note: folder.note(note); view.note(note)
        summary = summarize(notes, truth=..., steps_expected=240, ...)
        folder.write_summary(summary)
    write_report("runs/1")
    final_table(summary, folder.written(), console)

`summarize` derives all figures from the notes, `read_run` reads a folder back, also that of a run
which was broken off, and `write_report` makes one HTML file of it.
"""

from atlas.results.closing import final_table
from atlas.results.course import Breakage, Course, Hosting, Wait, follow
from atlas.results.folder import Layout, RunFolder, RunRecord, is_run, read_run, require_free
from atlas.results.live import LiveView, open_view
from atlas.results.manifest import Manifest
from atlas.results.notes import Note, Record
from atlas.results.plain import PlainView
from atlas.results.report import render, write_report
from atlas.results.summary import (
    NeighborhoodFigures,
    Summary,
    TaskFigures,
    adjusted_rand_index,
    summarize,
)
from atlas.results.tally import Tally
from atlas.results.telling import Sentence, tell
from atlas.results.view import View

__all__ = [
    "Breakage",
    "Course",
    "Hosting",
    "Layout",
    "LiveView",
    "Manifest",
    "NeighborhoodFigures",
    "Note",
    "PlainView",
    "Record",
    "RunFolder",
    "RunRecord",
    "Sentence",
    "Summary",
    "Tally",
    "TaskFigures",
    "View",
    "Wait",
    "adjusted_rand_index",
    "final_table",
    "follow",
    "is_run",
    "open_view",
    "read_run",
    "render",
    "require_free",
    "summarize",
    "tell",
    "write_report",
]
