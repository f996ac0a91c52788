"""The package against the naive twin of spec/: the pinned vectors first, then Hypothesis over the whole legal range.

The expected values were made by spec/reference.py, which was written from the pages and not from this package; so a
difference here is a fault in the package, in the twin, or in a page, and each has to be looked at.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import detmem
from detmem.errors import CorruptionError, DetmemError, FormatError, RangeError, SnapshotDamaged, UsageError
from detmem.journal import frame, head, snapshot
from detmem.journal.disk import File, MemoryDisk
from detmem.machine import commands, commitment, encoding, filters, fixed
from detmem.machine.columns import Columns
from detmem.machine.state import State
from tests.search.asking import AVAILABLE, nearest

SPEC = Path(__file__).resolve().parent.parent / "spec"


def _load_twin() -> ModuleType:
    spec = importlib.util.spec_from_file_location("detmem_spec_reference", SPEC / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


twin = _load_twin()


@functools.cache
def vectors(name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((SPEC / "vectors" / f"{name}.json").read_text(encoding="ascii"))
    return value


def cases(name: str, *groups: str) -> Any:
    """The test runs once for each case of these groups of a vector file."""
    params = [
        pytest.param(case, id=f"{group}-{number}-{case['why'][:40]}")
        for group in groups
        for number, case in enumerate(vectors(name)[group])
    ]
    return pytest.mark.parametrize("case", params)


def hexed(case: dict[str, Any], name: str = "bytes") -> bytes:
    return bytes.fromhex(case[name])


def file_of(data: bytes) -> File:
    file = MemoryDisk().open("file", write=True, create=True)
    file.pwrite(data, 0)
    return file


def contents_of(file: File) -> bytes:
    return file.pread(file.size(), 0)


def test_vector_files_are_what_the_twin_makes() -> None:
    """A vector cannot be edited by hand, nor left behind when the twin changes."""
    checked = subprocess.run(
        [sys.executable, str(SPEC / "generate.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, "")


# ------------------------------------------------------------------------------------------------------------- numbers


@cases("numbers", "quantise")
def test_quantise_vector(case: dict[str, Any]) -> None:
    x = float.fromhex(case["x"])
    if "refused" in case:
        with pytest.raises(RangeError):
            fixed.quantize([x], case["format"])
    else:
        assert fixed.quantize([x], case["format"]).tolist() == [case["raw"]]


@cases("numbers", "cosine")
def test_cosine_vector(case: dict[str, Any]) -> None:
    x = np.array([float.fromhex(component) for component in case["x"]])
    door = {"dimension": len(x), "metric": "cosine", "format": case["format"], "collection": "c"}
    if "refused" in case:
        with pytest.raises(RangeError):
            fixed.admit_vectors(x, **door)
    else:
        assert fixed.admit_vectors(x, **door).tolist() == [case["raw"]]


@cases("numbers", "cosine_integers")
def test_cosine_of_integers(case: dict[str, Any]) -> None:
    x = np.array([int(component) for component in case["x"]], dtype=np.int64)
    door = {"dimension": len(x), "metric": "cosine", "format": case["format"], "collection": "c"}
    if "refused" in case:
        with pytest.raises(RangeError):
            fixed.admit_vectors(x, **door)
    else:
        assert fixed.admit_vectors(x, **door).tolist() == [case["raw"]]


@cases("numbers", "admission")
def test_admission_vector(case: dict[str, Any]) -> None:
    raw = case["raw"]
    if "refused" in case:
        with pytest.raises(RangeError):
            fixed.admit_raw(raw, dimension=len(raw), collection="c")
    else:
        assert fixed.admit_raw(raw, dimension=len(raw), collection="c").tolist() == [raw]
        assert sum(component * component for component in raw) == case["squares"]


@pytest.mark.parametrize("kernel", AVAILABLE)
@cases("numbers", "distances")
def test_distance_vector(case: dict[str, Any], kernel: str) -> None:
    rows, queries = np.array([case["x"]], dtype=np.int32), np.array([case["q"]], dtype=np.int32)
    ((_, raw),) = nearest(rows, ["only"], queries, 1, case["metric"], kernel=kernel)
    assert raw.tolist() == [case["raw"]]
    for name, shown in case["distance"].items():
        assert fixed.distances_to_float(raw, case["metric"], name).tolist() == [float.fromhex(shown)]


# ------------------------------------------------------------------------------------------------------------ encoding


@cases("encoding", "valid")
def test_valid_encoding(case: dict[str, Any]) -> None:
    value = twin.from_json(case["value"])
    assert encoding.encode(value).hex() == case["bytes"]
    decoded = encoding.decode(hexed(case), max_bytes=1 << 20)
    assert repr(twin.to_json(decoded)) == repr(twin.to_json(twin.decode(hexed(case))))  # repr: True is not 1 here


@cases("encoding", "invalid")
def test_invalid_encoding(case: dict[str, Any]) -> None:
    with pytest.raises(CorruptionError):
        encoding.decode(hexed(case), max_bytes=1 << 20)


@cases("encoding", "content")
def test_content(case: dict[str, Any]) -> None:
    metadata = encoding.normalise_metadata(twin.from_json(case["metadata"]) or {}, "metadata")
    assert encoding.encode_content(metadata, case["document"]).hex() == case["bytes"]
    assert encoding.decode_content(hexed(case)) == (metadata, case["document"])


@cases("encoding", "invalid_content")
def test_invalid_content(case: dict[str, Any]) -> None:
    with pytest.raises(CorruptionError):
        encoding.decode_content(hexed(case))


# ------------------------------------------------------------------------------------------------------------- filters


def chosen_by_rows(where: Any, metadatas: list[dict[str, Any]]) -> list[bool]:
    return filters.parse(where).select(metadatas).tolist()


def chosen_by_columns(where: Any, metadatas: list[dict[str, Any]]) -> list[bool]:
    chosen = filters.parse(where)
    columns = Columns().follow(metadatas, len(metadatas), chosen.fields)
    return chosen.select_columns(columns, np.ones(len(metadatas), dtype=np.bool_)).tolist()


@cases("filters", "cases")
@pytest.mark.parametrize("choose", [chosen_by_rows, chosen_by_columns])
def test_filter_vector(case: dict[str, Any], choose: Callable[..., list[bool]]) -> None:
    metadatas = twin.from_json(vectors("filters")["metadatas"][case["metadatas"]])
    where = twin.from_json(case["where"])
    if "refused" in case:
        with pytest.raises(UsageError):
            choose(where, metadatas)
    else:
        assert choose(where, metadatas) == case["matches"]


# --------------------------------------------------------------------------------------------------------- commitments


@cases("commitments", "vectors")
def test_vector_commitment(case: dict[str, Any]) -> None:
    raw = np.array(case["raw"], dtype="<i4").tobytes()
    assert commitment.commit(raw).hex() == case["commitment"]


@cases("commitments", "contents")
def test_content_commitment(case: dict[str, Any]) -> None:
    assert commitment.commit(hexed(case)).hex() == case["commitment"]


@cases("commitments", "entries")
def test_state_entry(case: dict[str, Any]) -> None:
    name, record = (commitment.prefixed(case[part].encode()) for part in ("collection", "id"))
    content = hexed(case, "content_commitment")
    assert commitment.state_key(name, record).hex() == case["key"]
    if case["id"]:
        leaf = commitment.record_leaf(name, record, hexed(case, "vector_commitment"), content)
    else:
        leaf = commitment.collection_leaf(name, content)
    assert leaf.hex() == case["leaf"]


@cases("commitments", "state_trees")
def test_state_tree(case: dict[str, Any]) -> None:
    entries = [(bytes.fromhex(key), bytes.fromhex(leaf)) for key, leaf in case["entries"]]
    at_once = commitment.StateTree()
    at_once.publish(at_once.stage(dict(entries)))
    one_by_one = commitment.StateTree()
    for key, leaf in entries:
        one_by_one.publish(one_by_one.stage({key: leaf}))
    assert at_once.root.hex() == one_by_one.root.hex() == case["root"]
    for key, _ in entries:
        one_by_one.publish(one_by_one.stage({key: None}))
    assert one_by_one.root == bytes(32)


def test_published_merkle_tree() -> None:
    """The test tree of RFC 6962's own implementation."""
    published = vectors("commitments")["published_tree"]
    leaves = [commitment.operation_leaf(bytes.fromhex(data)) for data in published["inputs"]]
    for size, root in enumerate(published["roots"]):
        assert commitment.LogTree().extended(b"".join(leaves[:size])).root.hex() == root


