"""Every operation against a model of dicts and lists, in any order that Hypothesis can think of.

After every step the store's contents, answers, seq and roots are the model's.  The roots of the model come from
the naive twin (spec/reference.py), which shares no line with the package: it gets the same calls, and its state root is
computed anew from its values.  The store is snapshotted and reopened in between, and must not change.
"""

from __future__ import annotations

import copy
import random
from typing import Any

import hypothesis
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import detmem
from detmem.journal.disk import MemoryDisk
from detmem.journal.log import SEGMENT_BYTES
from detmem.machine import links, records
from detmem.opening import open_disk
from tests.faults.simdisk import SimDisk, random_choice
from tests.twin import TWIN, Call, check_contents, perform, perform_batch

NAMES = st.sampled_from(["c", "d", "é"])
IDS = st.sampled_from(["a", "b", "ab", "Z", "é", "\uffff", "\U0001f600"])
MANY_IDS = st.lists(IDS, min_size=1, max_size=4, unique=True)
COMPONENTS = st.integers(-2, 2) | st.sampled_from([1 << 29, -(1 << 29)])
VECTORS = st.tuples(COMPONENTS, COMPONENTS).map(list)
VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-1, 2)
    | st.sampled_from([0.5, 1.0, "", "x", "xy"])
    | st.just(["x", 1, None])
)
METADATAS = st.dictionaries(st.sampled_from(["k", "n", "s"]), VALUES, max_size=3)
DOCUMENTS = st.sampled_from(["", "text", "é"])
DEFINITIONS = st.tuples(st.just(2), st.sampled_from(["l2", "ip", "cosine"]), st.sampled_from(["Q16.16", "Q4.28"]))
PLAIN = VALUES.filter(lambda value: value is not None)
WHERE = st.one_of(
    st.fixed_dictionaries({"k": PLAIN}),
    st.builds(lambda values: {"k": {"$in": values}}, st.lists(PLAIN, max_size=2)),
    st.builds(lambda value: {"n": {"$ne": value}}, PLAIN),
    st.builds(lambda value: {"n": {"$gt": value}}, st.sampled_from([0, 0.75, "w"])),
    st.builds(lambda flag: {"s": {"$exists": flag}}, st.booleans()),
    st.builds(lambda flag: {"$or": [{"s": "x"}, {"$not": {"k": {"$exists": flag}}}]}, st.booleans()),
)

RELATIONS = st.sampled_from(["r", "s"])
PUTS: st.SearchStrategy[Call] = st.builds(
    lambda kind, name, ids, data: (kind, name, [(id, *data[at]) for at, id in enumerate(ids)]),
    st.sampled_from(["add", "upsert", "upsert"]),
    NAMES,
    MANY_IDS,
    st.lists(st.tuples(VECTORS, st.none() | METADATAS, st.none() | DOCUMENTS), min_size=4, max_size=4),
)
CALLS: st.SearchStrategy[Call] = st.one_of(
    st.builds(lambda name, definition: ("create", name, *definition), NAMES, DEFINITIONS),
    st.builds(lambda name: ("drop", name), NAMES),
    PUTS,
    PUTS,
    st.builds(lambda id, put: ("request", id, put), st.sampled_from(["one", "two"]), PUTS),
    st.builds(
        lambda kind, *link: (kind, *link),
        st.sampled_from(["link", "link", "unlink"]),
        NAMES,
        IDS,
        RELATIONS,
        NAMES,
        IDS,
    ),
    st.builds(lambda note: ("record", bytes(32), note), st.none() | DOCUMENTS),
    st.builds(
        lambda name, ids, vectors, data: (
            "update",
            name,
            [(id, vectors[at] if vectors else None, *data[at]) for at, id in enumerate(ids)],
        ),
        NAMES,
        MANY_IDS,
        st.none() | st.lists(VECTORS, min_size=4, max_size=4),
        st.lists(st.tuples(st.none() | METADATAS, st.none() | DOCUMENTS), min_size=4, max_size=4),
    ),
    st.builds(lambda name, ids: ("delete", name, ids), NAMES, MANY_IDS),
    st.builds(lambda name, where: ("delete_where", name, where), NAMES, WHERE),
)


class InsideError(Exception):
    """Raised by a test inside a batch."""


