"""Campaign 11: a store whose files somebody made to hurt, and every door it may come in through.

Each case is a small store with one file replaced: by a link, a FIFO, a socket, a device; by lengths of 0, 2^31, 2^63;
by a million nested arrays, by counts that no file could hold, by frames that announce a GiB.  Checksums, commitments
and links around the lie are right, so that it reaches the check it is about.  Each operation on each case runs in a
child of its own: it may raise a ``DetmemError`` and nothing else, must end in ``MOST_SECONDS``, and may take 64 MiB and
twice the largest file of the store beyond what an idle child takes.

What is well-formed costs what it says: a record lives in some hundred bytes, however few its bytes in the file are,
and neither a root nor a link says before the end that it is another's.  So a hostile snapshot, or a chain that somebody
took the trouble to hash, costs what as many records of one's own do; the bound is of everything else.  ``DEAR`` are
such stores, and ``--dear`` says what each of them costs (spec/log.md has the table).

``python -m tests.faults.hostile`` is the process that forks the children.  It prints a tally as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import socket
import stat
import struct
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

import detmem
from detmem.history import repair, salvage
from detmem.journal import frame, snapshot
from detmem.journal.disk import OsDisk
from detmem.journal.files import frames
from detmem.journal.head import newest_head
from detmem.machine import commands
from detmem.machine.commands import Operation
from detmem.machine.commitment import ZERO, commit, commit_leaf, link
from detmem.machine.stage import COMMIT_KIND, VERSION
from detmem.opening import open_disk
from tests.twin import TWIN

__all__ = ["CASES", "DEAR", "OPERATIONS", "run", "weigh"]

MOST_SECONDS = 60
SLACK_BYTES = 64 << 20
FIRST, LAST = "log/00000000000000000001.seg", "log/00000000000000000004.seg"
SNAPSHOT = "snap/00000000000000000003.snap"
SEGMENT_BYTES = 600
Case = Callable[[Path], None]


# ------------------------------------------------------------------------------------------------------ a sound store


def build(path: Path) -> None:
    """Two segments and a snapshot between them, closed."""
    path.mkdir()
    with open_disk(OsDisk(str(path)), segment_bytes=1 << 26) as db:
        notes = db.collection("c", dim=2, metric="l2")
        for number in range(5):
            notes.add(f"id{number}", raw=[number, 1], metadatas={"n": number}, documents=f"d{number}")
            if db.seq == 3:
                db.snapshot()
    assert (path / LAST).exists()
    assert (path / SNAPSHOT).exists()


# ------------------------------------------------------------------------------------------------ strange kinds of file


def _device(place: Path) -> None:
    os.mknod(place, 0o666 | stat.S_IFCHR, os.makedev(1, 5))  # zeros without end


def _socket(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        here = os.getcwd()
        os.chdir(place.parent)  # a socket's path is short
        one.bind(place.name)
        os.chdir(here)


KINDS: dict[str, Callable[[Path], None]] = {
    "folder": lambda place: place.mkdir(),
    "full folder": lambda place: (place / "inside").mkdir(parents=True),
    "FIFO": lambda place: os.mkfifo(place),
    "socket": _socket,
    "link to zeros": lambda place: place.symlink_to("/dev/zero"),
    "link to nothing": lambda place: place.symlink_to("nowhere"),
    "link to itself": lambda place: place.symlink_to(place.name),
    "link outside": lambda place: place.symlink_to("../../good/HEAD"),
    "device": _device,
    "empty file": lambda place: place.write_bytes(b""),
}
PLACES = ("", "LOCK", "HEAD", "HEAD.tmp", "log", FIRST, LAST, "log/x.tmp", "snap", SNAPSHOT, "quarantine")


def _strange(place: str, kind: str) -> Case:
    def make(path: Path) -> None:
        at = path / place
        if at.is_dir() and not at.is_symlink():
            shutil.rmtree(at)
        elif at.exists():
            at.unlink()
        KINDS[kind](at)

    return make


# --------------------------------------------------------------------------------------------------------------- lies


def _head(**lies: Any) -> Case:
    """HEAD, both slots, with a right CRC."""

    def make(path: Path) -> None:
        head = newest_head(OsDisk(str(path)))
        assert head is not None
        slot = replace(head, **lies).encode()
        (path / "HEAD").write_bytes(slot.ljust(4096, b"\0") * 2)

    return make


def _segment_header(name: str, rename: str = "", **lies: Any) -> Case:
    def make(path: Path) -> None:
        data = (path / name).read_bytes()
        header = replace(frame.SegmentHeader.decode(data), **lies).encode()
        (path / name).unlink()
        (path / (rename or name)).write_bytes(header + data[len(header) :])

    return make


def _tail(make_bytes: Callable[[int], bytes], *, size: int = 0, head: dict[str, Any] | None = None) -> Case:
    """Behind the last commit; ``make_bytes`` gets the seed of the CRCs.  ``size``: the file is made so long, sparse."""

    def make(path: Path) -> None:
        name = path / LAST
        seed = frame.SegmentHeader.decode(name.read_bytes()).seed
        with name.open("ab") as file:
            file.write(make_bytes(seed))
            if size:
                file.truncate(size)
        if head is not None:
            _head(**head)(path)

    return make


def _operations(
    make_list: Callable[[], list[Operation]] | None = None, body: Callable[[], bytes] | None = None, linked: bool = True
) -> Case:
    """The next commit, of these operations, with right commitments and (``linked``) a right link."""

    def make(path: Path) -> None:
        disk = OsDisk(str(path))
        *_, (segment, last) = frames(disk, 1, None)
        raw = body() if body is not None else commands.encode(make_list() if make_list else [], frame.MAX_FRAME_BYTES)
        leaves = [one.leaf for one in make_list()] if make_list is not None else []
        closing = commit_leaf(last.seq + 1, len(leaves), ZERO)
        chained = link(last.link, COMMIT_KIND, 0, VERSION, last.seq + 1, b"".join(leaves), closing) if linked else ZERO
        header = frame._encode_header(COMMIT_KIND, len(raw), last.seq + 1, last.seq, segment.header.seed)
        with (path / segment.name).open("ab") as file:
            file.write(header + raw + ZERO + chained)

    return make


def _content(data: bytes) -> list[Operation]:
    vector = struct.pack("<2i", 1, 1)
    return [commands._operation(commands.ADD, "c", "new", vector, data, commit(vector), commit(data))]


def _operation_head(**lies: int) -> bytes:
    fields = {"type": 3, "flags": 3, "name": 1, "id": 1, "request": 0, "vector": 8, "content": 3, **lies}
    return commands.HEADER.pack(*fields.values(), ZERO, ZERO) + b"cx\0" + bytes(64)


def _snapshot_header(**lies: Any) -> Case:
    """The snapshot's header with some fields changed and its hash made right."""

    def make(path: Path) -> None:
        data = (path / SNAPSHOT).read_bytes()
        names = ("magic", "version", "flags", "chunk", "seq", "size", "link", "state", "log", "subtrees", "collections")
        fields = dict(zip(names, TWIN.SNAPSHOT_HEADER.unpack_from(data), strict=True))
        frontier = data[TWIN.SNAPSHOT_HEADER.size :][: 32 * fields["subtrees"]]
        fields.update(lies)
        frontier = (frontier * 99)[: 32 * min(64, fields["subtrees"])]
        header = TWIN.SNAPSHOT_HEADER.pack(*fields.values()) + frontier
        (path / SNAPSHOT).write_bytes(TWIN.assemble_snapshot(header, b""))

    return make


