"""A run is its operations, one after the other: in bytes, leaves, roots, meaning, and in what is refused."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detmem.errors import CorruptionError, DetmemError, DuplicateIdError
from detmem.machine import commands, runs
from detmem.machine.commands import ADD, DELETE, UPDATE, UPSERT, Definition, Operation
from detmem.machine.runs import SHORTEST, Operations, Run
from detmem.machine.state import State

TWO = Definition(2, "l2", "Q16.16")
MOST = 1 << 24


def rows(count: int, start: int = 0) -> np.ndarray:
    return np.arange(2 * start, 2 * (start + count), dtype=np.int32).reshape(count, 2)


def names(count: int, start: int = 0) -> list[str]:
    return [f"é{number}" if number % 3 else f"id-{number}" for number in range(start, start + count)]


def run_of(count: int, type: int = ADD, start: int = 0, matrix: np.ndarray | None = None) -> Run:
    metadatas = [None if number % 4 == 0 else {"b": number, "a": [number]} for number in range(count)]
    documents = [None if number % 5 else "x" * number for number in range(count)]
    matrix = rows(count, start) if matrix is None else matrix
    return runs.write(type, "c", names(count, start), matrix, metadatas, documents, lambda done, total: None)


def singly(run: Run) -> list[Operation]:
    """The same operations as ``commands.write`` makes them, from nothing but the run's values."""
    assert run.meanings is not None
    contents = zip(*run.meanings, strict=True)
    return [
        commands.write(run.type, run.collection, id, row.tobytes(), content)
        for id, row, content in zip(run.ids, run.matrix, contents, strict=True)
    ]


def machine() -> State:
    state = State()
    state.publish(state.apply([commands.create("c", TWO)]))
    return state


def shown(state: State) -> object:
    """All that a state is, by value."""
    inside = {
        name: sorted(
            (id, one.vector_bytes(slot), repr(one.metadatas[slot]), one.documents[slot], one.record(slot)[2:])
            for id, slot in one.slots.items()
        )
        for name, one in state.collections.items()
    }
    return state.seq, state.root, state.link, state.log.root, state.log.size, inside


@pytest.mark.parametrize("type", [ADD, UPSERT])
@pytest.mark.parametrize("count", [1, SHORTEST, 1001, 2500])
def test_a_run_is_the_bytes_and_leaves_of_its_operations(type: int, count: int) -> None:
    run = run_of(count, type)
    alone, held = singly(run), Operations([run])
    assert list(held) == alone
    assert len(held) == count
    assert held[0] == alone[0]
    assert held[-2:] == alone[-2:]
    assert held.leaves == b"".join(operation.leaf for operation in alone)
    body = b"".join(held.pieces())
    assert body == commands.encode(alone, MOST)
    assert held.size_bytes == len(body)
    decoded = runs.decode(memoryview(body))
    assert len(decoded.held) == (1 if count >= SHORTEST else count)
    assert [operation.header for operation in decoded] == [operation.header for operation in alone]
    assert [operation.meaning() for operation in decoded] == [operation.meaning() for operation in alone]
    assert decoded.leaves == held.leaves


def test_progress_covers_every_record_and_may_stop_the_call() -> None:
    told: list[tuple[int, int]] = []
    columns = names(2500), rows(2500), [None] * 2500, [None] * 2500
    runs.write(ADD, "c", *columns, lambda done, total: told.append((done, total)))
    assert told == [(1000, 2500), (2000, 2500), (2500, 2500)]

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.write(ADD, "c", *columns, stop)


@pytest.mark.parametrize("type", [ADD, UPSERT])
def test_applying_a_run_is_applying_its_operations(type: int) -> None:
    one, other = machine(), machine()
    for state, make in ((one, lambda run: Operations([run])), (other, singly)):
        state.publish(state.apply(make(run_of(100, type))))
        state.publish(state.apply([commands.delete("c", "é1")]))
        state.publish(state.apply(make(run_of(70, UPSERT, start=50))))
    assert shown(one) == shown(other)


