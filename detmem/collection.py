"""The user's handle on one collection: arrays in, results out.

It brings what the caller hands in into the machine's terms (raw vectors, plain metadata, operations), and views back
into results.  It decides nothing about commits, files or roots; ``Database`` does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import compress
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detmem import arguments, graph
from detmem.errors import DimensionError, Erased, NotFoundError, UsageError, shown
from detmem.machine import commands, contents, encoding, filters, fixed, runs
from detmem.machine.commands import Definition, Operation
from detmem.machine.commitment import request_digest, salt_of
from detmem.machine.links import Node
from detmem.machine.past import PastRecords
from detmem.machine.records import Records as LiveRecords
from detmem.machine.records import View
from detmem.machine.runs import Operations, Run
from detmem.machine.stage import Stage
from detmem.progress import Progress, reporter
from detmem.proof.checkpoint import Checkpoint
from detmem.proof.receipt import Receipt, plain_where
from detmem.prover import Question
from detmem.results import Commit, Link, Linked, Metadata, Records, Result

if TYPE_CHECKING:
    from detmem.database import Database

__all__ = ["Collection"]

RecordsOf = LiveRecords | PastRecords
Where = Mapping[str, Any] | None

_SEARCHED = ("metadatas", "documents")
_FETCHED = (*_SEARCHED, "vectors", "raw")
_FEW = 16  # where less than a 16th matches, sorting that is cheaper than passing over all in order


class Collection:
    """Records under string ids: a vector each, and optionally metadata and a document.

    ids: str, 1..512 UTF-8 bytes, ordered by UTF-8 bytes.  Metadata: a map of str to str, int64, finite float64, bool,
    None, or a flat list of these, at most 64 KiB encoded.  Documents: str, at most 8 MiB.  A bare str id stands for
    one record, with a 1-D vector and its metadata and document bare as well.  Inputs are never modified.

    Under ``cosine`` a vector is stored with norm 1: what ``get`` gives back is that.  A ``distance`` is 1 - cosine, the
    squared Euclidean distance (``l2``), or the negative inner product (``ip``); smaller is nearer.
    """

    def __init__(self, database: Database, name: str, definition: Definition) -> None:
        self._database = database
        self._name = name
        self._definition = definition

    @property
    def name(self) -> str:
        """The collection's name."""
        return self._name

    @property
    def dim(self) -> int:
        """Number of dimensions of every vector."""
        return self._definition.dim

    @property
    def metric(self) -> str:
        """``cosine``, ``ip`` or ``l2``."""
        return self._definition.metric

    @property
    def format(self) -> str:
        """``Q16.16``, ``Q8.24`` or ``Q4.28``."""
        return self._definition.format

    @property
    def erasable(self) -> bool:
        """Whether what is committed to is salted."""
        return self._definition.erasable

    def __repr__(self) -> str:
        return f"<detmem.Collection {self._name!r} dim={self.dim} metric={self.metric} format={self.format}>"

    # -- writing

    def add(
        self,
        ids: str | Sequence[str],
        vectors: ArrayLike | None = None,
        *,
        raw: ArrayLike | None = None,
        metadatas: Any = None,
        documents: Any = None,
        request_id: str | None = None,
        progress: Progress = None,
    ) -> Commit | None:
        """Add records, all or none.

        ``vectors``: array_like (n, dim), floats or ints; or ``raw``: int32 (n, dim) as stored before, exactly one of
        the two.  ``metadatas`` and ``documents``: n entries, None for absent.  ``progress``: True, or called with
        (done, total) records while they are prepared; raising in it stops the call with nothing written.
        ``request_id``: str, 1..512 UTF-8 bytes; the same call again under the same id writes nothing and returns the
        first commit, however often it comes.  The store remembers its last 65,536 of them.

        Returns the commit (None inside a batch).  ``DuplicateIdError``: an id exists, or stands twice.
        ``UsageError``: the request id stands for another call.
        """
        return self._put(commands.ADD, ids, vectors, raw, metadatas, documents, request_id, progress)

    def upsert(
        self,
        ids: str | Sequence[str],
        vectors: ArrayLike | None = None,
        *,
        raw: ArrayLike | None = None,
        metadatas: Any = None,
        documents: Any = None,
        request_id: str | None = None,
        progress: Progress = None,
    ) -> Commit | None:
        """As ``add``, but an existing record is replaced as a whole: what is not given is absent afterwards.

        Replacing a record by an equal one is a commit as well: it happened, and the log says so.  Its links stay.
        """
        return self._put(commands.UPSERT, ids, vectors, raw, metadatas, documents, request_id, progress)

    def update(
        self,
        ids: str | Sequence[str],
        *,
        vectors: ArrayLike | None = None,
        raw: ArrayLike | None = None,
        metadatas: Any = None,
        documents: Any = None,
    ) -> Commit | None:
        """Change parts of existing records, all or none; a part that is not given stays.

        Metadata is merged, and a value of None removes its key; an entry that is None leaves that record's part
        alone.  A call that asks for no change at all logs nothing; one that sets values to what they were is a commit.
        ``NotFoundError``: an unknown id.
        """
        if vectors is None and raw is None and metadatas is None and documents is None:
            raise UsageError("update: expected at least one of vectors, raw, metadatas, documents")
        names, bare = arguments.id_list(ids)
        rows = self._some_rows(vectors, raw, len(names), bare)
        patches = arguments.entries(metadatas, len(names), bare, "metadatas")
        texts = arguments.entries(documents, len(names), bare, "documents")
        key = self._database._key() if self._definition.erasable else None
        with self._database._writing() as stage:
            self._check_standing(stage)
            operations: list[Operation | Run] = []
            for index, id in enumerate(names):
                record = stage.record(self._name, id)
                row = rows[index]
                vector = None if row is None else row.astype("<i4").tobytes()
                content = None
                if patches[index] is not None or texts[index] is not None:
                    content = arguments.merged(record.metadata, record.document, patches[index], texts[index], index)
                if vector is None and content is None:
                    continue
                standing = record.vector_commitment, record.content_commitment
                encoded = None if content is None else encoding.encode_content(*content)
                salt = b"" if key is None else salt_of(key, self._name, id, vector or b"", encoded or b"")
                operations.append(
                    commands.write_encoded(
                        commands.UPDATE, self._name, id, vector, content, encoded, standing=standing, salt=salt
                    )
                )
            return self._database._write(stage, operations)

    def delete(
        self, ids: str | Sequence[str] | None = None, *, where: Where = None, missing: str = "ignore"
    ) -> Commit | None:
        """Delete records and their links, by id, or all that match ``where`` (never everything: ``drop`` does that).

        ``missing``: "ignore" or "error" for unknown ids.  When nothing matches, nothing is logged and the standing
        commit is returned.  Inside a batch ``where`` sees the writes before it.  ``DuplicateIdError``: an id stands
        twice.
        """
        if (ids is None) == (where is None):
            raise UsageError("delete: expected exactly one of ids and where")
        arguments.check_missing(missing)
        chosen = filters.parse(where)
        if where is not None and chosen.is_all:
            raise UsageError("delete: where={} would delete everything; name a condition, or drop the collection")
        names = [] if ids is None else arguments.id_list(ids, empty=True)[0]
        with self._database._writing() as stage:
            self._check_standing(stage)
            if ids is None:
                names = sorted(self._matching_ids(stage, chosen))
            elif missing == "ignore":
                names = [id for id in names if stage.has(self._name, id)]
            return self._database._write(stage, [commands.delete(self._name, id) for id in names])

    # -- links

    def link(self, src: str, relation: str, dst: str | tuple[str, str]) -> Commit | None:
        """Link two records: ``src`` of this collection to ``dst``, an id of it or (collection, id).

        ``relation``: str, 1..128 UTF-8 bytes.  A link lives until it is taken away or one of its records is deleted.
        One that is there already logs nothing.  ``NotFoundError``: a record is not there.
        """
        edge = graph.edge(self._name, src, relation, dst)
        with self._database._writing() as stage:
            self._check_standing(stage)
            return self._database._write(stage, [] if stage.has_link(edge) else [commands.link(edge)])

    def unlink(self, src: str, relation: str, dst: str | tuple[str, str]) -> Commit | None:
        """Take a link away.  One that is not there logs nothing."""
        edge = graph.edge(self._name, src, relation, dst)
        with self._database._writing() as stage:
            self._check_standing(stage)
            return self._database._write(stage, [commands.unlink(edge)] if stage.has_link(edge) else [])

    def neighbors(self, id: str, relation: str | None = None, direction: str = "out") -> list[Link]:
        """The links from a record ("out"), to it ("in"), or both, in (relation, id of the other end) order.

        ``NotFoundError``: no such record.
        """
        id = encoding.check_id(id, "id")
        wanted = None if relation is None else encoding.check_name(relation, "relation")
        if not isinstance(direction, str) or direction not in graph.DIRECTIONS:
            raise UsageError(f"direction: expected one of {', '.join(graph.DIRECTIONS)}, found {shown(direction)}")
        seq, _, (slot,) = self._find([id])
        if slot is None:
            raise NotFoundError(f"no record {id!r} in collection {self._name!r}")
        found = {}
        for incoming in graph.DIRECTIONS[direction]:
            for link in self._database._near((self._name, id), incoming, seq):
                if wanted in (None, link.relation):
                    other = (link.source, link.collection) if incoming else (link.target, link.target_collection)
                    found[link] = (link.relation, *other, incoming)
        return [graph.seen_from(self._name, link) for link in sorted(found, key=found.__getitem__)]

    # -- reading

    def get(
        self,
        ids: str | Sequence[str] | None = None,
        *,
        where: Where = None,
        limit: int | None = None,
        offset: int = 0,
        include: Sequence[str] = ("metadatas", "documents"),
        missing: str = "error",
    ) -> Records:
        """Fetch records: the given ids in the order asked, otherwise all that match ``where``, in id order.

        ``include``: any of "metadatas", "documents", "vectors" (float64, of the stored raw), "raw" (int32).
        ``limit`` and ``offset`` cut the list of records.  ``missing="ignore"`` skips unknown ids, "error" is a
        ``NotFoundError``.
        """
        arguments.check_missing(missing)
        included = arguments.includes(include, _FETCHED)
        first = encoding.whole_number(offset, "offset", 0)
        most = None if limit is None else encoding.whole_number(limit, "limit", 0)
        chosen = filters.parse(where)
        if ids is None:
            view = self._view()
            slots: list[int] = []
            lost = view.gone
        else:
            names, _ = arguments.id_list(ids, empty=True, repeated=True)
            _, view, found = self._find(names)
            gone = {view.ids[slot]: slot for slot in view.gone} if view.erased else {}
            lost = [gone[id] for id in dict.fromkeys(names) if id in gone] if gone else []
            if missing == "error" and None in found:
                for id, slot in zip(names, found, strict=True):
                    if slot is None and id not in gone:
                        raise NotFoundError(f"no record {id!r} in collection {self._name!r}")
            slots = [slot for slot in found if slot is not None]
        if lost and (included or not chosen.is_all):
            self._check_erased(view, lost)
        if ids is None:
            slots = view.in_id_order if chosen.is_all else self._matching_slots(view, chosen)
        elif not chosen.is_all:
            matches = self._database._finder.matching(view, chosen)
            slots = [slot for slot in slots if matches[slot]]
        slots = slots[first:] if most is None else slots[first : first + most]
        raw = view.rows.take(np.array(slots, dtype=np.int64)) if {"vectors", "raw"} & included else None
        return Records(
            [view.ids[slot] for slot in slots],
            [arguments.copied(view.metadatas[slot]) for slot in slots] if "metadatas" in included else None,
            [view.documents[slot] for slot in slots] if "documents" in included else None,
            fixed.dequantize(raw, self.format) if raw is not None and "vectors" in included else None,
            raw if "raw" in included else None,
            sorted(view.ids[slot] for slot in lost) if view.without_erased else [],
        )

    def search(
        self,
        vectors: ArrayLike | None = None,
        k: int = 10,
        *,
        raw: ArrayLike | None = None,
        where: Where = None,
        ids: str | Sequence[str] | None = None,
        max_distance: float | None = None,
        expand: str | Mapping[str, int] | int | None = None,
        include: Sequence[str] = ("metadatas", "documents"),
    ) -> Result:
        """The exact k nearest records, in the order (distance, id): bit for bit the same on every machine.

        ``vectors``: one query (dim,) or several (n, dim), rounded as stored vectors are; or ``raw``, int32.
        ``where`` and ``ids`` restrict who may answer (ids that do not exist cannot).  Fewer than k matches give fewer
        hits.  ``max_distance``: of the k nearest only those whose ``distance`` is at most this; one query.
        ``expand``: a relation, {relation: depth}, or a depth for all relations: each hit comes with the records that
        its links lead to, of the same seq, in ``linked``.

        ``Erased``: in a view of the past, a record that was erased since could be among those asked.
        """
        included = arguments.includes(include, _SEARCHED)
        chosen = filters.parse(where)
        k = encoding.whole_number(k, "k", 1)
        queries, flat = self._queries(vectors, raw)
        names = None if ids is None else arguments.id_list(ids, empty=True, repeated=True)[0]
        within = arguments.distance(max_distance, flat)
        reach = graph.expansion(expand)
        database = self._database
        database._check_open()
        with database._moment:
            seq, records = database._records(self._name, self._definition)
            view = records.view(seq)
            allowed = None if names is None else [slot for slot in records.find(view, names) if slot is not None]
            views = None if reach is None else database._views()
        lost: list[int] = []
        if view.erased:
            lost = view.gone if names is None else [slot for slot in view.gone if view.ids[slot] in names]
            self._check_erased(view, lost)
        mask = None if chosen.is_all else database._finder.matching(view, chosen)
        if allowed is not None:
            inside = np.zeros(view.rows.count, dtype=np.bool_)
            inside[allowed] = True
            mask = inside if mask is None else mask & inside
        if view.is_masked:
            mask = view.alive if mask is None else mask & view.alive
        answers = database._finder.nearest(view, queries, k, mask)
        asked = _Asked(self, queries, k, None if chosen.is_all else plain_where(where or {}), names, within)
        results = [self._result(view, seq, slots, distances, included, asked) for slots, distances in answers]
        if reach is not None:
            assert views is not None
            results = [self._with_linked(one, reach, views, included) for one in results]
        if view.without_erased and lost:
            left_out = [view.ids[slot] for slot in lost]
            results = [replace(one, erased=_in_order({*one.erased, *left_out})) for one in results]
        return results[0] if flat else _batch(results, asked)

    def count(self, where: Where = None) -> int:
        """The number of records, or of those that match ``where``."""
        chosen = filters.parse(where)
        view = self._view()
        if chosen.is_all:
            return view.count
        self._check_erased(view, view.gone)
        return int(np.count_nonzero(self._database._finder.matching(view, chosen)))

    def __len__(self) -> int:
        return self._view().count

    def __contains__(self, id: object) -> bool:
        return isinstance(id, str) and self._find([id])[2] != [None]

    def __iter__(self) -> Iterator[str]:
        view = self._view()
        return iter([view.ids[slot] for slot in view.in_id_order])

    # -- inside

    def _put(
        self,
        type: int,
        ids: str | Sequence[str],
        vectors: ArrayLike | None,
        raw: ArrayLike | None,
        metadatas: Any,
        documents: Any,
        request_id: str | None,
        progress: Progress,
    ) -> Commit | None:
        names, bare = arguments.id_list(ids)
        request = None if request_id is None else encoding.check_id(request_id, "request_id")
        key = self._database._key() if self._definition.erasable else None
        report = reporter(progress, "records")
        report(0, len(names))
        matrix = self._matrix(vectors, raw, len(names), bare)
        maps = arguments.entries(metadatas, len(names), bare, "metadatas")
        texts = arguments.entries(documents, len(names), bare, "documents")
        written: list[Operation | Run]
        if len(names) >= runs.SHORTEST and key is None:
            written = [runs.write(type, self._name, names, matrix, maps, texts, report)]
        else:
            written, data, size = [], matrix.astype(fixed.RAW, copy=False).tobytes(), 4 * self.dim
            for index, id in enumerate(names):
                metadata, document, encoded = contents.encode(maps[index], texts[index], index)
                vector, content = data[index * size : (index + 1) * size], (metadata, document)
                salt = b"" if key is None else salt_of(key, self._name, id, vector, encoded)
                written.append(commands.write_encoded(type, self._name, id, vector, content, encoded, salt=salt))
            report(len(names), len(names))
        with self._database._writing() as stage:
            self._check_standing(stage)
            if request is not None:
                digest = request_digest(Operations(written).leaves)
                standing = stage.request(request)
                if standing is not None:
                    return self._database._repeated(stage, request, standing, digest)
                written.insert(0, commands.request(self._name, request, len(names)))
            return self._database._write(stage, written)

    def _matrix(self, vectors: ArrayLike | None, raw: ArrayLike | None, count: int, bare: bool) -> NDArray[np.int32]:
        given = self._array(vectors, raw, "vector")
        name = "vectors" if raw is None else "raw"
        if given.ndim == 1 and not bare:
            raise DimensionError(
                f"{name}: expected {count} x {self.dim}, found one vector of {len(given)}; that goes with a bare id"
            )
        if given.ndim == 2 and len(given) != count:
            raise DimensionError(f"{name}: expected {count}, one for each id, found {len(given)}")
        return self._admitted(given, vectors is None, "vector")

    def _some_rows(
        self, vectors: ArrayLike | None, raw: ArrayLike | None, count: int, bare: bool
    ) -> Sequence[NDArray[np.int32] | None]:
        """A raw row for each record of an update, None where its entry is None or no vectors are given."""
        given = vectors if raw is None else raw
        if given is None or not isinstance(given, (list, tuple)) or None not in [x if x is None else 0 for x in given]:
            return [None] * count if given is None else list(self._matrix(vectors, raw, count, bare))
        if vectors is not None and raw is not None:
            raise UsageError("vectors: expected exactly one of vectors and raw, found both")
        name = "vectors" if raw is None else "raw"
        if len(given) != count:
            raise DimensionError(f"{name}: expected {count}, one for each id, found {len(given)}")
        rows: list[NDArray[np.int32] | None] = []
        for index, entry in enumerate(given):
            what = f"{name}[{index}]"
            array = None if entry is None else self._array(entry, None, what)
            if array is not None and array.ndim != 1:
                raise DimensionError(f"{what}: expected one vector, found shape {array.shape}")
            rows.append(None if array is None else self._admitted(array, vectors is None, what)[0])
        return rows

    def _queries(self, vectors: ArrayLike | None, raw: ArrayLike | None) -> tuple[NDArray[np.int32], bool]:
        given = self._array(vectors, raw, "query")
        return self._admitted(given, vectors is None, "query"), given.ndim == 1

    def _array(self, vectors: ArrayLike | None, raw: ArrayLike | None, what: str) -> NDArray[Any]:
        if (vectors is None) == (raw is None):
            found = "none" if vectors is None else "both"
            raise UsageError(f"{what}: expected exactly one of vectors and raw, found {found}")
        given = vectors if raw is None else raw
        assert given is not None
        array = fixed.as_array(given, what, dimension=self.dim, collection=self._name)
        if len(array) == 0:
            raise DimensionError(f"{what}: expected at least one vector of {self.dim} dimensions, found none")
        return array

    def _admitted(self, array: NDArray[Any], is_raw: bool, what: str) -> NDArray[np.int32]:
        dimension, collection = self.dim, self._name
        if is_raw:
            return fixed.admit_raw(array, dimension=dimension, collection=collection, what=what)
        return fixed.admit_vectors(
            array, dimension=dimension, metric=self.metric, format=self.format, collection=collection, what=what
        )

    def _view(self) -> View:
        return self._find(())[1]

    def _find(self, ids: Iterable[str]) -> tuple[int, View, list[int | None]]:
        """(seq, view, slot of each id or None); the view may be older than the seq: nothing has changed since."""
        database = self._database
        database._check_open()
        with database._moment:
            seq, records = database._records(self._name, self._definition)
            view = records.view(seq)
            return seq, view, records.find(view, ids)

    def _check_erased(self, view: View, lost: list[int]) -> None:
        """``Erased`` where the answer could have held one of ``lost``, unless they are to be left out."""
        if lost and not view.without_erased:
            some = ", ".join(repr(view.ids[slot]) for slot in lost[:3])
            raise Erased(
                f"{len(lost)} of the records of {view.name!r} that lived at seq {view.seq} have been erased since "
                f"({some}{', ...' if len(lost) > 3 else ''}): what they held can no longer be asked; "
                "at(seq, erased='omit') leaves them out and says so"
            )

    def _with_linked(
        self,
        result: Result,
        reach: graph.Expansion,
        views: dict[str, tuple[RecordsOf, View]],
        included: frozenset[str],
    ) -> Result:
        """The result with the records that the links of each hit lead to."""
        database, seq = self._database, result.seq
        walks = [
            graph.walk((self._name, id), reach, lambda node: database._near(node, False, seq)) for id in result.ids
        ]
        found: dict[Node, tuple[Metadata | None, str | None]] = {}
        wanted: dict[str, dict[str, None]] = {}
        left_out: list[str | tuple[str, str]] = []
        for steps in walks:
            for step in steps:
                wanted.setdefault(step.collection, {})[step.id] = None
        for name, ids in wanted.items():
            records, view = views[name]
            slots = database._find(records, view, ids)
            gone = {view.ids[slot]: slot for slot in view.gone}
            self._check_erased(view, [gone[id] for id in ids if id in gone])
            left_out += [id if name == self._name else (name, id) for id in ids if id in gone]
            for id, slot in zip(ids, slots, strict=True):
                if slot is not None:
                    metadata = arguments.copied(view.metadatas[slot]) if "metadatas" in included else None
                    found[name, id] = metadata, view.documents[slot] if "documents" in included else None
        linked = [
            [
                Linked(
                    step.collection, step.id, step.relation, step.depth, *found[step.collection, step.id], step.source
                )
                for step in steps
                if (step.collection, step.id) in found
            ]
            for steps in walks
        ]
        return replace(result, linked=linked, erased=_in_order(left_out))

    def _matching_slots(self, view: View, chosen: filters.Filter) -> list[int]:
        """Slots of live records that match, by id."""
        matches = self._database._finder.matching(view, chosen)
        found = np.flatnonzero(matches).tolist()
        if len(found) * _FEW < view.count:
            return sorted(found, key=view.ids.__getitem__)
        shown = matches.tobytes()
        return [slot for slot in view.in_id_order if shown[slot]]

    def _matching_ids(self, stage: Stage, chosen: filters.Filter) -> list[str]:
        """Ids of records that match, those of an open batch included, in any order."""
        if stage.operations:
            contents = stage.contents(self._name)
            return list(compress(contents, chosen.select(list(contents.values())).tolist()))
        view = self._view()
        return [view.ids[slot] for slot in np.flatnonzero(self._database._finder.matching(view, chosen)).tolist()]

    def _check_standing(self, stage: Stage) -> None:
        found = stage.definition(self._name)
        if found is not self._definition and found != self._definition:  # the same object, nearly always
            raise NotFoundError(f"no collection {self._name!r} as this handle knew it")

    def _result(
        self,
        view: View,
        seq: int,
        slots: NDArray[np.int64],
        raw: NDArray[np.int64],
        included: frozenset[str],
        asked: _Asked,
    ) -> Result:
        distances = fixed.distances_to_float(raw, self.metric, self.format)
        if asked.max_distance is not None:
            near = int(np.count_nonzero(distances <= asked.max_distance))
            slots, raw, distances = slots[:near], raw[:near], distances[:near]
        order = slots.tolist()
        return Result(
            [view.ids[slot] for slot in order],
            raw,
            distances,
            [arguments.copied(view.metadatas[slot]) for slot in order] if "metadatas" in included else None,
            [view.documents[slot] for slot in order] if "documents" in included else None,
            seq,
            _asked=asked,
        )