def _snapshot_stream(stream: Callable[[], bytes], collections: int = 1) -> Case:
    """The snapshot's header over another stream, all hashes right."""

    def make(path: Path) -> None:
        data = bytearray((path / SNAPSHOT).read_bytes())
        subtrees = struct.unpack_from("<I", data, TWIN.SNAPSHOT_HEADER.size - 8)[0]
        struct.pack_into("<I", data, TWIN.SNAPSHOT_HEADER.size - 4, collections)
        header = bytes(data[: TWIN.SNAPSHOT_HEADER.size + 32 * subtrees])
        (path / SNAPSHOT).write_bytes(TWIN.assemble_snapshot(header, stream()))

    return make


def _collection(count: int, rest: bytes = b"", dim: int = 1) -> bytes:
    definition = TWIN.definition(dim, "l2", "Q16.16")
    return TWIN.lp("c") + struct.pack("<I", len(definition)) + definition + struct.pack("<Q", count) + rest


def _announced(length: int, kind: int = COMMIT_KIND) -> Callable[[int], bytes]:
    return lambda seed: _raw_header(length, kind, 6, seed)


def _raw_header(length: int, kind: int, seq: int, seed: int, durable: int = 5) -> bytes:
    head = struct.pack("<4sBBHIQQ", b"DMF1", kind, 0, VERSION, length, seq, durable)
    return head + struct.pack("<I", crc32(head, seed))