def test_log_trees_of_0_to_17_leaves() -> None:
    leaves = [commitment.operation_leaf(bytes([number])) for number in range(17)]
    for case in vectors("commitments")["log_trees"]["sizes"]:
        tree = commitment.LogTree().extended(b"".join(leaves[: case["size"]]))
        assert tree.root.hex() == case["root"]
        assert [root.hex() for root in tree.frontier] == case["frontier"]


def test_first_link() -> None:
    assert vectors("commitments")["first_link"] == commitment.LINK_ZERO.hex()


@cases("commitments", "histories")
def test_order_of_writes_shows_in_the_log_root_only(case: dict[str, Any]) -> None:
    state = replayed(twin_commits(case["commands"])[1])
    assert state.root.hex() == case["state_root"]
    assert state.log.root.hex() == case["log_root"]
    assert state.link.hex() == case["link"]


@cases("commitments", "checkpoints")
def test_checkpoint(case: dict[str, Any]) -> None:
    checkpoint = detmem.Checkpoint.parse(case["text"])
    assert (checkpoint.seq, checkpoint.log_size) == (case["seq"], case["log_size"])
    assert (checkpoint.log_root, checkpoint.state_root) == (case["log_root"], case["state_root"])
    assert str(checkpoint) == case["text"]


@cases("commitments", "invalid_checkpoints")
def test_invalid_checkpoint(case: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        detmem.Checkpoint.parse(case["text"])


# ----------------------------------------------------------------------------------------------------------------- log


def twin_commits(written: Any) -> tuple[Any, list[Any]]:
    """The twin's memory after commands as a vector file writes them, and its commits."""
    memory = twin.Memory()
    commits = [memory.write(command) for command in twin.from_json(written)]
    return memory, [commit for commit in commits if commit is not None]


def body_of(commit: Any) -> bytes:
    return b"".join(twin.encode_operation(operation) for operation in commit.operations)


def replayed(commits: list[Any]) -> State:
    """The package's state after the twin's commits, each read from its bytes."""
    state = State()
    for commit in commits:
        change = state.apply(commands.decode(memoryview(body_of(commit))))
        state.publish(change)
    return state


@cases("log", "operations")
def test_operation(case: dict[str, Any]) -> None:
    (operation,) = commands.decode(memoryview(hexed(case)))
    assert (operation.type, operation.collection, operation.id) == (case["type"], case["collection"], case["id"])
    vector = None if operation.vector is None else np.frombuffer(operation.vector, dtype="<i4").tolist()
    assert vector == case["vector"]
    assert (None if operation.content is None else bytes(operation.content).hex()) == case["content"]
    assert operation.header.hex() == case["header"]
    assert operation.leaf.hex() == case["leaf"]
    assert operation.salt.hex() == case["salt"]
    assert commands.encode([operation], 1 << 20).hex() == case["bytes"]
    if case["erased"] is not None:
        assert commands.encode([commands.erased(operation)], 1 << 20).hex() == case["erased"]
        (gone,) = commands.decode(memoryview(hexed(case, "erased")))
        assert (gone.leaf, gone.vector, gone.content, gone.erased) == (operation.leaf, None, None, True)
        assert not gone.archived
        assert commands.encode([commands.archived(operation)], 1 << 20).hex() == case["archived"]
        (moved,) = commands.decode(memoryview(hexed(case, "archived")))
        assert (moved.leaf, moved.vector, moved.content, moved.archived) == (operation.leaf, None, None, True)
        assert commands.encode([commands.erased(moved)], 1 << 20).hex() == case["erased"]


def test_a_log_with_erased_payloads_comes_to_the_same_roots() -> None:
    """Each commit of the rich store, its first life and after the erasure of "ann"."""
    _, commits = twin_commits(vectors("log")["rich_commands"])
    before, after, again = State(), State(), twin.Memory()
    for commit in commits:
        gone = [
            twin.without_payload(o) if commit.seq < 14 and o.id == "ann" and o.type in twin.WRITES else o
            for o in commit.operations
        ]
        for state, operations in ((before, commit.operations), (after, gone)):
            body = b"".join(map(twin.encode_operation, operations))
            change = state.apply(commands.decode(memoryview(body)))
            assert (change.state_root, change.link) == (commit.state_root, commit.link)
            state.publish(change)
        again.replay(commit._replace(operations=tuple(gone)))
        assert set(after.missing) == again.state.missing
        assert bool(after.missing) == (3 <= commit.seq < 14)
    assert after.erased == again.state.erased == {("people", "ann"): 14, ("people", "cat"): 15}
    assert before.erased == after.erased


@cases("log", "invalid_operations")
def test_invalid_operation(case: dict[str, Any]) -> None:
    with pytest.raises(CorruptionError):
        list(commands.decode(memoryview(hexed(case))))


def reader_of(case: dict[str, Any]) -> frame.SegmentReader:
    """A reader that stands in front of the case's bytes, behind whatever came before them."""
    header = frame.SegmentHeader(hexed(case, "store_id"), case["first_seq"], 0, bytes(32), bytes(32))
    reader = frame.SegmentReader(file_of(header.encode() + hexed(case)), header)
    reader.seq, reader.link = case["seq_before"], hexed(case, "link_before")
    return reader


@cases("log", "frames")
def test_frame(case: dict[str, Any]) -> None:
    (found,) = reader_of(case)
    assert (found.seq, found.durable_seq) == (case["seq_before"] + 1, case["durable_seq"])
    assert (found.state_root.hex(), found.link.hex()) == (case["state_root"], case["link"])
    assert found.leaves[-32:].hex() == case["commit_leaf"]
    assert found.size == len(hexed(case))


def test_frames_are_written_as_the_twin_writes_them() -> None:
    state = State()
    for case in vectors("log")["frames"]:
        (found,) = reader_of(case)
        change = state.apply(found.operations)
        header = frame.SegmentHeader(hexed(case, "store_id"), case["first_seq"], 0, bytes(32), bytes(32))
        assert frame.encode_commit(change, case["durable_seq"], header.seed).hex() == case["bytes"]
        state.publish(change)


@cases("log", "invalid_frames", "invalid_seals")
def test_invalid_frame(case: dict[str, Any]) -> None:
    """A file that ends before the first byte of a frame is a clean end: there is just nothing."""
    reader = reader_of(case)
    if case["bytes"] == "":
        assert list(reader) == []
        return
    with pytest.raises(frame.BadFrame):
        list(reader)


@cases("log", "seals")
def test_seal(case: dict[str, Any]) -> None:
    reader = reader_of(case)
    assert list(reader) == []
    seal = frame.Seal(case["count"], case["log_size"], hexed(case, "link"), hexed(case, "log_root"))
    assert reader.seal == seal
    header = frame.SegmentHeader(hexed(case, "store_id"), case["first_seq"], 0, bytes(32), bytes(32))
    assert frame.encode_seal(seal, case["first_seq"], header.seed).hex() == case["bytes"]


@cases("log", "segments")
def test_segment_header(case: dict[str, Any]) -> None:
    places = hexed(case, "link"), hexed(case, "log_root")
    header = frame.SegmentHeader(hexed(case, "store_id"), case["first_seq"], case["log_size"], *places)
    assert header.encode().hex() == case["bytes"]
    assert frame.SegmentHeader.decode(hexed(case)) == header


@cases("log", "invalid_segments")
def test_invalid_segment_header(case: dict[str, Any]) -> None:
    with pytest.raises(FormatError if case["refused"] == "version" else CorruptionError):
        frame.SegmentHeader.decode(hexed(case))


@cases("log", "head_slots")
def test_head_slot(case: dict[str, Any]) -> None:
    fields = {
        name: bytes.fromhex(value) if name in ("store_id", "link", "snapshot_digest") else value
        for name, value in case.items()
        if name not in ("why", "bytes")
    }
    slot = head.Head(**fields)
    assert slot.encode().hex() == case["bytes"]
    assert head.Head.decode(hexed(case)) == slot


@cases("log", "invalid_head_slots")
def test_invalid_head_slot(case: dict[str, Any]) -> None:
    if case["refused"] == "version":
        with pytest.raises(FormatError):
            head.Head.decode(hexed(case))
    else:
        assert head.Head.decode(hexed(case)) is None


# ------------------------------------------------------------------------------------------------------------ snapshot


@cases("snapshot", "valid")
def test_snapshot(case: dict[str, Any]) -> None:
    """Written from the log's commands, and written again from the snapshot read: the same bytes."""
    for state in (replayed(twin_commits(case["commands"])[1]), snapshot.load(file_of(hexed(case)), "s")[0]):
        file = file_of(b"")
        digest = snapshot.write(state, file)
        assert contents_of(file).hex() == case["bytes"]
        assert digest.hex() == case["digest"]
        assert twin.checkpoint_text(state.seq, state.log.size, state.log.root, state.root) == case["checkpoint"]


def test_snapshot_of_three_chunks() -> None:
    large = vectors("snapshot")["large"]
    memory = twin.Memory()
    records = [(f"{i}", [i], None, f"{i}" * 700_000) for i in range(4)]
    commits = [memory.write(("create", "large", 1, "l2", "Q16.16")), memory.write(("add", "large", records))]
    file = file_of(b"")
    digest = snapshot.write(replayed(commits), file)
    assert file.size() == large["size"]
    assert digest.hex() == large["digest"]
    assert hashlib.sha256(contents_of(file)).hexdigest() == large["sha256"]


@cases("snapshot", "invalid")
def test_invalid_snapshot(case: dict[str, Any]) -> None:
    with pytest.raises(FormatError if case["refused"] == "version" else SnapshotDamaged):
        snapshot.load(file_of(hexed(case)), "s")


# ---------------------------------------------------------------------------- the public API: searches, and everything


class Driver:
    """Plays the twin's commands and searches (as ``Draw`` yields them) on a database."""

    def __init__(self, database: Any) -> None:
        self.database = database

    def write(self, command: Any) -> None:
        kind, *rest = command
        if kind == "batch":
            with self.database.batch():
                for inner in rest[0]:
                    self.write(inner)
        elif kind == "create":
            name, dim, metric, number_format = rest
            self.database.collection(name, dim=dim, metric=metric, format=number_format)
        elif kind == "drop":
            self.database.drop(rest[0])
        elif kind == "delete":
            self.database[rest[0]].delete(rest[1])
        elif kind == "delete_where":
            self.database[rest[0]].delete(where=rest[1])
        else:
            self._write_records(kind, *rest)

    def _write_records(self, kind: str, name: str, records: Any) -> None:
        ids, raws, metadatas, documents = (list(column) for column in zip(*records, strict=True))
        parts: dict[str, Any] = {"raw": None if raws[0] is None else np.array(raws, dtype=np.int32)}
        if any(metadata is not None for metadata in metadatas):
            parts["metadatas"] = metadatas
        if any(document is not None for document in documents):
            parts["documents"] = documents
        collection = self.database[name]
        {"add": collection.add, "upsert": collection.upsert, "update": collection.update}[kind](ids, **parts)

    def search(self, name: str, query: Any, k: int, where: Any = None, ids: Any = None) -> list[tuple[str, int]]:
        result = self.database[name].search(raw=query, k=k, where=where, ids=ids, include=())
        return list(zip(result.ids, result.raw.tolist(), strict=True))


@cases("search", "cases")
def test_search_vector(case: dict[str, Any]) -> None:
    with detmem.open(":memory:") as database:
        driver = Driver(database)
        for command in twin.from_json(case["commands"]):
            driver.write(command)
        question = (case["query"], case["k"], twin.from_json(case["where"]), case["ids"])
        if "refused" in case:
            with pytest.raises(UsageError):
                driver.search("c", *question)
        else:
            assert driver.search("c", *question) == [tuple(hit) for hit in case["hits"]]


def test_accumulated_vector() -> None:
    """10,000 commands and 10,000 searches by the public API end in the three pinned hashes of spec/accumulated.md."""
    pinned = vectors("accumulated")
    stops = {stop["rounds"]: stop for stop in pinned["on_the_way"]}
    answers = hashlib.sha256()
    refused_commands = refused_searches = 0
    with detmem.open(":memory:", durability="os") as database:
        driver = Driver(database)
        for number, (command, question) in enumerate(twin.Draw().rounds(), start=1):
            try:
                driver.write(command)
            except DetmemError:
                refused_commands += 1
            try:
                hits = driver.search(*question[1:])
            except DetmemError:
                hits = None
                refused_searches += 1
            answers.update(twin.answer_bytes(database.seq, hits))
            if number in stops:  # so that a difference is found within 1,000 rounds of where it began
                roots = {"seq": database.seq, "log_root": database.log_root, "state_root": database.state_root}
                assert {"rounds": number, **roots, "answers": answers.hexdigest()} == stops[number]
        assert (refused_commands, refused_searches) == (pinned["refused_commands"], pinned["refused_searches"])
        assert database.log_root == pinned["log_root"]
        assert database.state_root == pinned["state_root"]
        assert answers.hexdigest() == pinned["answers"]
        assert database.head == pinned["link"]


def test_accumulated_commits_on_the_bare_machine() -> None:
    """The same commits, one by one from their bytes: root and link after each, and the snapshot's bytes at the end."""
    memory, state = twin.Memory(), State()
    for command, _ in twin.Draw().rounds():
        try:
            commit = memory.write(command)
        except twin.Refused:
            continue
        if commit is None:
            continue
        change = state.apply(commands.decode(memoryview(body_of(commit))))
        assert (change.state_root, change.link) == (commit.state_root, commit.link)
        state.publish(change)
    file = file_of(b"")
    snapshot.write(state, file)
    assert hashlib.sha256(contents_of(file)).hexdigest() == vectors("accumulated")["snapshot_sha256"]


# ------------------------------------------------------------------------ Hypothesis: package and twin, the whole range

formats = st.sampled_from(sorted(twin.FORMATS))
near_the_edges = st.builds(
    lambda raw, quarter, bits: math.ldexp(4 * raw + quarter, -bits - 2),
    st.integers(-(2**31) - 2, 2**31 + 2) | st.integers(-3, 3),
    st.integers(0, 3),
    st.sampled_from(sorted(twin.FORMATS.values())),
)
any_float = st.floats() | near_the_edges


@given(any_float, formats)
def test_quantise_agrees_with_the_twin(x: float, number_format: str) -> None:
    try:
        expected = twin.quantise(x, number_format)
    except twin.Refused:
        with pytest.raises(RangeError):
            fixed.quantize(x, number_format)
    else:
        assert int(fixed.quantize(x, number_format)) == expected


similar = st.floats(-1, 1) | st.sampled_from([0.0, -0.0, 5e-324, 2.0**-32, 2.0**-33, 1.0, 0.5])


@given(st.lists(st.floats(), min_size=1, max_size=24) | st.lists(similar, min_size=1, max_size=200), formats)
def test_cosine_agrees_with_the_twin(x: list[float], number_format: str) -> None:
    door = {"dimension": len(x), "metric": "cosine", "format": number_format, "collection": "c"}
    try:
        expected = twin.enter(x, "cosine", number_format)
    except twin.Refused:
        with pytest.raises(RangeError):
            fixed.admit_vectors(np.array(x), **door)
    else:
        assert fixed.admit_vectors(np.array(x), **door).tolist() == [expected]


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=40)
)
values = st.recursive(
    scalars | st.binary(max_size=300),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=5), inner, max_size=20),
    max_leaves=40,
)


