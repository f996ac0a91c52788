"""What a root covers: leaves, the log tree, the state tree, the link of the frame chain (spec/commitments.md).

Rule 1  Everything hashed starts with one byte that says what it is; lengths come before strings.
Rule 2  No call here costs O(N): an append to the log tree is amortised O(1), a change of the state tree is one bucket
        and 16 nodes for each key.
Rule 3  Staging computes, publishing stores: ``StateTree.stage`` leaves the tree as it was.

It knows bytes, not records: what a vector or a content is stands in ``commands`` and ``state``.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from hashlib import sha256
from itertools import pairwise
from struct import pack
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "LINK_ZERO",
    "ZERO",
    "LogTree",
    "StateTree",
    "TreeChange",
    "collection_leaf",
    "commit",
    "commit_all",
    "commit_leaf",
    "link",
    "link_key",
    "link_leaf",
    "operation_leaf",
    "pour",
    "prefixed",
    "prefixed_all",
    "record_leaf",
    "record_leaves",
    "request_digest",
    "salt_of",
    "state_key",
    "state_keys",
]

ZERO = bytes(32)
LINK_ZERO = sha256(b"\x11detmem/v1").digest()

_DEPTH = 16
_BUCKETS = 1 << _DEPTH
_HASH_BYTES = 32
_ENTRY_BYTES = 2 * _HASH_BYTES
_FEW_LEAVES = 4  # one operation makes two
_NODES_AT_ONCE = 4096
_BUCKETS_AT_ONCE = 1 << 8
_COUNTED = 1 << 15  # entries that are put in order together
_FEW_ENTRIES = 1 << 16  # of which buckets are made at once
_MANY = 64  # changes from which columns are cheaper than one key after the other


def prefixed(text: bytes) -> bytes:
    """``lp``: the length as u16, then the bytes."""
    return pack("<H", len(text)) + text


def commit(data: bytes | memoryview, salt: bytes = b"") -> bytes:
    """The commitment to a vector's or a content's bytes."""
    digest = sha256(b"\x10" + salt if salt else b"\x10")
    digest.update(data)
    return digest.digest()


def commit_all(payloads: Iterable[bytes | memoryview]) -> list[bytes]:
    """``commit`` of each, without salt."""
    new = sha256(b"\x10").copy  # cheaper than to begin anew
    commitments = []
    for payload in payloads:
        digest = new()
        digest.update(payload)
        commitments.append(digest.digest())
    return commitments


def state_key(collection: bytes, record: bytes) -> bytes:
    """Key of a record, or with ``record`` = ``prefixed(b"")`` of the collection itself; both arguments are prefixed."""
    return sha256(b"\x13" + collection + record).digest()


def record_leaf(collection: bytes, record: bytes, vector_commitment: bytes, content_commitment: bytes) -> bytes:
    """State leaf of a record; ``collection`` and ``record`` (its id) are prefixed."""
    return sha256(b"\x12" + collection + record + vector_commitment + content_commitment).digest()


def prefixed_all(texts: Iterable[bytes]) -> list[bytes]:
    """``prefixed`` of each."""
    lengths = _Lengths()
    return [lengths[len(text)] + text for text in texts]


class _Lengths(dict[int, bytes]):
    """Lengths as u16; few differ."""

    def __missing__(self, length: int) -> bytes:
        data = self[length] = pack("<H", length)
        return data


def state_keys(collection: bytes, records: Iterable[bytes]) -> list[bytes]:
    """``state_key`` of each record."""
    start = b"\x13" + collection
    return [sha256(start + record).digest() for record in records]


def record_leaves(collection: bytes, records: Iterable[bytes], commitments: Iterable[bytes]) -> list[bytes]:
    """``record_leaf`` of each record; ``commitments`` are the vector's and the content's, joined."""
    start = b"\x12" + collection
    return [sha256(start + record + pair).digest() for record, pair in zip(records, commitments, strict=True)]


def collection_leaf(collection: bytes, content_commitment: bytes) -> bytes:
    """State leaf of a collection's definition; ``collection`` is prefixed."""
    return sha256(b"\x16" + collection + content_commitment).digest()


