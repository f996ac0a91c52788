"""What does it cost to ask the past?

A search of a moment that is still in memory runs under a mask, in turns with the same search of the present. A moment
that memory has let go of is folded anew from the log, beside opening the store, which does the same for its end. And
what links, `expand` and a repeated request take.

Usage: past.py [--quick] [--rounds 15] [--count 100000]
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from common import Paired, Side, contest, table
from data import clustered, noise
from engines import WARMING, arguments, report, store, use_threads

import detmem

COLUMNS = ("what", "ms", "against", "times as long", "rounds")


def main() -> None:
    options = arguments(__doc__, lambda parser: parser.add_argument("--count", type=int, default=100_000))
    data = noise(2000, 32) if options.quick else clustered(options.count, 64)
    said = __doc__.split("\n\n")
    with ExitStack() as stack:
        path = stack.enter_context(store(data))
        db = stack.enter_context(detmem.open(path, "r+", durability="os"))
        body = measured(db, path, data, options)
    place = f"{len(data.rows):,} x {data.rows.shape[1]}, 1,000 upserts and 1,000 links behind them; {data.note}."
    report("past", "The past, links, requests", "\n\n".join([said[1], place, body]))


def measured(db: Any, path: Any, data: Any, options: Any) -> str:
    (name,), bulk = db.collections(), db.seq
    c = db[name]
    ids = list(c)
    for number in range(1000):
        c.upsert(ids[number], data.rows[number + 1])
    then = db.seq - 500
    for number in range(1000):
        c.link(ids[number], "next", ids[number + 1])
    c.add("again", data.rows[0], request_id="request")
    for query in data.rows[:WARMING]:
        c.search(query, 10)
    past = db.at(then)[name]
    past.search(data.rows[0], 10)
    queries = data.queries

    def turns(pairs: dict[str, tuple[Callable[[int], Any], str | None]], rounds: int) -> list[list[object]]:
        sides = [Side(what, call, lambda: use_threads(1)) for what, (call, _) in pairs.items()]
        taken = contest(sides, rounds=rounds, warmup=1)
        rows: list[list[object]] = []
        for what, (_, other) in pairs.items():
            line: list[object] = [what, f"{taken[what].median_seconds * 1e3:.3f}"]
            if other is None:
                rows.append([*line, "", "", ""])
                continue
            pair = Paired(taken[other], taken[what])
            rows.append([*line, other, f"{pair.ratio:.2f}", f"{min(pair.ratios):.2f}..{max(pair.ratios):.2f}"])
        return rows

    rows = turns(
        {
            "search of the present": (lambda i: c.search(queries[i % 40], 10), None),
            "search of a moment, held": (lambda i: past.search(queries[i % 40], 10), "search of the present"),
            "`at(seq)` and a search of it": (
                lambda i: db.at(then)[name].search(queries[i % 40], 10),
                "search of the present",
            ),
            "search with `expand`": (lambda i: c.search(queries[i % 40], 10, expand="next"), "search of the present"),
            "`get` of one id": (lambda i: c.get(ids[i]), None),
            "`neighbors` of one id": (lambda i: c.neighbors(ids[i]), "`get` of one id"),
            "a repeated request": (lambda i: c.add("again", data.rows[0], request_id="request"), "`get` of one id"),
            "`at(seq).state_root`": (lambda i: db.at(then).state_root, None),
        },
        options.rounds,
    )
    db.close()

    def folded(index: int) -> int:
        with detmem.open(path, "r") as one:
            return len(one.at(max(1, bulk - 1 - index))[name])

    def only_opened(index: int) -> int:
        with detmem.open(path, "r") as one:
            return len(one[name])

    rows += turns(
        {"open": (only_opened, None), "open, and fold a moment before the snapshot": (folded, "open")},
        3 if options.quick else 5,
    )
    return table(COLUMNS, rows)


if __name__ == "__main__":
    main()