@given(values)
def test_encode_agrees_with_the_twin(value: Any) -> None:
    data = twin.encode(value)
    assert encoding.encode(value) == data
    assert repr(twin.to_json(encoding.decode(data, max_bytes=len(data)))) == repr(twin.to_json(twin.decode(data)))


def same_verdict(data: bytes) -> None:
    try:
        expected = twin.decode(data)
    except twin.Refused:
        with pytest.raises(CorruptionError):
            encoding.decode(data, max_bytes=1 << 20)
    else:
        assert repr(encoding.decode(data, max_bytes=1 << 20)) == repr(expected)


@given(st.binary(max_size=24))
def test_decode_of_any_bytes_agrees_with_the_twin(data: bytes) -> None:
    same_verdict(data)


@given(values, st.integers(0, 10**6), st.binary(max_size=2), st.integers(0, 2))
def test_decode_of_damaged_bytes_agrees_with_the_twin(value: Any, at: int, new: bytes, dropped: int) -> None:
    data = twin.encode(value)
    at %= len(data) + 1
    same_verdict(data[:at] + new + data[at + dropped :])


fields = st.sampled_from(["a", "b", "é"])
few = st.sampled_from([None, True, False, 0, 1, 1.0, -0.0, 2**53, 2**53 + 1, float(2**53), "", "a", "ab", "\uff5e"])
stored_values = few | st.lists(few, max_size=3) | scalars
metadatas = st.lists(st.dictionaries(fields, stored_values, max_size=3), max_size=8)
operators = st.one_of(
    st.tuples(st.sampled_from(["$eq", "$ne"]), stored_values),
    st.tuples(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), few | scalars),
    st.tuples(st.sampled_from(["$in", "$nin"]), st.lists(stored_values, max_size=3)),
    st.tuples(st.just("$exists"), st.booleans() | few),
    st.tuples(st.just("$contains"), stored_values),
    st.tuples(st.sampled_from(["$like", "a", "$not"]), few),
)
conditions = st.tuples(fields, stored_values | st.lists(operators, min_size=1, max_size=2).map(dict))
wheres = st.recursive(
    st.lists(conditions, max_size=2).map(dict),
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["$and", "$or"]), st.lists(inner, max_size=3)).map(lambda pair: dict([pair])),
        st.tuples(st.just("$not"), inner).map(lambda pair: dict([pair])),
    ),
    max_leaves=6,
)


