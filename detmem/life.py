"""One fixed life of a memory, in stages: what ``selfcheck`` plays on every machine.

A *stage* is a part of that life.  It plays in a world of its own and yields *notes*, (what, value) pairs.

Rule 1  Stages share nothing, neither stores nor drawn numbers.  So a new stage moves no old one: write a generator,
        put it into ``STAGES``, and renew what is expected (``make golden``).
Rule 2  Inputs come from SHAKE-256 and from literals.  Nothing noted depends on a clock, a path or a random number.
Rule 3  A stage asks the world for stores, never the package.  The tests have a second world, in which the naive twin
        lives the same life: what is expected is what two programs written apart came to.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

import detmem

__all__ = ["SEARCHING", "STAGES", "World"]

Note: TypeAlias = "tuple[str, Any]"
Stage: TypeAlias = "Callable[[World], Iterator[Note]]"


# ------------------------------------------------------------------------------------------------------------ the world


class World:
    """Stores by name in a folder, and what one does to them from outside."""

    def __init__(self, folder: Path, kernel: str) -> None:
        self.folder = folder
        self.kernel = kernel

    def open(self, name: str, mode: str = "a", durability: str = "os") -> Any:
        """A database.  Its searches use the world's kernel, whatever their size."""
        db = detmem.open(self.folder / name, mode, durability=durability)
        db._finder.kernel = self.kernel  # as DETMEM_KERNEL would; the environment is the user's, not ours to change
        return db

    def quantize(self, values: Any, format: str, overflow: str = "error") -> list[Any]:
        return _listed(detmem.quantize(values, format, overflow=overflow))

    def dequantize(self, raw: list[int], format: str) -> list[Any]:
        return _listed(detmem.dequantize(np.array(raw, dtype=np.int32), format))

    def refusal(self, call: Callable[..., object], *given: object, **named: object) -> str:
        """The name of the error that a call ends in, or "none"."""
        try:
            call(*given, **named)
        except detmem.DetmemError as error:
            return type(error).__name__
        return "none"

    def snapshot(self, db: Any) -> str:
        """Take a snapshot; the SHA-256 of its file."""
        return hashlib.sha256(Path(db.snapshot().path).read_bytes()).hexdigest()

    def backup(self, db: Any, name: str) -> None:
        db.backup(self.folder / name)

    def replay(self, name: str, dest: str, until: int | None = None) -> None:
        detmem.replay(self.folder / name, self.folder / dest, until=until)

    def verified(self, name: str) -> tuple[bool, int, str]:
        report = detmem.verify(self.folder / name)
        return report.ok, report.seq, report.state_root

    def counts(self, name: str) -> list[int]:
        """Of the whole log: operations, and payloads that are erased, are still to be, and lie elsewhere."""
        report = detmem.verify(self.folder / name)
        return [report.operations, report.erased, report.remaining, report.archived]

    def share_key(self, name: str) -> None:
        """Give a new store the key that every world gives: salts are drawn from it, and roots cover salts."""
        keys = self.folder / name / "keys"
        keys.mkdir(exist_ok=True)
        (keys / "store.key").write_bytes(bytes(range(32)))

    def archive(self, db: Any, dest: str) -> None:
        db.archive(self.folder / dest)

    def put_back(self, archive: str, name: str) -> None:
        """The segments of an archive, into the closed store that they came from."""
        shutil.copytree(self.folder / archive / "log", self.folder / name / "log", dirs_exist_ok=True)

    def torn(self, name: str, dest: str, write: Callable[[], object], share: float) -> None:
        """Make ``dest`` the store ``name`` as a crash leaves it in the middle of ``write``: what the call writes to
        the log is there by ``share`` only, and nothing else of it."""
        before = self._logs(name)
        shutil.copytree(self.folder / name, self.folder / dest)
        write()
        ((path, after),) = [(path, data) for path, data in self._logs(name).items() if data != before.get(path)]
        was = before[path].ljust(len(after), b"\0")
        start = next(at for at, (old, new) in enumerate(zip(was, after, strict=True)) if old != new)
        written = after[start:].rstrip(b"\0")
        with (self.folder / dest / path).open("r+b") as file:
            file.seek(start)
            file.write(written[: int(len(written) * share)])

    def _logs(self, name: str) -> dict[Path, bytes]:
        root = self.folder / name
        return {path.relative_to(root): path.read_bytes() for path in sorted((root / "log").iterdir())}


