"""Campaigns 8, 9 and 16, in CI's sizes: real processes on a real disk, killed at random times, opening all at once, and
reading beside a writer.

Each runs in a fresh process, which forks without threads beside it; its last line is a tally.  ``make faults`` runs
10,000 kills and 2,000 openings by two.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.faults import contending, killing
from tests.faults.workloads import Broken

ROOT = Path(__file__).resolve().parents[2]
SEED = 20_260_401
forking = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


def tally(module: str, *arguments: object) -> dict[str, Any]:
    """What ``python -m tests.faults.<module>`` says."""
    command = [sys.executable, "-m", f"tests.faults.{module}", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    assert found["failures"] == [], done.stderr
    assert done.returncode == 0
    return dict(found)


@forking
def test_two_hundred_kills_lose_nothing_that_was_acknowledged() -> None:
    found = tally("killing", "--seed", SEED, "--loops", 200, "--rounds", 10)
    assert found["loops"] == sum(found["endings"].values()) == 200
    assert found["lives"] == 20
    assert found["acknowledged"] > 0


@forking
def test_of_many_openers_exactly_one_writes_and_no_dead_one_stands_in_the_way() -> None:
    found = tally("contending", "--seed", SEED, "--rounds", 50, "--rounds-each", 10)
    assert found["rounds"] == sum(found["kinds"].values()) == 50
    assert found["openings"] >= 100


@forking
def test_a_reader_beside_a_writer_is_never_refused_and_sees_what_was_written() -> None:
    found = tally("beside", "--seed", SEED, "--rounds", 8)
    assert found["rounds"] == 8
    assert sum(found["looks"].values()) > 40


@forking
def test_a_loss_would_be_seen(tmp_path: Path) -> None:
    """The same checks, on a store from which somebody has taken what was acknowledged."""
    life = killing.Life(2, tmp_path)
    life.policy, life.threads, life.segment_bytes = "always", False, 1 << 26
    for number in range(6):
        with life.open() as db:
            ids = db["notes"].get(include=()).ids if number else []
            killing.do(db, killing.next_call(life.seed, number, ids))
            life._said, life.floor, life.most = [(db.seq, bytes.fromhex(db.state_root))], db.seq, db.seq
    assert life._read() == 6
    life.floor = life.most = 7
    with pytest.raises(Broken, match="acknowledged were 7 commits"):
        life._read()
    life.floor = life.most = 6
    life.seed = life.model.seed = 3
    life.model = killing.Model(3)
    with pytest.raises(Broken, match="other roots"):
        life._read()


def test_two_writers_at_once_would_be_seen(tmp_path: Path) -> None:
    store = contending.Store(1, tmp_path)
    for heard in (["holds 1 2", "holds 2 2"], ["locked"], ["holds 1 2", "failed FormatError"], ["holds 1 3", "locked"]):
        with pytest.raises(Broken):
            store._judge(heard, 0, False)
    store._judge(["locked by another", "holds 1 2"], 0, False)
    assert store.commits == 2
