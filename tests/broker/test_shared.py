"""Large payloads through shared memory: one copy, freed by who reads, gone with who made it."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker import FrameError, shared
from broker.shared import SHARED_BYTES, Arena, Custodian, Reader, references
from broker.wire import SHARED, Frame, Kind, encode
from tests.broker.harbor import PAIR, both, harbor, letter, messages
from topologies import Transport

LARGE = bytes(range(256)) * (SHARED_BYTES // 256)


@pytest.fixture
def custodian() -> Iterator[Custodian]:
    built = Custodian()
    if built.folder is None:
        pytest.skip("this machine has no /dev/shm")
    yield built
    built.close()


@pytest.fixture
def arena(custodian) -> Iterator[Arena]:
    built = Arena(custodian.folder, 1)
    yield built
    built.close()


def frame(*payload: bytes) -> Frame:
    return Frame(Kind.SEND, 0, 1, payload=payload, body=b"\x80")


def raw(one: Frame) -> bytes:
    return bytes(encode([one])[0][4:])


def test_what_is_shared_is_read_in_place_and_small_parts_stay(custodian, arena):
    sent = arena.share(frame(b"small", LARGE, b"", LARGE[::-1]))
    assert sent.flags & SHARED
    assert sum(map(len, sent.payload)) < 200
    found = Reader(custodian.folder).restore(sent)
    assert [bytes(part) for part in found.payload] == [b"small", LARGE, b"", LARGE[::-1]]
    assert not found.flags & SHARED
    assert memoryview(found.payload[1]).readonly
    size = references(raw(sent)).size_bytes
    assert len(raw(sent)) + size == len(raw(frame(b"small", b"", b"", b""))) + 2 * len(LARGE)


def test_a_slot_is_used_again_only_once_its_last_view_is_gone(custodian, arena):
    reader = Reader(custodian.folder)
    offsets = []
    kept = reader.restore(arena.share(frame(LARGE))).payload[0]
    view = memoryview(kept)[10:20]
    del kept
    for _ in range(3):
        sent = arena.share(frame(b"\0" * len(LARGE)))
        offsets.append(references(raw(sent)).entries[0].offset)
        reader.restore(sent)
        gc.collect()
    assert len(set(offsets)) == 1
    assert bytes(view) == LARGE[10:20]
    first = references(raw(arena.share(frame(LARGE)))).entries[0].offset
    assert first == offsets[0]
    view.release()


def test_an_arena_is_bounded_and_what_has_no_room_goes_as_it_was(custodian, monkeypatch):
    monkeypatch.setattr(shared, "ARENA_BYTES", 4 * SHARED_BYTES)
    arena = Arena(custodian.folder, 2)
    sent = [arena.share(frame(LARGE)) for _ in range(5)]
    assert [bool(one.flags & SHARED) for one in sent] == [True, True, True, False, False]
    assert sent[-1] == frame(LARGE)
    custodian.free(references(raw(sent[1])).entries)
    assert arena.share(frame(LARGE)).flags & SHARED
    arena.close()


def test_a_word_about_an_earlier_use_frees_nothing(custodian, arena):
    entries = references(raw(arena.share(frame(LARGE)))).entries
    custodian.free(entries)
    again = references(raw(arena.share(frame(LARGE)))).entries
    assert again[0].slot == entries[0].slot
    custodian.free(entries)
    assert references(raw(arena.share(frame(LARGE)))).entries[0].slot != again[0].slot


def test_what_a_killed_receiver_held_is_freed_for_it(custodian, arena):
    entries = references(raw(arena.share(frame(LARGE)))).entries
    custodian.handed(entries, 7)
    custodian.gone(7)
    assert references(raw(arena.share(frame(LARGE)))).entries[0].slot == entries[0].slot


def test_the_memory_of_who_is_gone_is_removed_once_nothing_refers_to_it(
    custodian, arena, monkeypatch
):
    monkeypatch.setattr(shared, "GRACE_S", 0.0)
    custodian.gone(1)
    custodian.remove_leaving([1])
    assert arena.path.exists()
    custodian.remove_leaving([])
    assert not arena.path.exists()
    with pytest.raises(FrameError, match="shared memory is gone"):
        Reader(custodian.folder).restore(arena.share(frame(LARGE)))


@pytest.mark.parametrize(
    "table", [b"", b"x" * 31, b"x" * 36, b"\0" * 36], ids=["empty", "short", "noise", "zeros"]
)
def test_a_table_that_makes_no_sense_is_refused(custodian, table):
    with pytest.raises(FrameError):
        Reader(custodian.folder).restore(frame(b"", table))


def test_the_next_bus_removes_what_a_killed_one_has_left():
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_die_with_a_folder, args=(theirs,))
    process.start()
    folder = Path(ours.recv())
    assert folder.exists()
    Custodian().close()
    assert folder.exists()  # it lives
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(10)
    Custodian().close()
    assert not folder.exists()


def _die_with_a_folder(pipe) -> None:
    kept = Custodian()
    pipe.send(str(kept.folder))
    time.sleep(60)


def test_ports_share_what_is_large_and_the_bus_never_has_it():
    buffer = Transport(send_buffer_bytes=64 * 2**20)
    with harbor(PAIR.model_copy(update={"transport": buffer}), expected=2) as here:
        a, b = both(here)
        here.until(lambda: all(one.shares for one in here.bus.relay.connections()))
        for i in range(30):
            a.send([letter(a, 0, 1, i, [LARGE])])
            (found,) = messages(b, 1)
            assert found.payload[0] == LARGE
            assert found.sequence == i
            del found
        arena = a._arena
        assert arena is not None
        assert len(arena._slots) <= 2
        a.send([letter(a, 0, 1, 99, [LARGE])])
        size = len(raw(letter(a, 0, 1, 99, [LARGE[: SHARED_BYTES // 8]])))
        account = here.close()
    assert account.sent_bytes == 31 * (size + len(LARGE) - SHARED_BYTES // 8)


def test_who_can_not_see_the_memory_gets_the_payload_over_its_socket():
    with harbor(expected=2) as here:
        a, b = both(here)
        here.until(lambda: all(one.shares for one in here.bus.relay.connections()))
        b.report({"shares": False})
        b._reader = None
        here.until(lambda: not all(one.shares for one in here.bus.relay.connections()))
        a.send([letter(a, 0, 1, 1, [LARGE])])
        assert [bytes(part) for part in messages(b, 1)[0].payload] == [LARGE]
        a.send([letter(a, 0, 1, 1, [LARGE])])
        messages(b, 1)
        assert a._arena is not None
        assert len(a._arena._slots) == 1  # the bus has freed it


def test_anothers_memory_can_not_be_referred_to():
    with harbor(expected=2) as here:
        a, b = both(here)
        assert a._arena is not None
        assert b._arena is not None
        sent = a._arena.share(letter(b, 1, 0, 1, [LARGE]))
        b._arena = None
        b.send([sent])
        here.until(here.refused)
        assert here.refused() == {"another's shared memory": 1}
