"""Campaign 8: a real process, on a real disk, is killed with SIGKILL at any time, again and again.

A *life* is one store and one policy.  In each *round* a child opens the store, writes without end, and says over a pipe
which commits its calls have returned for; the parent kills it at a random time, and looks at what is left.  What each
commit does is a function of the life's seed and of the seq alone, so the twin of spec/reference.py, which never heard
of the child, knows every root that there may be: at least every acknowledged commit, at most one more (one a thread),
and its roots are the twin's.

Some rounds end with a reader only: the next child then does the recovery, and may die in it.

``python -m tests.faults.killing --loops 200 --seed 1`` is a fresh process that has imported everything and runs no
thread, so that its children cost a fork and nothing more.  It prints a tally as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import shutil
import signal
import struct
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import detmem
from detmem.journal.disk import OsDisk
from detmem.opening import open_disk
from tests.faults.workloads import Broken
from tests.twin import TWIN, Call, perform, perform_batch

__all__ = ["POLICIES", "Life", "Tally", "run", "warm"]

POLICIES = ("always", "paranoid", "group:1", "os", "interval:2")
PROMPT = ("always", "paranoid", "group:1")
SEGMENT_BYTES = (1, 2_000, 20_000, 1 << 26)
ROUNDS = 25  # of a life
THREADS = 3
MOST_RECORDS = 40
_ACK = struct.Struct("<Q32s")
_ENOUGH_COMMITS = 150  # a child that nobody kills stops by itself


@dataclass
class Tally:
    """What was seen; ``endings`` counts what the parent found by what had happened to the child."""

    loops: int = 0
    lives: int = 0
    acknowledged: int = 0
    failures: list[str] = field(default_factory=list)
    endings: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        self.loops += other.loops
        self.lives += other.lives
        self.acknowledged += other.acknowledged
        self.failures += other.failures
        self.endings += other.endings


# ------------------------------------------------------------------------------------------------ what each commit does


def _text(rng: random.Random) -> str:
    size = rng.choice((0, 5, 80, 900, 4_000)) if rng.random() < 0.95 else 70_000
    return chr(rng.randrange(97, 123)) * size


def _records(rng: random.Random, ids: list[str]) -> list[tuple[Any, ...]]:
    return [(id, [rng.randrange(-9, 9), 1], {"n": rng.randrange(5)}, _text(rng)) for id in ids]


def next_call(seed: int, seq: int, ids: list[str]) -> Call:
    """The commit behind ``seq``, where the records of "notes" are ``ids`` (sorted).  It always changes something."""
    rng = random.Random(f"{seed} {seq}")
    if seq == 0:
        return "create", "notes", 2, "l2", "Q16.16"
    fresh = [f"{seq}-{number}" for number in range(rng.randint(1, 3))]
    some = rng.sample(ids, min(len(ids), rng.randint(1, 3)))
    if len(ids) > MOST_RECORDS:
        return "delete", "notes", rng.sample(ids, len(ids) // 2)
    kinds = ("add", "add", "upsert", "update", "delete", "delete_where", "erase", "batch", "batch", "recreate")
    kind = rng.choice(kinds)
    if not ids or kind == "add":
        return "add", "notes", _records(rng, fresh)
    if kind == "upsert":
        return "upsert", "notes", _records(rng, some[:1] + fresh)
    if kind == "update":
        return "update", "notes", [(id, None, {"n": 1, "at": seq}, None) for id in some]
    if kind in ("delete", "erase"):
        return kind, "notes", some
    if kind == "delete_where":  # beside an add, so that there is something to commit
        return "batch", [("add", "notes", _records(rng, fresh)), ("delete_where", "notes", {"n": rng.randrange(5)})]
    if kind == "recreate":
        return "batch", [("create", f"other-{seq}", 1, "ip", "Q8.24"), ("drop", f"other-{seq}")]
    calls: list[Call] = [("add", "notes", _records(rng, fresh)), ("upsert", "notes", _records(rng, some))]
    return "batch", [*calls, ("delete", "notes", [fresh[0]])]


def thread_call(seed: int, thread: int, number: int) -> Call:
    """What a thread's commit ``number`` does: a record of its own, and sometimes the one before it goes."""
    rng = random.Random(f"{seed} {thread} {number}")
    calls: list[Call] = [("add", "notes", _records(rng, [f"{thread}-{number}"]))]
    if number % 3 == 2:
        calls.append(("delete", "notes", [f"{thread}-{number - 1}"]))
    return "batch", calls


def do(db: detmem.Database, call: Call) -> Any:
    """Through the public door."""
    return perform_batch(db, call[1]) if call[0] == "batch" else perform(db, call)