def _tiny_deletes(count: int) -> bytes:
    return commands.encode([commands.delete("c", "x")], 1 << 20) * count


def _records(count: int, content: bytes) -> bytes:
    """A collection of ``count`` records of one dimension, each as small as may be."""
    ids = b"".join(TWIN.lp(f"{number:07d}") for number in range(count))
    rows = struct.pack("<Q", 1) * count + struct.pack("<i", 1) * count
    return _collection(count, ids + rows + (struct.pack("<I", len(content)) + content) * count)


MANY = 1 << 20
BOMBS = {
    "2^20 empty maps": b"\xdd" + struct.pack(">I", MANY) + b"\x80" * MANY,
    "2^20 empty arrays": b"\xdd" + struct.pack(">I", MANY) + b"\x90" * MANY,
    "as many maps as are admitted": b"\xdd" + struct.pack(">I", (1 << 17) - 1) + b"\x80" * ((1 << 17) - 1),
    "10^6 nested arrays": b"\x91" * 1_000_000 + b"\xc0",
    "10^6 nested maps": b"\x81\xa0" * 1_000_000 + b"\xc0",
    "an array of 2^32 - 1": b"\xdd\xff\xff\xff\xff",
    "a map of 2^32 - 1": b"\xdf\xff\xff\xff\xff",
    "a text of 2^32 - 1": b"\xdb\xff\xff\xff\xff",
    "bytes of 2^31": b"\xc6\x80\x00\x00\x00",
    "an extension": b"\xc9\xff\xff\xff\xff\x01",
}
CASES: dict[str, Case] = {
    f"{kind} at {place or 'the root'}": _strange(place, kind) for kind in KINDS for place in PLACES
}
for number in (0, 1, 2**31, 2**63 - 1, 2**63, 2**64 - 1):
    CASES |= {
        f"HEAD: durable_seq {number}": _head(durable_seq=number),
        f"HEAD: durable_offset {number}": _head(durable_offset=number),
        f"HEAD: durable_offset {number}, not clean": _head(durable_offset=number, clean=False),
        f"HEAD: segment {number}": _head(segment=number),
        f"HEAD: snapshot_seq {number}": _head(snapshot_seq=number),
        f"HEAD: generation {number}": _head(generation=number),
        f"segment: first_seq {number}": _segment_header(LAST, first_seq=number),
        f"segment: first_seq {number}, so named": _segment_header(LAST, f"log/{number:020d}.seg", first_seq=number),
        f"segment: log_size {number}": _segment_header(LAST, log_size=number),
        f"snapshot: seq {number}": _snapshot_header(seq=number),
        f"snapshot: {number} records": _snapshot_stream(lambda number=number: _collection(number)),
        f"snapshot: {number} records of 65536": _snapshot_stream(lambda number=number: _collection(number, dim=65536)),
        f"snapshot: log size {number}": _snapshot_header(size=number, subtrees=number.bit_count()),
        f"tail: seq {number}": _tail(lambda seed, number=number: _raw_header(100, 1, number, seed) + bytes(200)),
        f"tail: durable_seq {number}": _tail(
            lambda seed, number=number: _raw_header(9, 1, 6, seed, number) + bytes(99)
        ),
    }
for number in (0, 1, 2**30, 2**31, 2**32 - 1):
    CASES |= {
        f"frame: {number} bytes": _tail(_announced(number)),
        f"frame: {number} bytes, and more follows": _tail(lambda seed, n=number: _announced(n)(seed) + bytes(5000)),
        f"seal: {number} bytes": _tail(_announced(number, 2)),
        f"operation: vector of {number}": _operations(body=lambda n=number: _operation_head(vector=n), linked=False),
        f"operation: content of {number}": _operations(body=lambda n=number: _operation_head(content=n), linked=False),
        f"snapshot: {number} collections": _snapshot_stream(lambda: b"", collections=number),
        f"snapshot: a definition of {number}": _snapshot_stream(lambda n=number: TWIN.lp("c") + struct.pack("<I", n)),
        f"snapshot: chunk size {number}": _snapshot_header(chunk=number),
        f"snapshot: {number} subtrees": _snapshot_header(subtrees=number),
        f"snapshot: a content of {number}": _snapshot_stream(
            lambda n=number: _collection(1, TWIN.lp("x") + struct.pack("<QiI", 1, 1, n))
        ),
    }
