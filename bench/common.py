"""How a number is measured and written down here.

Rule 1  A speed is a ratio.  Ours and the peer's run in the same process, on the same data, in turns; the figure is the
        median of the per-round ratios.  A machine that is busy for a second slows both sides of a round, and the ratio
        stands.
Rule 2  The order turns every round (ours first, then the peer first), so that neither always finds the cache warm.
Rule 3  Each result names machine, date, commit and versions, and keeps the columns we lose.
Rule 4  Answers are compared before times are: a fast wrong answer has no ratio.  That check belongs to each script.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "PAIRED_COLUMNS",
    "RESULTS",
    "Paired",
    "Side",
    "Timing",
    "commit_of",
    "contest",
    "header",
    "paired",
    "picture",
    "rate",
    "results_to",
    "table",
    "timed",
    "version",
    "write",
]

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
PACKAGES = ("numpy", "numba", "msgpack")


@dataclass(frozen=True)
class Timing:
    """Seconds of one side over all rounds."""

    name: str
    seconds: tuple[float, ...]

    @property
    def median_seconds(self) -> float:
        return statistics.median(self.seconds)

    @property
    def minimum_seconds(self) -> float:
        return min(self.seconds)


@dataclass(frozen=True)
class Paired:
    """Ours against one peer; ``ratio`` 2.0 means that the peer took twice our time."""

    ours: Timing
    peer: Timing

    @property
    def ratios(self) -> tuple[float, ...]:
        return tuple(peer / own for own, peer in zip(self.ours.seconds, self.peer.seconds, strict=True))

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    def row(self) -> list[str]:
        """Cells for ``table``: peer, our median, its median, ratio, worst and best round."""
        low, high = min(self.ratios), max(self.ratios)
        ours, peer = f"{self.ours.median_seconds * 1e3:.3f}", f"{self.peer.median_seconds * 1e3:.3f}"
        return [self.peer.name, ours, peer, f"{self.ratio:.2f}", f"{low:.2f}..{high:.2f}"]


PAIRED_COLUMNS = ("peer", "ours, ms", "peer, ms", "ratio", "rounds")


def timed(
    name: str,
    work: Callable[[], object],
    *,
    rounds: int = 15,
    warmup: int = 2,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> Timing:
    """``work`` alone, for questions without a peer (growth per commit, a rate against the disk)."""
    _require_rounds(rounds)
    for _ in range(warmup):
        work()
    return Timing(name, tuple(_once(work, clock) for _ in range(rounds)))


def paired(
    ours: Callable[[], object],
    peer: Callable[[], object],
    *,
    peer_name: str,
    rounds: int = 15,
    warmup: int = 2,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> Paired:
    """Both sides in turns, ``rounds`` times each; ``clock`` counts nanoseconds."""
    _require_rounds(rounds)
    for _ in range(warmup):
        ours()
        peer()
    own_seconds: list[float] = []
    peer_seconds: list[float] = []
    for index in range(rounds):
        turns = [(ours, own_seconds), (peer, peer_seconds)]
        for work, seconds in turns if index % 2 == 0 else reversed(turns):
            seconds.append(_once(work, clock))
    return Paired(Timing("detmem", tuple(own_seconds)), Timing(peer_name, tuple(peer_seconds)))


@dataclass(frozen=True)
class Side:
    """One of several in a ``contest``: ``work`` is told the round; ``ready`` is called before it, outside the clock."""

    name: str
    work: Callable[[int], object]
    ready: Callable[[], object] = lambda: None


def contest(
    sides: Sequence[Side], *, rounds: int = 15, warmup: int = 2, clock: Callable[[], int] = time.perf_counter_ns
) -> dict[str, Timing]:
    """All sides in turns, ``rounds`` times each; ``Paired(a, b)`` of two of them has the ratios round by round.

    The first place moves on by one with each round and the direction turns: nobody always follows the same neighbour.
    """
    _require_rounds(rounds)
    seconds: dict[str, list[float]] = {side.name: [] for side in sides}
    if len(seconds) < len(sides):
        raise ValueError(f"expected sides of different names, found {[side.name for side in sides]}")
    for index in range(-warmup, rounds):
        first = index % max(1, len(sides))
        turns = [*sides[first:], *sides[:first]]
        for side in turns if index % 2 == 0 else reversed(turns):
            side.ready()
            taken = _once(lambda side=side, index=index: side.work(index), clock)  # type: ignore[misc]
            if index >= 0:
                seconds[side.name].append(taken)
    return {name: Timing(name, tuple(each)) for name, each in seconds.items()}


def _once(work: Callable[[], object], clock: Callable[[], int]) -> float:
    start = clock()
    work()
    stop = clock()
    # A clock too coarse for the work would make a ratio of zeros; one tick is the least that can be said.
    return max(stop - start, 1) * 1e-9


def _require_rounds(rounds: int) -> None:
    if rounds < 1:
        raise ValueError(f"expected at least 1 round, found {rounds}")


def rate(count: int, timing: Timing) -> float:
    """Things per second at the median."""
    return count / timing.median_seconds


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; every row has a cell for every column."""
    for index, row in enumerate(rows):
        if len(row) != len(columns):
            raise ValueError(f"row {index} has {len(row)} cells, the table has {len(columns)} columns")
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def header() -> str:
    """The line that makes a number worth keeping: machine, date, commit, versions."""
    versions = [f"Python {platform.python_version()}"] + [f"{name} {version(name)}" for name in PACKAGES]
    machine = f"{_processor()}, {os.cpu_count()} logical cores, {platform.system()} {platform.machine()}"
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return f"{machine}; {today}; commit {commit_of(ROOT)}; {', '.join(versions)}"


def results_to(folder: Path) -> None:
    """Send what ``write`` and ``picture`` write elsewhere: a ``--quick`` run must not replace what was measured."""
    global RESULTS
    RESULTS = folder


def picture(name: str, figure: Any) -> str:
    """Write a matplotlib figure as ``<name>.svg`` and ``<name>.png``; returns the Markdown that shows it."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    # No date and fixed ids: the same numbers give the same file.
    figure.savefig(RESULTS / f"{name}.svg", metadata={"Date": None})
    figure.savefig(RESULTS / f"{name}.png", dpi=110)
    return f"![{name}]({name}.svg)"


def write(name: str, title: str, body: str) -> Path:
    """Write ``bench/results/<name>.md`` and print it; returns its path."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.md"
    text = f"# {title}\n\n{header()}\n\n{body.strip()}\n"
    path.write_text(text, encoding="utf-8", newline="\n")
    sys.stdout.write(text)
    return path


def version(package: str) -> str:
    """The installed version, or the word absent."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _processor() -> str:
    # The model's name stands in different places; a machine without one of them still has a name worth writing.
    description = Path("/proc/cpuinfo")
    if description.is_file():
        for line in description.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def commit_of(checkout: Path) -> str:
    """The commit of a checkout, with ``+changes`` where its files are others; or the word none."""
    commit = _git(checkout, "rev-parse", "--short=12", "HEAD")
    if commit is None:
        return "none"
    return commit + ("+changes" if _git(checkout, "status", "--porcelain") else "")


def _git(checkout: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=checkout, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None  # an unpacked sdist has no history; the header says "none"
    return done.stdout.strip()