def test_a_stage_sees_what_a_run_brought_and_may_change_it() -> None:
    """As in a batch: adds of many, then single writes on top of them, then many again."""
    one, other = machine(), machine()
    for state, make in ((one, lambda run: [run]), (other, singly)):
        stage = state.stage()
        for part in [
            *make(run_of(40)),
            commands.delete("c", "é2"),
            commands.write(UPDATE, "c", "é4", struct.pack("<2i", 9, 9), ({"n": 1}, None)),
            *make(run_of(20, UPSERT, start=30)),
            commands.write(ADD, "c", "é2", struct.pack("<2i", 7, 7), ({}, "again")),
        ]:
            stage.check(part)
            stage.put(part)
        assert stage.has("c", "é40")
        assert stage.record("c", "é41").vector == rows(1, 41).tobytes()
        assert stage.record("c", "é4").metadata == {"n": 1}
        assert len(stage.contents("c")) == 50
        assert stage.contents("c")["é5"] == {"a": [5], "b": 5}
        state.publish(stage.finish())
    assert shown(one) == shown(other)
    assert one.collections["c"].ids == other.collections["c"].ids  # the same slots as well


def put(type: int, id: str) -> Operation:
    return commands.write(type, "c", id, struct.pack("<2i", 1, 1), ({}, None))


TROUBLES: dict[str, Callable[[], list[Operation]]] = {
    "an id that stands already": lambda: [*singly(run_of(30)), put(ADD, "é1")],
    "an id twice in one run": lambda: [*singly(run_of(30))[:20], put(ADD, "é1"), *singly(run_of(30))[20:]],
    "another dimension": lambda: singly(run_of(30, matrix=np.ones((30, 3), dtype=np.int32))),
    "a vector that was never admitted": lambda: singly(run_of(30, matrix=np.full((30, 2), 1 << 30, dtype=np.int32))),
    "an unknown collection": lambda: [
        commands.write(ADD, "nowhere", str(number), bytes(8), ({}, None)) for number in range(30)
    ],
    "a content that is not canonical": lambda: [
        *singly(run_of(30)),
        *(commands._operation(ADD, "c", f"z{n}", bytes(8), b"\x92\x81\xa1a\xcc\x01\xc0", *PAIR) for n in range(20)),
    ],
}
PAIR = commands.commit(bytes(8)), commands.commit(b"\x92\x81\xa1a\xcc\x01\xc0")


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_logged_run_is_refused_with_the_words_for_its_first_wrong_operation(trouble: str) -> None:
    operations = TROUBLES[trouble]()
    body = memoryview(commands.encode(operations, MOST))
    state, said = machine(), []
    before = shown(state)
    for decoded in (runs.decode(body), list(commands.decode(body))):
        with pytest.raises(CorruptionError) as caught:
            state.apply(decoded)
        said.append(str(caught.value))
        assert shown(state) == before
    assert said[0] == said[1]


def test_a_run_with_an_id_that_is_there_is_refused_and_nothing_changes() -> None:
    state = machine()
    state.publish(state.apply([put(ADD, "é7")]))
    stage, before = state.stage(), shown(state)
    with pytest.raises(DuplicateIdError, match="'é7' exists already"):
        stage.check(run_of(20))
    assert stage.operations == []
    stage.put(run_of(20, UPSERT))
    with pytest.raises(DuplicateIdError, match="'id-0' exists already"):
        stage.check(run_of(20))
    stage.put(commands.delete("c", "é7"))
    stage.check(put(ADD, "é7"))
    assert shown(state) == before


kinds = st.lists(
    st.tuples(st.sampled_from([ADD, UPSERT, UPDATE, DELETE]), st.integers(1, 3), st.integers(1, 24)), max_size=5
)


def mixed(steps: list[tuple[int, int, int]]) -> bytes:
    operations: list[Operation] = []
    for type, dimension, count in steps:
        for number in range(count):
            if type == DELETE:
                operations.append(commands.delete("c", f"{number}"))
            else:
                operations.append(commands.write(type, "c", f"{number}", bytes(4 * dimension), ({"n": number}, None)))
    return commands.encode(operations, MOST)


@given(kinds, st.data())
def test_decoding_finds_the_same_operations_and_the_same_damage(
    steps: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    body = mixed(steps)
    assert [one.header for one in runs.decode(memoryview(body))] == [
        one.header for one in commands.decode(memoryview(body))
    ]
    if not body:
        return
    at = data.draw(st.integers(0, len(body) - 1))
    broken = bytearray(body)
    broken[at] ^= 1 << data.draw(st.integers(0, 7))
    for hurt in (bytes(broken), body[:at], body + body[:at], body + b"\0"):
        assert outcome(runs.decode, hurt) == outcome(lambda view: list(commands.decode(view)), hurt)


def outcome(decode: Callable[[memoryview], object], body: bytes) -> object:
    try:
        return [(one.header, one.vector, one.content, one.leaf) for one in decode(memoryview(body))]  # type: ignore[attr-defined]
    except DetmemError as error:
        return type(error), str(error)
