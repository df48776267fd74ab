"""A hook of mkdocs: links from pages to files of the repository that are no pages of the site.

In the repository they lead to the file. On the site there is none, so that only their words are
left; that the file is there is checked by the tests, which follow every link of every page.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_OUTSIDE = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+[^)\s#]+|examples/[^)\s#]+)(?:#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page with links out of the site taken off. Raises FileNotFoundError for a dead one."""

    def words(match: re.Match[str]) -> str:
        target = (Path(page.file.abs_src_path).parent / match[2]).resolve()
        if not target.exists():
            raise FileNotFoundError(f"{page.file.src_path} links to {match[2]}")
        return match[1]

    return _OUTSIDE.sub(words, markdown)
