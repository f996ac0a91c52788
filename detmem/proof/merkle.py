"""The two trees of spec/commitments.md, proven and verified (spec/receipts.md): the log's (RFC 9162) and the state's.

Proving reads a tree through a function; verifying needs the hashes and the standard library's SHA-256, nothing else.
Each ``verify_*`` raises ``BadProof`` with the reason, or returns: there is no half-accepted proof.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from typing import TypeAlias

from detmem.errors import CorruptionError
from detmem.machine.commitment import ZERO

__all__ = [
    "HASH_BYTES",
    "BadProof",
    "LogNode",
    "bucket_of",
    "consistency_path",
    "fold_subtree",
    "hashes_of",
    "inclusion_path",
    "log_root",
    "prove_state",
    "subtree_rows",
    "verify_consistency",
    "verify_inclusion",
    "verify_state",
]

HASH_BYTES = 32
_ENTRY_BYTES = 2 * HASH_BYTES
_DEPTH = 16
_HALF = _DEPTH // 2  # above a subtree of receipts, and below
_BUCKETS = 1 << _DEPTH

LogNode: TypeAlias = Callable[[int, int], bytes]
"""(level, index) -> root of the complete subtree over the leaves index * 2^level up to (index + 1) * 2^level."""


class BadProof(CorruptionError):  # noqa: N818 - a verdict about a proof, not about a store
    """A proof that does not show what it should."""


def hashes_of(data: bytes) -> list[bytes]:
    """Hashes that stand one behind the other; ``BadProof`` for a rest."""
    if len(data) % HASH_BYTES:
        raise BadProof(f"expected hashes of {HASH_BYTES} bytes, found {len(data)} bytes")
    return [data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)]


# ----------------------------------------------------------------------------------------------------------- the log's


def inclusion_path(node: LogNode, index: int, size: int) -> bytes:
    """PATH(index, D[size]) of RFC 9162, 2.1.3.1, joined."""
    assert 0 <= index < size
    start, stop, path = 0, size, []
    while stop - start > 1:
        middle = start + _split(stop - start)
        if index < middle:
            path.append(_range_root(node, middle, stop))
            stop = middle
        else:
            path.append(_range_root(node, start, middle))
            start = middle
    return b"".join(reversed(path))


def consistency_path(node: LogNode, old: int, new: int) -> bytes:
    """PROOF(old, D[new]) of RFC 9162, 2.1.4.1, joined; empty for old 0."""
    assert 0 <= old <= new
    start, stop, path = 0, new, []
    while old not in (0, stop):
        middle = start + _split(stop - start)
        if old <= middle:
            path.append(_range_root(node, middle, stop))
            stop = middle
        else:
            path.append(_range_root(node, start, middle))
            start = middle
    if start:  # else the old tree is a complete subtree, whose root the verifier has
        path.append(_range_root(node, start, stop))
    return b"".join(reversed(path))


def log_root(node: LogNode, size: int) -> bytes:
    """Root over the first ``size`` leaves."""
    return _range_root(node, 0, size) if size else sha256(b"").digest()


def verify_inclusion(leaf: bytes, index: int, size: int, path: bytes, root: bytes) -> None:
    """RFC 9162, 2.1.3.2."""
    if not 0 <= index < size:
        raise BadProof(f"leaf {index} of a log of {size} leaves")
    first, last, node = index, size - 1, leaf
    for other in hashes_of(path):
        if last == 0:
            raise BadProof("an inclusion path that is too long")
        if first & 1 or first == last:
            node = _join(other, node)
            while not first & 1 and first:
                first, last = first >> 1, last >> 1
        else:
            node = _join(node, other)
        first, last = first >> 1, last >> 1
    if last:
        raise BadProof("an inclusion path that is too short")
    if node != root:
        raise BadProof(f"the inclusion path leads to log root {node.hex()}, expected {root.hex()}")


def verify_consistency(old: int, old_root: bytes, new: int, new_root: bytes, path: bytes) -> None:
    """RFC 9162, 2.1.4.2."""
    hashes = hashes_of(path)
    if old > new:
        raise BadProof(f"a log of {new} leaves cannot continue one of {old}")
    if old in (0, new):
        if hashes or old_root != (new_root if old == new else sha256(b"").digest()):
            raise BadProof("another root of the same size, or a path where none is needed")
        return
    if not hashes:
        raise BadProof("an empty consistency path")
    if old & (old - 1) == 0:
        hashes.insert(0, old_root)
    first, last = old - 1, new - 1
    while first & 1:
        first, last = first >> 1, last >> 1
    before = after = hashes[0]
    for other in hashes[1:]:
        if last == 0:
            raise BadProof("a consistency path that is too long")
        if first & 1 or first == last:
            before, after = _join(other, before), _join(other, after)
            while not first & 1 and first:
                first, last = first >> 1, last >> 1
        else:
            after = _join(after, other)
        first, last = first >> 1, last >> 1
    if last:
        raise BadProof("a consistency path that is too short")
    if (before, after) != (old_root, new_root):
        raise BadProof(f"the consistency path leads to log roots {before.hex()} and {after.hex()}")


def _split(size: int) -> int:
    """The largest power of two smaller than ``size``."""
    return 1 << ((size - 1).bit_length() - 1)


def _range_root(node: LogNode, start: int, stop: int) -> bytes:
    """Root over the leaves [start, stop), a range that stands in the tree."""
    size = stop - start
    if size & (size - 1) == 0:
        level = size.bit_length() - 1
        return node(level, start >> level)
    middle = start + _split(size)
    return _join(_range_root(node, start, middle), _range_root(node, middle, stop))


def _join(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


# --------------------------------------------------------------------------------------------------------- the state's


def bucket_of(key: bytes) -> int:
    """The number of the bucket that ``key`` lies in."""
    return key[0] << 8 | key[1]


def prove_state(
    bucket: Callable[[int], bytes], node: Callable[[int], bytes], keys: Iterable[bytes]
) -> tuple[list[bytes], bytes]:
    """(buckets, nodes) of a state part: whole buckets by number, and the siblings from the bottom up.

    ``bucket`` gives the entries of a bucket, ``node`` a hash by its number in the heap (root 1).
    """
    numbers = sorted({bucket_of(key) for key in keys})
    known, nodes = [_BUCKETS + number for number in numbers], []
    while known != [1]:
        held = dict.fromkeys(known)
        nodes += [node(number ^ 1) for number in known if number ^ 1 not in held]
        known = list(dict.fromkeys([number >> 1 for number in known]))
    return [bucket(number) for number in numbers], b"".join(nodes)


def verify_state(buckets: Sequence[bytes], nodes: bytes, keys: Iterable[bytes]) -> tuple[bytes, dict[bytes, bytes]]:
    """The state root that a state part leads to, and the entries of the keys' buckets: a key that is not there is
    absent under that root."""
    numbers = sorted({bucket_of(key) for key in keys})
    if not numbers or len(buckets) != len(numbers):
        raise BadProof(f"expected {len(numbers)} buckets, one for each that the keys lie in, found {len(buckets)}")
    entries: dict[bytes, bytes] = {}
    for number, data in zip(numbers, buckets, strict=True):
        entries.update(_entries(data, number, number))
    level = {_BUCKETS + number: _bucket_hash(data) for number, data in zip(numbers, buckets, strict=True)}
    rest = iter(hashes_of(nodes))
    while list(level) != [1]:
        for number in list(level):
            if number ^ 1 not in level:
                sibling = next(rest, None)
                if sibling is None:
                    raise BadProof("a node of the state tree is missing")
                level[number ^ 1] = sibling
        level = {number >> 1: _node(level[number & ~1], level[number | 1]) for number in level}
    if next(rest, None) is not None:
        raise BadProof("more nodes of the state tree than are needed")
    return level[1], entries


def subtree_rows(entries: bytes, number: int) -> tuple[list[bytes], list[list[bytes]]]:
    """Of the subtree whose keys begin with the byte ``number``: its 256 buckets, and its nodes by level, the buckets'
    hashes first and the one above them all last.  ``entries`` are all of its, by key."""
    buckets = [b""] * (1 << _HALF)
    for key, leaf in _entries(entries, number << _HALF, number << _HALF | 0xFF).items():
        buckets[key[1]] += key + leaf
    rows = [[_bucket_hash(bucket) for bucket in buckets]]
    while len(rows[-1]) > 1:
        below = rows[-1]
        rows.append([_node(left, right) for left, right in zip(below[::2], below[1::2], strict=True)])
    return buckets, rows


def fold_subtree(node: bytes, number: int, siblings: bytes) -> bytes:
    """The state root above a subtree: ``siblings`` are the 8 nodes beside its way up."""
    path = hashes_of(siblings)
    if len(path) != _HALF:
        raise BadProof(f"expected {_HALF} siblings of a subtree, found {len(path)}")
    for sibling in path:
        node = _node(sibling, node) if number & 1 else _node(node, sibling)
        number >>= 1
    return node


def _entries(data: bytes, first: int, last: int) -> dict[bytes, bytes]:
    """Entries by key, seen to be ascending and to lie in the buckets from ``first`` to ``last``."""
    if len(data) % _ENTRY_BYTES:
        raise BadProof(f"expected entries of {_ENTRY_BYTES} bytes, found {len(data)} bytes")
    entries, before = {}, b""
    for at in range(0, len(data), _ENTRY_BYTES):
        key = data[at : at + HASH_BYTES]
        if key <= before or not first <= bucket_of(key) <= last:
            raise BadProof(f"key {key.hex()} stands where it does not belong")
        entries[key] = data[at + HASH_BYTES : at + _ENTRY_BYTES]
        before = key
    return entries


def _bucket_hash(data: bytes) -> bytes:
    return sha256(b"\x14" + data).digest() if data else ZERO


def _node(left: bytes, right: bytes) -> bytes:
    return ZERO if left == right == ZERO else sha256(b"\x15" + left + right).digest()
