"""The world of a stage (``detmem.life``), in which the naive twin lives: spec/reference.py behind the same calls.

What the package does in arrays, on a disk, with kernels, stands here once more as maps and Python integers.  It serves
the stages' own calls and refuses the rest.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.twin import TWIN

_ERRORS = {
    "range": "RangeError", "admission": "RangeError", "zero": "RangeError", "dimension": "DimensionError",
    "exists": "DuplicateIdError", "never": "NotFoundError", "erased": "Erased", "archived": "Archived",
}  # fmt: skip


def plain(values: Any) -> Any:
    """Nested lists of Python numbers."""
    if isinstance(values, np.ndarray):
        return values.tolist()
    return [plain(one) for one in values] if isinstance(values, (list, tuple)) else values


class Listed(list):
    """A list where the package gives an array."""

    def tolist(self) -> list[Any]:
        return list(self)


class TwinWorld:
    """Stores by name; each is a memory, and what it has committed."""

    def __init__(self, kernel: str = "reference") -> None:
        self.kernel = kernel
        self.stores: dict[str, TwinDatabase] = {}

    @contextmanager
    def open(self, name: str, mode: str = "a", durability: str = "os") -> Iterator[TwinDatabase]:
        yield self.stores.setdefault(name, TwinDatabase())

    def quantize(self, values: Any, format: str, overflow: str = "error") -> list[Any]:
        if overflow == "clip":
            limit = 2 ** (31 - TWIN.FORMATS[format])
            values = [max(-limit, min(limit, value)) for value in values]
            return [min(2**31 - 1, quantised(value, format)) for value in values]
        return [TWIN.quantise(value, format) for value in plain(values)]

    def dequantize(self, raw: list[Any], format: str) -> list[Any]:
        return [
            self.dequantize(one, format) if isinstance(one, list) else one / 2 ** TWIN.FORMATS[format] for one in raw
        ]

    def refusal(self, call: Callable[..., object], *given: object, **named: object) -> str:
        try:
            call(*given, **named)
        except TWIN.Refused as refused:
            return _ERRORS.get(refused.reason, "UsageError")
        return "none"

    def snapshot(self, db: TwinDatabase) -> str:
        return hashlib.sha256(TWIN.write_snapshot(db.memory)).hexdigest()

    def backup(self, db: TwinDatabase, name: str) -> None:
        self.stores[name] = copy.deepcopy(db)

    def replay(self, name: str, dest: str, until: int | None = None) -> None:
        self.stores[dest] = self.stores[name].told_until(until)

    def verified(self, name: str) -> tuple[bool, int, str]:
        db = self.stores[name]
        return True, db.seq, db.state_root

    def counts(self, name: str) -> list[int]:
        operations = [one for commit in self.stores[name].kept() for one in commit.operations]
        gone = [one.archived for one in operations if one.gone is not None]
        return [len(operations), gone.count(False), 0, gone.count(True)]

    def share_key(self, name: str) -> None:
        """``TWIN.KEY`` is the only one there is."""
        assert self.stores[name].seq == 0

    def archive(self, db: TwinDatabase, dest: str) -> None:
        db.archived = db.seq

    def put_back(self, archive: str, name: str) -> None:
        self.stores[name].archived = 0

    def torn(self, name: str, dest: str, write: Callable[[], object], share: float) -> None:
        """Half a commit is none."""
        self.stores[dest] = copy.deepcopy(self.stores[name])
        self.stores[dest].recovery = "a torn tail"
        write()


def quantised(value: float, format: str) -> int:
    """``quantise`` for a value whose raw may be 2^31, which the format does not hold and clipping brings back."""
    numerator, denominator = float(value).as_integer_ratio()
    return int(TWIN.round_half_even(numerator << TWIN.FORMATS[format], denominator))


def named(data: bytes) -> SimpleNamespace:
    """A proof, of which the stages ask its hash."""
    return SimpleNamespace(sha256=hashlib.sha256(data).hexdigest())


class TwinDatabase:
    """``detmem.Database``, as far as the stages call it."""

    def __init__(self) -> None:
        self.told = TWIN.Told()
        self.memory = self.told.memory
        self.commits: list[Any] = []
        self.recovery: str | None = None
        self.archived = 0  # the payloads up to this seq lie elsewhere
        self.omit = False  # what is erased, rather than to refuse
        self._batch: list[Any] | None = None

    seq = property(lambda self: self.memory.seq)
    state_root = property(lambda self: self.memory.state_root().hex())
    log_root = property(lambda self: self.memory.log_root().hex())
    head = property(lambda self: self.memory.link.hex())

    def write(self, *call: Any) -> None:
        if self._batch is not None:
            self._batch.append(call)
            return
        commit = self.memory.write(call)
        if commit is not None:
            self._keep(commit)

    def _keep(self, commit: Any) -> None:
        """As ``Told.write``, which refuses calls that change nothing."""
        self.commits.append(commit)
        told, buckets = self.told, self.memory.tree.buckets.values()
        told.leaves += commit.leaves
        told.ends.append(len(told.leaves))
        told.trees.append({key: leaf for bucket in buckets for key, leaf in bucket.items()})
        told.states.append(self.memory.state)
        told.checkpoints.append(self.memory.checkpoint())

    def checkpoint(self) -> int:
        return self.seq

    def kept(self) -> Iterator[Any]:
        """The commits as the store's files have them: without payloads that are erased or lie elsewhere."""
        for commit in self.commits:
            yield commit._replace(operations=tuple(self._without(one, commit.seq) for one in commit.operations))

    def _without(self, operation: Any, seq: int) -> Any:
        erased = self.memory.state.erased.get((operation.collection, operation.id), 0) > seq
        if operation.type not in TWIN.WRITES or not (erased or seq <= self.archived):
            return operation
        return TWIN.without_payload(operation, archived=not erased)

    def at(self, seq: int, erased: str = "raise") -> TwinDatabase:
        if seq >= self.archived:  # a snapshot stands in for what lies elsewhere
            with_all = copy.copy(self)
            with_all.archived = 0
            then = with_all.told_until(seq)
        else:
            then = self.told_until(seq)
        then.omit = erased == "omit"
        return then

    def told_until(self, seq: int | None) -> TwinDatabase:
        """The commits up to a seq once more, in another store."""
        then = TwinDatabase()
        for commit in list(self.kept())[:seq]:
            if any(one.archived for one in commit.operations):
                raise TWIN.Refused("archived")
            then.memory.replay(commit)
            then._keep(commit)
        return then

    def prove(self, name: str, id: str) -> SimpleNamespace:
        return named(TWIN.write_state_proof(self.told, self.seq, self.seq, [(name, id)]))

    def prove_consistency(self, old: int) -> SimpleNamespace:
        return named(TWIN.write_consistency(self.told, old, self.seq))

    @contextmanager
    def batch(self) -> Iterator[None]:
        self._batch = calls = []
        yield
        self._batch = None
        self.write("batch", calls)

    def record(self, receipt: Any, note: str | None = None) -> None:
        self.write("record", receipt if isinstance(receipt, bytes) else bytes.fromhex(receipt.sha256), note)

    def erase(self, name: str, ids: Any) -> None:
        ids = [ids] if isinstance(ids, str) else ids
        written = {
            one.id: commit.seq
            for commit in self.commits
            for one in commit.operations
            if one.type in TWIN.WRITES and one.collection == name
        }
        if any(id not in written for id in ids):
            raise TWIN.Refused("never")
        self.write("erase", name, [id for id in ids if written[id] > self.memory.state.erased.get((name, id), 0)])

    def collection(
        self, name: str, *, dim: int, metric: str = "cosine", format: str = "Q16.16", erasable: bool = False
    ) -> TwinCollection:
        self.write("create", name, dim, metric, format, erasable)
        return TwinCollection(self, name, dim, metric, format)

    def __getitem__(self, name: str) -> TwinCollection:
        standing = self.memory.state[name]
        return TwinCollection(self, name, standing.dim, standing.metric, standing.format)

    def collections(self) -> list[str]:
        return sorted(self.memory.state, key=TWIN.utf8)

    def drop(self, name: str) -> None:
        self.write("drop", name)

    def log(self, id: str | None = None) -> Iterator[Any]:
        for commit in self.commits:
            groups: dict[Any, list[Any]] = {}
            for one in commit.operations:
                edge = TWIN.read_link(one) if one.type in (TWIN.LINK, TWIN.UNLINK) else ()
                if one.type != TWIN.REQUEST and id in (None, one.id, *edge[4:]):
                    groups.setdefault((one.type, one.collection), []).append((one, edge))
            for (kind, name), members in groups.items():
                recorded = [TWIN.read_recorded(one) for one, _ in members if kind == TWIN.RECORD]
                yield SimpleNamespace(
                    seq=commit.seq,
                    op={TWIN.CREATE: "create_collection", TWIN.DROP: "drop_collection"}.get(kind, TWIN.NAMES[kind]),
                    collection=name,
                    ids=[one.id for one, _ in members if one.id],
                    link=commit.link.hex(),
                    links=[(edge[:2], edge[2], edge[3:]) for _, edge in members if edge],
                    recorded=[(digest.hex(), note) for digest, note in recorded],
                )