class Model(RuleBasedStateMachine):
    """The store, and beside it the twin's memory and a list of what each seq did."""

    segment_bytes = SEGMENT_BYTES

    def __init__(self) -> None:
        super().__init__()
        self.disk: Any = self.new_disk()
        self.db = self.opened()
        self.model = TWIN.Memory()
        self.told: list[tuple[int, str, str, list[str]]] = []
        self.checkpoints = [self.db.checkpoint()]
        self.past: list[tuple[Any, list[Any], list[Any]]] = []  # by seq: the model, what log() tells, checkpoints
        self.remember()

    def new_disk(self) -> Any:
        return MemoryDisk()

    def opened(self, **more: Any) -> detmem.Database:
        return open_disk(self.disk, segment_bytes=self.segment_bytes, **more)

    def teardown(self) -> None:
        report = self.db.verify()
        assert report == detmem.Report(True, self.model.seq, self.db.state_root)
        assert report.remaining == 0
        self.db.close()
        for checkpoint in self.checkpoints[:: max(1, len(self.checkpoints) // 4)]:
            self.opened(write=False, expect=checkpoint).close()

    def note(self, commit: Any) -> None:
        """What ``log`` will tell of a commit of the model."""
        groups: dict[tuple[str, str], list[str]] = {}
        for operation in commit.operations:
            kind = TWIN.NAMES[operation.type]
            if kind == "request":
                continue
            kind = {"create": "create_collection", "drop": "drop_collection"}.get(kind, kind)
            groups.setdefault((kind, operation.collection), []).extend([operation.id] if operation.id else [])
        self.told += [(commit.seq, kind, name, ids) for (kind, name), ids in groups.items()]

    def both(self, command: Call, ours: Any) -> None:
        """The same on both sides: the same commit, or a refusal of both."""
        before = self.model.seq
        try:
            commit = self.model.write(command)
        except TWIN.Refused:
            with pytest.raises(detmem.DetmemError):
                ours()
            assert self.db.seq == before
            return
        result = ours()
        if isinstance(result, detmem.Commit):
            assert (result.seq, result.state_root) == (self.model.seq, self.model.state_root().hex())
        if commit is not None:
            self.note(commit)
            self.checkpoints.append(self.db.checkpoint())

    # -- what can happen

    @initialize(definition=DEFINITIONS)
    def begin(self, definition: tuple[int, str, str]) -> None:
        self.call(("create", "c", *definition))

    @rule(call=CALLS)
    def call(self, call: Call) -> None:
        self.both(call, lambda: perform(self.db, call))

    @rule(calls=st.lists(CALLS, max_size=5))
    def batch(self, calls: list[Call]) -> None:
        self.both(("batch", calls), lambda: perform_batch(self.db, calls))

    @rule(calls=st.lists(CALLS, max_size=3))
    def broken_batch(self, calls: list[Call]) -> None:
        before = self.db.checkpoint()
        with pytest.raises(InsideError), self.db.batch():
            for call in calls:
                try:
                    perform(self.db, call)
                except detmem.DetmemError:
                    continue
            raise InsideError
        assert self.db.checkpoint() == before

    @rule()
    def snapshot(self) -> None:
        info = self.db.snapshot()
        assert info == detmem.SnapshotInfo(self.model.seq, self.db.state_root, None)
        written = bytes(self.disk.files[f"snap/{self.model.seq:020d}.snap"])
        assert written == TWIN.write_snapshot(self.model)

    @rule()
    def reopen(self) -> None:
        self.db.close()
        self.db = self.opened(expect=self.checkpoints[-1])
        assert self.db.recovery is None

    @precondition(lambda self: self.model.state)
    @rule(data=st.data(), k=st.integers(1, 9), query=VECTORS, where=st.none() | WHERE, ids=st.none() | MANY_IDS)
    def search(self, data: st.DataObject, k: int, query: list[int], where: Any, ids: list[str] | None) -> None:
        name = data.draw(st.sampled_from(sorted(self.model.state)))
        c = self.db[name]
        try:
            expected = self.model.search(name, query, k, where, ids)
        except TWIN.Refused:
            with pytest.raises(detmem.UsageError):
                c.search(raw=query, k=k, where=where, ids=ids)
            return
        result = c.search(raw=query, k=k, where=where, ids=ids)
        assert list(zip(result.ids, result.raw.tolist(), strict=True)) == expected
        assert result.seq == self.model.seq
        records = self.model.state[name].records
        assert result.metadatas == [records[id].metadata for id in result.ids]
        assert result.documents == [records[id].document for id in result.ids]
        chosen = TWIN.select(records, where)
        assert c.get(where=where).ids == sorted(chosen)
        assert c.count(where) == len(chosen)

    @precondition(lambda self: any(c.records for c in self.model.state.values()))
    @rule(data=st.data(), relation=RELATIONS, kind=st.sampled_from(["link", "link", "unlink"]))
    def link_what_is_there(self, data: st.DataObject, relation: str, kind: str) -> None:
        nodes = sorted((name, id) for name, c in self.model.state.items() for id in c.records)
        (name, id), other = data.draw(st.sampled_from(nodes)), data.draw(st.sampled_from(nodes))
        self.call((kind, name, id, relation, *other))

    def due(self) -> list[tuple[str, str]]:
        """Records that have been written since they were last erased, if they ever were."""
        written = {
            (name, id): seq for seq, kind, name, ids in self.told for id in ids if kind in ("add", "upsert", "update")
        }
        return sorted(node for node, seq in written.items() if seq > self.model.state.erased.get(node, 0))

    @precondition(lambda self: self.due())
    @rule(data=st.data())
    def erase(self, data: st.DataObject) -> None:
        """What is live, was deleted, or lay in a collection that was dropped."""
        due = self.due()
        name = data.draw(st.sampled_from(sorted({name for name, _ in due})))
        mine = [id for other, id in due if other == name]
        ids = data.draw(st.lists(st.sampled_from(mine), min_size=1, max_size=3, unique=True))
        self.call(("erase", name, ids))

    @rule(data=st.data(), k=st.integers(1, 9), query=VECTORS, where=st.none() | WHERE)
    def look_back(self, data: st.DataObject, k: int, query: list[int], where: Any) -> None:
        """Any moment that has been, asked for everything."""
        seq = data.draw(st.integers(0, self.model.seq))
        model, told, _ = self.past[seq]
        gone = [
            (name, id)
            for (name, id), at in self.model.state.erased.items()
            if at > seq and name in model.state and id in model.state[name].records
        ]
        with self.db.at(seq, erased="omit" if gone else "raise") as then:
            assert (then.seq, str(then.checkpoint()), then.head) == (seq, model.checkpoint(), model.link.hex())
            model = copy.deepcopy(model) if gone else model
            for name, id in gone:
                with pytest.raises(detmem.Erased):
                    self.db.at(seq)[name].get(id)
                del model.state[name].records[id]
            assert [(e.seq, e.op, e.collection, e.ids) for e in then.log()] == told
            check_contents(then, model)
            for name in model.state:
                try:
                    expected = model.search(name, query, k, where)
                except TWIN.Refused:
                    with pytest.raises(detmem.UsageError):
                        then[name].search(raw=query, k=k, where=where)
                    continue
                result = then[name].search(raw=query, k=k, where=where)
                assert list(zip(result.ids, result.raw.tolist(), strict=True)) == expected
                assert then[name].count(where) == len(TWIN.select(model.state[name].records, where))

    # -- what always holds

    @invariant()
    def remember(self) -> None:
        if self.model.seq == len(self.past):
            self.past.append((copy.deepcopy(self.model), list(self.told), list(self.checkpoints)))
        assert len(self.past) == self.model.seq + 1

    @invariant()
    def contents_are_the_models(self) -> None:
        check_contents(self.db, self.model)

    @invariant()
    def roots_and_the_log_are_the_models(self) -> None:
        assert self.db.seq == self.model.seq
        assert str(self.db.checkpoint()) == self.model.checkpoint()
        assert self.db.state_root == TWIN.state_root(TWIN.entries_of(self.model.state)).hex()
        assert self.db.head == self.model.link.hex()
        assert [(e.seq, e.op, e.collection, e.ids) for e in self.db.log()] == self.told


class Rotating(Model):
    """Every few commits a new segment."""

    segment_bytes = 700


class Forgetful(Rotating):
    """Dead rows and dead links are let go as soon as may be, so that most of the past is folded anew."""

    def __init__(self) -> None:
        self.kept = records._DEAD_KEPT, links._DEAD_KEPT
        records._DEAD_KEPT = links._DEAD_KEPT = 0
        super().__init__()

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            records._DEAD_KEPT, links._DEAD_KEPT = self.kept


class Paranoid(Rotating):
    """Reopened after every single step, and read by a second handle."""

    @invariant()
    def reopening_changes_nothing(self) -> None:
        reader = self.opened(write=False)
        assert reader.checkpoint().seq <= self.model.seq
        self.reopen()
        self.contents_are_the_models()
        self.roots_and_the_log_are_the_models()


class Crashing(Rotating):
    """On the disk that forgets: between steps, in the middle of one, and in the middle of the recovery, the power fails
    or the process dies.  What is there afterwards is a beginning of what was written, with all that was acknowledged;
    the model goes back to it, and both go on."""

    steps = 0  # of all machines together

    def new_disk(self) -> Any:
        self.policy = "always"
        self.floor = 0  # seqs up to here have been acknowledged as durable
        return SimDisk()

    def opened(self, **more: Any) -> detmem.Database:
        return super().opened(**{"durability": self.policy, **more})

    @invariant()
    def what_was_acknowledged_is_remembered(self) -> None:
        type(self).steps += 1
        if self.policy in ("always", "paranoid"):
            self.floor = self.model.seq

    @rule()
    def snapshot(self) -> None:
        super().snapshot()
        self.floor = self.model.seq

    @rule()
    def reopen(self) -> None:
        super().reopen()
        self.floor = self.model.seq

    @rule(
        policy=st.sampled_from(["always", "paranoid", "os", "interval:99999"]),
        seed=st.integers(0, 2**32 - 1),
        again=st.none() | st.integers(0, 60),
    )
    def crash(self, policy: str, seed: int, again: int | None) -> None:
        """``again``: and once more, in the middle of the recovery, at that call."""
        rng = random.Random(seed)
        self.go_on_from(*self.left_of(self.disk, rng, self.model.seq), policy)
        if again is not None:
            self.abandon()
            self.disk = self.disk.kill()
            left = self.watched(again, lambda: setattr(self, "db", self.opened()))
            if left is not None:
                self.go_on_from(*self.left_of(left, rng, self.model.seq), policy)

    @rule(call=CALLS, at=st.integers(0, 25), seed=st.integers(0, 2**32 - 1))
    def crash_in_the_middle(self, call: Call, at: int, seed: int) -> None:
        returned = self.model.seq
        left = self.watched(at, lambda: self.call(call))
        self.remember()
        if left is not None:  # else it was over before
            self.go_on_from(*self.left_of(left, random.Random(seed), returned), self.policy)

    def watched(self, at: int, work: Any) -> SimDisk | None:
        """The disk as it is when ``work`` makes its call number ``at``."""
        left: list[SimDisk] = []
        first = self.disk.calls

        def look(disk: SimDisk, call: str) -> None:
            if disk.calls - first == at:
                left.append(disk.kill())

        self.disk.watch = look
        work()
        self.disk.watch = None
        return left[0] if left else None

    def left_of(self, disk: SimDisk, rng: random.Random, returned: int) -> tuple[SimDisk, int]:
        """What a crash leaves, and up to which seq it must be there; calls have returned up to ``returned``."""
        if rng.random() < 0.3:
            return disk.kill(), returned
        return disk.crash(random_choice(disk, rng)), self.floor

    def go_on_from(self, disk: SimDisk, floor: int, policy: str) -> None:
        self.abandon()
        self.disk, self.policy = disk, policy
        self.db = self.opened()
        assert floor <= self.db.seq <= self.model.seq
        model, told, checkpoints = self.past[self.db.seq]
        del self.past[self.db.seq + 1 :]
        self.model, self.told, self.checkpoints = copy.deepcopy(model), list(told), list(checkpoints)
        self.floor = self.db.seq  # an opened store has synced what it shows
        self.contents_are_the_models()
        self.roots_and_the_log_are_the_models()

    def abandon(self) -> None:
        """What a dead process leaves in this one is a thread that waits."""
        journal = self.db._journal
        assert journal is not None
        journal._stopping.set()
        if journal._background is not None:
            journal._background.join()

    def teardown(self) -> None:
        self.db.close()
        self.db = self.opened(expect=self.checkpoints[-1])
        super().teardown()


def run_crashing(seed: int, examples: int, steps: int) -> int:
    """So many machines of at most so many steps each; returns how many steps that were."""
    machine = type("Crashing", (Crashing,), {"steps": 0})
    hypothesis.seed(seed)(machine)
    chosen = settings(max_examples=examples, stateful_step_count=steps, derandomize=False, database=None)
    run_state_machine_as_test(machine, settings=chosen)  # type: ignore[no-untyped-call]
    return int(machine.steps)


def test_five_hundred_steps_with_crashes_between_and_inside_them() -> None:
    """``make faults`` takes 50,000."""
    assert run_crashing(20_260_601, 30, 25) >= 500


@pytest.mark.parametrize("machine", [Model, Rotating, Forgetful, Paranoid])
def test_any_sequence_of_operations_is_the_models(machine: type[Model]) -> None:
    run_state_machine_as_test(machine, settings=settings())  # type: ignore[no-untyped-call]
