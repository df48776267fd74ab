"""The journal's files: results one behind the other, each with its key and checksums.

    64 bytes                                             length     padding
    "ATLJ", CRC of what follows, length, key, checksum   the value  up to 64

Files are only ever appended to, by the one process and life that made them, and each record is
written behind the last in one go. So whatever ends a process, at most the last record is torn, and
that costs its computation and nothing else. Nothing is trusted that was not checked: a record whose
header is damaged ends what is read of its file, and one whose value is damaged is as if it had
never been written. Flushing is left to the system, since a killed process loses nothing of what it
has written; what a power cut takes, the checksums tell.

A process reads what was there when it opened the journal. What it computes itself it writes and
does not look up: within one life whatever is computed again, by a stand-in for a dead host or by a
client that came back, is really computed.
"""

from __future__ import annotations

import logging
import os
import struct
import threading
import zlib
from hashlib import blake2b
from pathlib import Path
from typing import Any

from atlas.journal.values import DIGEST_BYTES, decode, digest, encode, padding

SUFFIX = ".journal"
_MAGIC = b"ATLJ"
_FIRST = struct.Struct("<4sI")
_REST = struct.Struct(f"<Q{DIGEST_BYTES}s16s")
_HEADER_BYTES = _FIRST.size + _REST.size

_log = logging.getLogger(__name__)


class Journal:
    """Results of computations by content, in a folder that several processes may write to.

    It can be given to other processes, where it reads the same folder and writes a file of its own.
    It is for threads too.

    Args:
        folder: where its files are; it need not be there yet.
        world: what every result depends on: the model's digest, the build and the machine.

    Attributes:
        computed: results that were computed since it was opened.
        recalled: results that were found instead.
    """

    def __init__(self, folder: Path, world: bytes) -> None:
        self.folder = folder
        self.world = world
        self.computed = 0
        self.recalled = 0
        self._lock = threading.Lock()
        self._closed = False
        self._own: int | None = None
        self._known: dict[bytes, tuple[int, int, int, bytes]] = {}
        self._written: set[bytes] = set()
        self._open: list[int] = []
        for file in _files(folder):
            self._read(file)

    def __reduce__(self) -> tuple[object, ...]:
        return Journal, (self.folder, self.world)

    def __len__(self) -> int:
        """How many results it had when it was opened."""
        return len(self._known)

    def key(self, *things: object) -> bytes:
        """The key of what is computed from these things."""
        return digest(self.world, *things)

    def recall(self, key: bytes) -> tuple[Any] | None:
        """The result under this key, alone in a tuple, or None where there is none.

        Its tensors are its own.
        """
        place = self._known.get(key)
        if place is None:
            return None
        file, offset, length, checksum = place
        content = bytearray(length)
        if os.preadv(file, [content], offset) != length or _checksum(content) != checksum:
            with self._lock:
                self._known.pop(key, None)
            return None
        with self._lock:
            self.recalled += 1
        return (decode(content),)

    def keep(self, key: bytes, value: object) -> None:
        """Writes a result down. Raises OSError where the disk won't have it."""
        with self._lock:
            self.computed += 1
            if self._closed or key in self._written or key in self._known:
                return
            self._written.add(key)
        body = encode(value)
        rest = _REST.pack(len(body), key, _checksum(body))
        header = _FIRST.pack(_MAGIC, zlib.crc32(rest)) + rest
        record = memoryview(b"".join([header, body, padding(len(body))]))
        with self._lock:
            if self._own is None:
                self._own = self._begin()
            while record:
                record = record[os.write(self._own, record) :]

    def close(self) -> None:
        """Closes its files: nothing is found or written any more. Closing twice does no harm."""
        with self._lock:
            self._closed = True
            self._known.clear()
            for file in self._open:
                os.close(file)
            self._open.clear()

    def _begin(self) -> int:
        """A file of its own, behind all that are there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        number = 1 + max((int(file.stem) for file in _files(self.folder)), default=0)
        while True:
            path = self.folder / f"{number:06}{SUFFIX}"
            try:
                file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            except FileExistsError:  # by another process of the run
                number += 1
                continue
            self._open.append(file)
            return file

    def _read(self, path: Path) -> None:
        """Notes where the records of a file are."""
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._open.append(file)
        offset, end = 0, os.fstat(file).st_size
        while offset + _HEADER_BYTES <= end:
            header = os.pread(file, _HEADER_BYTES, offset)
            magic, crc = _FIRST.unpack_from(header)
            length, key, checksum = _REST.unpack_from(header, _FIRST.size)
            begin = offset + _HEADER_BYTES
            if magic != _MAGIC or crc != zlib.crc32(header[_FIRST.size :]) or begin + length > end:
                break
            self._known[key] = (file, begin, length, checksum)
            offset = begin + length + len(padding(length))
        if offset < end:
            _log.info("%s: %d bytes behind the last whole record are left out", path, end - offset)


def _files(folder: Path) -> list[Path]:
    """The journal's files, the oldest first."""
    return sorted(path for path in folder.glob(f"*{SUFFIX}") if path.stem.isdecimal())


def _checksum(body: bytes | bytearray) -> bytes:
    return blake2b(body, digest_size=16).digest()