class TwinCollection:
    """``detmem.Collection``, as far as the stages call it."""

    def __init__(self, db: TwinDatabase, name: str, dim: int, metric: str, format: str) -> None:
        self.db, self.name, self.dim, self.metric, self.format = db, name, dim, metric, format

    def add(self, ids: Any, vectors: Any = None, **more: Any) -> None:
        self._put("add", ids, vectors, **more)

    def upsert(self, ids: Any, vectors: Any = None, **more: Any) -> None:
        self._put("upsert", ids, vectors, **more)

    def update(self, ids: Any, *, vectors: Any = None, metadatas: Any = None, documents: Any = None) -> None:
        self._put("update", ids, vectors, metadatas=metadatas, documents=documents)

    def delete(self, ids: Any = None, where: Any = None) -> None:
        if where is None:
            self.db.write("delete", self.name, list(ids))
        else:
            self.db.write("delete_where", self.name, where)

    def link(self, src: str, relation: str, dst: Any) -> None:
        self.db.write("link", self.name, src, relation, *(dst if isinstance(dst, tuple) else (self.name, dst)))

    def unlink(self, src: str, relation: str, dst: str) -> None:
        self.db.write("unlink", self.name, src, relation, self.name, dst)

    def neighbors(self, id: str, direction: str) -> list[tuple[Any, ...]]:
        mine, other = (slice(0, 2), slice(3, 5)) if direction == "out" else (slice(3, 5), slice(0, 2))
        there = [link for link in self.db.memory.state.links if link[mine] == (self.name, id)]
        there.sort(key=lambda link: (link[2], *link[other][::-1]))
        ends = [[end[1] if end[0] == self.name else end for end in (link[:2], link[3:])] for link in there]
        return [(src, link[2], dst) for link, (src, dst) in zip(there, ends, strict=True)]

    def _put(
        self,
        kind: str,
        ids: Any,
        vectors: Any,
        raw: Any = None,
        metadatas: Any = None,
        documents: Any = None,
        request_id: str | None = None,
    ) -> None:
        if isinstance(ids, str):
            ids, vectors, raw, metadatas, documents = (
                None if one is None else [one] for one in (ids, vectors, raw, metadatas, documents)
            )
        rows = [None] * len(ids) if vectors is None and raw is None else self._raw(vectors, raw)
        nothing = [None] * len(ids)
        records = zip(ids, rows, metadatas or nothing, documents or nothing, strict=True)
        call = (kind, self.name, list(records))
        self.db.write(*(call if request_id is None else ("request", request_id, call)))

    def _raw(self, vectors: Any, raw: Any) -> list[list[int]]:
        rows = plain(vectors if raw is None else raw)
        if any(len(row) != self.dim for row in rows):
            raise TWIN.Refused("dimension")
        if raw is not None:
            return [TWIN.admit(row) for row in rows]
        return [TWIN.enter(row, self.metric, self.format) for row in rows]

    def _records(self, ids: Any = None) -> dict[str, Any]:
        """Those that can still be asked; refuses where one that cannot is among those wanted."""
        records = self.db.memory.state[self.name].records
        if not self.db.omit and any(records[one].erased for one in records if ids is None or one in ids):
            raise TWIN.Refused("erased")
        return {one: record for one, record in records.items() if not record.erased}

    def _chosen(self, where: Any) -> list[str]:
        return list(TWIN.select(self._records(), where))

    def __len__(self) -> int:
        return self.count()

    def count(self, where: Any = None) -> int:
        return len(self._chosen(where))

    def get(
        self, *, where: Any = None, limit: int | None = None, offset: int = 0, include: Any = ()
    ) -> SimpleNamespace:
        records = self.db.memory.state[self.name].records
        ids = sorted(self._chosen(where), key=TWIN.utf8)[offset:][:limit]
        return SimpleNamespace(
            ids=ids,
            metadatas=[records[one].metadata for one in ids],
            documents=[records[one].document for one in ids],
            raw=Listed(records[one].vector for one in ids),
        )

    def search(
        self,
        vectors: Any = None,
        k: int = 10,
        *,
        raw: Any = None,
        where: Any = None,
        ids: Any = None,
        include: Any = None,
        expand: Any = None,
    ) -> Any:
        asked = plain(vectors if raw is None else raw)
        flat = not isinstance(asked[0], list)
        queries = [asked] if flat else asked
        if include == () and len(queries) > 6:
            queries = queries[:6]  # the stage notes no more, and integers are slow
        reach = None if expand is None else reaches(expand)
        answers = [self._one(query, k, raw is None, where, ids, reach) for query in queries]
        if flat:
            return answers[0]
        return Several(answers)

    def _one(self, query: list[Any], k: int, floats: bool, where: Any, ids: Any, reach: Any) -> SimpleNamespace:
        entered = TWIN.enter(query, self.metric, self.format) if floats else query
        records, kept = self.db.memory.state[self.name].records, self._records(ids)
        among = ids if len(kept) == len(records) else [one for one in kept if ids is None or one in ids]
        found = self.db.memory.search(self.name, entered, k, where, among)
        erased = {one for one in records if one not in kept and (ids is None or one in ids)}
        linked = []
        for one, _ in found if reach is not None else ():
            near = [self._near(*step) for step in steps_from(self.db.memory.state.links, (self.name, one), reach)]
            erased |= {step.id for step in near if step.erased}
            linked.append([step for step in near if not step.erased])
        if erased and not self.db.omit:
            raise TWIN.Refused("erased")
        told, seq = self.db.told, self.db.seq
        asked = (self.name, entered, k, where, ids)
        return SimpleNamespace(
            ids=[one for one, _ in found],
            raw=Listed(raw for _, raw in found),
            distances=Listed(TWIN.shown_distance(self.metric, self.format, raw) for _, raw in found),
            linked=linked,
            erased=sorted(erased, key=TWIN.utf8),
            receipt=lambda level: named(TWIN.write_receipt(told, seq, seq, level, *asked)),
        )

    def _near(self, depth: int, relation: str, id: str, collection: str) -> SimpleNamespace:
        """A record that a hit leads to."""
        record = self.db.memory.state[collection].records[id]
        shown = {"metadata": record.metadata, "document": record.document, "erased": record.erased}
        return SimpleNamespace(depth=depth, relation=relation, id=id, collection=collection, **shown)


