"""What calls give back: small values that name their parts.  Nothing here decides.

Roots and links are lower-case hex; raw values are exact integers; distances are float64, for people.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from detmem.errors import Erased, UsageError, shown

if TYPE_CHECKING:
    from detmem.proof.checkpoint import Checkpoint
    from detmem.proof.receipt import Receipt

__all__ = [
    "ArchiveInfo",
    "Commit",
    "Diff",
    "Entry",
    "Hit",
    "Link",
    "Linked",
    "Record",
    "Records",
    "Report",
    "Result",
    "SnapshotInfo",
]

Metadata = dict[str, Any]


class Link(NamedTuple):
    """A directed link; an end is an id, or (collection, id) where it lies in another collection than was asked."""

    src: str | tuple[str, str]
    relation: str
    dst: str | tuple[str, str]


@dataclass(frozen=True, slots=True)
class Commit:
    """An accepted write: its seq, the state root after it, and whether it has reached the disk already."""

    seq: int
    state_root: str
    durable: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """What one commit did to one collection by one kind of operation; ``link`` is the commit's.

    ``links``: what a "link" or "unlink" was about, with (collection, id) for both ends; ``ids`` are their sources.
    ``recorded``: (SHA-256 in hex, note) of what a "record" put into the trail.
    """

    seq: int
    op: str
    collection: str
    ids: list[str]
    link: str
    links: list[Link] = field(default_factory=list)
    recorded: list[tuple[str, str | None]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """A written snapshot; ``path`` is None for a store in memory."""

    seq: int
    state_root: str
    path: str | None


@dataclass(frozen=True, slots=True)
class ArchiveInfo:
    """What was moved to ``path``: the payloads of these segments (file names); ``seq`` is where the store stood."""

    seq: int
    segments: list[str]
    path: str


@dataclass(frozen=True, slots=True)
class Report:
    """A verification's verdict.

    ``seq`` and ``state_root`` are of the last good commit, ``reason`` is None when ok; else it says what was expected
    and what was found, in ``file`` at byte ``offset`` (None: the file as a whole).  ``first_bad_seq`` is None when no
    commit is bad; a snapshot may be.  ``operations`` were verified by hash, and their payloads too, but for ``erased``
    of them, which have none any more, and ``archived``, whose payloads lie elsewhere.  ``remaining``: payloads that
    were to be erased and are still there; opening the store for writing, or erasing again, finishes that.
    """

    ok: bool
    seq: int
    state_root: str
    first_bad_seq: int | None = None
    reason: str | None = None
    file: str | None = None
    offset: int | None = None
    operations: int = field(default=0, compare=False)
    erased: int = field(default=0, compare=False)
    remaining: int = field(default=0, compare=False)
    archived: int = field(default=0, compare=False)

    @property
    def cause(self) -> str:
        """``reason`` without the place and the count of intact commits that it may repeat."""
        cause = re.sub(r"; \d+ commits before it are intact", "", self.reason or "")
        return re.sub(rf"^{re.escape(self.file or '')}, offset {self.offset}(, seq \d+)?: ", "", cause)


@dataclass(frozen=True, slots=True)
class Diff:
    """What ``b`` has and ``a`` has not, and so on, as sorted (collection, id) pairs.

    ``common_seq`` is the last seq at which both logs are the same; ``collections`` names those that only one side
    has, or whose definitions differ; ``linked`` and ``unlinked`` are links, with (collection, id) for both ends.
    """

    common_seq: int
    added: list[tuple[str, str]]
    removed: list[tuple[str, str]]
    changed: list[tuple[str, str]]
    collections: list[str] = field(default_factory=list)
    linked: list[Link] = field(default_factory=list)
    unlinked: list[Link] = field(default_factory=list)

    @property
    def same(self) -> bool:
        """Whether both hold the same (their histories may differ)."""
        return not (self.added or self.removed or self.changed or self.collections or self.linked or self.unlinked)


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One record; ``vector`` float64 (dim,), ``raw`` int32 (dim,).  What was not included is None."""

    id: str
    metadata: Metadata | None
    document: str | None
    vector: NDArray[np.float64] | None
    raw: NDArray[np.int32] | None


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """Records, by position.  What was not included is None; ``vectors`` float64 (n, dim), ``raw`` int32 (n, dim).
    ``records[i]`` and iteration give ``Record``.

    ``erased``: ids that a view of the past left out, because their records have been erased since.
    """

    ids: list[str]
    metadatas: list[Metadata] | None
    documents: list[str | None] | None
    vectors: NDArray[np.float64] | None
    raw: NDArray[np.int32] | None
    erased: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Record]:
        return (self[index] for index in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        _check_index(index, len(self), "records")
        return Record(
            self.ids[index],
            None if self.metadatas is None else self.metadatas[index],
            None if self.documents is None else self.documents[index],
            None if self.vectors is None else self.vectors[index],
            None if self.raw is None else self.raw[index],
        )


@dataclass(frozen=True, slots=True)
class Linked:
    """A record that a hit leads to: ``depth`` links away, the last of them a ``relation`` from ``source``, a
    (collection, id).  Of several such links of the least depth it is the first by (relation, collection, id)."""

    collection: str
    id: str
    relation: str
    depth: int
    metadata: Metadata | None
    document: str | None
    source: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Hit:
    """One record of an answer; ``metadata`` and ``document`` are None when not included, ``linked`` when not asked."""

    id: str
    distance: float
    raw: int
    metadata: Metadata | None
    document: str | None
    linked: list[Linked] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """The answer to one query, or to several.

    One query: ``ids`` list of m str, ``raw`` int64 (m,), ``distances`` float64 (m,), ``metadatas`` and ``documents``
    lists of m or None; ``result[i]`` and iteration give ``Hit``.  n queries: lists of n lists, arrays (n, m), and
    ``result[i]`` and iteration give the ``Result`` of one query.  ``seq`` is the moment that answered.  ``linked``:
    with ``expand``, for each hit the records that it leads to, by (depth, relation, id).  ``erased``: ids that a view
    of the past left out, because their records have been erased since, then (collection, id) of linked ones elsewhere.
    """

    ids: list[Any]
    raw: NDArray[np.int64]
    distances: NDArray[np.float64]
    metadatas: list[Any] | None
    documents: list[Any] | None
    seq: int
    linked: list[Any] | None = None
    erased: list[str | tuple[str, str]] = field(default_factory=list)
    _asked: Any = field(default=None, repr=False)  # who can say what was asked: see ``receipt``
    _number: int = field(default=0, repr=False)  # which of its queries this answers

    def receipt(self, level: str = "R1", *, checkpoint: Checkpoint | str | None = None) -> Receipt:
        """What was asked and answered, with a proof, as a file for somebody else (spec/receipts.md).

        ``level``: R0 what was said, R1 that the results were live, R2 to ask again, R3 to check completeness by parts.
        ``checkpoint``: the one (or its text) to prove it under, of ``seq`` or later; by default, that of the store now.
        For one query: of several, take ``result[i].receipt()``.  Made from the open store, which may have
        moved on: what it no longer holds in memory is replayed.
        """
        if self.raw.ndim != 1:
            raise UsageError("a receipt is of one query: take result[i].receipt()")
        if self._asked is None:
            raise UsageError("this result was not made by a search: nobody knows what was asked")
        if self.erased:
            raise Erased(
                f"{self.erased[:3]} were left out, having been erased since: this is not what was answered then"
            )
        made: Receipt = self._asked.receipt(self, self._number, level, checkpoint)
        return made

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        _check_index(index, len(self), "result")
        metadata = None if self.metadatas is None else self.metadatas[index]
        document = None if self.documents is None else self.documents[index]
        linked = None if self.linked is None else self.linked[index]
        if self.raw.ndim == 1:
            return Hit(self.ids[index], float(self.distances[index]), int(self.raw[index]), metadata, document, linked)
        number = int(index) % len(self)
        parts = self.ids[index], self.raw[index], self.distances[index], metadata, document, self.seq
        return Result(*parts, linked, self.erased, self._asked, number)

    def __repr__(self) -> str:
        if self.raw.ndim == 1:
            return f"Result(seq={self.seq}, hits={list(self)!r})"
        return f"Result(seq={self.seq}, {len(self)} queries of {self.raw.shape[1]} hits)"


def _check_index(index: object, count: int, what: str) -> None:
    if not isinstance(index, (int, np.integer)) or isinstance(index, bool):
        raise UsageError(f"{what} index: expected int or slice, found {type(index).__name__}")
    if not -count <= index < count:
        raise IndexError(f"{what} index {shown(index)} out of range: there are {count}")  # ends old-style iteration
