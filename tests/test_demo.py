"""The demo ends where the naive twin says it must, whatever moment the kill hits; and it notices when it does not."""

from __future__ import annotations

import hashlib
import json
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import detmem
from detmem import demo
from detmem.cli import main

ROOT = Path(__file__).resolve().parent.parent


def detmem_demo(*options):
    command = [sys.executable, "-m", "detmem", "demo", *options]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """One run that left its stores behind: (folder, JSON document, stderr)."""
    folder = tmp_path_factory.mktemp("demo") / "kept"
    done = detmem_demo("--keep", str(folder), "--json")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    return folder, json.loads(line), done.stderr


def test_the_twin_derives_the_constants():
    twin = SimpleNamespace(**runpy.run_path(str(ROOT / "spec" / "reference.py")))
    with np.load(demo.SAMPLE, allow_pickle=False) as sample:
        vectors, lemmas, glosses = (sample[name].tolist() for name in ("vectors", "lemmas", "glosses"))
    memory = twin.Memory()
    memory.write(("create", "glosses", 384, "cosine", "Q16.16"))
    for start in range(0, 1000, 100):
        records = []
        for n in range(start, start + 100):
            metadata = {"lemma": lemmas[n], "letters": len(lemmas[n])}
            records.append((f"gloss-{n:04d}", twin.enter(vectors[n], "cosine", "Q16.16"), metadata, glosses[n]))
        memory.write(("add", "glosses", records))
    memory.write(("create", "diary", 384, "l2", "Q8.24"))
    for n in range(300):
        raw = twin.enter(vectors[n], "l2", "Q8.24")
        memory.write(("add", "diary", [(f"day-{n:04d}", raw, {"read": f"gloss-{n:04d}"}, lemmas[n])]))
    derived = {
        "seq": memory.seq,
        "log_size": memory.log_size,
        "log_root": memory.log_root().hex(),
        "state_root": memory.state_root().hex(),
        "snapshot_sha256": hashlib.sha256(twin.write_snapshot(memory)).hexdigest(),
    }
    assert derived == demo.EXPECTED


def test_a_run_reproduces_the_constants(kept):
    _, story, _ = kept
    assert story["ok"] is True
    assert story["faults"] == []
    assert story["expected"] == demo.EXPECTED
    assert list(story["checkpoints"]) == ["written", "reopened", "replayed"]
    for checkpoint in story["checkpoints"].values():
        assert demo.EXPECTED.items() >= checkpoint.items()


def test_the_child_was_killed_while_it_wrote_and_nothing_acknowledged_was_lost(kept):
    _, story, _ = kept
    assert story["child_exit"] != 0
    assert story["acknowledged"] >= demo.KILL_AFTER
    assert story["survived"] - story["acknowledged"] in (0, 1)
    assert story["recovery"], "an unclean close must be said"


def test_the_kept_stores_are_what_was_shown(kept):
    folder, _, _ = kept
    root = demo.EXPECTED["state_root"]
    for name in ("memory.detmem", "replayed.detmem"):
        assert main(["verify", str(folder / name), "--expect", root]) == 0
    assert main(["diff", str(folder / "memory.detmem"), str(folder / "replayed.detmem")]) == 0


def test_a_second_run_into_the_same_folder_is_refused_and_changes_nothing(kept):
    folder, _, _ = kept
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    done = detmem_demo("--keep", str(folder))
    assert done.returncode == 3
    assert done.stderr.startswith("detmem: ")
    assert len(done.stderr.splitlines()) == 1
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_text_for_a_person_shows_answers_and_roots():
    done = detmem_demo()
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "  0.1153  power saw: a power tool for cutting wood\n" in done.stdout
    assert done.stdout.count(f"{demo.EXPECTED['state_root']}\n") == 4
    assert "DIFFERENT" not in done.stdout
    assert done.stdout.endswith("\nall equal\n")
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("acknowledged", [1, demo.DIARY_COUNT])
def test_the_moment_of_the_kill_does_not_show(monkeypatch, capsys, acknowledged):
    """After the first acknowledgement, and after the last, when the child still holds the store open."""
    monkeypatch.setattr(demo, "KILL_AFTER", acknowledged)
    assert main(["demo", "--json"]) == 0
    story = json.loads(capsys.readouterr().out)
    assert story["acknowledged"] >= acknowledged
    assert demo.EXPECTED.items() >= story["checkpoints"]["replayed"].items()


def test_a_root_that_differs_is_said_and_ends_in_1(monkeypatch, capsys):
    monkeypatch.setitem(demo.EXPECTED, "log_root", "00" * 32)
    assert main(["demo"]) == 1
    shown = capsys.readouterr()
    assert shown.out.count("DIFFERENT") == 3
    assert shown.out.endswith("\nNOT all equal\n")
    assert "detmem: log_root as replayed: expected 0000" in shown.err


def test_a_lost_acknowledged_commit_is_noticed(monkeypatch, capsys):
    honest = demo._crash

    def one_more_acknowledged(store, outcome, say):
        return [*honest(store, outcome, say), (9999, "day-9999")]

    monkeypatch.setattr(demo, "_crash", one_more_acknowledged)
    assert main(["demo"]) == 1
    assert "acknowledged" in capsys.readouterr().err


def test_other_answers_after_the_replay_are_noticed(monkeypatch, capsys):
    honest = demo._recover

    def one_bit_off(*args):
        answers = honest(*args)
        return detmem.Result(answers.ids, answers.raw ^ 1, answers.distances, None, None, answers.seq)

    monkeypatch.setattr(demo, "_recover", one_bit_off)
    assert main(["demo"]) == 1
    assert "answers differently" in capsys.readouterr().err
