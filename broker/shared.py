"""Large payloads between processes of one machine: written once into shared memory, read in place.

Each sending process has one `Arena`: a file in memory that it cuts into slots. A payload part of
`SHARED_BYTES` or more is copied into a slot, and the frame carries a reference to it in its last
part. The receiving process maps the arena once, read-only, and hands out views of the slots. When
the last view is dropped, the slot is free again. So there is one copy, and none in the broker.

A slot is free when its word in the arena's first page shows the number of its last use. Whoever
holds the slot last writes that: the receiver, or the broker's `Custodian` where the message was
lost or the receiver was killed. A word about an older use changes nothing. When a sender is gone,
the custodian removes its arena; when the broker is killed, the next one removes what it left.

Arenas are bounded; where none has room, and between machines or users, payloads go over the socket.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import secrets
import shutil
import struct
import tempfile
import time
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from broker.errors import FrameError
from broker.wire import MAX_PAYLOAD_BYTES, PUBLISH, SHARED, Buffer, Frame

SHARED_BYTES = 256 * 2**10
"""Parts of this size and more are worth it."""
ARENA_BYTES = 256 * 2**20
GRACE_S = 5.0
_SLOTS = 4_096
_HEADER_BYTES = 4 * _SLOTS
_PREFIX = "atlas-bus-"
_REFERENCE = struct.Struct("!HHIIIQQ")
_ENTRY_BYTES = _REFERENCE.size


class Reference(NamedTuple):
    """Where a payload part is: its place in the payload, the arena, slot, use, offset and size."""

    place: int
    slot: int
    arena: int
    use: int
    spare: int
    offset: int
    size: int


class References(NamedTuple):
    """What a frame refers to, and what it would be larger by, had it its payload with it."""

    entries: tuple[Reference, ...]
    size_bytes: int


def references(frame: bytes) -> References:
    """The table in a frame's last part. Raises FrameError where there is none that makes sense."""
    count = int.from_bytes(frame[2:4], "big")
    purpose, body = frame[52], int.from_bytes(frame[53:57], "big")
    lengths_at = 57 + purpose + body
    if not count:
        raise FrameError("no table of shared memory")
    (size,) = struct.unpack_from("!I", frame, lengths_at + 4 * (count - 1))
    if size > len(frame) or size % _ENTRY_BYTES:
        raise FrameError("no table of shared memory")
    return _table(frame[len(frame) - size :])


def _table(part: Buffer) -> References:
    if not len(part) or len(part) % _ENTRY_BYTES:
        raise FrameError("no table of shared memory")
    entries = tuple(map(Reference._make, _REFERENCE.iter_unpack(part)))
    total = 0
    for _, slot, _, _, _, offset, size in entries:
        if slot >= _SLOTS or offset < _HEADER_BYTES or offset + size > ARENA_BYTES:
            raise FrameError("a place that is not in an arena")
        total += size
    if total > MAX_PAYLOAD_BYTES:
        raise FrameError("payload too large")
    return References(entries, total - len(part) - 4)


class Arena:
    """A sending process's shared memory: file `number` in the bus's folder.

    Raises OSError where it can't be made, as on another machine.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self.number = number
        self.path = folder / str(number)
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.ftruncate(self._file, ARENA_BYTES)
        os.posix_fallocate(self._file, 0, _HEADER_BYTES)
        self._memory = mmap.mmap(self._file, ARENA_BYTES)
        self._view = memoryview(self._memory)
        self._words = self._view[:_HEADER_BYTES].cast("I")
        self._slots: list[tuple[int, int]] = []
        self._uses: list[int] = []
        self._of_size: dict[int, list[int]] = {}
        self._end = _HEADER_BYTES

    def close(self) -> None:
        """Unmaps it; the file stays for those who still read."""
        self._words.release()
        self._view.release()
        with contextlib.suppress(BufferError):
            self._memory.close()
        os.close(self._file)

    def share(self, frame: Frame) -> Frame:
        """The frame with its large parts moved into shared memory, as far as there is room."""
        if frame.flags & PUBLISH:
            return frame  # its copies end at different times
        entries: list[bytes] = []
        payload = list(frame.payload)
        for place, part in enumerate(payload):
            if len(part) >= SHARED_BYTES and (reference := self._write(place, part)):
                entries.append(_REFERENCE.pack(*reference))
                payload[place] = b""
        if not entries:
            return frame
        return replace(frame, payload=(*payload, b"".join(entries)), flags=frame.flags | SHARED)

    def _write(self, place: int, part: Buffer) -> Reference | None:
        size = len(part)
        slot = self._free(1 << (size - 1).bit_length())
        if slot is None:
            return None
        offset, _ = self._slots[slot]
        self._view[offset : offset + size] = part
        self._uses[slot] = use = (self._uses[slot] + 1) & 0xFFFF_FFFF
        return Reference(place, slot, self.number, use, 0, offset, size)

    def _free(self, room: int) -> int | None:
        """A slot with so much room; the first ones are the warmest."""
        mine = self._of_size.setdefault(room, [])
        for slot in mine:
            if self._words[slot] == self._uses[slot]:
                return slot
        if self._end + room > ARENA_BYTES or len(self._slots) == _SLOTS:
            return None
        try:
            os.posix_fallocate(self._file, self._end, room)  # else a full disk is a SIGBUS
        except OSError:
            return None
        self._slots.append((self._end, room))
        self._uses.append(0)
        mine.append(len(self._slots) - 1)
        self._end += room
        return len(self._slots) - 1


class _Map:
    """Another process's arena: its payloads to read, its words to write."""

    def __init__(self, path: Path) -> None:
        file = os.open(path, os.O_RDWR)
        try:
            if os.fstat(file).st_size != ARENA_BYTES:
                raise FrameError("an arena of another size")
            self._header = mmap.mmap(file, _HEADER_BYTES)
            self.memory = mmap.mmap(file, ARENA_BYTES, prot=mmap.PROT_READ)
        finally:
            os.close(file)
        self._words = memoryview(self._header).cast("I")

    def free(self, slot: int, use: int) -> None:
        self._words[slot] = use


