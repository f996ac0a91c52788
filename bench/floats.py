"""Does float32 search answer alike under another BLAS kernel, thread count or batch size?  Does detmem?

The reader's own machine is made into others by environment variables, one process each: the same vectors are searched
by a matrix product in float32, and by detmem.  Scores are compared bit by bit, answers by order and by members.

Two sets, both of the sample that ships with the package.  *Once*: 1,000 glosses, each embedded once.  *Often*: each
embedded twelve times, as by an encoder whose batches differ in size, which moves float32 components in their last
places; the memory of an agent that notes the same thing again looks so.  Here they are moved by up to 4 units of 2^-26,
drawn by SHAKE-256.

Usage: floats.py [--quick] [--results DIR]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from common import picture, results_to, table, write
from numpy.typing import NDArray

import detmem

SAMPLE = Path(detmem.__file__).with_name("data") / "wordnet-sample.npz"
COPIES, QUERIES, K = 12, 200, 10
ROWS = 11_987  # not round: where a product is cut into parts for threads, its last columns are summed otherwise
ONE = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}


class Setting(NamedTuple):
    """A machine to be, queries asked at once (0: all), and the setting to compare with."""

    name: str
    environment: dict[str, str]
    batch: int = 0
    base: str = "as it is"


SETTINGS = [
    Setting("as it is", {}),
    Setting("one query at a time", {}, batch=1),
    Setting("1 thread", ONE),
    Setting("BLAS for SkylakeX", {"OPENBLAS_CORETYPE": "SkylakeX"}),
    Setting("BLAS for Haswell", {"OPENBLAS_CORETYPE": "Haswell"}),
    Setting("... and 1 thread", {"OPENBLAS_CORETYPE": "Haswell", **ONE}, base="BLAS for Haswell"),
    Setting("BLAS for Nehalem", {"OPENBLAS_CORETYPE": "Nehalem"}),
    Setting("BLAS for Prescott", {"OPENBLAS_CORETYPE": "Prescott"}),
    Setting("... and 33 queries at a time", {"OPENBLAS_CORETYPE": "Prescott"}, batch=33, base="BLAS for Prescott"),
]


# --------------------------------------------------------------------------------------------------------- the searches


def vectors(often: bool, quick: bool) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(rows, queries), float32."""
    with np.load(SAMPLE, allow_pickle=False) as sample:
        rows, asked = sample["vectors"], sample["query_vectors"]
    queries = np.concatenate([asked, rows[:: len(rows) // (QUERIES - len(asked))]])[: 40 if quick else QUERIES]
    if quick:
        rows = rows[:100]
    if often:
        rows = np.repeat(rows, COPIES, axis=0)[:ROWS]
        drawn = np.frombuffer(hashlib.shake_256(b"detmem floats").digest(rows.size), dtype=np.uint8)
        moved = (drawn.astype(np.int64) % 9 - 4).reshape(rows.shape) * 2.0**-26
        rows = (rows.astype(np.float64) + moved).astype(np.float32)
    return rows, queries


def top(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """The first K rows of each query (q, n), by (score, number of the row): as careful as floats allow."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :K]


def by_floats(rows: NDArray[np.float32], queries: NDArray[np.float32], batch: int) -> NDArray[np.float32]:
    """Scores (q, n): a matrix product, or one of a matrix and a vector, as libraries do it."""
    if batch == 1:
        return np.stack([rows @ query for query in queries])
    parts = [queries[start : start + batch] @ rows.T for start in range(0, len(queries), batch)]
    return np.concatenate(parts)


def by_detmem(rows: NDArray[np.float32], queries: NDArray[np.float32], batch: int) -> str:
    """SHA-256 over the ids and the exact raw distances of all answers."""
    digest = hashlib.sha256()
    with detmem.open(":memory:") as db:
        c = db.collection("floats", dim=rows.shape[1], metric="ip")
        c.add([f"{number:06d}" for number in range(len(rows))], rows)
        for start in range(0, len(queries), batch):
            for one in c.search(queries[start : start + batch], k=K, include=()):
                digest.update(json.dumps([one.ids, one.raw.tolist()]).encode())
    return digest.hexdigest()


def child(out: str, often: bool, quick: bool, batch: int) -> None:
    rows, queries = vectors(often, quick)
    scores = by_floats(rows, queries, batch or len(queries))
    np.savez(out, scores=scores, answer=np.array(by_detmem(rows, queries, batch or len(queries))))


# ------------------------------------------------------------------------------------------------------- the comparison


@dataclass
class Row:
    """One setting against another: shares of scores, and counts of queries, that differ; None where it cannot run."""

    name: str
    scores: float | None = None
    order: int = 0
    members: int = 0
    answer: str = ""
    example: str = ""


def processes(often: bool, quick: bool, folder: Path) -> list[Row]:
    """Every setting in a process of its own."""
    rows: list[Row] = []
    scores: dict[str, NDArray[np.float32]] = {}
    for number, setting in enumerate(SETTINGS[: 4 if quick else None]):
        name = setting.name
        out = folder / f"{often}-{number}.npz"
        command = [sys.executable, __file__, "--child", str(out), "--batch", str(setting.batch)]
        command += ["--often"] * often + ["--quick"] * quick
        done = subprocess.run(
            command, env={**os.environ, **setting.environment}, capture_output=True, text=True, check=False
        )
        if done.returncode:  # a kernel that this CPU cannot run dies of SIGILL
            rows.append(Row(name, example=f"does not run here: exit status {done.returncode}"))
            continue
        with np.load(out, allow_pickle=False) as found:
            scores[name], answer = found["scores"], str(found["answer"])
        if setting.base in scores:
            rows.append(compared(name, scores[setting.base], scores[name], answer))
    return rows


def compared(name: str, base: NDArray[np.float32], scores: NDArray[np.float32], answer: str) -> Row:
    ours, theirs = top(base), top(scores)
    order = np.flatnonzero((ours != theirs).any(axis=1))
    members = [query for query in order.tolist() if set(ours[query].tolist()) != set(theirs[query].tolist())]
    row = Row(name, float((base != scores).mean()), len(order), len(members), answer)
    if len(order):
        query = (members or order.tolist())[0]
        place = int(np.flatnonzero(ours[query] != theirs[query])[0])
        first, other = int(ours[query, place]), int(theirs[query, place])
        row.example = (
            f"query {query}, place {place + 1}: row {first} (bits {bits(base[query, first])}) before row {other} "
            f"({bits(base[query, other])}); under *{name}* row {other} stands there: "
            f"{bits(scores[query, first])} and {bits(scores[query, other])}"
        )
    return row


def bits(score: np.float32) -> str:
    return f"{int(np.array(score, dtype=np.float32).view(np.uint32)):08x}"


# --------------------------------------------------------------------------------------------------------------- words


def section(title: str, count: int, queries: int, rows: list[Row]) -> str:
    cells: list[list[object]] = []
    for row in rows:
        if row.scores is None:
            cells.append([row.name, f"**{row.example}**", "", "", ""])
            continue
        changed = (f"{100 * row.scores:.1f} %", f"{row.order} / {queries}", f"{row.members} / {queries}")
        cells.append(
            [row.name, *(changed if row is not rows[0] else ("(the others against this)", "", "")), row.answer[:16]]
        )
    answers = {row.answer for row in rows if row.answer}
    examples = [row.example for row in rows if row.example and row.scores is not None][:3]
    shown = "\n".join(f"- {example}" for example in examples) or "- none: every order is the same"
    columns = (
        "setting",
        "float32 scores that differ",
        "another order",
        "another top 10",
        "detmem: SHA-256 of its answers",
    )
    verdict = (
        "**detmem: one answer in every row.**" if len(answers) == 1 else f"**detmem DIFFERS: {len(answers)} answers.**"
    )
    head = f"## {title}: {count:,} rows, {queries} queries, k = {K}"
    return f"{head}\n\n{table(columns, cells)}\n\n{verdict} For example:\n\n{shown}"


def plot(once: list[Row], often: list[Row], queries: int) -> str:
    """Left the scores that differ, right the answers that come in another order: float32 against detmem."""
    try:
        import matplotlib
    except ImportError:
        return "No picture: matplotlib is absent."
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "detmem"
    from matplotlib import pyplot

    names = [row.name for row in often[1:] if row.scores is not None][::-1]
    figure, axes = pyplot.subplots(1, 2, figsize=(9.6, 0.5 * len(names) + 1.6), sharey=True)
    scores = {row.name: 100 * row.scores for row in once if row.scores is not None}
    orders = {row.name: 100 * row.order / queries for row in often}
    same = len({row.answer for row in [*once, *often] if row.answer}) == 2  # one answer a set
    titles = (
        "scores with other bits, %\n(1,000 sentence vectors)",
        "top 10 in another order, % of queries\n(each stored 12 times)",
    )
    places = np.arange(len(names))
    for axis, values, title in zip(axes, (scores, orders), titles, strict=True):
        shares = [values.get(name, 0.0) for name in names]
        axis.barh(places + 0.19, shares, 0.34, color="#c8553d", label="float32, matrix product")
        axis.barh(places - 0.19, [0.0 if same else 100.0] * len(names), 0.34, color="#2a6f97", label="detmem")
        for place, share in zip(places, shares, strict=True):
            axis.text(share + 1, place + 0.19, f"{share:.3g}", va="center", fontsize=9)
            axis.text(1, place - 0.19, "0" if same else "differs", va="center", fontsize=9, color="#2a6f97")
        axis.set_title(title, fontsize=10)
        axis.set_xlim(0, 114)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(places, names)
    axes[1].legend(loc="lower right", bbox_to_anchor=(1.0, 0.02), frameon=False, fontsize=9)
    figure.tight_layout()
    return picture("floats", figure)


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--quick", action="store_true", help="few rows and queries: does it run?")
    asked.add_argument("--results", type=Path)
    asked.add_argument("--child", help=argparse.SUPPRESS)
    asked.add_argument("--often", action="store_true", help=argparse.SUPPRESS)
    asked.add_argument("--batch", type=int, default=0, help=argparse.SUPPRESS)
    options = asked.parse_args()
    if options.child:
        child(options.child, options.often, options.quick, options.batch)
        return 0
    if options.results is not None:
        results_to(options.results)
    with tempfile.TemporaryDirectory(prefix="detmem-floats-") as folder:
        found = {often: processes(often, options.quick, Path(folder)) for often in (True, False)}
    sizes = {often: [len(part) for part in vectors(often, options.quick)] for often in (True, False)}
    parts = [
        __doc__.split("\n\n")[1],
        plot(found[False], found[True], sizes[True][1]),
        section("Often: each gloss embedded twelve times", *sizes[True], found[True]),
        section("Once", *sizes[False], found[False]),
        __doc__.split("\n\n")[2],
    ]
    write("floats", "The same search on the same machine, told to be another", "\n\n".join(parts))
    return 0 if all(len({row.answer for row in rows if row.answer}) == 1 for rows in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
