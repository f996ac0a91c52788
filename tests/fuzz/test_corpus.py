"""Everything that ever failed, and the seeds, through each target: as it is, and with right checksums around it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz import seeds
from tests.fuzz.checksums import MENDED
from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).resolve().parent / "corpus"
FILES = sorted(path for path in CORPUS.rglob("*") if path.is_file())
SEED = 20_260_701


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_file_of_the_corpus_is_taken_or_refused_by_every_target(path: Path) -> None:
    data = path.read_bytes()
    for name, target in TARGETS.items():
        target(data)
        target(MENDED[name](data))


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_of_a_target_pass_and_their_neighbours_do_no_harm(name: str) -> None:
    """A few hundred changed copies, for machines without the fuzzer."""
    rng = random.Random(f"{SEED} {name}")
    known = [path.read_bytes() for path in FILES if path.parent.name == name]
    assert known
    for _ in range(300):
        data = bytearray(rng.choice(known))
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data) + 1)
            kind = rng.randrange(4)
            if kind == 0:
                data[at : at + 1] = bytes([rng.randrange(256)])
            elif kind == 1:
                data[at : at + 8] = rng.choice(
                    (bytes(8), b"\xff" * 8, (2**63).to_bytes(8, "little"), b"\x01" + bytes(7))
                )
            elif kind == 2:
                del data[at : at + rng.randint(1, 40)]
            else:
                data[at:at] = data[at : at + rng.randint(1, 40)]
        TARGETS[name](bytes(data))
        TARGETS[name](MENDED[name](bytes(data)))


def test_the_seeds_are_of_the_formats_of_today(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, they were of format 1: that was refused by its version, and nothing behind it was ever fuzzed."""
    monkeypatch.setattr(seeds, "CORPUS", tmp_path)
    seeds.main()
    kept, made = (
        {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("seed-*")} for root in (CORPUS, tmp_path)
    )
    assert kept == made


@pytest.mark.parametrize("name", ["operations", "frame", "snapshot", "head"])
def test_mending_the_checksums_of_sound_bytes_changes_nothing(name: str) -> None:
    for path in FILES:
        if path.parent.name == name and path.name.startswith("seed-"):
            assert MENDED[name](path.read_bytes()) == path.read_bytes()
