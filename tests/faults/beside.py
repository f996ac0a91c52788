"""Campaign 16: readers beside a writer of another process, on a real disk.

A *round* is one store.  A child writes as in campaign 8, and is left alone; until it has ended the parent follows it,
opens the store, verifies it and makes backups.  None of that may be refused, see less than was seen before, or see
other roots than the twin's.

``python -m tests.faults.beside --rounds 10 --seed 1`` is a fresh process, as for campaign 8; it prints a tally as JSON.
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
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import detmem
from tests.faults.killing import Life, warm
from tests.faults.workloads import Broken

__all__ = ["Tally", "Watched", "run"]

_LOOKS = ("followed",) * 12 + ("opened",) * 6 + ("verified",) * 3 + ("backed up",)
_NO_LIMIT = 1 << 62


@dataclass
class Tally:
    """What was seen; ``looks`` counts them by kind."""

    rounds: int = 0
    commits: int = 0
    failures: list[str] = field(default_factory=list)
    looks: Counter[str] = field(default_factory=Counter)


class Watched:
    """One store, written by a child and watched by the parent."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.life = Life(seed, folder)
        self.life.most = _NO_LIMIT
        self.rng = random.Random(f"beside {seed}")
        self.looks: Counter[str] = Counter()
        self._reader: detmem.Database | None = None
        self._copy = folder / f"copy-{seed}"

    def run(self) -> int:
        """Watch until the child has ended: how many commits there are.  ``Broken`` at the first thing that is wrong."""
        pid, receiver = self.life.begin(self.rng)
        status = None
        try:
            while status is None:
                self._look()
                ended, how = os.waitpid(pid, os.WNOHANG)
                status = how if ended else None
        finally:
            if status is None:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            os.close(receiver)
            if self._reader is not None:
                self._reader.close()
        if status:
            raise Broken(f"the child failed by itself, status {status}; what it said is on stderr")
        with self.life.open("r") as db:
            self.life.check(db, self.life.floor)
            commits = db.seq
        shutil.rmtree(self.life.path)
        return commits

    def _look(self) -> None:
        kind = self.rng.choice(_LOOKS)
        try:
            if self._reader is None:
                self._reader = self.life.open("r")
            getattr(self, f"_{kind.replace(' ', '_')}")(self._reader)
        except (detmem.StoreNotFoundError, detmem.FormatError):  # the child has yet to make it
            if self.life.floor:
                raise
        except detmem.DetmemError as error:
            raise Broken(f"{kind}: {type(error).__name__}: {error}") from error
        else:
            self.looks[kind] += 1

    def _followed(self, reader: detmem.Database) -> None:
        before = reader.seq
        reader.refresh()
        self._seen(reader, before)

    def _opened(self, reader: detmem.Database) -> None:
        with self.life.open("r") as db:
            self._seen(db, self.life.floor)

    def _verified(self, reader: detmem.Database) -> None:
        report = detmem.verify(self.life.path, level=self.rng.choice(("chain", "replay")))
        if not report.ok or report.seq < self.life.floor:
            raise Broken(f"verified behind seq {self.life.floor}: {report}")

    def _backed_up(self, reader: detmem.Database) -> None:
        try:
            checkpoint = reader.backup(self._copy)
        except detmem.LockedError:  # the child erased during each of its copyings
            shutil.rmtree(self._copy)
            return
        with detmem.open(self._copy, "r", expect=checkpoint) as db:
            self._seen(db, reader.seq)
        shutil.rmtree(self._copy)

    def _seen(self, db: detmem.Database, floor: int) -> None:
        self.life.check(db, floor)
        self.life.floor = max(self.life.floor, db.seq)


def run(rounds: int, seed: int, folder: Path) -> Tally:
    """So many stores."""
    tally = Tally()
    for number in range(seed, seed + rounds):
        watched = Watched(number, folder)
        try:
            tally.commits += watched.run()
        except (Broken, detmem.DetmemError) as error:
            words = f"tests.faults.beside.Watched({number}, folder).run(): {watched.life}"
            tally.failures.append(f"{words}: {type(error).__name__}: {error}")
            if len(tally.failures) == 3:
                break
        tally.rounds += 1
        tally.looks += watched.looks
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description="read a store while another process writes it")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    warm()
    with tempfile.TemporaryDirectory() as folder:
        tally = run(options.rounds, options.seed, Path(folder))
    print(json.dumps({**asdict(tally), "looks": dict(tally.looks)}))
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())
