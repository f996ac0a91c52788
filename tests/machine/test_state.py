"""The pure machine by itself: check raises and changes nothing, finish computes, publish cannot fail."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from detmem.errors import CorruptionError, DimensionError, DuplicateIdError, NotFoundError, UsageError
from detmem.machine import commands
from detmem.machine.commands import ADD, UPDATE, UPSERT, Definition, Operation
from detmem.machine.commitment import ZERO, commit
from detmem.machine.links import Links
from detmem.machine.packed import Packed
from detmem.machine.records import Restored, content_of
from detmem.machine.stage import Stage
from detmem.machine.state import State

TWO = Definition(2, "l2", "Q16.16")


def put(id: str, x: int, metadata: Any = None, document: str | None = None, type: int = ADD) -> Operation:
    return commands.write(type, "c", id, struct.pack("<2i", x, 0), (metadata or {}, document))


def commit_all(state: State, *operations: Operation) -> None:
    state.publish(state.apply(operations))


def machine(*ids: str) -> State:
    state = State()
    commit_all(state, commands.create("c", TWO))
    if ids:
        commit_all(state, *(put(id, index) for index, id in enumerate(ids)))
    return state


def restored_anew(state: State) -> State:
    """The state as a snapshot would bring it back: live records, packed."""
    collections, pairs = [], bytearray()
    for name, records in state.collections.items():
        view = records.view(state.seq)
        slots = np.array(view.in_id_order, dtype=np.int64)
        ids, packed = Packed(len(slots)), Packed(len(slots))
        ids.append([view.ids[slot].encode() for slot in slots])
        packed.append([content_of(view, slot) for slot in slots])
        vectors, born = records.vectors.kept(slots), records.born[slots]
        collections.append(Restored(name, records.definition, ids, born, vectors, packed, None, state.seq))
        pairs += b"".join(view.commitments(slots))
    history = Links.restored(state.links.born.items(), state.seq), state.requests, state.erased
    return State.restored(state.seq, state.link, state.log, collections, pairs, *history)


def shown(state: State) -> Any:
    """Everything that can be seen of a state."""
    collections = {}
    for name in state.names():
        view = state.collections[name].view(state.seq)
        rows = [
            (view.ids[slot], view.rows.take(np.array([slot]))[0].tolist(), view.metadatas[slot], view.documents[slot])
            for slot in view.in_id_order
        ]
        collections[name] = (view.definition, rows)
    return state.seq, state.root, state.link, state.log.root, state.log.size, collections


def test_an_empty_machine_has_the_zero_root() -> None:
    state = State()
    assert (state.seq, state.root, state.log.size, state.names()) == (0, ZERO, 0, [])


@pytest.mark.parametrize(
    "operation, error",
    [
        (lambda: commands.create("c", TWO), UsageError),
        (lambda: commands.drop("d"), NotFoundError),
        (lambda: put("a", 1), DuplicateIdError),
        (lambda: commands.write(ADD, "d", "a", bytes(8), ({}, None)), NotFoundError),
        (lambda: commands.write(ADD, "c", "z", bytes(12), ({}, None)), DimensionError),
        (lambda: commands.write(UPSERT, "c", "a", bytes(4), ({}, None)), DimensionError),
        (lambda: put("z", 1, type=UPDATE), NotFoundError),
        (lambda: commands.delete("c", "z"), NotFoundError),
        (lambda: commands.delete("d", "a"), NotFoundError),
        (lambda: commands.write(UPDATE, "c", "a", None, ({}, None), standing=(b"?" * 32, b"?" * 32)), CorruptionError),
        (lambda: commands.write(UPDATE, "c", "a", bytes(8), None, standing=(b"?" * 32, b"?" * 32)), CorruptionError),
    ],
)
def test_check_raises_and_nothing_has_changed(operation: Callable[[], Operation], error: type[Exception]) -> None:
    state = machine("a")
    before = shown(state)
    stage = state.stage()
    with pytest.raises(error):
        stage.check(operation())
    assert stage.operations == []
    with pytest.raises(CorruptionError):  # the same in a log: it was never accepted, so it cannot stand there
        state.apply([put("b", 1), operation()])
    assert shown(state) == before


def test_a_logged_commit_without_operations_is_corruption() -> None:
    with pytest.raises(CorruptionError, match="without operations"):
        State().apply([])


def test_a_logged_vector_that_was_never_admitted_is_corruption() -> None:
    state = machine()
    commit_all(state, put("a", 1 << 30))
    for too_long in (-(1 << 31), (1 << 30) + 1):
        with pytest.raises(CorruptionError, match="not legal"):
            state.apply([put("b", too_long)])


def test_staging_is_not_seen_until_it_is_published() -> None:
    state = machine("a", "b")
    before = shown(state)
    stage = state.stage()
    for operation in (commands.delete("c", "a"), put("a", 9), put("z", 5), commands.create("d", TWO)):
        stage.check(operation)
        stage.put(operation)
    change = stage.finish()
    assert shown(state) == before
    assert stage.has("c", "z")
    assert stage.record("c", "a").vector == struct.pack("<2i", 9, 0)
    assert stage.definition("d") == TWO
    assert set(stage.contents("c")) == {"a", "b", "z"}
    state.publish(change)
    assert (state.seq, state.root, state.link) == (3, change.state_root, change.link)
    assert [row[:2] for row in shown(state)[-1]["c"][1]] == [("a", [9, 0]), ("b", [1, 0]), ("z", [5, 0])]


def test_a_change_cannot_be_published_twice_or_on_another_moment() -> None:
    state = machine()
    first, second = state.apply([put("a", 1)]), state.apply([put("b", 1)])
    state.publish(first)
    for stale in (first, second):
        with pytest.raises(AssertionError):
            state.publish(stale)


@pytest.mark.parametrize("restored", [False, True])
def test_equal_contents_have_equal_roots_whatever_the_way(restored: bool) -> None:
    straight = machine("a", "b")
    around = State()
    commit_all(around, commands.create("d", TWO), commands.create("c", Definition(3, "ip", "Q4.28")))
    commit_all(around, commands.drop("c"), commands.create("c", TWO), put("b", 7, {"k": 1}), put("z", 1))
    commit_all(around, commands.delete("c", "z"), put("a", 0), put("b", 1, type=UPSERT), commands.drop("d"))
    if restored:
        around = restored_anew(around)
    assert around.root == straight.root
    assert shown(around)[-1] == shown(straight)[-1]
    assert around.log.root != straight.log.root


def test_a_view_does_not_change_under_its_reader() -> None:
    """Through appends, deaths, growth of the arrays, compaction and a drop."""
    state = machine(*(f"{number:04}" for number in range(1500)))
    view = state.collections["c"].view(state.seq)
    expected = [(f"{number:04}", [number, 0]) for number in range(1500)]

    def seen() -> list[tuple[str, list[int]]]:
        return [(view.ids[slot], view.rows.take(np.array([slot]))[0].tolist()) for slot in view.in_id_order]

    commit_all(state, *(put(f"{number:04}", -1, type=UPSERT) for number in range(700)))
    commit_all(state, *(put(f"new{number}", -2) for number in range(3000)))
    assert view.count == 1500
    assert int(np.count_nonzero(view.alive)) == 1500
    assert seen() == expected
    for number in range(1500):
        commit_all(state, commands.delete("c", f"{number:04}"))
    commit_all(state, *(commands.delete("c", f"new{number}") for number in range(2990)))
    assert state.collections["c"].used == 10  # the dead have left
    commit_all(state, put("0000", 5))
    commit_all(state, commands.drop("c"))
    assert seen() == expected
    assert view.count == view.rows.count == 1500


def test_dead_rows_leave_once_they_outnumber_the_living() -> None:
    state = machine("a")
    for number in range(5_000):
        commit_all(state, put("a", number, type=UPSERT))
    assert state.collections["c"].used <= 1024 + 2
    assert shown(state)[-1]["c"][1][0][:2] == ("a", [4999, 0])


def test_one_commit_may_touch_one_record_many_times() -> None:
    state = machine("a")
    leave = commands.delete("c", "a")
    vector = commit(struct.pack("<2i", 3, 0))
    update = commands.write(UPDATE, "c", "a", None, ({"k": 1}, None), standing=(vector, ZERO))
    commit_all(state, leave, put("a", 1), leave, put("a", 2), put("a", 3, type=UPSERT), update)
    assert shown(state)[-1]["c"][1] == [("a", [3, 0], {"k": 1}, None)]
    assert (state.seq, state.log.size) == (3, 2 + 2 + 7)  # an operation leaf each, and one for each commit


def test_applying_the_same_operations_gives_the_same_machine() -> None:
    """state = fold(apply, log): of a decoded log too."""
    ours, theirs = State(), State()
    log: list[list[Operation]] = [
        [commands.create("c", TWO)],
        [put("a", 1, {"k": [1, None, "é"]}, "doc"), put("b", 2)],
        [commands.delete("c", "b"), put("a", 7, type=UPSERT)],
        [commands.create("d", TWO), commands.drop("c")],
    ]
    for operations in log:
        body = commands.encode(operations, 1 << 20)
        commit_all(ours, *operations)
        commit_all(theirs, *commands.decode(memoryview(body)))
        assert shown(ours) == shown(theirs)


def test_an_empty_stage_has_nothing_to_finish() -> None:
    with pytest.raises(AssertionError):
        Stage(State()).finish()
