"""The auditor's desk: what each command prints, the exit codes, and that looking changes nothing."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import detmem
from detmem import options
from detmem.cli import main

GOLD = "\x1b[33mgold\x1b[0m\nsecond line"


@pytest.fixture
def store(tmp_path):
    """Seven commits: two collections of which one is dropped, four records of which one is deleted."""
    path = tmp_path / "agent.detmem"
    with detmem.open(path) as db:
        notes = db.collection("notes", dim=2, metric="l2")  # 1
        notes.add(["a", "b", "c", "d"], [[0, 0], [3, 4], [0, 1], [-1, 0]], metadatas=[{"n": n} for n in range(4)])  # 2
        notes.update("b", documents="five away")  # 3
        notes.delete("c")  # 4
        db.collection("old", dim=1, metric="ip").add("gone", [1])  # 5, 6
        db.drop("old")  # 7
    return str(path)


@pytest.fixture
def run(capsys):
    def run(*words):
        """(exit code, stdout, stderr) of one command."""
        code = main([str(word) for word in words])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


@pytest.fixture
def run_json(run):
    def run_json(*words):
        code, out, _ = run(*words, "--json")
        (line,) = out.splitlines()
        return code, json.loads(line)

    return run_json


def files_of(path):
    return {file.name: file.read_bytes() for file in Path(path).rglob("*") if file.is_file()}


def copy_with_flipped_bit(store, needle):
    """A copy of a store in which one bit of ``needle`` in its first log file is another."""
    copy = Path(store).with_name("flipped.detmem")
    shutil.copytree(store, copy)
    segment = sorted((copy / "log").iterdir())[0]
    data = bytearray(segment.read_bytes())
    assert data.count(needle) == 1
    data[data.index(needle)] ^= 1
    segment.write_bytes(data)
    return str(copy)


def root_of(store):
    with detmem.open(store, "r") as db:
        return db.state_root


# --- verify -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["chain", "replay"])
def test_a_whole_store_verifies(store, run, run_json, level):
    root = root_of(store)
    assert run("verify", store, "--level", level) == (0, f"ok 1..7 state {root}\n", "")
    nowhere = dict.fromkeys(["first_bad_seq", "reason", "file", "offset"])
    with detmem.open(store, "r") as db:
        operations = sum(max(1, len(entry.ids)) for entry in db.log())
    counts = {"operations": operations, "erased": 0, "remaining": 0, "archived": 0}
    expected = {"ok": True, "seq": 7, "state_root": root, **nowhere, **counts, "level": level}
    assert run_json("verify", store, "--level", level) == (0, expected)


def test_verify_says_how_many_payloads_are_erased(store, run, run_json, tmp_path):
    with detmem.open(store, "r") as db:
        db.backup(tmp_path / "copy")
    with detmem.open(tmp_path / "copy") as db:
        name = db.collections()[0]
        db.erase(name, next(iter(db[name])))
        root, erased = db.state_root, db.verify().erased
    assert erased == 1
    assert run("verify", tmp_path / "copy") == (0, f"ok 1..8 state {root}, 1 payload erased\n", "")


def test_archive_says_what_it_moved_and_verify_what_is_elsewhere(store, run, run_json, tmp_path):
    with detmem.open(store, "r") as db:
        db.backup(tmp_path / "copy")
        root = db.state_root
    code, out, _ = run("archive", tmp_path / "copy", tmp_path / "archive")
    assert (code, out) == (0, f"moved the payloads of 1 segments, up to seq 7, to {tmp_path / 'archive'}\n")
    archived = detmem.verify(tmp_path / "copy").archived
    assert archived >= 5
    assert run("verify", tmp_path / "copy") == (0, f"ok 1..7 state {root}, {archived} archived\n", "")
    nothing = {"seq": 7, "segments": [], "path": str(tmp_path / "archive")}
    assert run_json("archive", tmp_path / "copy", tmp_path / "archive") == (0, nothing)


def test_a_store_without_commits_verifies(tmp_path, run):
    detmem.open(tmp_path / "new").close()
    assert run("verify", tmp_path / "new") == (0, f"ok empty state {'0' * 64}\n", "")


def test_a_flipped_bit_fails_with_its_seq_file_and_offset(store, run, run_json):
    flipped = copy_with_flipped_bit(store, b"five away")
    code, out, _ = run("verify", flipped)
    assert code == 1
    assert re.match(r"FAIL seq 3 offset \d+: log/00000000000000000001\.seg: operation at byte 0 ", out)
    assert out.endswith("; 2 commands before it are intact\n")
    assert out.count("intact") == 1
    code, report = run_json("verify", flipped, "--level", "chain")
    assert (code, report["ok"], report["seq"], report["first_bad_seq"]) == (1, False, 2, 3)
    assert report["file"] == "log/00000000000000000001.seg"
    assert f"offset {report['offset']}" in out
    frame = Path(flipped, report["file"]).read_bytes()[report["offset"] :]
    assert frame[:4] == b"DMF1"  # the place is that of the commit's frame
    assert int.from_bytes(frame[12:20], "little") == 3


def test_progress_is_told_on_stderr_and_only_when_asked(store, run):
    size = sum(file.stat().st_size for file in (Path(store) / "log").iterdir())
    assert run("verify", store, "--progress")[2] == f"{size} of {size} bytes of the log\n"
    assert run("verify", store)[2] == ""


def test_progress_arrives_at_its_end_though_no_commit_stands_there(tmp_path, run):
    """Behind the last commit of a store that nobody closed there are zeros, behind that of a sealed segment a seal."""
    left, sealed = tmp_path / "left", tmp_path / "sealed"
    with detmem.open(tmp_path / "live") as db:
        db.collection("c", dim=1, metric="l2").add(["a"], [[1]])
        shutil.copytree(tmp_path / "live", left)
        db.snapshot()
    shutil.copytree(tmp_path / "live", sealed)
    for store in (left, sealed):
        size = sum(file.stat().st_size for file in (store / "log").iterdir())
        assert run("verify", store, "--progress")[2].endswith(f"{size} of {size} bytes of the log\n")


def test_expected_state_root_is_compared(store, run, run_json):
    root, other = root_of(store), "ab" * 32
    assert run("verify", store, "--expect", root.upper())[0] == 0
    code, out, _ = run("verify", store, "--expect", other)
    assert code == 1
    assert out.startswith(f"FAIL end: expected to end in state root {other}, found {root}")
    assert run_json("verify", store, "--expect", other)[1]["ok"] is False


def test_expected_checkpoint_must_lie_on_the_way(store, tmp_path, run):
    then = detmem.replay(store, tmp_path / "then", until=3)
    good, foreign, late = (tmp_path / name for name in ("good", "foreign", "late"))
    good.write_text(str(then), encoding="ascii")
    foreign.write_text(str(detmem.Checkpoint(3, then.log_size, then.log_root, "00" * 32)), encoding="ascii")
    late.write_text(str(detmem.Checkpoint(8, then.log_size, then.log_root, then.state_root)), encoding="ascii")
    assert run("verify", store, "--expect", good)[0] == 0
    with open(tmp_path / "printed", "w", encoding="ascii") as file:
        print(then, file=file)  # once the empty line that print leaves was refused
    assert run("verify", store, "--expect", tmp_path / "printed")[0] == 0
    for checkpoint in (foreign, late):
        code, out, _ = run("verify", store, "--expect", checkpoint)
        assert (code, out[:5]) == (1, "FAIL ")


# --- replay -----------------------------------------------------------------------------------------------------------


def test_replay_makes_an_identical_store(store, tmp_path, run, run_json):
    root = root_of(store)
    expected = (0, f"replayed 7 commands, state {root}, identical to source\n", "")
    assert run("replay", store, tmp_path / "text") == expected
    code, told = run_json("replay", store, tmp_path / "json")
    with detmem.open(tmp_path / "json", "r") as copy, detmem.open(store, "r") as source:
        assert copy.checkpoint() == source.checkpoint()
        assert (code, told["identical"], told["replayed"]) == (0, True, 7)
        assert told["log_root"] == source.log_root


def test_replay_until_stops_there(store, tmp_path, run):
    code, out, _ = run("replay", store, tmp_path / "then", "--until", 3)
    assert (code, out[:19]) == (0, "replayed 3 commands")
    assert out.endswith("identical to source at seq 3\n")


def test_replay_of_damage_behind_a_snapshot_fails_and_says_what_it_left(store, tmp_path, run):
    assert run("snapshot", store)[0] == 0
    flipped = copy_with_flipped_bit(store, b"five away")
    code, out, err = run("replay", flipped, tmp_path / "half")
    assert (code, out) == (1, "")
    assert err.endswith("half holds the commands before it\n")
    assert run("verify", tmp_path / "half")[1].startswith("ok 1..2 ")


# --- log, inspect, stats, diff ----------------------------------------------------------------------------------------


def test_backup_copies_a_store_that_verifies(store, tmp_path, run, run_json):
    code, out, _ = run("backup", store, tmp_path / "one")
    assert (code, out) == (0, f"copied 7 commands, state {root_of(store)}, verified\n")
    code, found = run_json("backup", store, tmp_path / "two")
    assert (code, found["seq"], found["state_root"]) == (0, 7, root_of(store))
    assert detmem.diff(store, tmp_path / "two").common_seq == 7
    code, _, complaint = run("backup", store, tmp_path / "two")
    assert code == 3
    assert "exists already" in complaint


def test_salvage_saves_what_is_before_the_damage_and_says_what_is_lost(store, tmp_path, run, run_json):
    bad = copy_with_flipped_bit(store, b"five away")
    code, out, _ = run("salvage", bad, tmp_path / "saved")
    assert code == 1
    assert out.startswith("saved 1..2 state ")
    assert "LOST seq 3 and later: log/00000000000000000001.seg, offset " in out
    assert detmem.verify(tmp_path / "saved").seq == 2
    code, found = run_json("salvage", store, tmp_path / "whole")
    assert (code, found["reason"], found["checkpoint"]["seq"]) == (0, None, 7)


def test_salvage_does_not_call_lost_what_nobody_had_been_promised(store, tmp_path, run):
    for name in ("torn", "headless"):
        shutil.copytree(store, tmp_path / name)
    segment = sorted((tmp_path / "torn" / "log").iterdir())[-1]
    segment.write_bytes(segment.read_bytes() + b"half a frame")
    (tmp_path / "headless" / "HEAD").unlink()
    for name, words in (("torn", "a frame header has 32 bytes, found 12"), ("headless", "HEAD is missing")):
        code, out, _ = run("salvage", tmp_path / name, tmp_path / f"saved {name}")
        assert code == 1
        assert "nothing is known to be lost; behind seq 7: " in out
        assert words in out


def test_repair_mends_a_damaged_store_from_a_copy(store, tmp_path, run, run_json):
    bad = copy_with_flipped_bit(store, b"five away")
    run("backup", store, tmp_path / "copy")
    code, out, _ = run("repair", bad, "--from", tmp_path / "copy")
    assert code == 0
    assert out.splitlines() == [
        "written anew: log/00000000000000000001.seg",
        "in quarantine: quarantine/00000000000000000001-0.0",
        f"ok 1..7 state {root_of(store)}",
    ]
    code, found = run_json("repair", bad, "--from", tmp_path / "copy")
    assert (code, found["segments"], found["verified"]["ok"]) == (0, [], True)


def test_log_tells_what_happened_one_json_line_each(store, run):
    code, out, _ = run("log", store, "--json")
    entries = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [(e["seq"], e["op"], e["collection"], e["ids"]) for e in entries] == [
        (1, "create_collection", "notes", []),
        (2, "add", "notes", ["a", "b", "c", "d"]),
        (3, "update", "notes", ["b"]),
        (4, "delete", "notes", ["c"]),
        (5, "create_collection", "old", []),
        (6, "add", "old", ["gone"]),
        (7, "drop_collection", "old", []),
    ]
    with detmem.open(store, "r") as db:
        assert entries[-1]["link"] == db.head


def test_log_is_cut_by_start_stop_id_and_collection(store, run):
    def seqs(*options):
        return [int(line.split()[0]) for line in run("log", store, *options)[1].splitlines()]

    assert seqs() == [1, 2, 3, 4, 5, 6, 7]
    assert seqs("--start", 3, "--stop", 5) == [3, 4]
    assert seqs("--id", "c") == [2, 4]
    assert seqs("--collection", "old") == [5, 6, 7]


def test_log_of_many_ids_shows_the_first_and_counts_the_rest(store, run):
    assert run("log", store, "--start", 2, "--stop", 3)[1].endswith("  notes  a b c and 1 more\n")


def test_inspect_shows_roots_and_collections(store, run, run_json):
    code, told = run_json("inspect", store)
    with detmem.open(store, "r") as db:
        assert told["checkpoint"]["state_root"] == db.state_root
        assert told["head"] == db.head
    assert code == 0
    expected = {"name": "notes", "dim": 2, "metric": "l2", "format": "Q16.16", "count": 3}
    assert told["collections"] == [expected]
    assert "\nnotes             3    2  l2      Q16.16\n" in run("inspect", store)[1]


def test_inspect_of_a_record_shows_it_and_every_seq_that_touched_it(store, run, run_json):
    code, told = run_json("inspect", store, "b")
    (record,) = told["records"]
    assert (code, told["seq"]) == (0, 7)
    assert (record["collection"], record["metadata"], record["document"]) == ("notes", {"n": 1}, "five away")
    assert record["raw"] == [3 * 65536, 4 * 65536]
    assert [(entry["seq"], entry["op"]) for entry in told["history"]] == [(2, "add"), (3, "update")]
    text = run("inspect", store, "b")[1]
    assert "  document  five away\n" in text
    assert "  raw       [196608, 262144] 2 x Q16.16\n" in text


@pytest.mark.parametrize("words", [["c"], ["gone"], ["gone", "--collection", "old"]])
def test_inspect_of_a_record_that_is_gone_shows_its_history(store, run, words):
    code, out, _ = run("inspect", store, *words)
    assert code == 0
    assert f"{words[0]} is not live at seq 7" in out
    assert "touched by\n" in out


def test_stats_are_those_of_arithmetic_on_paper(store, run, run_json):
    """Live are (0, 0), (3, 4) and (-1, 0): norms 0, 5, 1; operations are 1 + 4 + 1 + 1 + 1 + 1 + 1."""
    code, told = run_json("stats", store)
    assert (code, told["commits"], told["operations"]) == (0, 7, 10)
    assert told["bytes"] == sum(len(data) for data in files_of(store).values())
    assert [file["name"] for file in told["files"]] == ["HEAD", "LOCK", "log/00000000000000000001.seg"]
    (notes,) = told["collections"]
    assert (notes["raw_min"], notes["raw_max"]) == (-65536, 4 * 65536)
    assert (notes["norm_min"], notes["norm_max"]) == (0.0, 5.0)
    assert "-65536   262144  0.000000  5.000000\n" in run("stats", store)[1]


def test_stats_of_an_empty_collection_have_no_ranges(tmp_path, run, run_json):
    with detmem.open(tmp_path / "s") as db:
        db.collection("empty", dim=3)
    assert run_json("stats", tmp_path / "s")[1]["collections"][0]["norm_max"] is None
    assert run("stats", tmp_path / "s")[0] == 0


def test_diff_of_equal_stores_is_0(store, tmp_path, run, run_json):
    detmem.replay(store, tmp_path / "copy")
    assert run("diff", store, tmp_path / "copy") == (
        0,
        "A ends at seq 7, B at 7: the same history\nsame contents\n",
        "",
    )
    assert run_json("diff", store, tmp_path / "copy")[1]["same"] is True


def test_diff_says_where_histories_part_and_what_is_different(store, tmp_path, run, run_json):
    detmem.replay(store, tmp_path / "copy")
    with detmem.open(store) as db:
        db["notes"].add("only a", [1, 1])
    with detmem.open(tmp_path / "copy") as db:
        db["notes"].add("only b", [1, 1])
        db["notes"].update("b", documents="other")
        db.collection("more", dim=1)
    code, out, _ = run("diff", store, tmp_path / "copy")
    assert code == 1
    assert out.splitlines() == [
        "A ends at seq 8, B at 10: they part at seq 8",
        "+ notes only b",
        "- notes only a",
        "~ notes b",
        "! collection more stands on one side only, or is defined differently",
        "contents differ: +1 -1 ~1",
    ]
    code, told = run_json("diff", store, tmp_path / "copy")
    assert (code, told["same"], told["common_seq"], told["added"]) == (1, False, 7, [["notes", "only b"]])


def test_diff_knows_a_store_that_went_on(store, tmp_path, run):
    detmem.replay(store, tmp_path / "then", until=3)
    assert "A ends at seq 3, B at 7: A is the beginning of the other\n" in run("diff", tmp_path / "then", store)[1]
    assert "A ends at seq 7, B at 3: B is the beginning of the other\n" in run("diff", store, tmp_path / "then")[1]


# --- search -----------------------------------------------------------------------------------------------------------


def test_search_by_id_finds_the_nearest(store, run, run_json):
    code, told = run_json("search", store, "--collection", "notes", "--id", "a", "-k", 2)
    assert (code, told["seq"], told["state_root"]) == (0, 7, root_of(store))
    assert [(hit["id"], hit["distance"], hit["raw"]) for hit in told["hits"]] == [("a", 0.0, 0), ("d", 1.0, 2**32)]
    text = run("search", store, "--collection", "notes", "--id", "a")[1].splitlines()
    assert text == [
        "rank   distance  id  document",
        "   1   0.000000  a",
        "   2   1.000000  d",
        "   3  25.000000  b   five away",
    ]


def test_search_by_vector_file_one_and_several(store, tmp_path, run, run_json):
    np.save(tmp_path / "one.npy", np.array([3.0, 3.0]))
    np.save(tmp_path / "two.npy", np.array([[3.0, 3.0], [-1.0, 0.0]], np.float32))
    one = run_json("search", store, "--collection", "notes", "--vector", tmp_path / "one.npy", "-k", 1)[1]["hits"]
    two = run_json("search", store, "--collection", "notes", "--vector", tmp_path / "two.npy", "-k", 1)[1]["hits"]
    assert [hit["id"] for hit in one] == ["b"]
    assert [[hit["id"] for hit in hits] for hits in two] == [["b"], ["d"]]
    assert "query 1\n" in run("search", store, "--collection", "notes", "--vector", tmp_path / "two.npy")[1]


def test_search_where_filters(store, run_json):
    words = ["search", store, "--collection", "notes", "--id", "a", "--where", '{"n": {"$in": [1, 3]}}']
    assert [hit["id"] for hit in run_json(*words)[1]["hits"]] == ["d", "b"]


# --- receipts and signatures ------------------------------------------------------------------------------------------


def test_a_receipt_is_written_and_asked_again(store, tmp_path, run, run_json):
    """Also by a store that has moved on, and not by one where the answer is another."""
    place = tmp_path / "answer.receipt"
    for level, shown in (("R1", "R2"), ("R3", "R3")):
        words = ["search", store, "--collection", "notes", "--id", "a", "-k", 2, "--receipt", place, "--level", level]
        code, _, err = run(*words)
        receipt = detmem.Receipt.load(place)
        assert code == 0
        assert err == f"detmem: {place}: receipt {level}, sha256 {receipt.sha256}\n"
        assert [one.id for one in receipt.results] == ["a", "d"]
        code, told = run_json("check-receipt", place, store)
        assert (code, told["ok"], told["level"], told["rank"]) == (0, True, shown, None)
    with detmem.open(store) as db:
        db["notes"].delete("a")
    code, out, _ = run("check-receipt", place, store)
    assert (code, out.split()[0]) == (0, "IDENTICAL")
    first = receipt.results[0]
    lying = replace(receipt, results=(first._replace(raw=first.raw - 1), *receipt.results[1:]))
    lying.save(place)
    code, out, _ = run("check-receipt", place, store)
    assert code == 1
    assert out.startswith("DIFFERS rank 1: the receipt says 'a' at raw distance -1, the store 'a' at raw distance 0")
    place.write_bytes(b"no receipt")
    assert run("check-receipt", place, store)[0] == 3
    assert run("check-receipt", tmp_path / "none", store)[0] == 3


def test_a_receipt_is_of_one_query_only(store, tmp_path, run):
    np.save(tmp_path / "two.npy", np.array([[3.0, 3.0], [-1.0, 0.0]], np.float32))
    words = ["search", store, "--collection", "notes", "--vector", tmp_path / "two.npy", "--receipt", tmp_path / "r"]
    assert run(*words)[0] == 2


def test_signing_keeps_what_was_signed(store, tmp_path, run, run_json):
    pytest.importorskip("cryptography")
    key, notes = detmem.SignerKey.generate("example.org/agent"), tmp_path / "agent.note"
    (tmp_path / "signer.key").write_text(key.encode() + "\n")
    words = ["sign", store, "--key", tmp_path / "signer.key", "--note", notes]
    shutil.copytree(store, tmp_path / "old")
    assert run(*words)[:2] == (0, notes.read_text("utf-8").rstrip("\n") + "\n")
    with detmem.open(store) as db:
        db["notes"].delete("a")
        now = db.checkpoint()
    code, told = run_json(*words)
    assert (code, told["verifier_key"]) == (0, str(key.verifier))
    assert key.verifier.open(notes.read_text("utf-8")) == now
    signed = notes.read_bytes()
    code, _, err = run("sign", tmp_path / "old", *words[2:])  # rolled back
    assert code == 3
    assert "has not been at" in err
    assert notes.read_bytes() == signed
    notes.write_bytes(signed.replace(b"seq", b"\xff"))  # once the errors of UTF-8 came through
    assert run(*words)[:2] == (3, "")
    for nonsense in (b"nonsense", key.encode().encode()[:-1] + b"\xff", b"\xff"):
        (tmp_path / "signer.key").write_bytes(nonsense)
        assert run(*words)[:2] == (2, "")


# --- snapshot ---------------------------------------------------------------------------------------------------------


def test_snapshot_is_written_and_opened_from(store, run, run_json):
    code, told = run_json("snapshot", store)
    assert (code, told["seq"], told["state_root"]) == (0, 7, root_of(store))
    assert Path(told["path"]).is_file()
    assert run("snapshot", store)[1].startswith("snapshot of seq 7, state ")
    assert run("verify", store)[0] == 0


# --- exit codes and manners -------------------------------------------------------------------------------------------

WRONG_WORDS = [
    [],
    ["nonsense"],
    ["verify"],
    ["verify", "STORE", "--level", "half"],
    ["verify", "STORE", "--lev", "chain"],
    ["verify", "STORE", "--expect", "no such file"],
    ["verify", "STORE", "--expect", "ab" * 31],
    ["verify", "STORE", "--expect", __file__],
    ["replay", "STORE"],
    ["replay", "STORE", "NEW", "--until", "8"],
    ["log", "STORE", "--start", "0"],
    ["log", "STORE", "--start", "x"],
    ["log", "STORE", "--stop", "-1"],
    ["inspect", "STORE", "never"],
    ["inspect", "STORE", "--collection", "never"],
    ["inspect", "STORE@8"],
    ["inspect", "STORE@3", "gone"],
    ["search", "STORE", "--collection", "notes"],
    ["search", "STORE", "--id", "a"],
    ["search", "STORE", "--collection", "notes", "--id", "a", "--vector", "f.npy"],
    ["search", "STORE", "--collection", "notes", "--id", "never"],
    ["search", "STORE", "--collection", "never", "--id", "a"],
    ["search", "STORE", "--collection", "notes", "--id", "a", "-k", "0"],
    ["search", "STORE", "--collection", "notes", "--id", "a", "--where", "{"],
    ["search", "STORE", "--collection", "notes", "--id", "a", "--where", "[1]"],
    ["search", "STORE", "--collection", "notes", "--id", "a", "--where", '{"n": {"$near": 1}}'],
    ["search", "STORE", "--collection", "notes", "--id", "a", "--where", '{"n": 1, "n": 2}'],
    ["search", "STORE", "--collection", "notes", "--vector", "no such file.npy"],
    ["search", "STORE", "--collection", "notes", "--vector", __file__],
    ["search", "STORE", "--collection", "notes", "--id", "a", "--at", "8"],
    ["search", "STORE", "--collection", "notes", "--id", "a", "--at", "1"],
    ["stats", "STORE", "--verbose"],
]


def npy_of(shape):
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


NO_ARRAYS = [
    b"",
    b"text",
    b"PK\x03\x04 no zip",
    b"\x93NUMPY\x01\x00",
    npy_of("(2,"),
    npy_of("((("),
    npy_of(f"({2**45},)"),
]


@pytest.mark.parametrize("content", NO_ARRAYS, ids=repr)
def test_a_file_that_is_no_array_is_one_line_and_2(store, tmp_path, run, content):
    (tmp_path / "f.npy").write_bytes(content)
    code, out, err = run("search", store, "--collection", "notes", "--vector", tmp_path / "f.npy")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("detmem: --vector: expected a .npy file")


def test_an_array_of_objects_or_of_another_width_is_2(store, tmp_path, run):
    for array in (np.array([{}, {}]), np.zeros(3), np.zeros((1, 1, 2)), np.array(["x", "y"])):
        np.save(tmp_path / "f.npy", array, allow_pickle=True)
        assert run("search", store, "--collection", "notes", "--vector", tmp_path / "f.npy")[0] == 2


def test_a_number_of_more_digits_than_python_reads_is_2(store, run):
    code, out, err = run("search", store, "--collection", "notes", "--id", "a", "--where", '{"n": %s}' % ("9" * 5000))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("detmem: --where: expected JSON")


@pytest.mark.parametrize("words", WRONG_WORDS, ids=" ".join)
def test_wrong_words_are_one_line_and_2(store, tmp_path, run, words):
    before = files_of(store)
    new = tmp_path / "new"
    code, out, err = run(*(word.replace("STORE", store).replace("NEW", str(new)) for word in words))
    assert (code, out) == (2, "")
    assert err.startswith("detmem: ")
    assert err.count("\n") == 1
    assert files_of(store) == before
    assert not new.exists()


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_closed_stream_changes_no_exit_code_and_what_is_said_on_the_other(store, run, monkeypatch, closed):
    """Once `verify STORE >&-` and `2>&-` ended in an AttributeError, and 1, which is what a bad store has."""
    said = run("verify", store)[1]
    monkeypatch.setattr("sys." + closed, None)
    assert run("verify", store) == (0, "" if closed == "stdout" else said, "")
    assert run("verify", store, "--progress")[0] == 0
    code, out, err = run("log", store, "--start", "0")
    assert (code, out, bool(err)) == (2, "", closed == "stdout")


def test_inspect_of_a_moment_shows_it_as_it_was(store, tmp_path, run, run_json):
    then = detmem.replay(store, tmp_path / "then", until=3)
    code, told = run_json("inspect", f"{store}@3")
    assert (code, told["checkpoint"]["state_root"], told["checkpoint"]["log_root"]) == (
        0,
        then.state_root,
        then.log_root,
    )
    assert [collection["count"] for collection in told["collections"]] == [4]
    assert run_json("inspect", f"{store}@2", "b")[1]["records"][0]["document"] is None
    assert run_json("inspect", f"{store}@3", "c")[1]["records"][0]["metadata"] == {"n": 2}
    assert [entry["seq"] for entry in run_json("inspect", f"{store}@3", "c")[1]["history"]] == [2]
    Path(store).rename(tmp_path / "odd@3")  # a store of that name is that store
    assert run_json("inspect", tmp_path / "odd@3")[1]["checkpoint"]["seq"] == 7


def test_search_at_a_moment_answers_as_then(store, run_json):
    code, told = run_json("search", store, "--collection", "notes", "--id", "a", "--at", 3)
    assert (code, told["seq"]) == (0, 3)
    assert [hit["id"] for hit in told["hits"]] == ["a", "c", "d", "b"]
    with detmem.open(store, "r") as db:
        assert told["state_root"] == db.at(3).state_root


ON_ONE_STORE = [
    ["verify", "STORE"],
    ["replay", "STORE", "NEW"],
    ["log", "STORE"],
    ["inspect", "STORE"],
    ["stats", "STORE"],
    ["diff", "STORE", "STORE"],
    ["search", "STORE", "--collection", "notes", "--id", "a"],
    ["snapshot", "STORE"],
]


def newer_format(folder):
    detmem.open(folder).close()
    head = bytearray((folder / "HEAD").read_bytes())
    for slot in (0, 4096):  # version u16 behind the magic; crc32 of the first 136 bytes behind them (spec/log.md)
        head[slot + 8 : slot + 10] = (99).to_bytes(2, "little")
        head[slot + 136 : slot + 140] = zlib.crc32(head[slot : slot + 136]).to_bytes(4, "little")
    (folder / "HEAD").write_bytes(head)


def foreign(folder):
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")


@pytest.mark.parametrize("words", ON_ONE_STORE, ids=lambda words: words[0])
@pytest.mark.parametrize("make", [lambda folder: None, foreign, newer_format, Path.mkdir, Path.touch])
def test_what_cannot_be_opened_is_one_line_and_3(tmp_path, run, words, make):
    path = tmp_path / "strange"
    make(path)
    before = files_of(tmp_path)
    code, out, err = run(*(word.replace("STORE", str(path)).replace("NEW", str(tmp_path / "new")) for word in words))
    assert (code, out) == (3, "")
    assert err.startswith("detmem: ")
    assert err.count("\n") == 1
    assert files_of(tmp_path) == before


def test_a_damaged_store_cannot_be_opened(store, run):
    flipped = copy_with_flipped_bit(store, b"five away")
    for words in ON_ONE_STORE[2:]:
        code, out, err = run(*(word.replace("STORE", flipped) for word in words))
        assert (code, out) == (3, "")
        assert "offset" in err


def test_an_existing_destination_is_3_and_untouched(store, tmp_path, run):
    before = files_of(store)
    assert run("replay", store, store)[0] == 3
    assert files_of(store) == before


def test_looking_writes_nothing_and_needs_no_lock(store, tmp_path, run):
    with detmem.open(store):
        before = files_of(store)
        for words in ON_ONE_STORE[:-1]:
            for ending in ([], ["--json"]):
                new = str(tmp_path / f"new{len(ending)}")
                code, _, err = run(*(word.replace("STORE", store).replace("NEW", new) for word in words), *ending)
                assert (code, err) == (0, "")
        assert files_of(store) == before
        code, _, err = run("snapshot", store)
        assert code == 3
        assert err.count("\n") == 1


def test_what_recovery_found_is_said_on_stderr(store, run):
    (segment,) = (Path(store) / "log").iterdir()
    segment.write_bytes(segment.read_bytes() + b"torn")
    code, out, err = run("inspect", store, "--json")
    assert code == 0
    assert json.loads(out)["checkpoint"]["seq"] == 7
    assert err.startswith(f"detmem: {store}: ")
    assert "4 bytes of an unfinished commit behind seq 7" in err


def test_a_command_that_writes_says_as_well_what_recovery_did(store, run, tmp_path):
    """Once, archive kept it to itself."""
    for command in (["snapshot", store], ["archive", store, tmp_path / "archive"]):
        segment = sorted((Path(store) / "log").iterdir())[-1]
        segment.write_bytes(segment.read_bytes() + b"torn")
        code, _, err = run(*command)
        assert code == 0
        assert "4 bytes of an unfinished commit behind seq 7" in err


def test_a_document_cannot_steer_the_terminal(store, run):
    """Control characters and line ends of stored text are written out: a hit stays one line."""
    with detmem.open(store) as db:
        db["notes"].add("gold", [9, 9], documents=GOLD)
    for words in (["search", store, "--collection", "notes", "--id", "gold", "-k", "1"], ["inspect", store, "gold"]):
        out = run(*words)[1]
        assert "\x1b" not in out
        assert "\\x1b[33mgold\\x1b[0m" in out
    assert json.loads(run("inspect", store, "gold", "--json")[1])["records"][0]["document"] == GOLD


def test_an_interrupt_is_4(store, run, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(detmem, "verify", interrupted)
    assert run("verify", store) == (4, "", "detmem: interrupted\n")


def test_a_reader_that_leaves_early_gets_no_traceback(store):
    command = [sys.executable, "-m", "detmem", "log", store]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        child.stdout.close()
        assert child.stderr.read() == ""
    assert child.returncode == 4


def test_python_m_detmem_is_the_same_program(store):
    command = [sys.executable, "-m", "detmem", "verify", store, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["state_root"] == root_of(store)


def test_version_and_help(run):
    assert run("--version") == (0, f"detmem {detmem.__version__}\n", "")
    code, out, _ = run("--help")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines() if line[:4].isspace() and line[4:5].strip()] == list(
        options.COMMANDS
    )


@pytest.mark.parametrize("name", options.COMMANDS)
def test_every_help_has_an_example_that_parses(run, name):
    code, out, _ = run(name, "--help")
    assert code == 0
    (example,) = (line for line in out.splitlines() if line.startswith("example: detmem "))
    words = shlex.split(example.removeprefix("example: detmem "))
    assert options.parser("0").parse_args(words).command == name
    assert "--json" in out


def test_stats_beside_a_writer_that_removes_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with detmem.open(tmp_path / "store") as db:
        db.collection("c", dim=1)
    temporary = tmp_path / "store" / "snap" / "00000000000000000009.snap.tmp"
    temporary.touch()
    plain = Path.stat

    def once(path: Path, **more: Any) -> Any:
        found = plain(path, **more)
        if path == temporary:
            temporary.unlink()
        return found

    monkeypatch.setattr(Path, "stat", once)
    assert main(["stats", str(tmp_path / "store")]) == 0
    assert not temporary.exists()
