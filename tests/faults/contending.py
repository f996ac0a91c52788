"""Campaign 9: several openers at the same moment, in processes and threads; the holder closes, ends, or is killed.

A *round* is a few openers let go at once.  One of them writes, and holds the store until all have reported; the others
must hear ``LockedError``, at once.  Then the holder goes, in any way there is, and the next round begins without a
pause: whatever it left behind must not stand in the way.  What the winners were told is counted at the end.

``python -m tests.faults.contending --rounds 50 --seed 1`` is a fresh process whose children cost a fork.  It prints a
tally as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import detmem
from tests.faults.killing import warm
from tests.faults.workloads import Broken

__all__ = ["Tally", "run"]

ROUNDS = 40  # of a store
ENDS = ("close", "exit", "kill", "forked, then killed")
_LINE_BYTES = 200
_WAIT_SECONDS = 60.0


@dataclass
class Tally:
    """``openings`` counts the openers; ``kinds`` the rounds by what they were."""

    rounds: int = 0
    openings: int = 0
    readers: int = 0
    failures: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        self.rounds += other.rounds
        self.openings += other.openings
        self.readers += other.readers
        self.failures += other.failures
        self.kinds += other.kinds


class _Pipe:
    """Lines from children to the parent; or, closed by the parent, a starting gun."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()

    def say(self, text: str) -> None:
        os.write(self.writer, text.replace("\n", " ")[:_LINE_BYTES].ljust(_LINE_BYTES).encode("ascii", "replace"))

    def hear(self) -> str:
        data = b""
        while len(data) < _LINE_BYTES:
            part = os.read(self.reader, _LINE_BYTES - len(data))
            if not part:
                raise Broken("a child ended without a word; what it said is on stderr")
            data += part
        return data.decode("ascii").strip()

    def wait(self) -> None:
        """Until the parent has let go of its end."""
        os.close(self.writer)
        while os.read(self.reader, 1):
            pass

    def close(self) -> None:
        for end in (self.reader, self.writer):
            try:
                os.close(end)
            except OSError:  # that end was let go before
                continue


def _fork(work: Callable[[], None]) -> int:
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 3
    try:
        work()
        code = 0
    except BaseException:  # noqa: BLE001 - the parent hears nothing, and says so; a person reads this
        traceback.print_exc()
    finally:
        os._exit(code)