def _listed(array: NDArray[Any]) -> list[Any]:
    values: list[Any] = array.tolist()
    return values


# ---------------------------------------------------------------------------------------------------------- drawn input


def _bits(tag: str, count: int) -> NDArray[np.uint32]:
    """``count`` drawn uint32, the same everywhere."""
    drawn = hashlib.shake_256(f"detmem selfcheck {tag}".encode()).digest(4 * count)
    return np.frombuffer(drawn, dtype="<u4").astype(np.uint32)


def _floats(tag: str, *shape: int) -> NDArray[np.float32]:
    """float32 in [-1, 1) on a grid of 2^-23: every step here is exact."""
    whole = (_bits(tag, int(np.prod(shape, dtype=np.int64))) >> np.uint32(8)).astype(np.float32)
    return (whole * np.float32(2.0**-23) - np.float32(1.0)).reshape(shape)


def _raws(tag: str, bits: int, *shape: int) -> NDArray[np.int32]:
    """int32 within +-2^bits."""
    drawn = _bits(tag, int(np.prod(shape, dtype=np.int64))).astype(np.int64) & ((1 << (bits + 1)) - 1)
    return (drawn - (1 << bits)).astype(np.int32).reshape(shape)


_WORDS = ("amber", "éclair", "zebra", "ﬀ", "\U0001f40b", "日本", "a", "Z")


def _metadata(tag: str, count: int) -> list[dict[str, Any]]:
    """Maps with every kind of value, missing fields, numbers that float64 cannot hold, and -0.0."""
    drawn = iter(_bits(f"{tag} metadata", 4 * count).tolist())
    maps: list[dict[str, Any]] = []
    for number in range(count):
        kind, word, some, flag = (next(drawn) for _ in range(4))
        one: dict[str, Any] = {"n": number, "word": _WORDS[word % 8]}
        value = (some % 2001 - 1000, (some % 4001 - 2000) / 16, 2**53 + some % 3, -0.0, None)[kind % 5]
        if kind % 7:
            one["value"] = value
        if flag % 3 == 0:
            one["flag"] = flag % 2 == 0
        if flag % 4 == 0:
            one["tags"] = [_WORDS[some % 8], some % 5, 0.5, None, True][: some % 6]
        maps.append(one)
    return maps


def _standing(db: Any) -> dict[str, Any]:
    return {"seq": db.seq, "state": db.state_root, "log": db.log_root, "head": db.head}


def _answer(result: Any) -> list[Any]:
    """(ids, raw distances, distances) of a result, as lists."""
    return [list(result.ids), _listed(result.raw), _listed(result.distances)]


def _records(collection: Any, **asked: Any) -> list[Any]:
    records = collection.get(include=("metadatas", "documents", "raw"), **asked)
    return [records.ids, records.metadatas, records.documents, _listed(records.raw)]


# ----------------------------------------------------------------------------------------------------------- the stages


_HALVES = (
    0.0,
    -0.0,
    0.5,
    1.5,
    2.5,
    -0.5,
    -1.5,
    -2.5,
    0.49999997,
    0.50000006,
    3.4999998,
    -3.5,
    8388607.5,
    1e-45,
    -1e-38,
)
_BITS = {"Q16.16": 16, "Q8.24": 24, "Q4.28": 28}


def _numbers(world: World) -> Iterator[Note]:
    """Floats at the door: halves, corners of every format, subnormals, every width of float, and what is refused."""
    for format, bits in _BITS.items():
        limit, unit = math.ldexp(1.0, 31 - bits), math.ldexp(1.0, -bits)
        exact = [half * unit for half in _HALVES]
        yield f"halves {format}", world.quantize(exact, format)
        corners = [-limit, limit - unit, limit - 0.5 * unit - unit * 2.0**-20, 5e-324, -5e-324]
        yield f"corners {format}", world.quantize(corners, format)
        for name, value in (("top", limit), ("half below", limit - 0.5 * unit), ("nan", float("nan"))):
            yield f"{name} {format}", world.refusal(world.quantize, [1.0, value], format)
        clipped = [1e300, -1e300, limit, -2 * limit, float("inf"), -float("inf"), 1.5 * unit]
        yield f"clipped {format}", world.quantize(clipped, format, "clip")
        drawn = _floats(f"numbers {format}", 1000)
        for width in (np.float16, np.float32, np.float64):
            yield f"{width.__name__} {format}", world.quantize(drawn.astype(width), format)
        yield f"strided {format}", world.quantize(drawn[::-3], format)
        yield f"swapped {format}", world.quantize(drawn.astype(">f4"), format)
        yield f"ints {format}", world.quantize(np.array([-8, 7, 0, 3], dtype=np.int16), format)
        raws = [-(2**31), 2**31 - 1, 0, 1, -1, *_raws(f"numbers {format}", 30, 50).tolist()]
        yield f"back {format}", world.dequantize(raws, format)


