"""What is exported and imported again has the same roots, and an exported log is equal wherever the history is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import detmem
from detmem import exchange
from detmem.cli import main
from tests.mutations import VERIFIER
from tests.twin import TWIN, perform

FORMATS = [
    "npy",
    "npz",
    pytest.param("parquet", marks=pytest.mark.skipif(not exchange.has_pyarrow(), reason="pyarrow is not installed")),
    "fvecs",
]


def filled(path: Path) -> detmem.Database:
    """Each metric and format, odd names, every kind of metadata value, and an empty collection."""
    db = detmem.open(path, durability="os")
    a = db.collection("../a/\x00\"'<b>", dim=3)
    values = [
        None,
        True,
        False,
        0,
        -1,
        2**63 - 1,
        -(2**63),
        0.0,
        -0.0,
        1.0,
        1e300,
        5e-324,
        "",
        "é\u202e\x00💾",
        [],
        [1, 2.0, None],
    ]
    a.add([f"id {n}" for n in range(len(values))], [[n + 1, 2, -3] for n in range(len(values))],
          metadatas=[{"v": value, "": n} for n, value in enumerate(values)],
          documents=[None, "", "two\nlines", *["x"] * (len(values) - 3)])  # fmt: skip
    a.delete("id 3")
    b = db.collection("b", dim=2, metric="l2", format="Q8.24")
    b.add(["é", "\U0001f600", "z"], [[0.5, -0.25], [1, 2], [3, 4]])
    db.collection("c", dim=1, metric="ip", format="Q4.28").upsert("one", [0.125], documents="d")
    db.collection("empty", dim=5)
    return db


@pytest.mark.parametrize("format", FORMATS)
def test_contents_come_back_with_the_same_state_root(tmp_path: Path, format: str) -> None:
    with filled(tmp_path / "s") as db:
        done = exchange.export(db, tmp_path / "out", format)
        assert done.checkpoint == db.checkpoint()
        made = exchange.load(tmp_path / "out", tmp_path / "copy")
        assert made.state_root == db.state_root
        assert detmem.diff(db, tmp_path / "copy").same
    assert detmem.verify(tmp_path / "copy").ok
    assert list(done.files) == sorted(path.name for path in (tmp_path / "out").iterdir())


@pytest.mark.parametrize("format", FORMATS)
def test_equal_contents_are_exported_to_equal_bytes(tmp_path: Path, format: str) -> None:
    with filled(tmp_path / "s") as db:
        detmem.replay(db, tmp_path / "replica")
        exchange.export(db, tmp_path / "one", format)
    with detmem.open(tmp_path / "replica", "r") as db:
        exchange.export(db, tmp_path / "two", format)
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / side).iterdir()} for side in ("one", "two"))
    assert one == two


def test_vectors_and_records_are_what_any_program_reads(tmp_path: Path) -> None:
    with filled(tmp_path / "s") as db:
        exchange.export(db, tmp_path / "npy", collection="b")
        exchange.export(db, tmp_path / "npz", "npz", collection="b")
        exchange.export(db, tmp_path / "fvecs", "fvecs", collection="b")
    raw = np.array([[3, 4], [0.5, -0.25], [1, 2]]) * 2**24  # in id order: z, é, an emoji
    loaded = np.load(tmp_path / "npy" / "0000.npy")
    assert loaded.dtype == np.int32
    assert np.array_equal(loaded, raw)
    with np.load(tmp_path / "npz" / "0000.npz") as archive:
        assert np.array_equal(archive["raw"], raw)
    table = np.fromfile(tmp_path / "fvecs" / "0000.fvecs", "<f4").reshape(3, 3)
    assert table[:, 0].view("<i4").tolist() == [2, 2, 2]
    assert np.array_equal(table[:, 1:], raw / 2**24)
    lines = [json.loads(line) for line in (tmp_path / "npy" / "0000.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["id"] for line in lines] == ["z", "é", "\U0001f600"]
    assert lines[0] == {"id": "z", "metadata": {}, "document": None}


def test_fvecs_that_had_to_round_are_not_taken_back(tmp_path: Path) -> None:
    with detmem.open(tmp_path / "s") as db:
        db.collection("c", dim=1, metric="l2").add("a", raw=[2**24 + 1])  # one bit more than a float32 holds
        exchange.export(db, tmp_path / "out", "fvecs")
    with pytest.raises(detmem.UsageError, match="rounded to float32"):
        exchange.load(tmp_path / "out", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_many_records_are_written_and_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "_ROWS_AT_ONCE", 7)
    with detmem.open(tmp_path / "s") as db:
        db.collection("c", dim=2, metric="l2").add([f"{n:03}" for n in range(50)], [[n, -n] for n in range(50)])
        for format in ("npy", "npz", "fvecs"):
            exchange.export(db, tmp_path / format, format)
            assert exchange.load(tmp_path / format, tmp_path / f"{format}.copy").state_root == db.state_root


def test_links_come_back(tmp_path: Path) -> None:
    with filled(tmp_path / "s") as db:
        odd = db.collections()[0]
        db["b"].link("z", "knows", "é")
        db["b"].link("z", "about", (odd, "id 0"))
        db[odd].link("id 0", "\x00<b>", ("c", "one"))
        exchange.export(db, tmp_path / "all")
        assert exchange.load(tmp_path / "all", tmp_path / "copy").state_root == db.state_root
        exchange.export(db, tmp_path / "b", collection="b")
    lines = (tmp_path / "b" / "links.jsonl").read_text(encoding="ascii").splitlines()
    assert [json.loads(line) for line in lines] == [["b", "z", "knows", "b", "é"]]  # the other end of the rest stays
    exchange.load(tmp_path / "b", tmp_path / "one")


def test_an_erasable_collection_comes_back_under_the_new_stores_key(tmp_path: Path) -> None:
    with detmem.open(tmp_path / "s") as db:
        db.collection("c", dim=1, metric="l2", erasable=True).add("a", [1], documents="x")
        exchange.export(db, tmp_path / "out")
        exchange.export_log(db, tmp_path / "log")
        made = exchange.load(tmp_path / "out", tmp_path / "copy")
        assert made.state_root != db.state_root
        assert json.loads((tmp_path / "out" / "export.json").read_text(encoding="ascii"))["state_root"] is None
        assert exchange.load(tmp_path / "log", tmp_path / "replica") == db.checkpoint()  # salts travel with the log
    with detmem.open(tmp_path / "copy", "r") as copy:
        assert copy["c"].erasable
        assert copy["c"].get("a").documents == ["x"]


# --- what is not an export, or no longer ------------------------------------------------------------------------------


def test_an_edited_export_is_refused(tmp_path: Path) -> None:
    with filled(tmp_path / "s") as db:
        exchange.export(db, tmp_path / "out")

    def edited(name: str, old: bytes, new: bytes) -> Path:
        folder = tmp_path / "edited"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "out", folder)
        data = (folder / name).read_bytes()
        assert old in data
        (folder / name).write_bytes(data.replace(old, new, 1))
        return folder

    cases: list[tuple[str, bytes, bytes, type[Exception]]] = [
        ("0000.jsonl", b"two", b"too", detmem.Divergence),
        ("0001.npy", (2**24).to_bytes(4, "little"), (2**24 + 1).to_bytes(4, "little"), detmem.Divergence),
        ("0000.jsonl", b'{"id"', b'{"di"', detmem.CorruptionError),
        ("0000.jsonl", b'{"id"', b'"id"', detmem.CorruptionError),
        ("0000.jsonl", b"two", b"t\xffo", detmem.CorruptionError),
        ("0001.npy", b"NUMPY", b"NUMPI", detmem.CorruptionError),
        ("0001.npy", b"(3, 2)", b"((3,2", detmem.CorruptionError),
        ("0001.npy", b"(3, 2)", b"(2, 2)", detmem.CorruptionError),
        ("export.json", b'"count": 3', b'"count": 4', detmem.CorruptionError),
        ("export.json", b'"0001.npy"', b'"../out/0001.npy"', detmem.CorruptionError),
        ("export.json", b'"records": "', b'"recorts": "', detmem.CorruptionError),
        ("export.json", b'"vectors": "0', b'"victors": "0', detmem.CorruptionError),
        ("export.json", b'"version": 1', b'"version": 2', detmem.FormatError),
        ("export.json", b'"dim": 2', b'"dim": "2"', detmem.FormatError),
        ("export.json", b'"collections"', b'"collection"', detmem.FormatError),
        ("export.json", b"{", b"[", detmem.FormatError),
        ("export.json", b"{", b"[" * 100_000, detmem.FormatError),
    ]
    for number, (name, old, new, error) in enumerate(cases):
        with pytest.raises(error):
            exchange.load(edited(name, old, new), tmp_path / f"copy{number}")


def test_a_damaged_npz_is_refused(tmp_path: Path) -> None:
    """Once zipfile's own errors came through, as those of NumPy's header and of UTF-8 did."""
    with filled(tmp_path / "s") as db:
        exchange.export(db, tmp_path / "out", "npz")
    file = tmp_path / "out" / "0001.npz"
    good = file.read_bytes()
    middle = len(good) // 3
    for number, bad in enumerate((good[:-1], good[:middle], good[:middle] + b"\xff" + good[middle + 1 :], b"")):
        file.write_bytes(bad)
        with pytest.raises(detmem.CorruptionError):
            exchange.load(tmp_path / "out", tmp_path / f"copy{number}")


def test_what_is_no_export_is_refused_and_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"text")
    (tmp_path / "folder").mkdir()
    for source in ("file", "folder", "nothing"):
        with pytest.raises(detmem.FormatError):
            exchange.load(tmp_path / source, tmp_path / "new")
    with filled(tmp_path / "s") as db:
        for write in (exchange.export, exchange.export_log):
            for there in ("file", "folder"):
                with pytest.raises(detmem.StoreExistsError):
                    write(db, tmp_path / there)
        with pytest.raises(detmem.UsageError):
            exchange.export(db, tmp_path / "new", "csv")
        with pytest.raises(detmem.NotFoundError):
            exchange.export(db, tmp_path / "new", collection="none")
        assert not (tmp_path / "new").exists()
        exchange.export(db, tmp_path / "out")
        with pytest.raises(detmem.StoreExistsError):
            exchange.load(tmp_path / "out", tmp_path / "s")


# --- the log ----------------------------------------------------------------------------------------------------------

CALLS: list[tuple[Any, ...]] = [
    ("create", "c", 2, "l2", "Q16.16"),
    ("add", "c", [("a", [1, 2], {"k": 1}, "one"), ("b", [3, 4], None, None)]),
    ("delete", "c", ["a"]),
    ("add", "c", [("a", [5, 6], None, "")]),
]


def test_an_exported_log_is_the_twins_byte_for_byte(tmp_path: Path) -> None:
    """One segment of nobody's store from seq 1, durable_seq 0 in every commit, and a seal."""
    memory, nobody = TWIN.Memory(), bytes(16)
    expected = TWIN.segment_header(TWIN.Segment(nobody, 1, 0, memory.link, memory.log_root()))
    with detmem.open(tmp_path / "s") as db:
        for call in CALLS:
            expected += TWIN.commit_frame(memory.write(call), 0, nobody, 1)
            perform(db, call)
            db.snapshot()  # other segments than a store without snapshots has
        seal = memory.seq, memory.seq, memory.seq, memory.log_size, memory.link, memory.log_root(), nobody, 1
        exchange.export_log(db, tmp_path / "log")
    assert (tmp_path / "log").read_bytes() == expected + TWIN.seal_frame(*seal)


