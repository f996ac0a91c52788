"""One life, one digest: the golden file is what package and twin come to, and whatever differs is named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from detmem import selfcheck
from detmem.cli import main
from detmem.machine import vectors
from detmem.search import planes
from tests.platforms.twin_world import TwinWorld

GOLDEN = json.loads(selfcheck.REFERENCE.read_text(encoding="ascii"))


def played(name: str, folder: Path, kernel: str = "reference") -> selfcheck.Played:
    return selfcheck.play(name, selfcheck.World(folder, kernel))


@pytest.mark.parametrize("name", selfcheck.STAGES)
def test_the_twin_comes_to_the_golden_digest(name):
    life = selfcheck.play(name, TwinWorld())
    assert life.error is None
    assert selfcheck.difference(life, GOLDEN) is None


@pytest.mark.parametrize("kernel", ["reference", "portable"])
@pytest.mark.parametrize("name", selfcheck.STAGES)
def test_the_package_comes_to_the_golden_digest(name, kernel, tmp_path):
    life = played(name, tmp_path, kernel)
    assert life.error is None
    assert selfcheck.difference(life, GOLDEN) is None


def test_the_total_is_that_of_all_stages_in_order():
    assert list(GOLDEN["stages"]) == list(GOLDEN["notes"]) == list(selfcheck.STAGES)
    assert selfcheck.total(GOLDEN["stages"]) == GOLDEN["sha256"]


def test_compiled_kernels_do_learn_a_front_in_its_stage(tmp_path, monkeypatch):
    """Else the stage would say that learning does not show, without any learning."""
    learned = []
    honest = planes.Planes._learn

    def watched(self, rows):
        honest(self, rows)
        learned.append(self._learned)

    monkeypatch.setattr(planes.Planes, "_learn", watched)
    assert played("front", tmp_path, "portable").error is None
    assert [(front.width, len(front.matrix)) for front in learned] == [(32, 96)]  # some scanned, some looked up


def test_selfcheck_says_identical_and_ends_in_0(capsys):
    assert main(["selfcheck"]) == 0
    shown = capsys.readouterr()
    assert shown.out.endswith(f"identical to the reference (sha256 {GOLDEN['sha256']})\n")
    assert "DIFFERENT" not in shown.out


def test_selfcheck_in_json_tells_the_platform_and_every_stage(capsys):
    assert main(["selfcheck", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    story = json.loads(line)
    assert (story["identical"], story["sha256"], story["differences"]) == (True, GOLDEN["sha256"], [])
    assert story["platform"]["byte_order"] == sys.byteorder
    assert story["platform"]["numpy"] == np.__version__
    for stage in story["stages"]:
        assert stage["sha256"] == GOLDEN["stages"][stage["stage"]]
    assert {stage["stage"] for stage in story["stages"]} == set(selfcheck.STAGES)
    assert {stage["kernel"] for stage in story["stages"]} == set(story["platform"]["kernels"])


def test_a_forced_kernel_is_the_only_one_that_is_played(capsys, monkeypatch):
    monkeypatch.setenv("DETMEM_KERNEL", "reference")
    assert main(["selfcheck", "--json"]) == 0
    story = json.loads(capsys.readouterr().out)
    assert story["sha256"] == GOLDEN["sha256"]
    assert {stage["kernel"] for stage in story["stages"]} == {"reference"}


def test_a_forced_kernel_that_cannot_run_is_a_usage_error(capsys, monkeypatch):
    monkeypatch.setenv("DETMEM_KERNEL", "native")
    refused = {"forced": "native", "available": {"reference": None, "native": "it needs another CPU"}}
    monkeypatch.setattr(selfcheck, "kernels", lambda: refused)
    assert main(["selfcheck"]) == 2
    assert "it needs another CPU" in capsys.readouterr().err


def test_another_golden_digest_is_said_and_ends_in_1(capsys, monkeypatch, tmp_path):
    """A uniform change of all stages differs as well: machines are compared with the file, not with each other."""
    other = {**GOLDEN, "stages": dict(GOLDEN["stages"]), "notes": dict(GOLDEN["notes"])}
    notes = [list(note) for note in GOLDEN["notes"]["filters"]]
    notes[6][1] = "0" * 16
    other["notes"]["filters"] = notes
    other["stages"]["filters"] = "0" * 64
    path = tmp_path / "golden.json"
    path.write_text(json.dumps(other), encoding="ascii")
    monkeypatch.setattr(selfcheck, "REFERENCE", path)
    assert main(["selfcheck"]) == 1
    out = capsys.readouterr().out
    assert "DIFFERENT from the reference" in out
    expected = GOLDEN["notes"]["filters"][6]
    assert (
        f"stage 'filters', kernel reference: note 7, {expected[0]!r}: expected {'0' * 16}, found {expected[1]}" in out
    )
    assert "machine " in out


def test_a_stage_that_raises_is_a_difference_and_the_others_are_played(capsys, monkeypatch):
    def broken(world):
        yield "begun", 1
        raise OverflowError("as on a strange machine")

    monkeypatch.setitem(selfcheck.STAGES, "units", broken)
    assert main(["selfcheck"]) == 1
    out = capsys.readouterr().out
    assert "stage 'units', kernel reference: note 1, " in out
    assert "; it ended in OverflowError in selfcheck.py, line " in out
    assert ": as on a strange machine\n" in out
    assert f"numbers    reference  {GOLDEN['stages']['numbers']}" in out
    assert f"crash      reference  {GOLDEN['stages']['crash']}" in out


def test_the_scenario_is_a_program_that_needs_nothing_but_the_checkout(tmp_path):
    """On foreign platforms there is no pytest and no installed package; the store that it leaves can be read again."""
    program = str(Path(__file__).with_name("scenario.py"))
    left = tmp_path / "left"
    command = [sys.executable, "-P", program, "--leave", str(left)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    story = json.loads(done.stdout)
    assert story["sha256"] == GOLDEN["sha256"]
    assert story["stages"] == GOLDEN["stages"]
    command = [sys.executable, program, "--stages", "", "--read", str(left)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["stores"]["left"]) == 64


def test_dead_rows_are_let_go_in_their_stage(tmp_path, monkeypatch):
    kept = []
    honest = vectors.Vectors.kept
    monkeypatch.setattr(vectors.Vectors, "kept", lambda self, slots: kept.append(len(slots)) or honest(self, slots))
    assert played("compaction", tmp_path).error is None
    assert kept == [1_050]