@given(metadatas, wheres)
def test_filters_agree_with_the_twin(records: list[dict[str, Any]], where: dict[str, Any]) -> None:
    for choose in (chosen_by_rows, chosen_by_columns):
        try:
            expected = twin.choose(records, where)
        except twin.Refused:
            with pytest.raises(UsageError):
                choose(where, records)
        else:
            assert choose(where, records) == expected


@st.composite
def searches(draw: st.DrawFn) -> tuple[dict[str, list[int]], list[int], int, str]:
    """Rows and a query over the whole admitted range: a few tiny ones that tie, corners, and anything between."""
    dim = draw(st.integers(1, 200))
    largest = math.isqrt(2**60 // dim)
    component = draw(
        st.sampled_from([st.integers(-1, 1), st.sampled_from([-largest, 0, largest]), st.integers(-largest, largest)])
    )
    vector = st.lists(component, min_size=dim, max_size=dim)
    ids = draw(st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=8, unique=True))
    rows = {name: draw(vector) for name in ids}
    return rows, draw(vector), draw(st.integers(1, 10)), draw(st.sampled_from(twin.METRICS))


@pytest.mark.parametrize("kernel", AVAILABLE)
@given(searches())
def test_nearest_agrees_with_the_twin(kernel: str, question: tuple[dict[str, list[int]], list[int], int, str]) -> None:
    rows, query, k, metric = question
    ids = list(rows)
    matrix, queries = np.array(list(rows.values()), dtype=np.int32), np.array([query], dtype=np.int32)
    ((slots, raw),) = nearest(matrix, ids, queries, k, metric, kernel=kernel)
    found = [(ids[slot], distance) for slot, distance in zip(slots.tolist(), raw.tolist(), strict=True)]
    assert found == twin.nearest(metric, rows, query, k)