def test_equal_histories_are_exported_to_equal_bytes_and_come_back(tmp_path: Path) -> None:
    with filled(tmp_path / "s") as db, detmem.open(":memory:") as memory:
        done = exchange.export_log(db, tmp_path / "one")
        made = exchange.load(tmp_path / "one", tmp_path / "copy")
        assert made == db.checkpoint() == done.checkpoint
        assert made != memory.checkpoint()
    with detmem.open(tmp_path / "copy") as copy:
        copy.snapshot()
        exchange.export_log(copy, tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_what_was_erased_is_in_no_export_and_the_log_comes_back_without_it(tmp_path: Path) -> None:
    with detmem.open(tmp_path / "s") as db:
        c = db.collection("c", dim=1, metric="l2", erasable=True)
        c.add(["a", "b"], [[1], [2]], documents=["only here", "other"])
        db.erase("c", "a")
        exchange.export(db, tmp_path / "out")
        exchange.export_log(db, tmp_path / "log")
        assert exchange.load(tmp_path / "log", tmp_path / "copy") == db.checkpoint()
    for path in [*tmp_path.rglob("*")]:
        assert path.is_dir() or b"only here" not in path.read_bytes()
    assert VERIFIER.verify_log(tmp_path / "log").notes == []
    assert VERIFIER.verify_store(tmp_path / "copy").notes == []


def test_a_log_with_a_payload_gone_and_no_erasure_is_refused(tmp_path: Path) -> None:
    memory, nobody = TWIN.Memory(), bytes(16)
    data = TWIN.segment_header(TWIN.Segment(nobody, 1, 0, memory.link, memory.log_root()))
    for call in CALLS[:2]:
        commit = memory.write(call)
        gone = tuple(TWIN.without_payload(o) if o.type == TWIN.ADD else o for o in commit.operations)
        data += TWIN.commit_frame(commit._replace(operations=gone), 0, nobody, 1)
    seal = [memory.seq] * 3
    (tmp_path / "log").write_bytes(
        data + TWIN.seal_frame(*seal, memory.log_size, memory.link, memory.log_root(), nobody, 1)
    )
    with pytest.raises(detmem.CorruptionError):
        exchange.load(tmp_path / "log", tmp_path / "copy")


def test_the_log_of_an_empty_store_comes_back(tmp_path: Path) -> None:
    with detmem.open(tmp_path / "s") as db:
        exchange.export_log(db, tmp_path / "log")
    assert exchange.load(tmp_path / "log", tmp_path / "copy").seq == 0


def test_an_exported_log_may_be_named_by_a_link(tmp_path: Path) -> None:
    """A folder may, and a store; the log was refused: too many levels of symbolic links."""
    with detmem.open(tmp_path / "s") as db:
        db.collection("c", dim=1)
        exchange.export_log(db, tmp_path / "log")
        try:
            (tmp_path / "link").symlink_to(tmp_path / "log")
        except OSError:
            pytest.skip("no links here")
        assert exchange.load(tmp_path / "link", tmp_path / "copy") == db.checkpoint()


def test_a_log_that_is_cut_or_changed_anywhere_is_refused(tmp_path: Path) -> None:
    with detmem.open(tmp_path / "s") as db:
        for call in CALLS:
            perform(db, call)
        exchange.export_log(db, tmp_path / "log")
    data = (tmp_path / "log").read_bytes()
    frames = [at for at in range(len(data)) if data[at : at + 4] == b"DMF1"]
    cuts = [data[:at] for at in (0, 100, *(at + more for at in frames for more in (0, 40)), len(data) - 1)]
    flips = [data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in range(0, len(data), 29)]
    segment = next((tmp_path / "s" / "log").iterdir()).read_bytes()
    (whole,) = [cut for cut in cuts if cut == data[:128]]  # the log of an empty store: nobody can know better
    for number, bad in enumerate(set(cuts) - {whole} | set(flips) | {data + b"x", segment}):
        (tmp_path / "bad").write_bytes(bad)
        with pytest.raises((detmem.CorruptionError, detmem.FormatError)):
            exchange.load(tmp_path / "bad", tmp_path / f"copy{number}")


# --- the commands -----------------------------------------------------------------------------------------------------


def test_the_commands_write_and_take_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with filled(tmp_path / "s") as db:
        seq, root = db.seq, db.state_root
    store, out, log = (str(tmp_path / name) for name in ("s", "out", "log"))
    assert main(["export", store, out]) == 0
    assert capsys.readouterr().out.startswith(f"exported seq {seq}, state {root}\n  0000.jsonl\n  0000.npy\n")
    assert main(["import", str(tmp_path / "copy"), out]) == 0
    assert f"state {root}\n" in capsys.readouterr().out
    assert main(["export", store, log, "--format", "log", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == ["log"]
    assert main(["import", str(tmp_path / "copy2"), log]) == 0
    assert capsys.readouterr().out == f"imported {seq} commands, state {root}\n"
    assert main(["diff", store, str(tmp_path / "copy2")]) == 0
    assert main(["export", store, out]) == 3
    assert main(["export", store, str(tmp_path / "n"), "--format", "csv"]) == 2
    assert main(["export", store, str(tmp_path / "n"), "--format", "log", "--collection", "b"]) == 2
    assert main(["import", str(tmp_path / "n"), str(tmp_path / "nothing")]) == 3


def test_without_pyarrow_parquet_says_what_is_missing(tmp_path: Path) -> None:
    if exchange.has_pyarrow():
        pytest.skip("pyarrow is installed here")
    with filled(tmp_path / "s") as db, pytest.raises(detmem.UsageError, match="pip install pyarrow"):
        exchange.export(db, tmp_path / "out", "parquet")
    assert not (tmp_path / "out").exists()