def reaches(expand: Any) -> list[tuple[str | None, int]]:
    """(relation or None for any, depth) of every walk that is asked for."""
    walks = list({expand: 1}.items() if isinstance(expand, str) else expand.items() if isinstance(expand, dict) else ())
    walks = [(None, expand)] if isinstance(expand, int) else walks
    if not walks or any(relation == "" or depth < 1 for relation, depth in walks):
        raise TWIN.Refused("expand")
    return walks


def steps_from(links: Any, start: tuple[str, str], walks: list[tuple[str | None, int]]) -> list[tuple[Any, ...]]:
    """(depth, relation, id, collection) of every record that can be reached: how far it is, and the first relation that
    leads there from a record one nearer."""
    steps = []
    for wanted, most in walks:
        far = {start: 0}
        for depth in range(1, most + 1):
            ways: dict[tuple[str, str], str] = {}
            for name, source, relation, collection, target in links:
                if wanted in (None, relation) and far.get((name, source)) == depth - 1:
                    ways[collection, target] = min(ways.get((collection, target), relation), relation, key=TWIN.utf8)
            new = {node: relation for node, relation in ways.items() if node not in far}
            far |= dict.fromkeys(new, depth)
            steps += [(depth, relation, id, collection) for (collection, id), relation in new.items()]
    return sorted(steps)


class Several:
    """Answers to several queries: by number, or column by column."""

    def __init__(self, answers: list[SimpleNamespace]) -> None:
        self._answers = answers
        self.ids = [one.ids for one in answers]
        self.raw = Listed(list(one.raw) for one in answers)
        self.distances = Listed(list(one.distances) for one in answers)

    def __getitem__(self, number: int) -> SimpleNamespace:
        return self._answers[number]