class Store:
    """One directory, raced for again and again."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.rng = random.Random(f"store {seed}")
        self.seed = seed
        self.path = str(folder / f"store-{seed}")
        self.commits = 0
        self.tally = Tally()

    def run(self, rounds: int, two_processes: bool) -> None:
        """So many rounds; ``Broken`` at the first in which there was not exactly one writer."""
        for number in range(rounds):
            rng = random.Random(f"{self.seed} round {number}")
            kind = "processes" if two_processes else rng.choice(("processes", "processes", "threads", "in turn"))
            try:
                if kind == "processes":
                    self._processes(rng, 2 if two_processes else rng.randint(2, 8), number == 0)
                elif kind == "threads":
                    self._threads(rng.randint(2, 8), number == 0)
                else:
                    self._in_turn(rng.randint(2, 6))
            except (Broken, detmem.DetmemError) as error:
                raise Broken(f"round {number} ({kind}): {type(error).__name__}: {error}") from error
            self.tally.rounds += 1
        with detmem.open(self.path) as db:
            if db.seq != self.commits or not db.verify().ok:
                raise Broken(f"{self.commits} commits were acknowledged, {db.seq} are there: {db.verify()}")
        shutil.rmtree(self.path)

    # -- the three kinds of round

    def _processes(self, rng: random.Random, openers: int, first: bool) -> None:
        """One holds, the others hear that it does; then the holder goes."""
        mode = rng.choice(("a", "x")) if first else rng.choice(("a", "r+"))
        end = rng.choice(ENDS)
        readers = rng.randint(0, openers - 2) if not first else 0
        start, said, done = _Pipe(), _Pipe(), _Pipe()

        def work(number: int) -> None:
            start.wait()
            os.close(done.writer)
            said.say(self._attempt("r" if number < readers else mode, lambda db: self._hold(db, said, done, end)))

        pids = [_fork(lambda number=number: work(number)) for number in range(openers)]
        os.close(start.writer)
        try:
            heard = [said.hear() for _ in range(openers)]
            holders = [int(line.split()[1]) for line in heard if line.startswith("holds")]
            if end in ("kill", "forked, then killed"):
                for pid in holders:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                    pids.remove(pid)
            else:
                os.close(done.writer)
                for pid in holders:
                    os.waitpid(pid, 0)
                    pids.remove(pid)
            self._judge(heard, readers, first)
            if end == "forked, then killed":  # its child lives, and still has what it had open
                detmem.open(self.path, "r+").close()
        finally:
            for pipe in (start, done, said):
                pipe.close()
            for pid in pids:
                os.waitpid(pid, 0)
        self._count(openers, readers, f"{openers} processes, {end}")

    def _threads(self, openers: int, first: bool) -> None:
        """The openers are threads of one process."""
        said = _Pipe()

        def work() -> None:
            barrier, reported = threading.Barrier(openers), threading.Barrier(openers)

            def attempt() -> None:
                barrier.wait(_WAIT_SECONDS)
                line = self._attempt("a", lambda db: self._write(db, reported))
                if not line.startswith("wrote"):
                    reported.wait(_WAIT_SECONDS)
                said.say(line)

            threads = [threading.Thread(target=attempt) for _ in range(openers)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        pid = _fork(work)
        try:
            self._judge([said.hear() for _ in range(openers)], 0, first)
        finally:
            os.waitpid(pid, 0)
            said.close()
        self._count(openers, 0, f"{openers} threads")

    def _in_turn(self, openers: int) -> None:
        """Each waits for the ones before it, writes, and closes."""
        start, said = _Pipe(), _Pipe()

        def work() -> None:
            start.wait()
            with detmem.open(self.path, lock_timeout=_WAIT_SECONDS) as db:
                seq = _commit(db)
            said.say(f"wrote {seq}")

        pids = [_fork(work) for _ in range(openers)]
        os.close(start.writer)
        try:
            heard = sorted(int(said.hear().removeprefix("wrote ")) for _ in range(openers))
        finally:
            for pid in pids:
                os.waitpid(pid, 0)
            for pipe in (start, said):
                pipe.close()
        made = 1 if self.commits == 0 else 0  # the collection
        expected = list(range(self.commits + 1 + made, self.commits + 1 + made + openers))
        if heard != expected:
            raise Broken(f"expected the seqs {expected}, each once, found {heard}")
        self.commits = heard[-1]
        self._count(openers, 0, f"{openers} in turn")

    # -- one opener

    def _attempt(self, mode: str, with_it: Callable[[detmem.Database], str]) -> str:
        """Open once; what came of it."""
        try:
            db = detmem.open(self.path, mode)
        except detmem.LockedError as error:
            return f"locked {error}"
        except detmem.StoreExistsError:
            return "exists"
        except detmem.DetmemError as error:
            return f"failed {type(error).__name__}: {error}"
        if mode == "r":
            with db:
                return f"read {db.seq}"
        return with_it(db)

    def _hold(self, db: detmem.Database, said: _Pipe, done: _Pipe, end: str) -> str:
        """Write, say so, and keep the store until all have reported; never returns."""
        seq = _commit(db)
        if end == "forked, then killed":
            born = _Pipe()
            if os.fork() == 0:  # lives on, with a copy of all that was open, until the parent is done
                try:
                    db["notes"].upsert("child", raw=[0, 0])
                    said.say("failed: a forked child wrote")
                except detmem.StorePoisoned:
                    born.say("born")
                    while os.read(done.reader, 1):
                        pass
                os._exit(0)
            born.hear()  # a child shares the lock until it has run its first instructions
        said.say(f"holds {os.getpid()} {seq}")
        while os.read(done.reader, 1):
            pass
        if end == "close":
            db.close()
        os._exit(0)

    def _write(self, db: detmem.Database, reported: threading.Barrier) -> str:
        """The threads' holder: the others have failed before it closes."""
        with db:
            seq = _commit(db)
            reported.wait(_WAIT_SECONDS)
        return f"wrote {seq}"

    # -- the verdict

    def _judge(self, heard: list[str], readers: int, first: bool) -> None:
        winners = [line for line in heard if line.startswith(("holds", "wrote"))]
        locked = [line for line in heard if line.startswith("locked") or (first and line == "exists")]
        seen = [int(line.split()[1]) for line in heard if line.startswith("read")]
        if len(winners) != 1 or len(locked) != len(heard) - 1 - readers or len(seen) != readers:
            raise Broken(f"expected one writer, {readers} readers and nobody else, found {heard}")
        seq = int(winners[0].split()[-1])
        if seq != self.commits + (2 if self.commits == 0 else 1):  # the first makes the collection as well
            raise Broken(f"{self.commits} commits were acknowledged before, and the next one is seq {seq}")
        if any(not self.commits <= one <= seq for one in seen):
            raise Broken(f"readers saw {seen} between seq {self.commits} and {seq}")
        self.commits = seq

    def _count(self, openers: int, readers: int, kind: str) -> None:
        self.tally.openings += openers
        self.tally.readers += readers
        self.tally.kinds[kind] += 1


def _commit(db: detmem.Database) -> int:
    commit = db.collection("notes", dim=2, metric="l2").add(f"n{db.seq}", raw=[db.seq, 1])
    assert commit is not None
    return commit.seq


def run(rounds: int, seed: int, folder: Path, two_processes: bool = False, rounds_each: int = ROUNDS) -> Tally:
    """So many rounds, over as many stores as that needs."""
    total, number = Tally(), seed
    while total.rounds < rounds and len(total.failures) < 3:
        store = Store(number, folder)
        try:
            store.run(min(rounds_each, rounds - total.rounds), two_processes)
        except Broken as broken:
            words = f"tests.faults.contending.Store({number}, folder).run({rounds_each}, {two_processes})"
            total.failures.append(f"{words}: {broken}")
        total.add(store.tally)
        number += 1
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description="open the same store from several processes and threads at once")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--rounds-each", type=int, default=ROUNDS, help="rounds of one store")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--two-processes", action="store_true", help="nothing but pairs of processes")
    options = parser.parse_args()
    warm()
    with tempfile.TemporaryDirectory() as folder:
        tally = run(options.rounds, options.seed, Path(folder), options.two_processes, options.rounds_each)
    print(json.dumps({**asdict(tally), "kinds": dict(tally.kinds)}))
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())
