"""What a room brings along by name: a folder of YAML files, and how to find one, or a user's own.

Topologies, fault scenarios and configs are all named the same way: by a bundled name or by a path.
"""

from __future__ import annotations

from pathlib import Path

from topologies.document import read_text
from topologies.errors import InputError, did_you_mean


class Catalog:
    """The bundled files of one kind.

    Args:
        folder: where they lie.
        kind: what one of them is, in the singular, for errors.
        failure: the class of the errors raised.
    """

    def __init__(self, folder: Path, kind: str, failure: type[InputError]) -> None:
        self._folder = folder
        self._kind = kind
        self._failure = failure

    def names(self) -> tuple[str, ...]:
        """The bundled names, sorted."""
        return tuple(sorted(path.stem for path in self._folder.glob("*.yaml")))

    def is_bundled(self, name_or_path: str | Path) -> bool:
        """Whether this names a bundled file; a path never does."""
        return isinstance(name_or_path, str) and name_or_path in self.names()

    def read(self, name_or_path: str | Path) -> tuple[str, str]:
        """The text of the bundled file of this name, or of the file at this path, and its name.

        Raises the catalog's error when there is neither.
        """
        if self.is_bundled(name_or_path):
            path = self._folder / f"{name_or_path}.yaml"
            return read_text(path, self._failure), path.name
        path = Path(name_or_path)
        if isinstance(name_or_path, str) and not path.suffix and not path.exists():
            raise self._failure(
                f'there is neither a bundled {self._kind} nor a file "{name_or_path}"',
                remedy=did_you_mean(name_or_path, self.names(), what="bundled names"),
            )
        return read_text(path, self._failure), str(path)
