"""The shipped sample is what its page says, and its questions have answers a reader would give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

SAMPLE = Path(__file__).resolve().parent.parent / "detmem" / "data" / "wordnet-sample.npz"

# Which word a person would name for each question; read in the glosses, not taken from a search.
ANSWERS = {
    "a tool for cutting wood": "power saw",
    "someone who studies the stars": "astrophysicist",
    "a disease that spreads quickly between people": "epidemic disease",
    "a small boat moved with oars": "canoe",
    "a musical instrument with strings": "clavier",
    "an agreement between two countries": "treaty",
    "a sudden violent storm": "cyclone",
    "an unpaid debt": "bad debt",
    "a competition between runners": "sack race",
    "a mistake in reasoning": "fallacy",
    "a shape with three sides": "trilateral",
    "a lie told to avoid hurting someone": "white lie",
}


@pytest.fixture(scope="module")
def sample():
    with np.load(SAMPLE, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def test_sample_has_the_arrays_of_its_page(sample):
    shapes = {name: (array.shape, array.dtype.kind) for name, array in sample.items()}
    assert shapes == {
        "vectors": ((1000, 384), "f"),
        "glosses": ((1000,), "U"),
        "lemmas": ((1000,), "U"),
        "query_texts": ((12,), "U"),
        "query_vectors": ((12, 384), "f"),
    }
    lengths = np.linalg.norm(np.concatenate([sample["vectors"], sample["query_vectors"]]), axis=1)
    assert np.abs(lengths - 1).max() < 1e-5
    assert SAMPLE.with_name("LICENSE.wordnet").read_text(encoding="utf-8").startswith("WordNet Release 3.1")


def test_every_question_finds_the_word_a_person_would_name(sample):
    scores = sample["vectors"] @ sample["query_vectors"].T
    found = sample["lemmas"][np.argmax(scores, axis=0)]
    assert dict(zip(sample["query_texts"].tolist(), found.tolist(), strict=True)) == ANSWERS


def test_sample_holds_real_ties(sample):
    texts, counts = np.unique(sample["glosses"], return_counts=True)
    assert sorted(counts)[-2:] == [2, 2]
    for text in texts[counts == 2]:
        first, second = sample["vectors"][sample["glosses"] == text]
        assert np.array_equal(first, second)
