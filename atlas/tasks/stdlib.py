"""Real text that every Python brings along: its own library's sources and the names of Unicode.

Five tasks for runs that fetch nothing, short enough for a tokenizer of bytes but for the last. The
rows are the same on every machine with the same version of Python.
"""

from __future__ import annotations

import ast
import sys
import sysconfig
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from atlas.tasks.model import Row, TaskError

PACKAGES = ("asyncio", "email", "importlib", "logging")
DESCRIBED = (
    *PACKAGES,
    "collections",
    "concurrent",
    "http",
    "json",
    "unittest",
    "urllib",
    "xml",
)
"""Packages of every supported version of Python whose functions are described in a line."""
LINE = range(3, 17)
"""Words of such a line."""
STATEMENTS = {ast.Return: "return", ast.If: "if", ast.For: "for", ast.Raise: "raise"}
CATEGORIES = {"L": "letter", "M": "mark", "N": "number", "S": "symbol"}


def package_of_docstring() -> list[Row]:
    """The first line of a docstring; which package it is from."""
    rows = []
    for package, node in _definitions():
        docstring = ast.get_docstring(node)
        if docstring:
            rows.append(Row(docstring.split("\n", 1)[0], package, "", "\nIn:", PACKAGES))
    return rows


def missing_keyword() -> list[Row]:
    """A statement without its first word; which word that was."""
    rows = []
    for _, tree in _sources():
        for node in ast.walk(tree):
            keyword = STATEMENTS.get(type(node))
            if keyword:
                line = ast.unparse(node).split("\n", 1)[0].removeprefix(keyword)
                text = line.strip().removesuffix(":")
                if text:
                    rows.append(Row(text, keyword, "", "\nWord:", tuple(STATEMENTS.values())))
    return rows


def category_of_character() -> list[Row]:
    """The name of a Unicode character; what kind of character it is."""
    choices = tuple(CATEGORIES.values())
    rows = []
    for point in range(0x3000):
        name = unicodedata.name(chr(point), "")
        category = CATEGORIES.get(unicodedata.category(chr(point))[0])
        if name and category:
            rows.append(Row(name, category, "", "\nKind:", choices))
    return rows


def first_word_of_docstring() -> list[Row]:
    """The name of a function; the word that its docstring begins with, to be written out."""
    rows = []
    for _, node in _definitions():
        words = (ast.get_docstring(node) or "").split()
        if words and words[0].isalpha() and not isinstance(node, ast.ClassDef):
            rows.append(Row("", words[0], before=f"def {node.name}", after="\nDoc:"))
    return rows


def summary_of_function() -> list[Row]:
    """The head of a function; what its docstring says in its first line. Domains are packages."""
    rows = []
    for package, node in _definitions(DESCRIBED):
        line = (ast.get_docstring(node) or "").split("\n", 1)[0].strip()
        if len(line.split()) in LINE and not isinstance(node, ast.ClassDef):
            cue = f"({ast.unparse(node.args)})\nDoc:"
            rows.append(Row("", line, f"def {node.name}", cue, domain=package))
    return rows


def _definitions(
    packages: tuple[str, ...] = PACKAGES,
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]]:
    for package, tree in _sources(packages):
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield package, node


@lru_cache(maxsize=2)
def _sources(packages: tuple[str, ...] = PACKAGES) -> tuple[tuple[str, ast.Module], ...]:
    library = Path(sysconfig.get_path("stdlib"))
    files = [
        (package, file)
        for package in packages
        for file in sorted((library / package).rglob("*.py"))
        if "test" not in file.relative_to(library).parts
    ]
    if {package for package, _ in files} != set(packages):
        raise TaskError(
            f"Python {sys.version.split()[0]} has no sources of its own library here",
            file=str(library),
            remedy="Use a Python with its .py files, or give tasks of your own under `tasks:`",
        )
    return tuple((package, ast.parse(file.read_text(encoding="utf-8"))) for package, file in files)
