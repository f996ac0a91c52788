"""How many bytes does a stored component take in memory, all planes included, and how many in FAISS?

A fresh process opens the store (from its snapshot), answers 96 questions, and reads its resident size from the
operating system; the same with 16 dimensions gives what the records themselves cost (ids, trees, tables), and
the difference is the vectors' share.  Sentence vectors have a front plane, noise has none.  FAISS is filled from a
mapped file in blocks, in a fresh process too.

Usage: search_memory.py [--quick] [--count 100000].  Linux, where a process can read its resident size.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from common import ROOT, table
from data import MissingError, Set, cache, noise, real
from engines import WARMING, arguments, report, store

__all__ = ["bytes_per_component", "measure"]

FEW = 16
COLUMNS = (
    "set",
    "engine",
    "bytes a component",
    "bytes a record besides",
    "peak while opening and asking, MB",
    "float32 rows, MB",
)

_CHILD = """
import gc, sys
import numpy as np

def resident(name):
    for line in open("/proc/self/status"):
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024

path, rows, asked = sys.argv[1:4]
queries = np.random.default_rng(5).standard_normal((int(asked), np.load(rows, mmap_mode="r").shape[1]))
queries = queries.astype(np.float32)
if sys.argv[4] == "detmem":
    import detmem
    # In the floor: what is there before the first vector.  A compiler is, where the rows are enough to load one.
    with detmem.open(":memory:") as small:
        dim = 64
        count = 20_000 if len(sys.argv) > 5 else 100
        warming = small.collection("w", dim=dim)
        warming.add([str(number) for number in range(count)], np.random.default_rng(6).standard_normal((count, dim)))
        warming.search(np.ones(dim))
    del small, warming
    gc.collect()
    floor = resident("VmRSS")
    db = detmem.open(path, "r")
    collection = db["rows"]
    for query in queries:
        collection.search(query, 10)
else:
    import faiss
    source = np.load(rows, mmap_mode="r")
    floor = resident("VmRSS")
    index = faiss.IndexFlatIP(source.shape[1])
    dim = source.shape[1]
    step = 1_000_000 // dim
    for start in range(0, len(source), step):
        # Read, not mapped: pages of the file would count as ours.
        block = np.fromfile(rows, dtype=np.float32, count=source[start : start + step].size,
                            offset=source.offset + 4 * start * dim)
        index.add(block.reshape(-1, dim))
    del block
    for query in queries:
        index.search(query[None], 10)
gc.collect()
print(resident("VmRSS") - floor, resident("VmHWM") - floor)
"""


def measure(data: Set, engine: str) -> tuple[int, int]:
    """(bytes resident after the questions, bytes at the peak), both above those of the bare library."""
    with store(data) as path:
        rows = cache() / f"memory-{os.getpid()}.npy"
        try:
            np.save(rows, data.rows)
            call = [sys.executable, "-c", _CHILD, str(path), str(rows), str(WARMING), engine]
            if data.rows.size > 1 << 20:
                call.append("compiled")
            done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
        finally:
            rows.unlink(missing_ok=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-300:])
    stays, peak = map(int, done.stdout.split())
    return stays, peak


def bytes_per_component(data: Set, engine: str) -> tuple[float, float, int]:
    """(bytes a component, bytes a record besides its vector, peak)."""
    count, dim = data.rows.shape
    slim_data = replace(data, rows=np.ascontiguousarray(data.rows[:, :FEW]))
    (whole, peak), (slim, _) = (measure(each, engine) for each in (data, slim_data))
    component = (whole - slim) / (count * (dim - FEW))
    return component, slim / count - component * FEW, peak


def main() -> None:
    options = arguments(__doc__, _add)
    count, dim = (2000, 64) if options.quick else (options.count, 384)
    if not Path("/proc/self/status").is_file():
        report("search_memory", "Memory", "**Not measured:** this system does not show a process its resident size.")
        return
    rows: list[list[object]] = []
    engines = [("detmem", "detmem")] + ([] if options.quick else [("faiss", "FAISS Flat IP")])
    sets = [("noise", lambda: noise(count, dim))]
    sets += [] if options.quick else [("sentence vectors", lambda: real()["wordnet"]().first(count))]
    for (kind, make), (engine, name) in itertools.product(sets, engines):
        try:
            component, record, peak = bytes_per_component(make(), engine)
        except (MissingError, RuntimeError) as error:
            rows.append([kind, name, "**absent**", str(error).splitlines()[-1], "", ""])
            continue
        rows.append([kind, name, f"{component:.2f}", f"{record:.0f}", f"{peak / 1e6:.0f}", f"{4e-6 * count * dim:.0f}"])
    said = __doc__.split("\n\n")[1]
    body = f"{count:,} x {dim}, no metadata, no documents.\n\n{said}\n\n{table(COLUMNS, rows)}"
    report("search_memory", "Memory for a component", body)


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", type=int, default=100_000)


if __name__ == "__main__":
    main()