def _units(world: World) -> Iterator[Note]:
    """Unit vectors: huge, tiny and mixed ones, in every format; each is its own nearest neighbour at exactly 0."""
    with world.open("units") as db:
        for format in _BITS:
            unit = db.collection(format, dim=7, metric="cosine", format=format)
            drawn = _floats(f"units {format}", 60, 7).astype(np.float64)
            scales = np.ldexp(1.0, _raws(f"units scale {format}", 9, 60))
            drawn *= scales[:, None]
            drawn[0] = [5e-324, 0, 0, 0, 0, 0, -5e-324]
            drawn[1] = [1.7e308, -1.7e308, 1e300, 0, 5e-324, 1, -1]
            drawn[2] = [1, 0, 0, 0, 0, 0, 0]
            drawn[3] = [1, 1, 1, 1, 1, 1, 1]
            drawn[4] = [3, 4, 0, 0, 0, 0, 0]
            ids = [f"{number:02d}" for number in range(len(drawn))]
            unit.add(ids, drawn)
            yield f"raw {format}", _records(unit)
            yield f"itself {format}", [_answer(unit.search(drawn[number], k=2)) for number in (0, 1, 3, 17, 59)]
            refusals = [[0.0] * 7, [1.0] * 6 + [float("inf")], [1.0] * 6]
            yield f"refused {format}", [world.refusal(unit.add, "no", vector) for vector in refusals]
        yield "standing", _standing(db)


_DEFINED = (("deep", 5, "l2", "Q8.24"), ("wide", 33, "ip", "Q4.28"), ("notes", 12, "cosine", "Q16.16"))


def _write(tag: str, db: Any) -> Iterator[Note]:
    """The writes of a life, after each of which the caller is shown where the database stands."""
    for name, dim, metric, format in _DEFINED:
        c = db.collection(name, dim=dim, metric=metric, format=format)
        yield f"{name} made", None
        maps, vectors = _metadata(f"{tag} {name}", 40), _floats(f"{tag} {name}", 40, dim) * np.float32(0.5)
        ids = [f"{_WORDS[number % 8]}-{number}" for number in range(40)]
        texts = [None if number % 3 else f"text {number} {_WORDS[number % 5]}" for number in range(40)]
        c.add(ids[0], vectors[0], metadatas=maps[0], documents=texts[0])
        yield f"{name} one added", None
        c.add(ids[1:], vectors[1:], metadatas=maps[1:], documents=texts[1:])
        yield f"{name} many added", None
        c.upsert(ids[5:8], vectors[8:11])
        yield f"{name} upserted", None
        changes: list[Any] = [{"word": None, "late": 1.5}, None, {"value": [1, "x", None]}]
        c.update(ids[10:13], metadatas=changes, documents=["new", None, ""])
        c.update(ids[13], vectors=vectors[0])
        yield f"{name} updated", None
        c.delete([ids[20], "nobody", ids[3]])
        c.delete(where={"value": {"$gt": 60}})
        c.delete(where={"word": "nothing like it"})
        yield f"{name} deleted", None
    with db.batch():
        db["deep"].delete(["amber-0"])
        db["deep"].add("amber-0", [0.25, -0.25, 0, 45, -45])
        db["wide"].upsert("amber-0", [0.5] * 33, documents="in a batch")
        db.collection("brief", dim=1, metric="l2").add(["x", "y"], [[1], [2]])
    yield "batch", None
    db.drop("brief")
    yield "dropped", None
    db.collection("brief", dim=2, metric="ip").add("x", [1, 2])
    yield "made again", None


def _life(world: World) -> Iterator[Note]:
    """Three collections, every metric and format: roots after each write, then what is there and what it answers."""
    with world.open("life") as db:
        for what, _ in _write("life", db):
            yield what, _standing(db)
        for name, dim, _, _ in _DEFINED:
            c = db[name]
            yield f"{name} records", _records(c)
            yield f"{name} page", _records(c, limit=3, offset=4)
            yield f"{name} answers", _answer(c.search(_floats(f"life ask {name}", 3, dim), k=5))
        duplicate = world.refusal(db["deep"].add, ["new", "amber-0"], [[0] * 5] * 2)
        too_long = world.refusal(db["wide"].add, "new", raw=[2**30] * 33)
        yield "refused", [duplicate, too_long, _standing(db)]
        yield "snapshot", world.snapshot(db)


