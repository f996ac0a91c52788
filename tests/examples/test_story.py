"""Run as a user runs them, the examples say the same everywhere; and they notice a memory that is not the same."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import detmem
from detmem.cli import main
from detmem.examples import engram, story

NAMES = ["engram", "memory_r1", "memtree"]


def told(text):
    """What was printed, but for the place of the stores."""
    return [line for line in text.splitlines() if not line.startswith("The stores are left in ")]


@pytest.mark.parametrize("name", NAMES)
def test_a_user_runs_it_in_a_folder_of_his_own_and_is_told_the_same_story(kept, name, tmp_path):
    """As a program, with another kernel and hash seed than in this process; it leaves nothing behind."""
    settings = os.environ | {"DETMEM_KERNEL": "reference", "PYTHONHASHSEED": "7", "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", f"detmem.examples.{name}"]
    done = subprocess.run(
        command, cwd=tmp_path, env=settings, capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert done.stderr == ""
    assert done.returncode == 0
    assert told(done.stdout) == told(kept(name).text)
    assert "            the same memory, bit for bit\n" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", NAMES)
def test_the_kept_stores_verify_and_hold_the_same(kept, name):
    text, path, replayed = kept(name)
    reports = [detmem.verify(one) for one in (path, replayed)]
    assert all(report.ok for report in reports)
    assert reports[0].state_root == reports[1].state_root
    assert text.count(reports[0].state_root) == 2
    assert main(["diff", str(path), str(replayed)]) == 0


def test_a_second_run_into_the_same_folder_is_refused_and_changes_nothing(kept, capsys):
    folder = kept("engram").path.parent
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert story.main(engram.play, engram.__doc__, ["--keep", str(folder)]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("detmem: ")
    assert "engram.detmem" in line
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_place_where_no_store_can_stand_is_one_line_and_3(tmp_path, capsys):
    (tmp_path / "file").write_text("here already")
    assert story.main(engram.play, engram.__doc__, ["--keep", str(tmp_path / "file")]) == 3
    assert len(capsys.readouterr().err.splitlines()) == 1


# ------------------------------------------------------------------------------------------------ memories not the same


def remembered(folder):
    """A small store of two records; where it is."""
    path = folder / "small.detmem"
    with detmem.open(path, "x") as db:
        notes = db.collection("notes", dim=2)
        notes.add("a", [1, 0])
        notes.add("b", [0, 1])
    return path


def records(db):
    return db["notes"].get().ids


def test_a_replay_that_stops_early_is_noticed(tmp_path, monkeypatch, capsys):
    whole = detmem.replay
    monkeypatch.setattr(detmem, "replay", lambda source, dest: whole(source, dest, until=2))
    said = []
    assert story.same_memory(remembered(tmp_path), records, said.append, [1, 2]) is False
    assert said[-1].strip() == "NOT the same memory"
    faults = capsys.readouterr().err
    assert "added=[], removed=[('notes', 'b')]" in faults
    assert "of seq 3 differs" in faults
    assert "of seq 2 differs" not in faults


def test_another_history_of_the_same_contents_is_noticed(tmp_path, monkeypatch, capsys):
    def replay(source, dest):
        with detmem.open(dest, "x") as db:
            notes = db.collection("notes", dim=2)
            notes.add("b", [0, 1])
            notes.add("a", [1, 0])

    monkeypatch.setattr(detmem, "replay", replay)
    assert story.same_memory(remembered(tmp_path), records, lambda line: None, [2]) is False
    faults = capsys.readouterr().err
    assert "the checkpoint is" in faults
    assert "records or links differ" not in faults
    assert "of seq 2 differs" in faults
    assert "of seq 3 differs" not in faults


def test_answers_that_change_are_noticed(tmp_path):
    answers = iter(range(9))
    assert story.same_memory(remembered(tmp_path), lambda db: next(answers), lambda line: None) is False


@pytest.mark.parametrize(
    ("play", "code"), [(lambda folder, say: True, 0), (lambda folder, say: False, 1)], ids=["same", "not the same"]
)
def test_the_verdict_is_the_exit_code(play, code, tmp_path):
    assert story.main(play, "A title.", []) == code
    assert story.main(play, "A title.", ["--keep", str(tmp_path / "new")]) == code


def test_a_replay_that_diverges_ends_in_1(capsys):
    def play(folder, say):
        raise detmem.Divergence("seq 7: another root")

    assert story.main(play, "A title.", []) == 1
    assert capsys.readouterr().err == "detmem: seq 7: another root\n"