for number in (0, 1, 512, 513, 2**16 - 1):
    CASES |= {
        f"operation: id of {number}": _operations(body=lambda n=number: _operation_head(id=n), linked=False),
        f"operation: name of {number}": _operations(body=lambda n=number: _operation_head(name=n), linked=False),
        f"operation: request of {number}": _operations(body=lambda n=number: _operation_head(request=n), linked=False),
        f"snapshot: a name of {number}": _snapshot_stream(lambda n=number: struct.pack("<H", n) + b"\xff" * 9),
    }
for words, bomb in BOMBS.items():
    CASES |= {
        f"content: {words}": _operations(lambda bomb=bomb: _content(bomb)),
        f"content: {words}, as metadata": _operations(lambda bomb=bomb: _content(b"\x92\x81\xa1k" + bomb + b"\xc0")),
        f"snapshot: {words}": _snapshot_stream(
            lambda bomb=bomb: _collection(1, TWIN.lp("x") + struct.pack("<QiI", 1, 1, len(bomb)) + bomb)
        ),
        f"file: {words}": _tail(lambda seed, bomb=bomb: bomb),
    }
CASES |= {
    "a commit without operations": _operations(list),
    "10^5 deletes of nothing": _operations(lambda: [commands.delete("c", "x")] * 100_000),
    "32 MiB of tiny operations, no link": _operations(body=lambda: _tiny_deletes((32 << 20) // 83), linked=False),
    "a frame of 200 MiB of nothing": _tail(_announced(200 << 20), size=(200 << 20) + 4096),
    "a tail of 64 MiB of nothing": _tail(lambda seed: b"x", size=64 << 20),
    "a tail of magics": _tail(lambda seed: b"DMF1" * MANY),
    "a tail of headers": _tail(lambda seed: _raw_header(1 << 20, 1, 6, seed) * (1 << 16)),
    "a tail of seals": _tail(lambda seed: _raw_header(80, 2, 5, seed) * (1 << 12)),
    "a snapshot of 20,000 records of another state": _snapshot_stream(lambda: _records(20_000, b"\x92\x80\xc0")),
    "a large LOCK": lambda path: os.truncate(path / "LOCK", 1 << 26),
    "a large HEAD": lambda path: os.truncate(path / "HEAD", 1 << 26),
    "a large snapshot": lambda path: os.truncate(path / SNAPSHOT, 1 << 26),
    "HEAD of zeros": lambda path: (path / "HEAD").write_bytes(bytes(8192)),
    "a text in LOCK that is none": lambda path: (path / "LOCK").write_bytes(b"process \xff\xfe\x00" * 99),
    "strange names": lambda path: (
        [
            (path / folder / name).write_bytes(b"x")
            for folder in ("log", "snap")
            for name in (
                "99999999999999999999.seg",
                "99999999999999999999.snap",
                "00000000000000000000.seg",
                "\udcff.seg",
            )
        ]
        and None
    ),
}


def _written(work: Callable[[detmem.Database], object], *, at_end: bool = False) -> Case:
    """What detmem itself writes, in a child: what that takes is not this process's."""

    def write(path: Path) -> None:
        with detmem.open(path, durability="os") as db:
            work(db)
            if at_end:
                db.snapshot()

    def make(path: Path) -> None:
        status, _, _ = _child(partial(write, path), seconds=0)
        assert status == 0

    return make


def _many(db: detmem.Database, count: int, metadata: dict[str, Any] | None = None, id: str = "{}") -> detmem.Collection:
    """``count`` records of one dimension in one commit."""
    rows = db.collection("many", dim=1, metric="l2")
    ids = [id.format(number) for number in range(count)]
    rows.add(ids, raw=np.ones((count, 1), dtype=np.int32), metadatas=None if metadata is None else [metadata] * count)
    return rows


def _many_commits(db: detmem.Database) -> None:
    rows = db.collection("many", dim=1, metric="l2")
    for number in range(30_000):
        rows.add(str(number), raw=[1])


def _never_durable(db: detmem.Database) -> None:
    """Written and never synced, nor closed: who only reads waits for word that it is durable."""
    _many_commits(db)
    os._exit(0)


def _many_links(db: detmem.Database) -> None:
    rows = _many(db, 2)
    with db.batch():
        for number in range(100_000):
            rows.link("0", str(number), "1")


def _many_requests(db: detmem.Database) -> None:
    rows = _many(db, 2)
    for number in range(1 << 16):
        rows.upsert("0", raw=[1], request_id=str(number))


def _many_deletes(db: detmem.Database) -> None:
    _many(db, 100_000).delete([str(number) for number in range(100_000)])


def _many_collections(db: detmem.Database, count: int = 20_000) -> None:
    for number in range(count):
        db.collection(str(number), dim=1, metric="l2")


NUMBERS = {"k": [1000] * 21_000}  # 3 bytes of the file each, and 40 of memory
FIELDS: dict[str, Any] = {f"{number:x}": None for number in range(9_000)}
SHAPES: dict[str, Callable[..., object]] = {  # one of which is made smaller as well, by a second argument
    "10^5 bare adds": lambda db: _many(db, 100_000),
    "10^5 adds with a field each": lambda db: _many(db, 100_000, {"k": 0}),
    "200 adds with a list of 21,000 numbers each": lambda db: _many(db, 200, NUMBERS),
    "200 adds with 9,000 fields each": lambda db: _many(db, 200, FIELDS),
    "20,000 adds with ids of 500 bytes": lambda db: _many(db, 20_000, id="{:0500d}"),
    "10^5 adds, then 10^5 deletes": _many_deletes,
    "10^5 links": _many_links,
    "30,000 commits of one add": _many_commits,
    "30,000 commits that are not known to be durable": _never_durable,
    "20,000 collections": _many_collections,
    "65,536 requests": _many_requests,
}
DEAR: dict[str, Case] = {f"log: {name}": _written(shape) for name, shape in SHAPES.items()}
DEAR |= {
    f"snapshot: {name}": _written(shape, at_end=True)
    for name, shape in SHAPES.items()
    if "delete" not in name and "known" not in name
}
DEAR["snapshot: 10^6 bare adds"] = _written(lambda db: _many(db, 1_000_000), at_end=True)


HEAVY = ("32 MiB", "64 MiB", "200 MiB", "a large")


# ------------------------------------------------------------------------------------------------------- every door


def _opened(path: str, mode: str, **more: Any) -> None:
    with detmem.open(path, mode, **more) as db:
        for name in db.collections():
            db[name].get()
        list(db.log())
        if mode != "r":
            db.collection("more", dim=1)
            db.snapshot()


def _backup(path: str) -> None:
    with detmem.open(path, "r") as db:
        db.backup(f"{path}.copy")


OPERATIONS: dict[str, Callable[[str, str], object]] = {
    "open to write": lambda path, good: _opened(path, "a"),
    "open to read": lambda path, good: _opened(path, "r"),
    "open without HEAD": lambda path, good: _opened(path, "r+", accept_missing_head=True),
    "verify the chain": lambda path, good: detmem.verify(path, level="chain"),
    "verify by replay": lambda path, good: detmem.verify(path),
    "back up": lambda path, good: _backup(path),
    "salvage": lambda path, good: salvage(path, f"{path}.saved"),
    "repair": lambda path, good: repair(path, good),
    "repair from": lambda path, good: repair(good, path),
    "compare": lambda path, good: detmem.diff(path, good),
}


@dataclass
class Tally:
    """``runs`` operations; ``most_bytes`` beyond an idle child, and beyond twice the largest file."""

    cases: int = 0
    runs: int = 0
    most_bytes: int = 0
    most_beyond: int = 0
    dearest: str = ""
    most_seconds: float = 0.0
    slowest: str = ""
    failures: list[str] = field(default_factory=list)
    endings: Counter[str] = field(default_factory=Counter)


def _child(work: Callable[[], object], seconds: int = MOST_SECONDS) -> tuple[int, int, float]:
    """(status, peak resident bytes, CPU seconds); ``seconds``: killed after so many, 0 for never."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 3
        try:
            signal.alarm(seconds)
            work()
            code = 0
        except detmem.DetmemError:
            code = 1
        except BaseException:  # noqa: BLE001 - the parent reads the status, a person the words
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status, usage = os.wait4(pid, 0)
    unit = 1 if sys.platform == "darwin" else 1024
    return status, usage.ru_maxrss * unit, usage.ru_utime + usage.ru_stime


def _ready(folder: Path) -> tuple[Path, int]:
    """A good store, made by a process that is warm, and what an idle child of it takes."""
    good = folder / "good"
    build(good)
    OPERATIONS["open to write"](str(good), "")
    shutil.rmtree(good)
    build(good)
    return good, _child(lambda: None)[1]


def run(cases: list[str], folder: Path) -> Tally:
    """Every operation on every one of these cases."""
    tally = Tally(len(cases))
    good, idle = _ready(folder)
    for name in cases:
        original = folder / "case" / "store"
        shutil.copytree(good, original)
        CASES[name](original)
        files = [one for one in original.rglob("*") if one.is_file() and not one.is_symlink()]
        largest = max([one.stat().st_size for one in files], default=0)
        for what, operation in OPERATIONS.items():
            path, other = folder / "run" / "store", folder / "run" / "good"
            path.parent.mkdir()
            _copy(original, path)
            _copy(good, other)
            status, peak, seconds = _child(partial(operation, str(path), str(other)))
            shutil.rmtree(path.parent)
            beyond, words = peak - idle - 2 * largest, f"{name}: {what}"
            tally.runs += 1
            tally.endings[{0: "done", 256: "refused"}.get(status, "failed")] += 1
            tally.most_bytes = max(tally.most_bytes, peak - idle)
            if beyond > tally.most_beyond:
                tally.most_beyond, tally.dearest = beyond, words
            if seconds > tally.most_seconds:
                tally.most_seconds, tally.slowest = seconds, words
            if status not in (0, 256):
                tally.failures.append(f"{words}: wait status {status}, see stderr")
            if beyond > SLACK_BYTES:
                tally.failures.append(f"{words}: {(peak - idle) >> 20} MiB, largest file {largest >> 20} MiB")
        shutil.rmtree(original.parent)
    return tally


def weigh(names: list[str], folder: Path) -> Iterator[dict[str, Any]]:
    """What stores of ``DEAR`` take, in MiB: their file, what the bound allows for it, what it takes to read it (to open
    the store, or to load the snapshot alone), and the dearest of ``READERS``."""
    good, idle = _ready(folder)
    for name in names:
        store = folder / "store"
        DEAR[name](store)
        of_log = name.startswith("log")
        largest = max(one.stat().st_size for one in (store / ("log" if of_log else "snap")).iterdir())
        reading = partial(_open if of_log else _load, store)
        doors = [partial(OPERATIONS[door], str(store), str(good)) for door in READERS if of_log]
        peaks = []
        for work in [reading, *doors]:
            status, peak, _ = _child(work, seconds=0)
            assert status == 0
            peaks.append(peak - idle)
        sizes = {"file": largest, "allowed": SLACK_BYTES + 2 * largest, "read": peaks[0], "dearest": max(peaks)}
        yield {"store": name, **{key: round(size / 2**20, 1) for key, size in sizes.items()}}
        shutil.rmtree(store)


def _open(path: Path) -> None:
    detmem.open(path, "r").close()


def _load(path: Path) -> None:
    disk = OsDisk(str(path))
    name = max(disk.list("snap"))
    snapshot.load(disk.open(f"snap/{name}"), name)


READERS = ("open to read", "verify the chain", "verify by replay", "compare")


def _copy(source: Path, dest: Path) -> None:
    """Hard links are as good as copies of what nobody can copy; the holes of a sparse file stay holes."""
    if source.is_symlink():
        dest.symlink_to(os.readlink(source))
    elif source.is_dir():
        dest.mkdir()
        for one in source.iterdir():
            _copy(one, dest / one.name)
    elif source.is_file():
        with source.open("rb") as old, dest.open("wb") as new:
            size = source.stat().st_size
            head = old.read(min(size, 8 << 20))
            new.write(head)
            rest = old.read() if size < 48 << 20 else b""
            new.write(rest)
            new.truncate(size)
    else:
        os.link(source, dest)


def admitted() -> list[str]:
    """The cases that this user may make: a device needs a privilege."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            _device(Path(folder) / "zeros")
        except PermissionError:
            return [name for name in CASES if not name.startswith("device at")]
    return list(CASES)


def main() -> int:
    parser = argparse.ArgumentParser(description="stores that were made to hurt")
    parser.add_argument("--like", default="", help="only cases with these letters in their name")
    parser.add_argument("--dear", action="store_true", help="what well-formed stores of many small things take, in MiB")
    parser.add_argument("--quick", action="store_true", help="leave out the files of many MiB")
    parser.add_argument("--part", default="0/1", help="k/n: every n-th case, from the k-th")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    start, step = map(int, options.part.split("/"))
    cases = [name for name in admitted() if options.like in name]
    cases = [name for name in cases if not (options.quick and any(word in name for word in HEAVY))][start::step]
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # nothing here depends on a sync
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        if options.dear:
            for one in weigh([name for name in DEAR if options.like in name], Path(folder)):
                print(json.dumps(one), flush=True)
            return 0
        tally = run(cases, Path(folder))
    print(json.dumps({**vars(tally), "endings": dict(tally.endings)}))
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())
