"""What a report tells, gathered in one pass over the commits that verification has found good.

Memory is that of the ids that are live, and of a bounded number of bins, commits and events, however long the log is.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from detmem.journal.frame import Frame
from detmem.journal.past import Position
from detmem.machine.commands import OPERATION_NAMES, Definition, Operation
from detmem.machine.commitment import LogTree

__all__ = ["Bin", "Change", "Commit", "Story"]

MAX_BINS = 2048  # about one for each pixel of a wide screen
MAX_COMMITS = 1000  # listed one by one
MAX_EVENTS = 10_000  # touches of records that the page can compare moments from
MAX_RECEIPTS = 1000

Key = tuple[str, str]
Version = tuple[bytes, bytes]  # commitments to vector and content


@dataclass(slots=True)
class Bin:
    """Some commits in a row: operations by name, live records of the collections that were touched, the root behind."""

    operations: Counter[str] = field(default_factory=Counter)
    live: dict[str, int] = field(default_factory=dict)
    state_root: str = ""

    def absorb(self, later: Bin) -> None:
        self.operations.update(later.operations)
        self.live.update(later.live)
        self.state_root = later.state_root


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit: its operations by (name, collection), the link and the state root behind it."""

    seq: int
    operations: list[tuple[str, str, list[str]]]
    link: str
    state_root: str


@dataclass(frozen=True, slots=True)
class Change:
    """What is otherwise at ``last`` than at ``first``, as sorted (collection, id); ``changed`` names the parts."""

    first: int
    last: int
    added: list[Key]
    removed: list[Key]
    changed: list[tuple[str, str, str]]


class Story:
    """Told commit by commit, in order; ``first`` and ``last`` are the two moments to compare (None: the end)."""

    def __init__(self, first: int, last: int | None) -> None:
        self.seq = 0
        self.log = LogTree()
        self.width = 1  # commits in a bin
        self.bins: list[Bin] = []
        self.commits: deque[Commit] = deque(maxlen=MAX_COMMITS)
        self.operations: Counter[str] = Counter()
        self.by_collection: dict[str, Counter[str]] = {}
        self.definitions: dict[str, Definition] = {}
        self.peaks: dict[str, int] = {}
        self.live: dict[str, dict[str, Version]] = {}
        self.files: dict[str, tuple[int, int]] = {}  # first and last seq of each segment
        self.receipts: list[tuple[int, str, str | None]] = []  # seq, hash, note
        self.events: list[tuple[int, Key, Version | None]] | None = []
        self.first, self.last = first, last
        self._before: dict[Key, Version | None] = {}
        self._change: Change | None = None

    def visit(self, file: str, frame: Frame, position: Position) -> None:
        """Take the next good commit, from ``file``, which leads to ``position``."""
        self.seq = frame.seq
        self.log = position.log
        self.files[file] = self.files.get(file, (frame.seq, 0))[0], frame.seq
        now = Bin(state_root=frame.state_root.hex())
        groups: dict[tuple[str, str], list[str]] = {}
        for operation in frame.operations:
            now.operations[operation.name] += 1
            ids = groups.setdefault((operation.name, operation.collection), [])
            if operation.id:
                ids.append(operation.id)
            self._apply(operation)
        for (name, collection), ids in groups.items():
            if name == "record":  # of the whole store
                continue
            self.by_collection.setdefault(collection, Counter())[name] += max(1, len(ids))
            now.live[collection] = count = len(self.live.get(collection, ()))
            self.peaks[collection] = max(count, self.peaks.get(collection, 0))
        self.operations.update(now.operations)
        self._put(now)
        if self.last is None or frame.seq <= self.last:
            named = [(name, collection, ids) for (name, collection), ids in groups.items()]
            self.commits.append(Commit(frame.seq, named, frame.link.hex(), frame.state_root.hex()))
        if frame.seq == self.last:
            self._change = self._compare()

    def change(self) -> Change:
        """Between the two moments; the later one is the end when the log does not get there."""
        return self._change or self._compare()

    def kinds(self) -> list[str]:
        """The operations that occurred, in the order of their types."""
        return [name for name in OPERATION_NAMES.values() if name in self.operations]

    def _apply(self, operation: Operation) -> None:
        name, id = operation.collection, operation.id
        match operation.name:  # leniently: at level "chain" nobody has seen whether it is legal here
            case "create_collection":
                assert operation.content is not None
                self.live.setdefault(name, {})
                self.definitions[name] = Definition.decode(operation.content)
            case "drop_collection":
                for dropped in list(self.live.get(name, ())):
                    self._set(name, dropped, None)
                self.live.pop(name, None)
            case "delete" | "erase":
                if id in self.live.get(name, ()):
                    self._set(name, id, None)
            case "record":
                digest, note = operation.recorded()
                if len(self.receipts) < MAX_RECEIPTS:
                    self.receipts.append((self.seq, digest.hex(), note))
            case "add" | "upsert" | "update":
                self._set(name, id, (operation.vector_commitment, operation.content_commitment))

    def _set(self, collection: str, id: str, version: Version | None) -> None:
        records, key = self.live.setdefault(collection, {}), (collection, id)
        if self.first < self.seq <= (self.seq if self.last is None else self.last):
            self._before.setdefault(key, records.get(id))
        if version is None:
            records.pop(id, None)
        else:
            records[id] = version
        if self.events is not None:
            self.events.append((self.seq, key, version))
            if len(self.events) > MAX_EVENTS:
                self.events = None

    def _put(self, now: Bin) -> None:
        if (self.seq - 1) // self.width < len(self.bins):
            self.bins[-1].absorb(now)
            return
        self.bins.append(now)
        if len(self.bins) > MAX_BINS:
            for left, right in zip(self.bins[::2], self.bins[1::2], strict=False):
                left.absorb(right)
            self.bins = self.bins[::2]
            self.width *= 2

    def _compare(self) -> Change:
        added, removed, changed = [], [], []
        for key, before in sorted(self._before.items(), key=lambda item: item[0]):
            after = self.live.get(key[0], {}).get(key[1])
            if before == after:
                continue
            if before is None:
                added.append(key)
            elif after is None:
                removed.append(key)
            else:
                parts = [
                    part for part, old, new in zip(("vector", "content"), before, after, strict=True) if old != new
                ]
                changed.append((*key, " and ".join(parts)))
        self._before = {}
        return Change(min(self.first, self.seq), self.seq, added, removed, changed)