def _answers(world: World) -> Iterator[Note]:
    """Ties, extremes and odd shapes: rows up to the admitted norm, equal rows under many ids, every k, masks."""
    with world.open("answers") as db:
        for metric in ("l2", "ip", "cosine"):
            for dim, count in ((1, 40), (3, 17), (64, 50), (130, 33)):
                c = db.collection(f"{metric} {dim}", dim=dim, metric=metric, format="Q8.24")
                whole = _raws(f"answers {metric} {dim}", 20, count, dim)
                whole[count // 2 :] = whole[: count - count // 2]  # every row twice or so, under other ids
                whole[5:8] = whole[4]
                largest = 1 << 26 if dim == 130 else 1 << 27 if dim == 64 else 1 << 29
                whole[1, :], whole[2, :], whole[3, 0] = largest, -largest, 1 << 30
                whole[3, 1:] = 0
                ids = [f"{_WORDS[number % 8]}{number * 7 % 11}-{number}" for number in range(count)]
                c.add(ids, raw=whole, metadatas=[{"odd": number % 2, "n": number} for number in range(count)])
                asked = whole[[0, 1, 3, 6, 9]]
                yield f"{metric} {dim} all", _answer(c.search(raw=asked, k=count + 5))
                yield f"{metric} {dim} k", [_answer(c.search(raw=asked[3], k=k)) for k in (1, 2, 5)]
                many = _raws(f"answers ask {metric} {dim}", 26, 18, dim)
                yield f"{metric} {dim} batch", _answer(c.search(raw=many, k=3))
                yield f"{metric} {dim} odd", _answer(c.search(raw=asked[0], k=4, where={"odd": 1}))
                yield f"{metric} {dim} one", _answer(c.search(raw=asked[2], k=4, where={"n": 3}))
                yield f"{metric} {dim} ids", _answer(c.search(raw=asked[4], k=4, ids=ids[3:9]))
                c.delete(ids[::2])
                yield f"{metric} {dim} fewer", _answer(c.search(raw=asked[1], k=9))


_FRONT_ROWS, _FRONT_DIM, _FRONT_QUERIES, _FRONT_DIRECTIONS = 4_200, 128, 64, 32


def _front(world: World) -> Iterator[Note]:
    """Enough rows and questions that compiled kernels learn what to read first, in floats: no answer may move.

    Kernels are asked twenty times and must say the same each time, before, while and after they have learned.
    """
    with world.open("front") as db:
        c = db.collection("front", dim=_FRONT_DIM, metric="l2")
        # Each direction holds a little less of a row than the one before, and noise is everywhere: it pays to scan some
        # coordinates, and to look up some more of the rows that are left.
        strengths = [[4096 * 15**number // 16**number] for number in range(_FRONT_DIRECTIONS)]
        basis = _raws("front basis", 10, _FRONT_DIRECTIONS, _FRONT_DIM) * np.array(strengths, dtype=np.int32) >> 12
        rows = _near(basis, "front rows", _FRONT_ROWS)
        c.add([f"{number:05d}" for number in range(_FRONT_ROWS)], raw=rows)
        yield "standing", _standing(db)
        asked = _near(basis, "front ask", _FRONT_QUERIES)
        first = c.search(raw=asked, k=10, include=())
        yield "answers", [_answer(first[number]) for number in range(6)]
        same = True
        for _ in range(0 if world.kernel == "reference" else 19):
            again = c.search(raw=asked, k=10, include=())
            same = same and again.ids == first.ids and np.array_equal(again.raw, first.raw)
        yield "same each time", same


def _near(basis: NDArray[np.int32], tag: str, count: int) -> NDArray[np.int32]:
    """Rows int32 (count, dim) of drawn multiples of the basis, and noise."""
    multiples = _raws(tag, 8, count, len(basis)).astype(np.int64)
    rows: NDArray[np.int64] = np.einsum("ij,jk->ik", multiples, basis.astype(np.int64))
    return (rows + _raws(f"{tag} noise", 17, count, basis.shape[1])).astype(np.int32)


def _compaction(world: World) -> Iterator[Note]:
    """More dead rows than live ones: what is dropped from memory, and how slots move, shows nowhere."""
    count = 1_200
    with world.open("compaction") as db:
        c = db.collection("compaction", dim=5, metric="ip")
        ids = [f"{number * 7 % count:04d}" for number in range(count)]
        c.add(ids, raw=_raws("compaction first", 24, count, 5))
        c.upsert(ids[::-1], raw=_raws("compaction second", 24, count, 5))
        asked = _raws("compaction ask", 24, 6, 5)
        for number in range(3):
            yield f"answers {number}", _answer(c.search(raw=asked, k=6))
            c.delete(ids[200 * number : 200 * number + 150])
            c.update(ids[1000 + number], vectors=[0.5] * 5)
        yield "answers", _answer(c.search(raw=asked, k=6))
        yield "records", _records(c, limit=300, offset=100)
        yield "standing", _standing(db)


_WHERES: tuple[dict[str, Any], ...] = (
    {},
    {"word": "日本"},
    {"value": 0},
    {"value": None},
    {"value": 2**53},
    {"value": {"$gt": 2.0**53}},
    {"value": {"$gte": -3, "$lt": 2.5}},
    {"value": {"$ne": 0}},
    {"flag": True},
    {"flag": {"$exists": False}},
    {"n": 1},
    {"n": True},
    {"n": {"$in": [1, 2.0, "3", True, 10**15]}},
    {"word": {"$nin": ["a", "Z"]}},
    {"word": {"$gt": "a"}},
    {"word": {"$contains": "b"}},
    {"tags": {"$contains": 0.5}},
    {"tags": []},
    {"$or": [{"word": "ﬀ"}, {"$not": {"value": {"$exists": True}}}]},
    {"$and": [{"n": {"$lte": 40}}, {"$or": [{"flag": False}, {"tags": {"$exists": True}}]}]},
)


def _filters(world: World) -> Iterator[Note]:
    """What ``where`` chooses among values of every kind; and what it refuses."""
    with world.open("filters") as db:
        c = db.collection("filters", dim=2, metric="l2")
        vectors = _floats("filters", 90, 2)
        c.add([f"r{number:02d}" for number in range(90)], vectors, metadatas=_metadata("filters", 90))
        for number, where in enumerate(_WHERES):
            yield f"where {number}", [c.get(where=where).ids, c.count(where)]
            yield f"search {number}", _answer(c.search(vectors[0], k=4, where=where))
        for where in ({"n": {"$gt": "a"}}, {"n": {"$like": 1}}, {"$xor": []}, {"n": {"$in": 3}}):
            yield f"refused {where}", world.refusal(c.count, where)


def _copies(world: World) -> Iterator[Note]:
    """Close and open, from a snapshot and without; back up; replay, whole and in part; export and import."""
    with world.open("origin", durability="always") as db:
        for number, _ in enumerate(_write("copies", db)):
            if number == 10:
                yield "snapshot", world.snapshot(db)
        yield "written", _standing(db)
        world.backup(db, "backup")
    for mode in ("r", "r+"):
        with world.open("origin", mode) as db:
            yield f"opened {mode}", _standing(db)
            yield f"answers {mode}", _answer(db["notes"].search([1.0] * 12, k=7))
    world.replay("origin", "replayed")
    world.replay("origin", "part", 9)
    for name in ("backup", "replayed", "part"):
        yield f"verified {name}", world.verified(name)
        with world.open(name, "r") as db:
            yield name, _standing(db)
    with world.open("replayed", "r+") as db:
        yield "replayed snapshot", world.snapshot(db)
        yield "history", [[entry.seq, entry.op, entry.collection, entry.ids, entry.link] for entry in db.log()]
        with world.open("imported") as new:
            for name in db.collections():
                old = db[name]
                fresh = new.collection(name, dim=old.dim, metric=old.metric, format=old.format)
                records = old.get(include=("metadatas", "documents", "raw"))
                fresh.add(records.ids, raw=records.raw, metadatas=records.metadatas, documents=records.documents)
            yield "imported", [_standing(new), new.state_root == db.state_root]


_TORN = {1: 0.1, 2: 0.5, 4: 0.99}  # which write is cut, and how much of it reached the log


def _crash(world: World) -> Iterator[Note]:
    """Die in the middle of a write, at several places; open again, go on, and end where an unharmed life ends."""
    vectors = _floats("crash", 60, 9)

    def write(db: Any, number: int) -> None:
        ids = [f"{number}-{row}" for row in range(10)]
        db["c"].add(ids, vectors[10 * number : 10 * number + 10], metadatas=_metadata(ids[0], 10))

    with world.open("whole") as db:
        db.collection("c", dim=9, metric="cosine")
        for number in range(6):
            if number in _TORN:
                world.torn("whole", f"torn {number}", partial(write, db, number), _TORN[number])
            else:
                write(db, number)
        yield "whole", _standing(db)
    for number in _TORN:
        with world.open(f"torn {number}", "r+") as db:
            yield f"recovered {number}", [db.recovery is not None, _standing(db)]
            for rest in range(number, 6):
                write(db, rest)
            yield f"went on {number}", _standing(db)
        yield f"verified {number}", world.verified(f"torn {number}")


def _past(world: World) -> Iterator[Note]:
    """Every moment answers as it did then: what is still in memory, and what only the log remembers."""
    with world.open("past") as db:
        for _ in _write("past", db):
            pass
        for seq in (0, 1, 7, 19, db.seq - 3, db.seq):
            then = db.at(seq)
            yield f"at {seq}", [_standing(then), then.collections()]
            for name in then.collections()[:2]:
                c = then[name]
                yield f"{name} at {seq}", _records(c)
                asked = _floats(f"past ask {name}", 2, c.dim)
                yield f"{name} answers at {seq}", _answer(c.search(asked, k=4)) if len(c) else None


def _links(world: World) -> Iterator[Note]:
    """Links within and between collections, seen from both ends; they go with their records."""
    with world.open("links") as db:
        people = db.collection("people", dim=3, metric="l2")
        notes = db.collection("notes", dim=2, metric="ip", format="Q4.28")
        names = [f"{_WORDS[number % 8]}-{number}" for number in range(12)]
        people.add(names, _floats("links people", 12, 3))
        notes.add(names[:6], _floats("links notes", 6, 2))
        drawn = _bits("links", 120).tolist()
        for one, other, kind in zip(drawn[::3], drawn[1::3], drawn[2::3], strict=True):
            end = names[other % 12] if kind % 3 else ("notes", names[other % 6])
            people.link(names[one % 12], ("knows", "ﬀ", "wrote")[kind % 3], end)
        notes.link(names[0], "about", ("people", names[1]))
        yield "linked", _standing(db)
        yield "seen", _neighbors(people, names) + _neighbors(notes, names[:6])
        for one in drawn[:60:3]:
            people.unlink(names[one % 12], "knows", names[(one + 1) % 12])
        people.delete(names[3:5])
        people.upsert(names[6], [0.5, 0.5, 0.5])
        yield "fewer", _standing(db)
        yield "seen again", _neighbors(people, names[:3] + names[5:]) + _neighbors(notes, names[:6])
        yield "snapshot", world.snapshot(db)
    with world.open("links", "r") as db:
        yield "opened", [_standing(db), _neighbors(db["people"], names[:3])]


def _neighbors(collection: Any, ids: list[str]) -> list[Any]:
    return [[list(link) for link in collection.neighbors(id, direction=way)] for id in ids for way in ("out", "in")]


def _requests(world: World) -> Iterator[Note]:
    """A call under a request id happens once, in this process and the next."""
    vectors = _floats("requests", 20, 2)
    ids = [f"{number:02d}" for number in range(20)]
    with world.open("requests") as db:
        c = db.collection("c", dim=2, metric="cosine")
        for _ in range(2):
            c.add(ids, vectors, request_id="first")
            c.upsert("x", vectors[3], request_id="日本")
            yield "asked", _standing(db)
        yield "another call", world.refusal(c.add, "y", vectors[4], request_id="first")
        yield "snapshot", world.snapshot(db)
    with world.open("requests", "r+") as db:
        db["c"].add(ids, vectors, request_id="first")
        yield "opened", _standing(db)


def _receipts(world: World) -> Iterator[Note]:
    """Proofs and receipts, byte for byte: of what is there, of what is not, and that a log continues another."""
    with world.open("receipts") as db:
        for number, _ in enumerate(_write("receipts", db)):
            if number == 9:
                early = db.checkpoint()
        yield "records", [db.prove(name, id).sha256 for name in ("deep", "brief") for id in ("x", "amber-0", "nobody")]
        yield "consistency", db.prove_consistency(early).sha256
        for name, dim, _, _ in _DEFINED:
            c, asked = db[name], _floats(f"receipts ask {name}", dim)
            answers = [c.search(asked, k=3), c.search(asked, k=50, where={"flag": True}), c.search(asked, ids=["Z-7"])]
            for level in ("R0", "R1", "R2", "R3"):
                yield f"{name} {level}", [answer.receipt(level).sha256 for answer in answers]


def _expanded(world: World) -> Iterator[Note]:
    """Answers with what their links lead to: loops, several ways to one record, two collections, now and then."""
    with world.open("expanded") as db:
        people = db.collection("people", dim=3, metric="l2")
        notes = db.collection("notes", dim=2, metric="ip")
        names = [f"{_WORDS[number % 8]}-{number}" for number in range(12)]
        people.add(names, _floats("expanded people", 12, 3), metadatas=_metadata("expanded", 12))
        notes.add(names[:6], _floats("expanded notes", 6, 2), documents=names[6:])
        drawn = _bits("expanded", 90).tolist()
        for one, other, kind in zip(drawn[::3], drawn[1::3], drawn[2::3], strict=True):
            source, end = (notes, ("people", names[other % 12])) if kind % 4 == 0 else (people, names[other % 12])
            source.link(names[one % (6 if kind % 4 == 0 else 12)], ("knows", "ﬀ", "wrote")[kind % 3], end)
            if kind % 5 == 0:
                people.link(names[other % 12], "wrote", ("notes", names[one % 6]))
        then = db.seq
        yield "linked", _standing(db)
        reaches: tuple[Any, ...] = ("knows", {"knows": 12, "ﬀ": 2}, 1, 3, {"nothing": 1})
        asked = _floats("expanded ask", 2, 3)
        before = [[_linked(answer) for answer in people.search(asked, k=4, expand=reach)] for reach in reaches]
        yield "people", before
        yield "notes", [_linked(notes.search([1, 1], k=3, where={}, expand=reach)) for reach in reaches]
        people.delete(names[2:4])
        people.unlink(names[drawn[3] % 12], "knows", names[drawn[4] % 12])
        yield "fewer", [_standing(db), _linked(people.search(asked[0], k=4, expand=3))]
        then_people = db.at(then)["people"]
        again = [[_linked(answer) for answer in then_people.search(asked, k=4, expand=reach)] for reach in reaches]
        yield "then", again == before
        yield "refused", [world.refusal(people.search, asked, expand=reach) for reach in ("", {}, {"knows": 0}, ["ﬀ"])]


def _linked(result: Any) -> list[Any]:
    """The ids of one answer, and what each leads to."""
    return [
        [id, *([one.collection, one.id, one.relation, one.depth, one.metadata, one.document] for one in near)]
        for id, near in zip(result.ids, result.linked, strict=True)
    ]


def _trail(world: World) -> Iterator[Note]:
    """What was read goes on record, among every other kind of operation; the state's root stays, the log's moves."""
    with world.open("trail") as db:
        for _ in _write("trail", db):
            pass
        deep = db["deep"]
        deep.link("amber-0", "ﬀ", ("wide", "amber-0"))
        receipt = deep.search(_floats("trail ask", 5), k=2).receipt("R1")
        for note in ("what 日本 was told", None, "", "é" * 32768):
            db.record(receipt, note)
            yield f"recorded {note:.5}" if note is not None else "recorded", _standing(db)
        with db.batch():
            deep.delete(["amber-0"])
            db.record(bytes(range(32)), "in a batch")
            deep.add("amber-0", [0.5] * 5, request_id="turn 1")
        yield "batch", _standing(db)
        yield "refused", [world.refusal(db.record, bytes(31)), world.refusal(db.record, receipt, "é" * 32768 + "x")]
        yield "log", [_entry(entry) for entry in db.log()]
        yield "one life", [_entry(entry) for entry in db.log(id="amber-0")]
        yield "snapshot", world.snapshot(db)
    yield "verified", [world.verified("trail"), world.counts("trail")]


def _entry(entry: Any) -> list[Any]:
    links = [list(link) for link in entry.links]
    return [entry.seq, entry.op, entry.collection, entry.ids, entry.link, links, [list(one) for one in entry.recorded]]


def _erasure(world: World) -> Iterator[Note]:
    """Records given up, with salts and without: no root moves, and the past says what it no longer holds."""
    ids = [f"{_WORDS[number % 8]}-{number:02d}" for number in range(40)]
    ids[21] = "\U0001fae8-21"  # printable since Unicode 15: what escapes other characters orders it as its Python does
    for name in ("plain", "salted"):
        with world.open(name) as db:
            world.share_key(name)
            c = db.collection("c", dim=3, metric="l2", erasable=name == "salted")
            vectors, maps = _floats(f"erasure {name}", 40, 3), _metadata(f"erasure {name}", 40)
            c.add(ids, vectors, metadatas=maps, documents=ids[::-1])
            c.update(ids[4], metadatas={"word": "other"})
            c.upsert(ids[3:9], vectors[:6])
            c.link(ids[1], "knows", ids[4])
            c.link(ids[4], "knows", ids[21])
            c.delete(ids[7:8])
            db.collection("brief", dim=1, metric="ip").add("x", [1])
            db.drop("brief")
            early, before = db.checkpoint(), db.seq
            yield f"{name} written", _standing(db)
            yield f"{name} refused", [world.refusal(db.erase, "c", [ids[0], "nobody"]), _standing(db)]
            db.erase("c", [ids[21], ids[4], ids[7]])
            yield f"{name} erased", _standing(db)
            db.erase("brief", "x")
            c.add(ids[4], vectors[9], documents="another life")
            db.erase("c", ids[7])
            yield f"{name} once more", _standing(db)
            yield f"{name} snapshot", world.snapshot(db)
            yield f"{name} consistency", db.prove_consistency(early).sha256
            yield f"{name} past", [_left(world, db, seq, ids, vectors[20:22]) for seq in (2, 3, 6, before, db.seq)]
        with world.open(name, "r") as db:
            yield f"{name} past from the files", _left(world, db, before, ids, vectors[20:22])
            yield f"{name} records", _records(db["c"])
        world.replay(name, f"{name} again")
        yield f"{name} verified", [[world.verified(one), world.counts(one)] for one in (name, f"{name} again")]


def _left(world: World, db: Any, seq: int, ids: list[str], asked: NDArray[np.float32]) -> list[Any]:
    """What a moment still says: where it refuses, and what it leaves out when told to."""
    then, less = db.at(seq)["c"], db.at(seq, erased="omit")["c"]
    some = [ids[number] for number in (1, 4, 21, 30)]
    refusals = [world.refusal(then.get), world.refusal(then.search, asked, k=2)]
    beside = [_answer(then.search(asked, k=3, ids=ids[9:20])), world.refusal(then.search, asked, ids=some)]
    answers = [less.search(asked[0], k=9), less.search(asked[0], k=9, ids=some), less.search(asked[1], expand=2)]
    told = [[_answer(answer), list(answer.erased)] for answer in answers]
    return [_standing(db.at(seq)), refusals, beside, told, _linked(answers[2]), _records(less)]


def _archive(world: World) -> Iterator[Note]:
    """Payloads moved out of the store: everything committed to still verifies, and back in it is what it was."""
    with world.open("origin") as db:
        for _ in _write("archive", db):
            pass
        early = db.checkpoint()
        world.archive(db, "elsewhere")
        moved = db.seq
        db["deep"].add("later", [0.5] * 5)
        yield "moved", _standing(db)
    yield "bare", [world.verified("origin"), world.counts("origin")]
    with world.open("origin", "r+") as db:
        yield "answers", _answer(db["notes"].search(_floats("archive ask", 12), k=5))
        yield "refused", [world.refusal(db.at, seq) for seq in (0, 1, 7, moved - 1, moved)]
        yield "then", _records(db.at(moved)["deep"])
        yield "consistency", db.prove_consistency(early).sha256
        db.erase("wide", "amber-0")
        yield "erased", _standing(db)
    yield "less", [world.verified("origin"), world.counts("origin")]
    yield "no copy", world.refusal(world.replay, "origin", "copy")
    world.put_back("elsewhere", "origin")
    world.replay("origin", "copy")
    yield "back", [[world.verified(one), world.counts(one)] for one in ("origin", "copy")]
    with world.open("origin", "r") as db:
        yield "history", [_records(db.at(7)["deep"]), _entry(list(db.log())[-1])]


# A stage that searches is played with each kernel, and must come to the same with all.
STAGES: dict[str, Stage] = {
    "numbers": _numbers,
    "units": _units,
    "life": _life,
    "answers": _answers,
    "front": _front,
    "compaction": _compaction,
    "filters": _filters,
    "copies": _copies,
    "crash": _crash,
    "past": _past,
    "links": _links,
    "requests": _requests,
    "receipts": _receipts,
    "expanded": _expanded,
    "trail": _trail,
    "erasure": _erasure,
    "archive": _archive,
}
SEARCHING = ("answers", "compaction", "erasure", "front", "life", "past")
