"""A reader who does what the README says sees what the README says."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import detmem
from detmem import demo, options

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def fenced(language: str, number: int = 0) -> str:
    blocks = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 2
    return str(blocks[number])


@pytest.mark.parametrize("number", [0, 1])
def test_the_lines_of_the_readme_print_what_the_readme_shows(tmp_path, number):
    done = subprocess.run(
        [sys.executable, "-c", fenced("python", number)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.stdout == fenced("text", number)
    assert len(fenced("python").splitlines()) == 15


def test_the_checkpoint_in_the_readme_is_what_the_twin_finds():
    twin = SimpleNamespace(**runpy.run_path(str(ROOT / "spec" / "reference.py")))
    memory = twin.Memory()
    memory.write(("create", "notes", 3, "cosine", "Q16.16"))
    records = [
        ("n1", [0.9, 0.1, 0.0], {"kind": "thing"}, "a small boat moved with oars"),
        ("n2", [0.6, 0.8, 0.1], {"kind": "event"}, "a sudden violent storm"),
        ("n3", [0.0, 0.2, 0.9], {"kind": "thing"}, "a debt that will not be paid"),
    ]
    rows = [(i, twin.enter(vector, "cosine", "Q16.16"), metadata, text) for i, vector, metadata, text in records]
    memory.write(("add", "notes", rows))
    assert memory.checkpoint() in fenced("text")


def test_the_readme_repeats_the_constants_of_the_demo():
    assert f"| `{demo.EXPECTED['seq']}`, `{demo.EXPECTED['log_size']}` |" in README
    for name in ("log_root", "state_root", "snapshot_sha256"):
        assert f"| `{demo.EXPECTED[name]}` |" in README


def test_every_link_leads_somewhere():
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert len(links) >= 15
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_room_on_the_map_stands_and_every_room_stands_on_the_map():
    drawn = set(re.findall(r"^detmem/\w+/|\w+\.py", README.split("## The house")[1].split("```")[1], re.MULTILINE))
    rooms = {f"detmem/{path.name}/" for path in (ROOT / "detmem").iterdir() if (path / "__init__.py").exists()}
    files = {path.name for path in (ROOT / "detmem").glob("*.py")} - {"__init__.py", "__main__.py", "results.py"}
    assert {place for place in drawn if place.endswith("/")} == rooms
    assert {place for place in drawn if place.endswith(".py")} == files


def test_every_command_has_its_row():
    rows = re.findall(r"^\| `([\w-]+)[ `]", README, re.MULTILINE)
    assert rows == [
        "demo", "selfcheck", "verify", "replay", "log", "inspect", "stats", "diff", "search",
        "check-receipt", "sign", "snapshot", "backup", "archive", "export", "import", "report", "salvage", "repair",
    ]  # fmt: skip
    assert rows == list(options.COMMANDS)


# --- "What a root covers", row by row ---------------------------------------------------------------------------------


def roots(*writes, durability="always"):
    """The two roots after some writes to a new store."""
    with detmem.open(":memory:", durability=durability) as db:
        notes = db.collection("notes", dim=2, metric="l2")
        for write in writes:
            write(notes)
        return db.state_root, db.log_root


def add(id, vector=(1, 2), **more):
    return lambda notes: notes.add(id, vector, **more)


def test_both_roots_change_with_everything_that_is_live():
    base = roots(add("a"))
    others = [
        roots(add("b")),
        roots(add("a", (1, 3))),
        roots(add("a", metadatas={"x": 1})),
        roots(add("a", documents="text")),
    ]
    with detmem.open(":memory:") as db:
        db.collection("notes", dim=2, metric="ip").add("a", [1, 2])
        others.append((db.state_root, db.log_root))
    states, logs = zip(base, *others, strict=True)
    assert len(set(states)) == len(set(logs)) == 6


def test_another_order_of_writes_changes_the_log_root_alone():
    first, second = roots(add("a"), add("b")), roots(add("b"), add("a"))
    assert first[0] == second[0]
    assert first[1] != second[1]


def test_adding_and_deleting_again_changes_the_log_root_alone():
    before, after = roots(add("a")), roots(add("a"), add("b"), lambda notes: notes.delete("b"))
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_snapshots_copies_and_the_policy_change_neither(tmp_path):
    expected = roots(add("a"), add("b"))
    assert roots(add("a"), add("b"), durability="os") == expected
    with detmem.open(tmp_path / "here", durability="os") as db:
        notes = db.collection("notes", dim=2, metric="l2")
        notes.add("a", [1, 2])
        db.snapshot()  # the log moves to a new file here
        notes.add("b", [1, 2])
        assert (db.state_root, db.log_root) == expected
    copied = detmem.replay(tmp_path / "here", tmp_path / "there")
    assert (copied.state_root, copied.log_root) == expected