def link_key(names: bytes) -> bytes:
    """Key of a link in the state tree; ``names`` are its five strings, each prefixed."""
    return sha256(b"\x17" + names).digest()


def link_leaf(names: bytes) -> bytes:
    """State leaf of a link; ``names`` as for ``link_key``."""
    return sha256(b"\x1b" + names).digest()


def request_digest(leaves: bytes | bytearray) -> bytes:
    """What a request id stands for: the leaves, joined, of the operations that came under it."""
    return sha256(b"\x1c" + leaves).digest()


def salt_of(key: bytes, collection: str, id: str, *payload: bytes | memoryview) -> bytes:
    """What goes before a vector and a content in their commitments, where a collection is erasable."""
    return hmac.digest(key, b"".join([prefixed(collection.encode()), prefixed(id.encode()), *payload]), "sha256")


def operation_leaf(header: bytes) -> bytes:
    """Log leaf of one operation: names and commitments, never payload bytes, so a payload can go and the leaf stays."""
    return sha256(b"\x00" + header).digest()


def commit_leaf(seq: int, operation_count: int, state_root: bytes) -> bytes:
    """Log leaf that closes a commit and binds the state root after it."""
    return sha256(b"\x00COMMIT" + pack("<QI", seq, operation_count) + state_root).digest()