class Model:
    """The twin's roots by seq, as far as anybody has asked.  Threads: the log says who came when."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.memory = TWIN.Memory()
        self.roots = [self._roots()]

    def at(self, seq: int, order: Callable[[int], str] | None) -> tuple[str, str, str]:
        """(state root, log root, link).  ``order`` gives the id that a seq added, for lives with threads."""
        while len(self.roots) <= seq:
            before = self.memory.seq
            if order is None or before == 0:
                ids = sorted(self.memory.state["notes"].records) if before else []
                call = next_call(self.seed, before, ids)
            else:
                thread, number = order(before + 1).split("-")
                call = thread_call(self.seed, int(thread), int(number))
            self.memory.write(call)
            assert self.memory.seq == before + 1, call
            self.roots.append(self._roots())
        return self.roots[seq]

    def _roots(self) -> tuple[str, str, str]:
        return self.memory.state_root().hex(), self.memory.log_root().hex(), self.memory.link.hex()


# --------------------------------------------------------------------------------------------------------------- child


class _Child:
    """Writes until it is killed; every acknowledgement goes down the pipe before the next call begins."""

    def __init__(self, life: Life, rng: random.Random, pipe: int) -> None:
        self._life = life
        self._rng = rng
        self._pipe = pipe

    def run(self) -> None:
        life, rng = self._life, self._rng
        db = life.open()
        self._acknowledge(db.seq, db.state_root)
        for _ in range(_ENOUGH_COMMITS):
            if life.threads and db.seq:
                self._run_threads(db)
                break
            if rng.random() < life.snapshot_rate:
                db.snapshot()
            if rng.random() < 0.04:
                db.close()
                db = life.open()
            ids = db["notes"].get(include=()).ids if db.seq else []
            do(db, next_call(life.seed, db.seq, ids))
            self._acknowledge(db.seq, db.state_root)
        db.close()

    def _run_threads(self, db: detmem.Database) -> None:
        written: Counter[int] = Counter()
        for entry in db.log(2):
            if entry.op == "add":
                written[int(entry.ids[0].split("-")[0])] += 1

        def write(thread: int) -> None:
            try:
                for number in range(written[thread], written[thread] + _ENOUGH_COMMITS // THREADS):
                    commit = do(db, thread_call(self._life.seed, thread, number))
                    self._acknowledge(commit.seq, commit.state_root)
            except BaseException:  # noqa: BLE001 - the parent reads the status, a person the words
                traceback.print_exc()
                os._exit(3)

        threads = [threading.Thread(target=write, args=(thread,)) for thread in range(THREADS)]
        for thread in threads:
            thread.start()
        if self._rng.random() < 0.5:
            db.snapshot()
        for thread in threads:
            thread.join()

    def _acknowledge(self, seq: int, root: str) -> None:
        os.write(self._pipe, _ACK.pack(seq, bytes.fromhex(root)))


# -------------------------------------------------------------------------------------------------------------- parent


class Life:
    """One store in ``folder``; everything about it but the time of the kills is decided by the seed."""

    def __init__(self, seed: int, folder: Path) -> None:
        rng = random.Random(f"life {seed}")
        self.seed = seed
        self.rng = rng
        self.path = str(folder / f"life-{seed}")
        self.policy = rng.choice(POLICIES)
        self.threads = self.policy in ("group:1", "always") and rng.random() < 0.4
        self.segment_bytes = rng.choice(SEGMENT_BYTES)
        self.snapshot_rate = rng.choice((0.0, 0.05, 0.3))
        self.model = Model(seed)
        self.floor = 0  # acknowledged
        self.most = 0  # issued
        self.tally = Tally(lives=1)
        self._said: list[tuple[int, bytes]] = []

    def __str__(self) -> str:
        return f"life {self.seed} ({self.policy}, segments of {self.segment_bytes}{', threads' * self.threads})"

    def open(self, mode: str = "a") -> detmem.Database:
        """As ``detmem.open``, with small segments."""
        if self.segment_bytes == SEGMENT_BYTES[-1]:
            return detmem.open(self.path, mode, durability=self.policy)
        disk = OsDisk(self.path)
        if mode == "a" and not disk.exists():
            disk.make_root()
        return open_disk(disk, write=mode == "a", durability=self.policy, segment_bytes=self.segment_bytes)

    def run(self, rounds: int) -> None:
        """So many kills; ``Broken`` at the first promise that was not kept, and the store is left there."""
        for number in range(rounds):
            try:
                ending = self._round(random.Random(f"{self.seed} round {number}"), number)
            except (Broken, detmem.DetmemError) as error:
                raise Broken(f"{self}, round {number}: {type(error).__name__}: {error}") from error
            self.tally.loops += 1
            self.tally.endings[ending] += 1
        if Path(self.path).exists():  # no child may have come as far
            shutil.rmtree(self.path)

    def begin(self, rng: random.Random) -> tuple[int, int]:
        """A child that writes: its number, and the end of a pipe from which its acknowledgements come."""
        receiver, sender = os.pipe()
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            code = 3
            try:
                os.close(receiver)
                _Child(self, rng, sender).run()
                code = 0
            except BaseException:  # noqa: BLE001 - the parent reads the status, a person the words
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(sender)
        return pid, receiver

    def _round(self, rng: random.Random, number: int) -> str:
        pid, receiver = self.begin(rng)
        data = self._kill(pid, receiver, random.Random(f"{self.seed} kill {number}"))
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status):
            raise Broken(f"the child failed by itself, status {status}; what it said is on stderr")
        ending = self._acknowledged(data, killed=os.WIFSIGNALED(status))
        return f"{ending}, {self._look(rng)}"

    def _kill(self, pid: int, receiver: int, rng: random.Random) -> bytes:
        """Kill at a random time, or a random time behind a random acknowledgement; what had come through the pipe."""
        data = b""
        if rng.random() < 0.5:
            time.sleep(rng.uniform(0, 0.015))
        else:
            wanted = rng.randint(1, 25) * _ACK.size
            while len(data) < wanted:
                ready, _, _ = select.select([receiver], [], [], 60)
                if not ready:
                    os.kill(pid, signal.SIGKILL)
                    raise Broken("the child said nothing for a minute")
                part = os.read(receiver, 1 << 16)
                if not part:
                    break
                data += part
            time.sleep(rng.choice((0, rng.uniform(0, 0.0005), rng.uniform(0, 0.004))))
        os.kill(pid, signal.SIGKILL)  # it is a zombie at worst: nobody else can have its number
        while part := os.read(receiver, 1 << 16):
            data += part
        os.close(receiver)
        return data

    def _acknowledged(self, data: bytes, killed: bool) -> str:
        assert len(data) % _ACK.size == 0, "a pipe's short writes are whole or absent"
        said = [_ACK.unpack_from(data, at) for at in range(0, len(data), _ACK.size)]
        self.tally.acknowledged += max(0, len(said) - 1)
        self._said = said
        if said:
            self.floor = max(self.floor, *(seq for seq, _ in said))
        # Each call that had begun may have reached the log; so may one of each round in which nobody looked.
        self.most = max(self.most, self.floor) + (THREADS if self.threads else 1)
        if not killed:
            return "ended by itself"
        return "killed while opening" if not said else "killed while writing"

    def _look(self, rng: random.Random) -> str:
        """The store keeps its promises; as a reader sees it, and mostly as a writer too."""
        seen = self._read()
        if rng.random() < 0.3:
            return "read only"
        with self.open() as db:  # the lock of the dead is no hindrance
            self.check(db, self.floor)
            if seen is not None and seen > db.seq:
                raise Broken(f"a reader saw seq {seen}, then a writer {db.seq}")
            report = db.verify("replay" if rng.random() < 0.1 else "chain")
            if not report.ok or report.seq != db.seq or report.remaining:
                raise Broken(f"verify: {report}")
            self.floor = self.most = db.seq
            return "opened" if db.recovery is None else "recovered"

    def _read(self) -> int | None:
        try:
            db = self.open("r")
        except (detmem.StoreNotFoundError, detmem.FormatError):  # never begun, or killed while it was being made
            if self.floor:
                raise
            return None
        with db:
            self.check(db, self.floor if self.policy in PROMPT else 0)
            return db.seq

    def check(self, db: detmem.Database, floor: int) -> None:
        """``Broken`` unless ``db`` has at least ``floor`` commits, none that was not issued, and the twin's roots."""
        if not floor <= db.seq <= self.most:
            raise Broken(
                f"acknowledged were {floor} commits, issued at most {self.most}, found {db.seq}: {db.recovery}"
            )
        order = None
        if self.threads:
            added = {entry.seq: entry.ids[0] for entry in db.log(2) if entry.op == "add"}
            order = added.__getitem__
        expected = self.model.at(db.seq, order)
        if (db.state_root, db.log_root, db.head) != expected:
            raise Broken(f"other roots at seq {db.seq} than the twin's")
        for seq, root in self._said:
            if seq <= db.seq and root.hex() != self.model.at(seq, order)[0]:
                raise Broken(f"seq {seq} was acknowledged with another root than the twin's")


def warm() -> None:
    """Import everything that a child may need, so that it is forked and not imported again and again."""
    with detmem.open(":memory:") as db:
        do(db, next_call(0, 0, []))
        do(db, next_call(0, 1, []))


def run(loops: int, seed: int, folder: Path, rounds: int = ROUNDS) -> Tally:
    """So many kills, over as many lives as that needs."""
    total = Tally()
    number = seed
    while total.loops < loops and len(total.failures) < 3:
        life = Life(number, folder)
        try:
            life.run(min(rounds, loops - total.loops))
        except Broken as broken:
            total.failures.append(f"tests.faults.killing.Life({number}, folder).run({rounds}): {broken}")
        total.add(life.tally)
        number += 1
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description="kill writers with SIGKILL and look at what is left")
    parser.add_argument("--loops", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="kills of one store")
    parser.add_argument("--folder", help="where the stores stand (default: a temporary folder)")
    options = parser.parse_args()
    warm()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        tally = run(options.loops, options.seed, Path(folder), options.rounds)
    print(json.dumps({**asdict(tally), "endings": dict(tally.endings)}))
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())