class Reader:
    """What a receiving process sees of the others' arenas in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._maps: dict[int, _Map] = {}

    def restore(self, frame: Frame) -> Frame:
        """The frame with its payload in place. Raises FrameError where that is gone."""
        *payload, table = frame.payload
        for entry in _table(table).entries:
            if entry.place >= len(payload):
                raise FrameError("a place that is not in the payload")
            payload[entry.place] = self._view(entry)
        return replace(frame, payload=tuple(payload), flags=frame.flags & ~SHARED)

    def _view(self, entry: Reference) -> memoryview:
        seen = self._maps.get(entry.arena)
        if seen is None:
            try:
                seen = self._maps[entry.arena] = _Map(self._folder / str(entry.arena))
            except OSError as error:
                raise FrameError(f"shared memory is gone: {error}") from error
        import numpy as np  # noqa: PLC0415 - heavy, and many a run shares nothing

        array = np.frombuffer(seen.memory, np.uint8, entry.size, entry.offset)
        weakref.finalize(array, seen.free, entry.slot, entry.use).atexit = False
        return memoryview(array)  # type: ignore[arg-type]  # numpy's stubs don't say so


class Custodian:
    """The broker's side: makes the folder, frees what nobody else can, removes what is left.

    Raises nothing where this machine has no shared memory: then there is no `folder`.
    """

    def __init__(self) -> None:
        self.folder: Path | None = None
        self._lock = -1
        self._maps: dict[int, _Map | None] = {}
        self._holder: dict[tuple[int, int], tuple[int, int]] = {}
        self._leaving: list[tuple[float, int]] = []
        root = Path("/dev/shm")
        if not os.access(root, os.W_OK):
            return
        _sweep(root)
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
        self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def close(self) -> None:
        """Removes all arenas; who still reads one keeps what it reads."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            os.close(self._lock)
            self.folder = None

    def free(self, entries: Iterable[Reference]) -> None:
        """A message was lost: nobody else will free its slots."""
        for entry in entries:
            if (arena := self._map(entry.arena)) is not None:
                arena.free(entry.slot, entry.use)

    def handed(self, entries: Iterable[Reference], receiver: int) -> None:
        """A message was handed to a process, which is to free its slots."""
        for entry in entries:
            self._holder[entry.arena, entry.slot] = (receiver, entry.use)

    def gone(self, number: int) -> None:
        """A process is gone: what it held is free, and its arena will be, once the last messages
        from it have been read.
        """
        held = [(key, use) for key, (receiver, use) in self._holder.items() if receiver == number]
        for (arena, slot), use in held:
            del self._holder[arena, slot]
            if (known := self._map(arena)) is not None:
                known.free(slot, use)
        self._leaving.append((time.monotonic() + GRACE_S, number))

    def remove_leaving(self, in_use: Iterable[int]) -> None:
        """Removes the arenas of those who have been gone for a while, unless they are in use."""
        if not self._leaving or self._leaving[0][0] > time.monotonic() or self.folder is None:
            return
        used = frozenset(in_use)
        late = time.monotonic()
        for entry in [entry for entry in self._leaving if entry[0] <= late]:
            if entry[1] in used:
                continue
            self._leaving.remove(entry)
            self._maps.pop(entry[1], None)
            with contextlib.suppress(OSError):
                (self.folder / str(entry[1])).unlink()

    def read(self, entry: Reference) -> bytes:
        """What is in a slot, for a receiver that can't see it. Raises FrameError if it is gone."""
        if (arena := self._map(entry.arena)) is None:
            raise FrameError("shared memory is gone")
        return bytes(arena.memory[entry.offset : entry.offset + entry.size])

    def _map(self, number: int) -> _Map | None:
        if number not in self._maps:
            self._maps[number] = None
            if self.folder is not None:
                with contextlib.suppress(OSError, FrameError):
                    self._maps[number] = _Map(self.folder / str(number))
        return self._maps[number]


def inline(frame: Frame, parts: Sequence[bytes]) -> Frame:
    """A frame with the payload parts that it only referred to."""
    *payload, table = frame.payload
    for entry, part in zip(_table(table).entries, parts, strict=True):
        payload[entry.place] = part
    return replace(frame, payload=tuple(payload), flags=frame.flags & ~SHARED)


def machine() -> str:
    """What tells this machine, since it was started, from others: they share no clock either."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return secrets.token_hex(16)


def _sweep(root: Path) -> None:
    """Removes the folders of brokers that were killed: nobody holds their lock."""
    for folder in root.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            lock = os.open(folder / "lock", os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
