"""What does one operation cost, next to another commit of this project?

Pairs of child processes, one on this checkout and one on the other's, take turns block by block.  A turn is quiet where
neither side took a tenth more than its best; the figure is the median of the ratios of the quiet turns, over all pairs.
Every call is of one record, under the policy ``os``, so that no disk is waited for.

Where valgrind is installed its callgrind counts instructions as well: what twice as many operations take more, divided
by their number.  That is the same on a busy machine.  A search is counted over few rows, by the reference kernel, for
valgrind does not know every instruction of the others; nor those that hash, which weigh more there than they do.
Usage: single_ops.py OTHER_CHECKOUT [--pairs N] [--turns N] [--no-count] [--large ROWS]; the other is for example made
by ``git worktree add ../before COMMIT``.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from common import ROOT, commit_of, table, write

DIM = 384
SMALL, LARGE, COUNTED = 2_800, 100_000, 400  # rows
BLOCK = 40  # operations of one turn
COUNT = 200  # operations counted, and twice as many
QUIET = 1.1
TEXT = "a short document about something"
LABELS = {"search, small": f"search, {SMALL:,} rows", "search, large": "search, {large:,} rows"}
ONE_THREAD = ("NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")  # that spin would be counted


def main(other: Path, pairs: int, turns: int, count: bool, large: int) -> None:
    sides = (ROOT, other.resolve())
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in WORK}
    for pair in range(pairs):
        with _child(sides[0], large) as ours, _child(sides[1], large) as theirs:
            for name, turn in itertools.product(WORK, range(turns)):
                if (turn + pair) % 2 == 0:
                    own = ours(name)
                    taken[name].append((own, theirs(name)))
                else:
                    peer = theirs(name)
                    taken[name].append((ours(name), peer))
    counts = _counts(sides) if count else {}
    rows = []
    for name, each in taken.items():
        best = [min(times) for times in zip(*each, strict=True)]
        quiet = [turn for turn in each if all(one < QUIET * least for one, least in zip(turn, best, strict=True))]
        quiet = quiet if len(quiet) > 1 else each
        medians = [f"{statistics.median(times):.1f}" for times in zip(*quiet, strict=True)]
        ratios = [peer / own for own, peer in quiet]
        low, high = (f"{point:.3f}" for point in statistics.quantiles(ratios, n=4)[::2])
        row = [
            LABELS.get(name, name).format(large=large),
            *medians,
            f"{statistics.median(ratios):.3f}",
            f"{low}..{high}",
        ]
        if name in counts:
            own, peer = counts[name]
            row += [f"{own:,.0f}", f"{peer:,.0f}", f"{peer / own:.3f}"]
        elif counts:
            row += [""] * 3
        rows.append([*row, f"{len(quiet)} of {len(each)}"])
    columns = ["operation", "this, us", "other, us", "other / this", "middle half"]
    if counts:
        columns += ["this, instructions", "other, instructions", "other / this"]
    body = (
        f"Against commit {commit_of(other)}: records of {DIM} dimensions with a small map and a short text, one a "
        f"call, policy `os`, one thread.  {pairs} pairs of processes, {turns} turns each, the median of {BLOCK} calls "
        f"a turn; a turn is quiet where neither side took more than {QUIET} times its best, and only those count.  "
        f"**Above 1 is faster now.**\n\n{table([*columns, 'quiet turns'], rows)}"
    )
    if counts:
        body += f"\n\nInstructions by callgrind: {2 * COUNT} operations less {COUNT}; searches over {COUNTED} rows."
    write("single_ops", "One operation, before and after", body)


# ------------------------------------------------------------------------------------------------------------ one child


class _Store:
    """What a child works on: collections of several sizes, and a number for each record that was ever made."""

    def __init__(self, folder: str, sizes: dict[str, int]) -> None:
        import detmem

        self.rng = np.random.default_rng(20261129)
        self.db = detmem.open(Path(folder) / "store", durability="os")
        self.of = {name: self._filled(name, count) for name, count in sizes.items()}
        self.vectors = self.rng.standard_normal((256, DIM)).astype(np.float32)
        self.made = self.upserted = self.deleted = self.asked = 0

    def _filled(self, name: str, count: int) -> Any:
        collection = self.db.collection(name, dim=DIM)
        for start in range(0, count, 10_000):
            numbers = range(start, min(count, start + 10_000))
            vectors = self.rng.standard_normal((len(numbers), DIM)).astype(np.float32)
            metadatas = [{"number": number} for number in numbers]
            collection.add(
                [f"r{number}" for number in numbers], vectors, metadatas=metadatas, documents=[TEXT] * len(numbers)
            )
        return collection

    def vector(self) -> Any:
        self.asked += 1
        return self.vectors[self.asked % 256]

    def add(self) -> None:
        self.made += 1
        self.of["written"].add(f"n{self.made}", self.vector(), metadatas={"number": self.made}, documents=TEXT)

    def upsert(self) -> None:
        self.upserted += 1
        number = self.upserted % 100
        self.of["written"].upsert(f"r{number}", self.vector(), metadatas={"number": number}, documents=TEXT)

    def get(self) -> None:
        self.asked += 1
        self.of["small"].get(f"r{self.asked % 400}")

    def delete(self) -> None:
        self.of["deleted"].delete(f"r{self.deleted}")
        self.deleted += 1

    def search_small(self) -> None:
        self.of["small"].search(self.vector(), k=10)

    def search_large(self) -> None:
        self.of["large"].search(self.vector(), k=10)


WORK: dict[str, Callable[[_Store], None]] = {
    "add": _Store.add,
    "upsert": _Store.upsert,
    "get": _Store.get,
    "delete": _Store.delete,
    "search, small": _Store.search_small,
    "search, large": _Store.search_large,
}


def serve(large: int) -> None:
    """Answer each name of an operation on stdin with the median microseconds of a block."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        store = _Store(folder, {"written": 1_000, "deleted": 20_000, "small": SMALL, "large": large})
        for work in WORK.values():
            for _ in range(100):  # the search learns from its first queries
                work(store)
        print("ready", flush=True)
        for line in sys.stdin:
            work, taken = WORK[line.strip()], []
            for _ in range(BLOCK):
                start = time.perf_counter_ns()
                work(store)
                taken.append(time.perf_counter_ns() - start)
            print(statistics.median(taken) / 1000, flush=True)
        store.db.close()


