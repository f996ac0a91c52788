"""The two trees: RFC 9162's own vectors, the naive twin of the spec, and what a commit may cost.

The naive twin (spec/reference.py) is loaded by its path: it shares no line with the package.
"""

from __future__ import annotations

import importlib.util
import itertools
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detmem.journal.disk import MemoryDisk
from detmem.machine import commitment
from detmem.machine.commitment import ZERO, LogTree, StateTree, pour
from detmem.opening import open_disk

ROOT = Path(__file__).resolve().parents[2]

# The eight inputs of the reference implementation of Certificate Transparency, and the roots it publishes for the
# first n of them (google/certificate-transparency, "merkletree": reference roots).
INPUTS = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def leaves(count: int) -> list[bytes]:
    return [sha256(b"\0" + bytes.fromhex(data)).digest() for data in INPUTS[:count]]


@pytest.fixture(scope="module")
def twin() -> ModuleType:
    spec = importlib.util.spec_from_file_location("detmem_spec_reference", ROOT / "spec" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("count", range(9))
def test_the_log_tree_has_the_published_roots(count: int) -> None:
    assert LogTree().extended(b"".join(leaves(count))).root.hex() == ROOTS[count]
    tree = LogTree()
    for leaf in leaves(count):
        tree = tree.extended(leaf)
    assert tree.root.hex() == ROOTS[count]
    assert (tree.size, len(tree.frontier)) == (count, count.bit_count())


def test_extending_a_log_tree_leaves_the_old_one_as_it_was() -> None:
    tree = LogTree().extended(b"".join(leaves(3)))
    tree.extended(b"".join(leaves(5)))
    assert tree.root.hex() == ROOTS[3]
    assert LogTree(tree.size, tree.frontier).extended(leaves(4)[3]).root.hex() == ROOTS[4]


@given(st.lists(st.integers(0, 40), max_size=6))
def test_a_log_tree_grown_in_any_steps_is_the_recursive_definition(twin: ModuleType, steps: list[int]) -> None:
    tree, written = LogTree(), []
    for step in steps:
        more = [sha256(bytes([step, index])).digest() for index in range(step)]
        tree, written = tree.extended(b"".join(more)), written + more
        assert tree.root == twin.log_root(written)


def _keys() -> st.SearchStrategy[bytes]:
    """Keys that crowd into few buckets, and neighbours at the borders."""
    bucket = st.sampled_from([b"\0\0", b"\0\1", b"\x7f\xff", b"\x80\0", b"\xff\xff"])
    return st.builds(lambda head, tail: head + sha256(bytes([tail])).digest()[:30], bucket, st.integers(0, 5))


@given(st.lists(st.dictionaries(_keys(), st.none() | st.integers(0, 3), max_size=5), max_size=12))
def test_a_state_tree_after_any_changes_is_the_recursive_definition(
    twin: ModuleType, steps: list[dict[bytes, int | None]]
) -> None:
    tree, model = StateTree(), dict[bytes, bytes]()
    for step in steps:
        changes = {key: None if value is None else sha256(bytes([value])).digest() for key, value in step.items()}
        before = tree.root
        change = tree.stage(changes)
        assert tree.root == before == twin.state_root(model)  # staging changes nothing
        assert tree.stage(changes).root == change.root
        tree.publish(change)
        model |= {key: leaf for key, leaf in changes.items() if leaf is not None}
        for key in [key for key, leaf in changes.items() if leaf is None]:
            model.pop(key, None)
        assert tree.root == change.root == twin.state_root(model)
        assert all(tree.leaf(key) == model.get(key) for key in changes)


def test_an_empty_state_tree_is_zero_again_when_everything_has_gone() -> None:
    tree = StateTree()
    assert tree.root == ZERO
    keys = [sha256(bytes([number])).digest() for number in range(50)]
    tree.publish(tree.stage({key: key for key in keys}))
    assert tree.root != ZERO
    for key in keys:
        tree.publish(tree.stage({key: None}))
    assert tree.root == ZERO
    assert tree.stage({}).root == ZERO
    assert tree.stage({keys[0]: None}).root == ZERO


def test_the_order_of_changes_does_not_show() -> None:
    entries = [(bytes([7, 7, number]) + bytes(29), sha256(bytes([number])).digest()) for number in range(4)]
    roots = set()
    for order in itertools.permutations(entries):
        tree = StateTree()
        for key, leaf in order:
            tree.publish(tree.stage({key: leaf}))
        roots.add(tree.root)
    assert len(roots) == 1


def test_no_two_kinds_of_hashed_things_can_be_taken_for_each_other(twin: ModuleType) -> None:
    """Each begins with a byte of its own; and the lengths before the strings keep ("ab", "c") from ("a", "bc")."""
    collection, record = commitment.prefixed(b"ab"), commitment.prefixed(b"c")
    assert commitment.state_key(collection, record) == twin.state_key("ab", "c")
    assert commitment.state_key(collection, commitment.prefixed(b"")) == twin.state_key("ab")
    other = commitment.prefixed(b"a"), commitment.prefixed(b"bc")
    assert commitment.state_key(collection, record) != commitment.state_key(*other)
    assert commitment.commit(b"x") == sha256(b"\x10x").digest()
    assert commitment.collection_leaf(collection, ZERO) == sha256(b"\x16\x02\0ab" + ZERO).digest()
    assert commitment.record_leaf(collection, record, ZERO, ZERO) == sha256(b"\x12\x02\0ab\x01\0c" + 2 * ZERO).digest()
    assert commitment.operation_leaf(b"h") == sha256(b"\0h").digest()


# ---------------------------------------------------------------------------------------------- what a commit may cost


class Meter:
    """Counts SHA-256 computations and the bytes they hashed, through the one name by which the room calls them."""

    def __init__(self) -> None:
        self.calls = self.hashed = self.written = 0

    def sha256(self, data: Any = b"") -> Any:
        meter, inner = self, sha256(data)
        meter.calls += 1
        meter.hashed += len(data)

        class Counting:
            def update(self, more: Any) -> None:
                meter.hashed += memoryview(more).nbytes
                inner.update(more)

            digest = inner.digest

        return Counting()

    def taken(self) -> np.ndarray[Any, Any]:
        return np.array([self.calls, self.hashed, self.written], dtype=np.int64)


class MeteredDisk(MemoryDisk):
    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self.meter = meter

    def open(self, name: str, *, write: bool = False, create: bool = False) -> Any:
        file, meter = super().open(name, write=write, create=create), self.meter
        real = file.pwrite

        def pwrite(data: bytes | memoryview, offset: int) -> None:
            meter.written += len(data)
            real(data, offset)

        file.pwrite = pwrite  # type: ignore[method-assign]
        return file


@pytest.fixture
def meter(monkeypatch: pytest.MonkeyPatch) -> Meter:
    one = Meter()
    monkeypatch.setattr(commitment, "sha256", one.sha256)
    return one


@pytest.mark.parametrize("kind, rounds", [("add", 20_000), ("upsert over 500", 5_000), ("add and delete", 5_000)])
def test_the_cost_of_a_commit_does_not_grow_with_the_memory(meter: Meter, kind: str, rounds: int) -> None:
    """20,000 single adds: what commits 19,000..20,000 hash and write is what commits 100..1,100 did.

    Hash computations and written bytes are the same within 1 %.  Hashed bytes may grow with the bucket, that is by 64
    bytes for each 65,536 records: with n records a bucket holds n / 65,536 others on average, so 20,000 adds may cost
    64 * 20,000 / 65,536 = 20 bytes more; a commit hashes over 1,500.
    """
    taken = []
    with open_disk(MeteredDisk(meter), durability="os") as db:
        c = db.collection("c", dim=2, metric="l2")
        for number in range(rounds):
            taken.append(meter.taken())
            id = f"{number % 500 if kind.startswith('upsert') else number:06}"
            if kind == "add":
                c.add(id, raw=[number, 1])
            elif kind.startswith("upsert"):
                c.upsert(id, raw=[number, 1])
            else:
                with db.batch():
                    c.add(id, raw=[number, 1])
                    c.delete(id)
        taken.append(meter.taken())
        assert db.seq == rounds + 1
        assert len(c) == {"add": rounds, "upsert over 500": 500, "add and delete": 0}[kind]
    early = (taken[1_100] - taken[100]) / 1_000
    late = (taken[rounds] - taken[rounds - 1_000]) / 1_000
    assert abs(late[0] / early[0] - 1) < 0.01, (early, late)
    assert late[1] - early[1] < 64 * rounds / 65_536 * 1.25, (early, late)
    assert abs(late[2] / early[2] - 1) < 0.01, (early, late)
    # On paper, for one add: leaves, key, link and at most 17 nodes of the state tree; log nodes amortise to one a leaf.
    assert late[0] < 2 * 30
    assert late[2] < 1_000


def _crowded() -> st.SearchStrategy[bytes]:
    """Keys that share a bucket, or even their first eight bytes, which is what columns are sorted by."""
    heads = st.sampled_from([bytes(8), b"\0\0" + b"\1" * 6, b"\xff" * 8, b"\x80\0" + bytes(6)])
    return st.builds(lambda head, tail: head + sha256(bytes([tail])).digest()[:24], heads, st.integers(0, 3))


@given(
    st.lists(st.dictionaries(_keys() | _crowded(), st.none() | st.integers(0, 3), min_size=1, max_size=9), max_size=8)
)
def test_one_key_few_and_many_are_staged_to_the_same_tree(
    twin: ModuleType, steps: list[dict[bytes, int | None]]
) -> None:
    """The three ways differ in cost alone; here each takes every change."""
    one, few, many, joined = StateTree(), StateTree(), StateTree(), StateTree()
    model = dict[bytes, bytes]()
    for step in steps:
        changes = {key: None if value is None else sha256(bytes([value])).digest() for key, value in step.items()}
        for item in changes.items():
            one.publish(one._stage_one(*item))
        few.publish(few._stage_few(changes))
        columns = bytearray(), bytearray()
        pour(changes, *columns)
        many.publish(many._hashed(*many._merged(*columns)))
        there = {key: leaf for key, leaf in changes.items() if leaf is not None}
        gone = [key for key in changes if key not in there]
        removed = bytearray(b"".join([*gone, *(key for key in there if key[-1] & 1)]))  # what is set goes before that
        entries = bytearray(b"".join(key + leaf for key, leaf in there.items()))
        if len(step) & 1:
            joined.publish(joined.stage({}, entries, removed))
        else:
            joined.publish(joined._hashed(*joined._merged(entries, removed)))
        model |= there
        for key in gone:
            model.pop(key, None)
        assert one.root == few.root == many.root == joined.root == twin.state_root(model)
        assert one._buckets == few._buckets == many._buckets == joined._buckets
        assert bytes(one._nodes) == bytes(few._nodes) == bytes(many._nodes)


@given(st.lists(st.integers(0, 70), max_size=8))
def test_a_log_tree_extended_by_many_is_the_one_extended_by_one(counts: list[int]) -> None:
    tree = alone = LogTree()
    for step, count in enumerate(counts):
        added = [sha256(bytes([step, number])).digest() for number in range(count)]
        tree = tree.extended(b"".join(added))
        for leaf in added:
            alone = alone.extended(leaf)
        assert (tree.size, tree.frontier, tree.root) == (alone.size, alone.frontier, alone.root)


LEAVES = st.dictionaries(st.integers(0, 30), st.integers(0, 2))


def tree_of(pairs: list[tuple[bytes, bytes]], few: int) -> StateTree:
    """The tree over all; of more than ``few`` the entries stay as they came."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commitment, "_FEW_ENTRIES", few)
        return StateTree.of(bytearray(b"".join(key + leaf for key, leaf in pairs)))


@pytest.mark.parametrize("few", [0, 1 << 16])
@given(LEAVES, st.dictionaries(st.integers(0, 30), st.none() | st.integers(0, 2), max_size=9))
def test_a_tree_made_at_once_goes_on_like_one_that_grew(few: int, one: dict[int, int], then: dict) -> None:
    key = {n: bytes([n % 3]) * 2 + bytes([n]) * 30 for n in range(31)}
    pairs = [(key[n], bytes([leaf]) * 32) for n, leaf in one.items()]
    made, grown = tree_of(pairs, few), StateTree()
    grown.publish(grown.stage(dict(pairs)))
    changes = {
        key[n]: None if leaf is None else bytes([leaf]) * 32 for n, leaf in then.items() if leaf is not None or n in one
    }
    for some in ([{k: v} for k, v in changes.items()], [changes]):
        for change in some:
            for tree in (made, grown):
                tree.publish(tree.stage({k: v for k, v in change.items() if v is not None or tree.leaf(k)}))
        assert made.root == grown.root
        assert [made.bucket(n) for n in (0, 257, 514)] == [grown.bucket(n) for n in (0, 257, 514)]
        assert [made.leaf(k) for k in key.values()] == [grown.leaf(k) for k in key.values()]


@pytest.mark.parametrize("few", [0, 1 << 16])
@given(LEAVES, LEAVES)
def test_two_trees_differ_in_the_keys_whose_leaves_differ(few: int, one: dict[int, int], two: dict[int, int]) -> None:
    """Keys share buckets: their first bytes take three values."""
    trees = []
    for entries in (one, two):
        pairs = [(bytes([n % 3]) * 2 + bytes([n]) * 30, bytes([leaf]) * 32) for n, leaf in entries.items()]
        tree = tree_of(pairs, few)
        grown = StateTree()
        grown.publish(grown.stage(dict(pairs)))
        assert tree.root == grown.root
        trees.append((tree, dict(pairs)))
    (a, ours), (b, theirs) = trees
    expected = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
    assert a.differing(b) == b.differing(a) == expected
