"""What the site does beyond mkdocs: hooks that `mkdocs.yml` names.

A page that the navigation does not list comes at its end, so that none is ever left out. Links to
files of the repository that are no pages lead to the file there; on the site there is none, and
only their words are left. That the file is there is checked here, and by the tests.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_OUTSIDE = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+[^)\s#]+|examples/[^)\s#]+)(?:#[^)\s]*)?\)")


def on_config(config: Any) -> Any:
    """Adds the pages that the navigation does not list."""
    listed = set(_pages(config.nav))
    found = sorted(path.name for path in Path(config.docs_dir).glob("*.md"))
    config.nav += [name for name in found if name not in listed]
    return config


def _pages(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    else:
        for inner in entry.values() if isinstance(entry, dict) else entry:
            yield from _pages(inner)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page with links out of the site taken off. Raises FileNotFoundError for a dead one."""

    def words(match: re.Match[str]) -> str:
        target = (Path(page.file.abs_src_path).parent / match[2]).resolve()
        if not target.exists():
            raise FileNotFoundError(f"{page.file.src_path} links to {match[2]}")
        return match[1]

    return _OUTSIDE.sub(words, markdown)
