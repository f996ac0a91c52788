"""Draw ``detmem/data/wordnet-sample.npz``: the 1,000 real sentence vectors that the demo and many tests run on.

Rule 1  The draw is a pure function of the source file.  For each question below its 4 nearest glosses are taken
        (exactly computed, see ``nearest``), so that the demo's questions have answers in the sample; the rest are the
        first glosses in order of the SHA-256 of their text, so that no hand has chosen them.  All rows then stand in
        that same order.
Rule 2  The file's bytes are a function of the rows too: little-endian arrays, fixed member order, fixed timestamps.
        (Another build of zlib may still pack them differently; then the arrays are equal and the file is not.)

Usage: ``python bench/make_sample.py SOURCE [--check]``, SOURCE being the 20,000-row ``wordnet-minilm.npz``.
``--check`` writes nothing and compares array by array with the sample that stands in the package.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import sys
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["QUESTIONS", "draw", "main", "pack"]

SAMPLE = Path(__file__).resolve().parent.parent / "detmem" / "data" / "wordnet-sample.npz"
ROWS_COUNT = 1_000
NEAREST_COUNT = 4

# Chosen by eye from the source's 40 questions: the nearest gloss is a right answer, and the next ones show something
# (four instruments in a row; a debtor beside a debt; a liar beside a lie).
QUESTIONS = (
    "a tool for cutting wood",
    "someone who studies the stars",
    "a disease that spreads quickly between people",
    "a small boat moved with oars",
    "a musical instrument with strings",
    "an agreement between two countries",
    "a sudden violent storm",
    "an unpaid debt",
    "a competition between runners",
    "a mistake in reasoning",
    "a shape with three sides",
    "a lie told to avoid hurting someone",
)


def draw(source: dict[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
    """The sample's five arrays, from the five arrays of the source."""
    texts = source["query_texts"].tolist()
    asked = [texts.index(question) for question in QUESTIONS]
    glosses = source["glosses"].tolist()
    digests = [hashlib.sha256(gloss.encode()).digest() for gloss in glosses]
    by_digest = sorted(range(len(glosses)), key=lambda row: (digests[row], row))

    chosen = {row for query in asked for row in nearest(source["vectors"], source["query_vectors"][query])}
    for row in by_digest:
        if len(chosen) == ROWS_COUNT:
            break
        chosen.add(row)
    rows = [row for row in by_digest if row in chosen]
    return {
        "vectors": source["vectors"][rows].astype("<f4"),
        "glosses": _narrow([glosses[row] for row in rows]),
        "lemmas": _narrow(source["lemmas"][rows].tolist()),
        "query_texts": _narrow(list(QUESTIONS)),
        "query_vectors": source["query_vectors"][asked].astype("<f4"),
    }


def nearest(vectors: NDArray[np.generic], query: NDArray[np.generic]) -> list[int]:
    """The ``NEAREST_COUNT`` rows with the largest dot product; integers of 2^-20, so that no BLAS has a say."""
    scaled = np.rint(vectors.astype(np.float64) * 2.0**20).astype(np.int64)
    scores = scaled @ np.rint(query.astype(np.float64) * 2.0**20).astype(np.int64)
    return sorted(range(len(scores)), key=lambda row: (-int(scores[row]), row))[:NEAREST_COUNT]


def _narrow(texts: list[str]) -> NDArray[np.generic]:
    return np.array(texts, dtype=f"<U{max(map(len, texts))}")


def pack(arrays: dict[str, NDArray[np.generic]]) -> bytes:
    """The bytes of an ``.npz`` that ``numpy.load(..., allow_pickle=False)`` reads; the clock is not in them."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            member.compress_type = zipfile.ZIP_DEFLATED
            member.create_system = 3
            member.external_attr = 0o644 << 16
            body = io.BytesIO()
            np.lib.format.write_array(body, array, version=(1, 0), allow_pickle=False)
            archive.writestr(member, body.getvalue(), compresslevel=9)
    return buffer.getvalue()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Draw the sample of sentence vectors that ships with detmem.")
    parser.add_argument("source", type=Path, help="wordnet-minilm.npz, 20,000 rows")
    parser.add_argument("--check", action="store_true", help="compare with the shipped sample, write nothing")
    options = parser.parse_args(arguments)
    if not options.source.is_file():
        parser.error(f"expected an .npz file with the source rows, found nothing at {str(options.source)!r}")

    with np.load(options.source, allow_pickle=False) as source:
        arrays = draw({name: source[name] for name in source.files})
    content = pack(arrays)
    if not options.check:
        SAMPLE.write_bytes(content)
        print(f"{SAMPLE.name}: {len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()}")
        return 0

    with np.load(SAMPLE, allow_pickle=False) as shipped:
        wrong = [name for name in arrays if name not in shipped or not np.array_equal(arrays[name], shipped[name])]
        wrong += [f"{name} (not drawn)" for name in shipped.files if name not in arrays]
    same_bytes = SAMPLE.read_bytes() == content
    print(
        f"{SAMPLE.name}: " + (f"differs in {', '.join(wrong)}" if wrong else f"same arrays, same bytes: {same_bytes}")
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