def perform(name: str, count: int) -> None:
    """So many operations and nothing else, for callgrind."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        store = _Store(folder, {"written": COUNTED, "deleted": 2 * COUNT + 8, "small": COUNTED})
        gc.collect()
        gc.freeze()  # a full collection, in one count and not in the other, would be all that is seen
        for _ in range(8 + count):
            WORK[name](store)
        store.db.close()


def _environment(checkout: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(checkout), "PYTHONHASHSEED": "0", **dict.fromkeys(ONE_THREAD, "1")}


@contextmanager
def _child(checkout: Path, large: int) -> Iterator[Callable[[str], float]]:
    command = [sys.executable, __file__, "--serve", "--large", str(large)]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=_environment(checkout), **pipes) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        ready = child.stdout.readline()
        if ready != "ready\n":
            raise RuntimeError(f"{checkout}: expected a child that is ready, found {ready!r}")

        def ask(name: str) -> float:
            child.stdin.write(f"{name}\n")
            child.stdin.flush()
            return float(child.stdout.readline())

        yield ask
        child.stdin.close()


def _counts(sides: tuple[Path, Path]) -> dict[str, tuple[float, float]]:
    """Instructions of one operation, this commit's and the other's; empty without valgrind."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        return {}
    names = [name for name in WORK if name != "search, large"]
    return {name: (_counted(valgrind, sides[0], name), _counted(valgrind, sides[1], name)) for name in names}


def _counted(valgrind: str, checkout: Path, name: str) -> float:
    environment = {**_environment(checkout), "DETMEM_KERNEL": "reference"}
    totals = []
    for count in (COUNT, 2 * COUNT):
        command = [valgrind, "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable, __file__]
        command += ["--perform", name, "--count", str(count)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        totals.append(int(done.stderr.partition("Collected : ")[2].split()[0]))
    return (totals[1] - totals[0]) / COUNT


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("other", nargs="?", type=Path)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--large", type=int, default=LARGE)
    parser.add_argument("--no-count", action="store_true")
    parser.add_argument("--serve", action="store_true", help="be a child")
    parser.add_argument("--perform", help="be a child that is counted")
    parser.add_argument("--count", type=int, default=COUNT)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.large)
    elif arguments.perform:
        perform(arguments.perform, arguments.count)
    elif arguments.other is None:
        sys.stderr.write("single_ops: no other checkout was named, so there is nothing to compare\n")
    else:
        main(arguments.other, arguments.pairs, arguments.turns, not arguments.no_count, arguments.large)