def link(before: bytes, kind: int, flags: int, version: int, seq: int, leaves: bytes, closing: bytes) -> bytes:
    """Link of a commit frame: over the link before, the frame's meaning, and its leaves, joined."""
    digest = sha256(b"\x11" + before + pack("<BBHQI", kind, flags, version, seq, len(leaves) // _HASH_BYTES))
    digest.update(leaves)
    digest.update(closing)
    return digest.digest()


class LogTree:
    """RFC 9162 Merkle tree, append only: the roots of its complete subtrees, largest first, and its size in leaves."""

    __slots__ = ("frontier", "size")

    def __init__(self, size: int = 0, frontier: Iterable[bytes] = ()) -> None:
        self.size = size
        self.frontier = list(frontier)
        assert len(self.frontier) == size.bit_count()

    def extended(self, leaves: bytes) -> LogTree:
        """A new tree with ``leaves`` (leaf hashes, joined) behind this one's; a few go one by one, many level by
        level."""
        frontier, nodes, before = list(self.frontier), leaves, self.size
        size = before + len(nodes) // _HASH_BYTES
        if len(nodes) <= _FEW_LEAVES * _HASH_BYTES:
            for at in range(0, len(nodes), _HASH_BYTES):
                node = nodes[at : at + _HASH_BYTES]
                rest = before
                while rest & 1:  # as many merges as there are trailing ones
                    node = sha256(b"\x01" + frontier.pop() + node).digest()
                    rest >>= 1
                frontier.append(node)
                before += 1
            return LogTree(size, frontier)
        complete = []
        while nodes:  # of one level: the new ones, and ``before`` them
            if before & 1:
                nodes = frontier.pop() + nodes
            end = len(nodes) // _ENTRY_BYTES * _ENTRY_BYTES  # where a node without its right one stands, or none
            if end < len(nodes):
                complete.append(nodes[end:])
            above = bytearray()
            for start in range(0, end, _NODES_AT_ONCE * _ENTRY_BYTES):
                pairs = range(start, min(start + _NODES_AT_ONCE * _ENTRY_BYTES, end), _ENTRY_BYTES)
                above += b"".join([sha256(b"\x01" + nodes[at : at + _ENTRY_BYTES]).digest() for at in pairs])
            nodes = bytes(above)
            before >>= 1
        # What is left of the old frontier has the higher levels; ``complete`` came from the lowest up.
        return LogTree(size, [*frontier, *reversed(complete)])

    @property
    def root(self) -> bytes:
        """Merkle tree hash over all leaves."""
        if not self.frontier:
            return sha256(b"").digest()
        node = self.frontier[-1]
        for left in reversed(self.frontier[:-1]):
            node = sha256(b"\x01" + left + node).digest()
        return node


_Level: TypeAlias = tuple[NDArray[np.int64], NDArray[np.uint8]]  # numbers of nodes, and their hashes


class TreeChange(NamedTuple):
    """What ``StateTree.publish`` will store: new buckets and nodes by number, and the root above them.

    Nodes come in one of three ways: ``nodes`` by number; ``path``, a node, its parent and so on up to the root; and
    ``levels``, where they are many: numbers int64 (n,) and hashes uint8 (n, 32).
    """

    root: bytes
    buckets: dict[int, bytes]
    nodes: dict[int, bytes]
    path: tuple[bytes, ...] = ()
    levels: tuple[_Level, ...] = ()

    def all_nodes(self) -> dict[int, bytes]:
        """The new nodes by number, however they came."""
        nodes = dict(self.nodes)
        for bucket in self.buckets if self.path else ():
            nodes.update((_BUCKETS + bucket >> height, node) for height, node in enumerate(self.path))
        for numbers, hashes in self.levels:
            nodes.update(zip(numbers.tolist(), map(bytes, hashes), strict=True))
        return nodes


class StateTree:
    """The history-independent tree over what is live: 2^16 buckets of ``key -> leaf``, and the nodes above them.

    Nodes are numbered as in a heap (root 1, children 2i and 2i+1, bucket b at 2^16 + b).  Zero bytes mean an empty
    subtree, so the node table is fresh zero memory that the system hands out as it is touched: an empty store costs
    nothing.
    """

    __slots__ = ("_base", "_buckets", "_nodes", "_table", "root")

    def __init__(self) -> None:
        self._base: _Base | None = None
        self._buckets: dict[int, bytes] = {}  # those that have changed since; all, without a base
        self._table = np.zeros((2 * _BUCKETS, _HASH_BYTES), dtype=np.uint8)
        self._nodes: memoryview = self._table.reshape(-1).data
        self.root = ZERO

    @classmethod
    def of(cls, entries: bytearray) -> StateTree:
        """The tree over ``key | leaf`` of all entries, in any order, which are taken over; no key stands twice.

        Few are put into buckets; many stay as they came, and are put in order beside."""
        tree, rows = cls(), _rows(entries, _ENTRY_BYTES)
        if len(rows) <= _FEW_ENTRIES:
            if len(rows):
                rows[:] = rows[_by_key(rows)[0]]
                touched = np.flatnonzero(np.bincount(_numbers(rows).astype(np.intp), minlength=_BUCKETS))
                tree.publish(tree._hashed(touched, rows))
            return tree
        tree._base = base = _Base.of(rows)
        for first in range(0, _BUCKETS, _BUCKETS_AT_ONCE):  # few at a time: the sorted copy of all is as large as all
            start, *stops = base.borders[first : first + _BUCKETS_AT_ONCE + 1]
            here = base.order[start : stops[-1]]
            here[:] = here[_by_key(rows[here])[0]]
            data = rows[here].tobytes()
            places = [(at - start) * _ENTRY_BYTES for at in (start, *stops)]
            hashes = [_bucket_hash(data[one:after]) for one, after in pairwise(places)]
            tree._table[_BUCKETS + first : _BUCKETS + first + len(hashes)] = _rows(b"".join(hashes), _HASH_BYTES)
        tree._fill()
        return tree

    def _fill(self) -> None:
        """Hash all nodes above the buckets, in place."""
        width = _BUCKETS
        while width > 1:
            level = self._table[width : 2 * width].reshape(-1, 2, _HASH_BYTES)
            width //= 2
            for start in range(0, width, _NODES_AT_ONCE):
                some = level[start : start + _NODES_AT_ONCE]
                self._table[width + start : width + start + len(some)] = _pair_hashes(some)
        self.root = self.node(1)

    def leaf(self, key: bytes) -> bytes | None:
        """The leaf under ``key``, or None."""
        return _entries(self.bucket(_bucket_of(key))).get(key)

    def stage(
        self, changes: Mapping[bytes, bytes | None], entries: bytearray | None = None, gone: bytearray | None = None
    ) -> TreeChange:
        """Compute the tree after setting (leaf) or removing (None) the given keys; this tree stays as it is.

        ``gone``: keys to remove before these, joined; ``entries``: more to set, as ``key | leaf``.  Nothing is set
        twice.  What ``changes`` holds may be moved there."""
        if len(changes) == 1 and not entries and not gone:
            return self._stage_one(*next(iter(changes.items())))
        entries, gone = bytearray() if entries is None else entries, bytearray() if gone is None else gone
        if len(changes) + len(entries) // _ENTRY_BYTES + len(gone) // _HASH_BYTES >= _MANY:
            pour(changes, entries, gone)
            return self._hashed(*self._merged(entries, gone))
        if entries or gone:
            keys = [bytes(gone[at : at + _HASH_BYTES]) for at in range(0, len(gone), _HASH_BYTES)]
            changes = {**dict.fromkeys(keys), **changes, **_entries(bytes(entries))}
        return self._stage_few(changes)

    def _stage_one(self, key: bytes, leaf: bytes | None) -> TreeChange:
        """One key, and straight up: this is most of what a single commit hashes."""
        number = _bucket_of(key)
        bucket = self.bucket(number)
        if bucket or leaf is None:
            merged = _entries(bucket)
            if leaf is None:
                merged.pop(key, None)
            else:
                merged[key] = leaf
            bucket = b"".join([key + merged[key] for key in sorted(merged)])
        else:
            bucket = key + leaf
        node = _bucket_hash(bucket)
        buckets, path, nodes = {number: bucket}, [node], self._nodes
        at = (_BUCKETS + number) * _HASH_BYTES
        while at > _HASH_BYTES:
            if at & _HASH_BYTES:  # a right child
                both = b"\x15" + nodes[at - _HASH_BYTES : at] + node
            else:
                both = b"\x15" + node + nodes[at + _HASH_BYTES : at + 2 * _HASH_BYTES]
            node = sha256(both).digest() if both != _EMPTY_NODE else ZERO
            path.append(node)
            at = at >> 1 & -_HASH_BYTES
        return TreeChange(node, buckets, {}, tuple(path))

    def _stage_few(self, changes: Mapping[bytes, bytes | None]) -> TreeChange:
        """Key by key, in plain Python: what one commit of a few records costs."""
        by_bucket: dict[int, list[tuple[bytes, bytes | None]]] = {}
        for key, leaf in changes.items():
            by_bucket.setdefault(_bucket_of(key), []).append((key, leaf))
        buckets: dict[int, bytes] = {}
        nodes: dict[int, bytes] = {}
        for number, entries in by_bucket.items():
            merged = _entries(self.bucket(number))
            merged.update((key, leaf) for key, leaf in entries if leaf is not None)
            for key, leaf in entries:
                if leaf is None:
                    merged.pop(key, None)
            bucket = b"".join([key + merged[key] for key in sorted(merged)])
            buckets[number] = bucket
            nodes[_BUCKETS + number] = _bucket_hash(bucket)
        level = sorted(nodes)
        for _ in range(_DEPTH if level else 0):
            level = list(dict.fromkeys([number >> 1 for number in level]))  # ascending, so equal parents are neighbours
            for number in level:
                left = nodes.get(2 * number) or self.node(2 * number)
                right = nodes.get(2 * number + 1) or self.node(2 * number + 1)
                both = left + right
                nodes[number] = sha256(b"\x15" + both).digest() if both != _EMPTY_PAIR else ZERO
        return TreeChange(nodes.get(1, self.root), buckets, nodes)

    def _hashed(self, touched: NDArray[np.int64], entries: NDArray[np.uint8]) -> TreeChange:
        """The tree after all that stands in the ``touched`` buckets has become ``entries``, which are in order.

        By columns, hashed level by level."""
        data = entries.reshape(-1).data
        borders = np.searchsorted(_numbers(entries), np.append(touched, _BUCKETS)) * _ENTRY_BYTES
        buckets = {
            number: bytes(data[start:stop])
            for number, start, stop in zip(touched.tolist(), borders[:-1].tolist(), borders[1:].tolist(), strict=True)
        }
        hashes = bytearray()
        for bucket in buckets.values():
            hashes += _bucket_hash(bucket)
        levels = self._levels(touched, hashes)
        return TreeChange(levels[-1][1].tobytes(), buckets, {}, levels=levels)

    def _levels(self, touched: NDArray[np.int64], hashes: bytearray) -> tuple[_Level, ...]:
        """The hashes of these buckets, and level by level of all nodes above them; the last is the root's."""
        level = touched + _BUCKETS, _rows(hashes, _HASH_BYTES)
        levels = [level]
        for _ in range(_DEPTH):
            level = self._level_above(*level)
            levels.append(level)
        return tuple(levels)

    def _merged(self, entries: bytearray, gone: bytearray) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """The numbers of all touched buckets, ascending, and what will stand in them: entries (n, 64), by key."""
        keys, more = _rows(gone, _HASH_BYTES), _rows(entries, _ENTRY_BYTES)
        numbers = np.concatenate((_numbers(keys), _numbers(more))).astype(np.intp)  # the machine's own, for bincount
        touched = np.flatnonzero(np.bincount(numbers, minlength=_BUCKETS))
        standing = _rows(b"".join(map(self.bucket, touched.tolist())), _ENTRY_BYTES)
        first, rest = len(standing), len(standing) + len(keys)
        rows = np.concatenate((standing, np.zeros((len(keys), _ENTRY_BYTES), dtype=np.uint8), more)) if rest else more
        rows[first:rest, :_HASH_BYTES] = keys
        del numbers, keys, standing  # they may be as large as what follows
        order, last = _by_key(rows)  # of one key the last is kept: what is new stands behind what it replaces
        last &= (order < first) | (order >= rest)
        return touched, rows[order[last]]

    def _level_above(
        self, numbers: NDArray[np.int64], hashes: NDArray[np.uint8]
    ) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """The parents of changed nodes (numbers ascending), and their hashes."""
        above = numbers >> 1
        first = np.ones(len(above), dtype=np.bool_)
        first[1:] = above[1:] != above[:-1]
        parents = above[first]
        both = self._table.reshape(-1, 2, _HASH_BYTES)[parents]
        both[np.cumsum(first) - 1, numbers & 1] = hashes
        result = np.empty((len(parents), _HASH_BYTES), dtype=np.uint8)
        for start in range(0, len(parents), _NODES_AT_ONCE):
            result[start : start + _NODES_AT_ONCE] = _pair_hashes(both[start : start + _NODES_AT_ONCE])
        return parents, result

    def differing(self, other: StateTree) -> set[bytes]:
        """The keys whose leaves are not the same in two trees; equal parts are not looked into."""
        keys: set[bytes] = set()
        numbers = [1]
        while numbers:
            number = numbers.pop()
            if self.node(number) == other.node(number):
                continue
            if number < _BUCKETS:
                numbers += (2 * number, 2 * number + 1)
                continue
            ours, theirs = (_entries(tree.bucket(number - _BUCKETS)) for tree in (self, other))
            keys.update(key for key in sorted(ours.keys() | theirs.keys()) if ours.get(key) != theirs.get(key))
        return keys

    def publish(self, change: TreeChange) -> None:
        """Store what ``stage`` computed on this same tree."""
        for number, bucket in change.buckets.items():
            if bucket or self._base is not None:
                self._buckets[number] = bucket
            else:
                self._buckets.pop(number, None)
        for number, node in change.nodes.items():
            self._nodes[number * _HASH_BYTES : (number + 1) * _HASH_BYTES] = node
        if change.path:
            (number,) = change.buckets
            at = (_BUCKETS + number) * _HASH_BYTES
            for node in change.path:
                self._nodes[at : at + _HASH_BYTES] = node
                at = at >> 1 & -_HASH_BYTES
        for numbers, hashes in change.levels:
            self._table[numbers] = hashes
        self.root = change.root

    def bucket(self, number: int) -> bytes:
        """``key | leaf`` of all entries of a bucket, by key."""
        bucket = self._buckets.get(number)
        if bucket is not None:
            return bucket
        return b"" if self._base is None else self._base.bucket(number)

    def node(self, number: int) -> bytes:
        """A hash of the tree, by its number in the heap."""
        return bytes(self._nodes[number * _HASH_BYTES : (number + 1) * _HASH_BYTES])


class _Base(NamedTuple):
    """What a tree began with: entries as they came, their places in the order of keys, and where in it each bucket
    begins and the last ends."""

    rows: NDArray[np.uint8]
    order: NDArray[np.uint32]
    borders: memoryview

    @classmethod
    def of(cls, rows: NDArray[np.uint8]) -> _Base:
        """Places by bucket, and within each as the entries came."""
        pieces = [slice(start, start + _COUNTED) for start in range(0, len(rows), _COUNTED)]
        counts = np.zeros(_BUCKETS, dtype=np.int64)
        for piece in pieces:
            counts += np.bincount(_numbers(rows[piece]), minlength=_BUCKETS)
        borders = np.zeros(_BUCKETS + 1, dtype=np.int64)
        np.cumsum(counts, out=borders[1:])
        order = np.empty(len(rows), dtype=np.uint32)
        free = borders[:-1].copy()  # where the next entry of each bucket goes
        for piece in pieces:
            numbers = _numbers(rows[piece])
            here = np.argsort(numbers, kind="stable")
            counts = np.bincount(numbers, minlength=_BUCKETS)
            places = np.arange(len(here), dtype=np.int64) + np.repeat(free - np.cumsum(counts) + counts, counts)
            order[places] = here + piece.start
            free += counts
        return cls(rows, order, borders.data)

    def bucket(self, number: int) -> bytes:
        return self.rows[self.order[self.borders[number] : self.borders[number + 1]]].tobytes()


def pour(changes: Mapping[bytes, bytes | None], entries: bytearray, gone: bytearray) -> None:
    """Put what is to be set (leaf) and removed (None) behind the others, as ``StateTree.stage`` takes them."""
    for key, leaf in changes.items():
        if leaf is None:
            gone += key
        else:
            entries += key
            entries += leaf


def _bucket_hash(bucket: bytes) -> bytes:
    return sha256(b"\x14" + bucket).digest() if bucket else ZERO


def _pair_hashes(pairs: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The nodes above pairs of nodes (n, 2, 32)."""
    hashed = np.full((len(pairs), 1 + 2 * _HASH_BYTES), 0x15, dtype=np.uint8)
    hashed[:, 1:] = pairs.reshape(len(pairs), -1)
    data, size = hashed.tobytes(), hashed.shape[1]
    nodes = b"".join([sha256(data[at : at + size]).digest() for at in range(0, len(data), size)])
    result = _rows(bytearray(nodes), _HASH_BYTES)
    result[~pairs.any(axis=(1, 2))] = 0
    return result


_EMPTY_PAIR = ZERO + ZERO
_EMPTY_NODE = b"\x15" + _EMPTY_PAIR


def _bucket_of(key: bytes) -> int:
    return key[0] << 8 | key[1]


def _rows(data: bytes | bytearray, size: int) -> NDArray[np.uint8]:
    """Bytes as rows of ``size``, in place."""
    return np.frombuffer(data, dtype=np.uint8).reshape(-1, size)


def _numbers(entries: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """The bucket of each key or entry."""
    return np.ascontiguousarray(entries[:, :2]).view(">u2")[:, 0].astype(np.uint16)


def _by_key(entries: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """What sorts entries by their keys, equal ones as they stand; and in that order, which are the last of their key.

    Eight bytes of a hash order nearly all of them; somebody may search for keys that share these, so that is looked at.
    """
    first = np.ascontiguousarray(entries[:, :8]).view(">u8")[:, 0].astype(np.uint64)
    order = np.argsort(first, kind="stable")
    first = first[order]
    differ = first[1:] != first[:-1]
    alike = np.flatnonzero(~differ)
    if (entries[order[alike], :_HASH_BYTES] != entries[order[alike + 1], :_HASH_BYTES]).any():
        words = np.ascontiguousarray(entries[:, :_HASH_BYTES]).view(">u8").astype(np.uint64)
        order = np.lexsort(words.T[::-1])
        differ = (words[order[1:]] != words[order[:-1]]).any(axis=1)
    return order, np.append(differ, True)


def _entries(bucket: bytes) -> dict[bytes, bytes]:
    return {
        bucket[at : at + _HASH_BYTES]: bucket[at + _HASH_BYTES : at + _ENTRY_BYTES]
        for at in range(0, len(bucket), _ENTRY_BYTES)
    }
