"""What a root covers: leaves, the log tree, the state tree, the link of the frame chain (spec/commitments.md).

Rule 1  Everything hashed starts with one byte that says what it is; lengths come before strings.
Rule 2  No call here costs O(N): an append to the log tree is amortised O(1), a change of the state tree is one bucket
        and 16 nodes for each key.
Rule 3  Staging computes, publishing stores: ``StateTree.stage`` leaves the tree as it was.

It knows bytes, not records: what a vector or a content is stands in ``commands`` and ``state``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from struct import pack

import numpy as np

__all__ = [
    "LINK_ZERO",
    "ZERO",
    "LogTree",
    "StateTree",
    "TreeChange",
    "collection_leaf",
    "commit",
    "commit_leaf",
    "link",
    "link_of",
    "operation_leaf",
    "prefixed",
    "record_leaf",
    "state_key",
]

ZERO = bytes(32)
LINK_ZERO = sha256(b"\x11detmem/v1").digest()

_DEPTH = 16
_BUCKETS = 1 << _DEPTH
_HASH_BYTES = 32
_ENTRY_BYTES = 2 * _HASH_BYTES


def prefixed(text: bytes) -> bytes:
    """``lp``: the length as u16, then the bytes."""
    return pack("<H", len(text)) + text


def commit(data: bytes | memoryview) -> bytes:
    """The commitment to a vector's or a content's bytes (without salt)."""
    digest = sha256(b"\x10")
    digest.update(data)
    return digest.digest()


def state_key(collection: bytes, record: bytes) -> bytes:
    """Key of a record, or with ``record`` = ``prefixed(b"")`` of the collection itself; both arguments are prefixed."""
    return sha256(b"\x13" + collection + record).digest()


def record_leaf(collection: bytes, record: bytes, vector_commitment: bytes, content_commitment: bytes) -> bytes:
    """State leaf of a record; ``collection`` and ``record`` (its id) are prefixed."""
    return sha256(b"\x12" + collection + record + vector_commitment + content_commitment).digest()


def collection_leaf(collection: bytes, content_commitment: bytes) -> bytes:
    """State leaf of a collection's definition; ``collection`` is prefixed."""
    return sha256(b"\x16" + collection + content_commitment).digest()


def operation_leaf(header: bytes) -> bytes:
    """Log leaf of one operation: names and commitments, never payload bytes, so a payload can go and the leaf stays."""
    return sha256(b"\x00" + header).digest()


def commit_leaf(seq: int, operation_count: int, state_root: bytes) -> bytes:
    """Log leaf that closes a commit and binds the state root after it."""
    return sha256(b"\x00COMMIT" + pack("<QI", seq, operation_count) + state_root).digest()


def link(before: bytes, kind: int, flags: int, version: int, seq: int, leaves: list[bytes], closing: bytes) -> bytes:
    """Link of a commit frame: over the link before, the frame's meaning, and its leaves."""
    return link_of(before, kind, flags, version, seq, b"".join(leaves), closing)


def link_of(
    before: bytes, kind: int, flags: int, version: int, seq: int, leaves: bytes | bytearray, closing: bytes
) -> bytes:
    """``link`` where the leaves stand one behind the other."""
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

    def extended(self, leaves: Iterable[bytes]) -> LogTree:
        """A new tree with ``leaves`` (leaf hashes) behind this one's."""
        size, frontier = self.size, list(self.frontier)
        for leaf in leaves:
            node, rest = leaf, size
            while rest & 1:  # as many merges as size has trailing ones: amortised one
                node = sha256(b"\x01" + frontier.pop() + node).digest()
                rest >>= 1
            frontier.append(node)
            size += 1
        return LogTree(size, frontier)

    @property
    def root(self) -> bytes:
        """Merkle tree hash over all leaves."""
        if not self.frontier:
            return sha256(b"").digest()
        node = self.frontier[-1]
        for left in reversed(self.frontier[:-1]):
            node = sha256(b"\x01" + left + node).digest()
        return node


@dataclass(frozen=True, slots=True)
class TreeChange:
    """What ``StateTree.publish`` will store: new buckets and nodes by number, and the root above them."""

    root: bytes
    buckets: dict[int, bytes]
    nodes: dict[int, bytes]


class StateTree:
    """The history-independent tree over what is live: 2^16 buckets of ``key -> leaf``, and the nodes above them.

    Nodes are numbered as in a heap (root 1, children 2i and 2i+1, bucket b at 2^16 + b).  Zero bytes mean an empty
    subtree, so the node table is fresh zero memory that the system hands out as it is touched: an empty store costs
    nothing.
    """

    __slots__ = ("_buckets", "_nodes", "root")

    def __init__(self) -> None:
        self._buckets: dict[int, bytes] = {}
        self._nodes: memoryview = np.zeros(2 * _BUCKETS * _HASH_BYTES, dtype=np.uint8).data
        self.root = ZERO

    def leaf(self, key: bytes) -> bytes | None:
        """The leaf under ``key``, or None."""
        return _entries(self._buckets.get(_bucket_of(key), b"")).get(key)

    def stage(self, changes: Mapping[bytes, bytes | None]) -> TreeChange:
        """Compute the tree after setting (leaf) or removing (None) the given keys; this tree stays as it is."""
        by_bucket: dict[int, list[tuple[bytes, bytes | None]]] = {}
        for key, leaf in changes.items():
            by_bucket.setdefault(_bucket_of(key), []).append((key, leaf))
        buckets: dict[int, bytes] = {}
        nodes: dict[int, bytes] = {}
        for number, entries in by_bucket.items():
            merged = _entries(self._buckets.get(number, b""))
            merged.update((key, leaf) for key, leaf in entries if leaf is not None)
            for key, leaf in entries:
                if leaf is None:
                    merged.pop(key, None)
            bucket = b"".join([key + merged[key] for key in sorted(merged)])
            buckets[number] = bucket
            nodes[_BUCKETS + number] = sha256(b"\x14" + bucket).digest() if bucket else ZERO
        level = sorted(nodes)
        for _ in range(_DEPTH if level else 0):
            level = list(dict.fromkeys([number >> 1 for number in level]))  # ascending, so equal parents are neighbours
            for number in level:
                left = nodes.get(2 * number) or self._node(2 * number)
                right = nodes.get(2 * number + 1) or self._node(2 * number + 1)
                both = left + right
                nodes[number] = sha256(b"\x15" + both).digest() if both != _EMPTY_PAIR else ZERO
        return TreeChange(nodes.get(1, self.root), buckets, nodes)

    def publish(self, change: TreeChange) -> None:
        """Store what ``stage`` computed on this same tree."""
        for number, bucket in change.buckets.items():
            if bucket:
                self._buckets[number] = bucket
            else:
                self._buckets.pop(number, None)
        for number, node in change.nodes.items():
            self._nodes[number * _HASH_BYTES : (number + 1) * _HASH_BYTES] = node
        self.root = change.root

    def _node(self, number: int) -> bytes:
        return bytes(self._nodes[number * _HASH_BYTES : (number + 1) * _HASH_BYTES])


_EMPTY_PAIR = ZERO + ZERO


def _bucket_of(key: bytes) -> int:
    return key[0] << 8 | key[1]


def _entries(bucket: bytes) -> dict[bytes, bytes]:
    return {
        bucket[at : at + _HASH_BYTES]: bucket[at + _HASH_BYTES : at + _ENTRY_BYTES]
        for at in range(0, len(bucket), _ENTRY_BYTES)
    }