class _Asked:
    """What a call of ``search`` was asked; results keep it, so that they can give a receipt."""

    __slots__ = ("collection", "ids", "k", "max_distance", "queries", "where")

    def __init__(
        self,
        collection: Collection,
        queries: NDArray[np.int32],
        k: int,
        where: dict[str, Any] | None,
        ids: list[str] | None,
        max_distance: float | None,
    ) -> None:
        self.collection, self.queries, self.k = collection, queries, k
        self.where, self.ids, self.max_distance = where, ids, max_distance

    def __deepcopy__(self, memo: object) -> _Asked:
        """Copies of a result ask the same store."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickled result leaves the store behind."""
        return _nobody, ()

    def receipt(self, result: Result, number: int, level: str, checkpoint: Checkpoint | str | None) -> Receipt:
        """The receipt of the answer to query ``number``."""
        if result.erased:
            raise Erased("this answer left out records that have been erased: there is no receipt for it")
        ids = None if self.ids is None else tuple(sorted(set(self.ids)))
        name, definition = self.collection._name, self.collection._definition
        within = None if self.max_distance == math.inf else self.max_distance
        question = Question(name, definition, self.queries[number], self.k, self.where, ids, within)
        answer = list(zip(result.ids, result.raw.tolist(), strict=True))
        return self.collection._database._prover.receipt(question, answer, result.seq, level, checkpoint)


def _nobody() -> None:
    """Who can be asked about a result that was unpickled."""


def _in_order(left_out: Iterable[str | tuple[str, str]]) -> list[str | tuple[str, str]]:
    """Ids, then (collection, id).  Not by ``repr``: what it escapes depends on the Unicode that a Python knows."""
    return sorted(left_out, key=lambda one: ("", one) if isinstance(one, str) else one)


def _batch(results: list[Result], asked: _Asked) -> Result:
    """Results of one call as one, rectangular because each has min(k, matches) hits."""
    first = results[0]
    return Result(
        [result.ids for result in results],
        np.stack([result.raw for result in results]),
        np.stack([result.distances for result in results]),
        None if first.metadatas is None else [result.metadatas for result in results],
        None if first.documents is None else [result.documents for result in results],
        first.seq,
        None if first.linked is None else [result.linked for result in results],
        first.erased,
        asked,
    )
