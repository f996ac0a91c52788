"""What does a `where` cost that 1 %, 10 % or 50 % of the records match?

detmem evaluates the filter in every call, over columns that follow the records. FAISS and NumPy know no metadata: they
are handed the answer of the filter, made outside the clock (a bitmap; the matching rows copied together), the least
that an application around them would have to do. So their columns are a floor, not a like-for-like.

The filter alone is `count(where)`, beside a list comprehension over the same metadata as Python dicts.

Usage: search_filtered.py [--quick] [--rounds 15] [--count 1000000] [--cpu-time]; --cpu-time counts the seconds of this
process alone, for a machine that others use meanwhile.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from common import Paired, Side, contest, table, timed
from data import Floats, MissingError, Set, clustered, noise, real
from engines import WARMING, arguments, faiss_module, opened, report, store, use_threads

COLUMNS = ("matching", "engine", "ms", "time / detmem's", "rounds")
SHARES = (1, 10, 50)
KINDS = ("episodic", "procedural", "semantic")
Metadata = Mapping[str, Any]
# name, the filter, and the same as Python
ALONE: tuple[tuple[str, Metadata, Callable[[Metadata], bool]], ...] = (
    ("int `$lt`, 1 %", {"day": {"$lt": 1}}, lambda row: row["day"] < 1),
    ("float `$gte`, 1 %", {"weight": {"$gte": 0.99}}, lambda row: row["weight"] >= 0.99),
    ("str `$eq`, a third", {"kind": "semantic"}, lambda row: row["kind"] == "semantic"),
    ("str `$gte`, each another, 1 %", {"at": {"$gte": "0990000"}}, lambda row: row["at"] >= "0990000"),
    ("list `$contains`, 4 %", {"tags": {"$contains": "7"}}, lambda row: "7" in row["tags"]),
    (
        "`$or` of two, `$and` of two",
        {"$or": [{"day": 5}, {"kind": "episodic", "weight": {"$lt": 0.5}}]},
        lambda row: row["day"] == 5 or (row["kind"] == "episodic" and row["weight"] < 0.5),
    ),
)


def main() -> None:
    options = arguments(__doc__, _arguments)
    said = __doc__.split("\n\n")
    parts = [said[1]]
    if options.cpu_time:
        parts.append("Times are CPU time of the process: the machine was shared with other work.")
    if options.quick:
        sets: list[Callable[[], Set]] = [lambda: noise(2000, 32)]
    else:
        sets = [real()["wordnet"], lambda: clustered(options.count, 64)]
    for make in sets:
        try:
            data = make()
        except MissingError as reason:
            parts.append(f"**Missing:** {reason}")
            continue
        parts.append(f"{len(data.rows):,} x {data.rows.shape[1]}, one query, k = 10, one thread; {data.note}.")
        parts += _measured(data, options, said[2])
    report("search_filtered", "Filtered search", "\n\n".join(parts))


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", type=int, default=1_000_000, help="rows of the made set")
    parser.add_argument("--cpu-time", action="store_true", help="count CPU time: the machine is shared")


def _clock(options: Any) -> Callable[[], int]:
    return time.process_time_ns if options.cpu_time else time.perf_counter_ns


def _measured(data: Set, options: Any, said: str) -> list[str]:
    """The tables of one set."""
    random = np.random.default_rng(3)
    buckets = random.integers(0, 100, len(data.rows))
    metadatas = [
        {
            "bucket": bucket,
            "day": bucket,
            "weight": weight,
            "kind": KINDS[bucket % 3],
            "at": f"{number * 1_000_000 // len(buckets):07}.{number}",
            "tags": [str(bucket % 25), str(bucket % 7 + 100)],
        }
        for number, (bucket, weight) in enumerate(zip(buckets.tolist(), random.random(len(buckets)), strict=True))
    ]
    with ExitStack() as stack:
        path = stack.enter_context(store(data, metadatas=metadatas))
        collection = stack.enter_context(opened(path))
        for query in data.rows[:WARMING]:
            collection.search(query, 10)
        searched = _searches(stack, data, collection, buckets, options)
        return [searched, said, _alone(collection, metadatas, options)]


def _searches(stack: ExitStack, data: Set, collection: Any, buckets: np.ndarray, options: Any) -> str:
    rows: list[list[object]] = []
    asks: dict[str, Callable[[Floats], Any]] = {"all detmem": lambda query: collection.search(query, 10)}
    absent: dict[str, str] = {}
    for share in SHARES:
        chosen = np.flatnonzero(buckets < share)
        where = {"bucket": {"$lt": share}}
        asks[f"{share} % detmem"] = lambda query, where=where: collection.search(query, 10, where=where)
        asks[f"{share} % NumPy, rows ready"] = _numpy(data, chosen)
        if not options.quick:
            try:
                asks[f"{share} % FAISS, bitmap ready"] = _faiss(stack, data, chosen)
            except ImportError as reason:
                absent["FAISS"] = str(reason)
        _check(data, collection, where, chosen)
    sides = [
        Side(name, lambda index, ask=ask: ask(data.queries[index % 40]), lambda: use_threads(1))
        for name, ask in asks.items()
    ]
    taken = contest(sides, rounds=options.rounds, warmup=2, clock=_clock(options))
    rows.append(["all", "detmem, no filter", f"{taken['all detmem'].median_seconds * 1e3:.3f}", "", ""])
    for share in SHARES:
        own = taken[f"{share} % detmem"]
        rows.append([f"{share} %", "detmem", f"{own.median_seconds * 1e3:.3f}", "1", ""])
        others = {name: timing for name, timing in taken.items() if name.startswith(f"{share} % ")}
        for name, timing in {**others, f"{share} % detmem": taken["all detmem"]}.items():
            pair = Paired(own, timing)
            engine = name.partition(" % ")[2] if timing is not taken["all detmem"] else "detmem, no filter"
            figures = f"{timing.median_seconds * 1e3:.3f}", f"{pair.ratio:.2f}"
            rows.append([f"{share} %", engine, *figures, f"{min(pair.ratios):.2f}..{max(pair.ratios):.2f}"])
    rows += [["", name, "**absent**", reason, ""] for name, reason in absent.items()]
    return table(COLUMNS, rows)


def _alone(collection: Any, metadatas: Sequence[Metadata], options: Any) -> str:
    rows: list[list[object]] = []
    for name, where, test in ALONE:
        first = timed(name, lambda where=where: collection.count(where), rounds=1, warmup=0, clock=_clock(options))
        assert collection.count(where) == sum([test(row) for row in metadatas]), f"{name}: another number matches"
        for _ in range(20):  # what is compared often is put in order
            collection.count(where)
        sides = [
            Side("columns", lambda _, where=where: collection.count(where)),
            Side("dicts", lambda _, test=test: sum([test(row) for row in metadatas])),
        ]
        taken = contest(sides, rounds=options.rounds, warmup=1, clock=_clock(options))
        pair = Paired(taken["columns"], taken["dicts"])
        figures = [f"{one.median_seconds * 1e3:.3f}" for one in (first, taken["columns"], taken["dicts"])]
        rows.append([name, *figures, f"{pair.ratio:.0f}", f"{min(pair.ratios):.0f}..{max(pair.ratios):.0f}"])
    columns = ("filter", "the first time, ms", "columns, ms", "over dicts, ms", "time / detmem's", "rounds")
    return table(columns, rows)


def _numpy(data: Set, chosen: np.ndarray) -> Callable[[Floats], Any]:
    rows = data.peer_rows[chosen]

    def ask(query: Floats) -> Any:
        scores = -(rows @ query)
        nearest = np.argpartition(scores, 9)[:10]
        return chosen[nearest[np.argsort(scores[nearest])]]

    return ask


def _faiss(stack: ExitStack, data: Set, chosen: np.ndarray) -> Callable[[Floats], Any]:
    faiss = faiss_module()
    made: dict[str, Any] = stack.__dict__.setdefault("made", {})
    if "faiss" not in made:
        made["faiss"] = faiss.IndexFlatIP(data.rows.shape[1])
        made["faiss"].add(data.peer_rows)
    bits = np.zeros(len(data.rows), dtype=bool)
    bits[chosen] = True
    packed = np.packbits(bits, bitorder="little")
    selector = faiss.IDSelectorBitmap(len(data.rows), faiss.swig_ptr(packed))
    parameters = faiss.SearchParameters(sel=selector)
    made[f"selector {len(chosen)}"] = (packed, selector)  # FAISS does not keep them alive
    return lambda query: made["faiss"].search(query[None], 10, params=parameters)[1][0]


def _check(data: Set, collection: Any, where: dict[str, Any], chosen: np.ndarray) -> None:
    """The filtered answer is the best of the matching rows, up to the rounding of the stored vectors."""
    ask = _numpy(data, chosen)
    for query in data.queries[:5]:
        found = [int(id) for id in collection.search(query, 10, where=where).ids]
        assert set(found) <= set(chosen.tolist()), "a record that does not match is in the answer"
        ours, theirs = (np.sort(data.peer_rows[ids] @ query) for ids in (found, ask(query)))
        assert np.abs(ours - theirs).max() < 2e-4, "the filtered answer is not the nearest of the matching rows"


if __name__ == "__main__":
    main()
