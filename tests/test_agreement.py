"""Package and verifier are two programs from one page: of whatever a forger hands in they say the same.

Each forgery is right in every CRC, link and digest but for the one thing that it is about.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

import detmem
from detmem import exchange
from detmem.errors import DetmemError
from tests.mutations import VERIFIER, lived
from tests.twin import TWIN

ZERO = bytes(32)
LINK_ZERO = TWIN.FIRST_LINK


def verifier_takes(path: Path, checkpoint: str | None = None) -> bool:
    wanted = None if checkpoint is None else VERIFIER.read_checkpoint(checkpoint)
    try:
        (VERIFIER.verify_store if path.is_dir() else VERIFIER.verify_log)(path, wanted)
    except VERIFIER.Refused:
        return False
    return True


# --- HEAD -------------------------------------------------------------------------------------------------------------


def head_of(store: Path) -> Any:
    data = (store / "HEAD").read_bytes()
    return max((TWIN.read_head_slot(data[at : at + 140]) for at in (0, 4096)), key=lambda one: one.generation)


def set_heads(store: Path, *heads: Any) -> None:
    slots = [b"" if head is None else TWIN.head_slot(head) for head in heads]
    (store / "HEAD").write_bytes(b"".join(slot.ljust(4096, b"\0") for slot in slots))


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Several segments, snapshots, an erasure; the last segment has no seal, and commits."""
    path = tmp_path_factory.mktemp("life") / "store"
    lived(path)
    assert firsts(path)[-1] <= head_of(path).durable_seq
    return path


@pytest.fixture
def store(life: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(life, tmp_path / "store"))


def firsts(store: Path) -> list[int]:
    return sorted(int(path.name[:20]) for path in (store / "log").iterdir())


def sealed(head: Any, store: Path, **changes: Any) -> Any:
    """HEAD as it stood at the end of the first segment, which has a seal by now."""
    first, second = firsts(store)[:2]
    with detmem.open(store, "r") as db:
        link = [entry.link for entry in db.log(1, second)][-1]
    place = {"durable_seq": second - 1, "segment": first, "durable_offset": 128, "link": bytes.fromhex(link)}
    return head._replace(**{**place, **changes})


HEADS: dict[str, tuple[bool, Callable[[Any, Path], Any]]] = {
    "as it is": (True, lambda head, store: head),
    "no snapshot": (True, lambda head, store: head._replace(snapshot_seq=0, snapshot_digest=ZERO)),
    "no snapshot, and a digest": (True, lambda head, store: head._replace(snapshot_seq=0)),
    "nothing yet": (True, lambda head, store: head._replace(
        durable_seq=0, segment=0, durable_offset=0, link=LINK_ZERO)),
    "a first segment": (True, lambda head, store: head._replace(
        durable_seq=0, segment=1, durable_offset=128, link=LINK_ZERO)),
    "the end of a sealed segment": (True, sealed),
    "the end of a sealed segment that was longer": (True, lambda head, store: sealed(
        head, store, durable_offset=2**40)),
    "an offset too far": (False, lambda head, store: head._replace(durable_offset=head.durable_offset + 1)),
    "an offset behind the file": (False, lambda head, store: head._replace(durable_offset=2**63)),
    "an offset too near": (False, lambda head, store: head._replace(durable_offset=head.durable_offset - 1)),
    "no offset": (False, lambda head, store: head._replace(durable_offset=0)),
    "another link": (False, lambda head, store: head._replace(link=ZERO)),
    "nothing yet, and another link": (False, lambda head, store: head._replace(
        durable_seq=0, segment=0, durable_offset=0, link=ZERO)),
    "a first segment, and another link": (False, lambda head, store: head._replace(
        durable_seq=0, segment=1, durable_offset=128, link=ZERO)),
    "nothing yet, and an offset": (False, lambda head, store: head._replace(
        durable_seq=0, segment=0, durable_offset=128, link=LINK_ZERO)),
    "no segment, and a seq": (False, lambda head, store: head._replace(segment=0, durable_offset=0)),
    "a seq before its segment": (False, lambda head, store: sealed(
        head, store, segment=head.segment, durable_offset=128)),
    "a seq behind its segment": (False, lambda head, store: head._replace(segment=1)),
    "a seq behind the log": (False, lambda head, store: head._replace(durable_seq=head.durable_seq + 1)),
    "a segment that is not there": (False, lambda head, store: head._replace(segment=2)),
    "another store": (False, lambda head, store: head._replace(store_id=bytes(16))),
    "another snapshot's digest": (False, lambda head, store: head._replace(snapshot_digest=ZERO)),
}  # fmt: skip


@pytest.mark.parametrize("slots", ["both", "the newer", "the older"])
@pytest.mark.parametrize("why", HEADS)
def test_of_every_head(store: Path, why: str, slots: str) -> None:
    """HEAD's link at seq 0 and its offset were looked at by one of the two, or by none."""
    good, change = HEADS[why]
    head = head_of(store)
    forged = change(head, store)._replace(generation=head.generation + 1)
    if slots == "the older":  # nobody asks it
        good, forged = True, forged._replace(generation=head.generation - 1)
    set_heads(store, *([forged, forged] if slots == "both" else [forged, head]))
    assert detmem.verify(store).ok == good
    assert detmem.verify(store, level="chain").ok == good
    assert verifier_takes(store) == good


@pytest.mark.parametrize("why", [why for why in HEADS if "offset" in why or "link" in why or "segment" in why])
def test_opening_refuses_what_verify_refuses_of_a_place(store: Path, why: str) -> None:
    """From the log alone, so that it comes by; an offset behind the file once asked for a negative number of bytes."""
    good, change = HEADS[why]
    for snapshot in (store / "snap").iterdir():
        snapshot.unlink()
    forged = change(head_of(store), store)._replace(clean=False)
    set_heads(store, forged, forged)
    for mode in ("r", "r+"):
        if good:
            detmem.open(store, mode).close()
        else:
            with pytest.raises(DetmemError):
                detmem.open(store, mode)
            assert head_of(store) == forged


def test_a_snapshot_of_nothing_that_head_does_not_name_yet(tmp_path: Path) -> None:
    """Cut off between the file and HEAD: HEAD's digest is of no snapshot, since it names none."""
    with detmem.open(tmp_path / "s") as db:
        db.snapshot()
    head = head_of(tmp_path / "s")
    for digest in (head.snapshot_digest, ZERO):
        set_heads(tmp_path / "s", *[head._replace(snapshot_seq=0, snapshot_digest=digest)] * 2)
        assert detmem.verify(tmp_path / "s").ok
        assert verifier_takes(tmp_path / "s")
        detmem.open(tmp_path / "s").close()


# --- segments and snapshots -------------------------------------------------------------------------------------------


def both_take(store: Path) -> tuple[bool, bool]:
    try:
        package = detmem.verify(store).ok
    except detmem.FormatError:  # of another version
        package = False
    return package, verifier_takes(store)


@pytest.mark.parametrize("slots", [1, 2])
def test_a_slot_of_another_version_is_not_one_that_is_torn(store: Path, slots: int) -> None:
    """A newer program has been here.  The verifier used the other slot."""
    data = bytearray((store / "HEAD").read_bytes())
    for at in (0, 4096)[:slots]:
        data[at + 8] = 3
        data[at + 136 : at + 140] = crc32(data[at : at + 136]).to_bytes(4, "little")
    (store / "HEAD").write_bytes(data)
    assert both_take(store) == (False, False)


@pytest.mark.parametrize("size", [140, 4095, 4236, 8191, 8193])
def test_a_head_of_another_size_is_read_as_far_as_it_has_slots(store: Path, size: int) -> None:
    """The verifier refused it, and the package did not."""
    (store / "HEAD").write_bytes((store / "HEAD").read_bytes()[:size].ljust(size, b"x"))
    assert both_take(store) == (True, True)


def test_bytes_behind_a_seal_are_a_torn_tail_of_the_last_segment(store: Path) -> None:
    """Cut off between the seal and the next segment; the verifier refused what stands behind."""
    last = firsts(store)[-1]
    before = firsts(store)[-2]
    head = head_of(store)
    header = (store / "log" / f"{last:020d}.seg").read_bytes()[:128]
    place = {"durable_seq": last - 1, "segment": before, "link": header[48:80], "snapshot_seq": 0}
    name = store / "log" / f"{before:020d}.seg"
    (store / "log" / f"{last:020d}.seg").unlink()
    for tail in (b"", b"x" * 40):
        name.write_bytes(name.read_bytes() + tail)
        end = name.stat().st_size - len(tail) - 144
        set_heads(store, *[head._replace(**place, durable_offset=end)] * 2)
        assert both_take(store) == (True, True)
    set_heads(store, *[head._replace(**place, durable_offset=end + 1)] * 2)
    assert both_take(store) == (False, False)  # what is torn is no seal
    detached = sorted((store / "log").iterdir())[0]
    detached.write_bytes(detached.read_bytes() + b"x")
    assert both_take(store) == (False, False)


@pytest.mark.parametrize("count", [1, 31, 32, 5000])
def test_zeros_behind_the_log_are_its_end_and_anywhere_else_they_are_damage(store: Path, count: int) -> None:
    """A writer had written them ahead and was killed."""
    last, before = (store / "log" / f"{first:020d}.seg" for first in firsts(store)[:-3:-1])
    whole, sealed_before = last.read_bytes(), before.read_bytes()
    last.write_bytes(whole + bytes(count))
    assert both_take(store) == (True, True)
    assert f"{count} zeros" in VERIFIER.verify_store(store, None).notes[-1]
    last.write_bytes(whole + bytes(count) + b"x")  # a torn tail
    assert both_take(store) == (True, True)
    last.write_bytes(whole[: -count % len(whole)] + bytes(count))
    assert both_take(store) == (False, False)
    last.write_bytes(whole)
    before.write_bytes(sealed_before + bytes(count))
    assert both_take(store) == (False, False)
    before.write_bytes(sealed_before[:-144] + bytes(144))
    assert both_take(store) == (False, False)


@pytest.mark.parametrize("at", [0, 10, 12, 32, 112])
def test_a_last_segment_with_a_bad_header_that_head_does_not_name_was_being_made(store: Path, at: int) -> None:
    """Magic, flags, size, first seq, zeros, each under a right CRC.  The verifier called it another format."""
    last = firsts(store)[-1]
    with detmem.open(store) as db:
        db.snapshot()
        link, seq = bytes.fromhex(db.head), db.seq
    name = store / "log" / f"{firsts(store)[-1]:020d}.seg"
    assert firsts(store)[-1] == seq + 1
    data = bytearray(name.read_bytes()[:124])
    data[at] ^= 1
    name.write_bytes(data + crc32(data).to_bytes(4, "little"))
    assert both_take(store) == (False, False)
    end = (store / "log" / f"{last:020d}.seg").stat().st_size - 144
    place = {"durable_seq": seq, "segment": last, "durable_offset": end, "link": link}
    set_heads(store, *[head_of(store)._replace(**place)] * 2)
    assert both_take(store) == (True, True)


def test_a_snapshot_with_other_requests_is_refused(store: Path) -> None:
    """No root covers what a state remembers.  The package compared roots alone, so a forged request id would have been
    answered with a commit that never was."""
    name = sorted((store / "snap").iterdir())[-1]
    data = name.read_bytes()
    assert data.count(b"request 1") == 1
    front = 136 + 32 * int.from_bytes(data[128:132], "little")
    body = data[front + 68 : -52].replace(b"request 1", b"request 2")
    hashes = [TWIN.sha256(data[:front]), TWIN.sha256(b"\x19" + bytes(8) + body)]
    digest = TWIN.sha256(b"\x1a", *hashes)
    name.write_bytes(data[: front + 36] + hashes[1] + body + data[-52:-32] + digest)
    assert both_take(store) == (False, False)  # by HEAD's digest
    set_heads(store, *[head_of(store)._replace(snapshot_digest=digest)] * 2)
    assert both_take(store) == (False, False)
    assert detmem.verify(store, level="chain").ok


# --- archived payloads ------------------------------------------------------------------------------------------------


def test_archived_payloads_need_a_snapshot_that_stands_in_for_them(store: Path, tmp_path: Path) -> None:
    with detmem.open(store) as db:
        db.archive(tmp_path / "elsewhere")
        db["notes"].add("behind it", [1, 2, 3])
        db.snapshot()
    taken = {}
    for kept in ([0, 1], [1], [0], []):  # of two snapshots: at the archive, and behind it
        copy = Path(shutil.copytree(store, tmp_path / f"copy{len(taken)}"))
        snapshots = sorted((copy / "snap").iterdir())
        assert len(snapshots) == 2
        for number, path in enumerate(snapshots):
            if number not in kept:
                path.unlink()
        taken[tuple(kept)] = detmem.verify(copy).ok, verifier_takes(copy)
    assert taken == {(0, 1): (True, True), (1,): (True, True), (0,): (True, True), (): (False, False)}


# --- exported logs ----------------------------------------------------------------------------------------------------

NOBODY = bytes(16)


@cache
def commits() -> tuple[Any, list[Any]]:
    memory = TWIN.Memory()
    calls = [("create", "c", 1, "l2", "Q16.16"), ("add", "c", [("a", [1], {"k": 1}, "one")])]
    return memory, [memory.write(call) for call in calls]


def log_file(durable: tuple[int, ...] = (0, 0), **changes: Any) -> bytes:
    """An exported log of two commits, or what a forger would like to pass for one."""
    _, (create, add) = commits()
    add = changes.get("add", add)
    data = TWIN.segment_header(TWIN.Segment(NOBODY, 1, 0, LINK_ZERO, TWIN.log_root([])))
    for commit, acknowledged in zip((create, add), durable, strict=True):
        data += TWIN.commit_frame(commit, acknowledged, NOBODY, 1)
    return bytes(data + changes.get("seal", seal()))


def seal(**changes: Any) -> bytes:
    memory, _ = commits()
    said = {"seq": 2, "count": 2, "log_size": memory.log_size, "link": memory.link, "log_root": memory.log_root()}
    said |= changes
    return bytes(TWIN.seal_frame(said["seq"], said["seq"], said["count"], *list(said.values())[2:], NOBODY, 1))


EMPTY = TWIN.segment_header(TWIN.Segment(NOBODY, 1, 0, LINK_ZERO, TWIN.log_root([])))
EMPTY_SEAL = TWIN.seal_frame(0, 0, 0, 0, LINK_ZERO, TWIN.log_root([]), NOBODY, 1)


LOGS: dict[str, tuple[bool, Callable[[], bytes]]] = {
    "two commits": (True, log_file),
    "none": (True, lambda: EMPTY),
    "none, and a seal": (False, lambda: EMPTY + EMPTY_SEAL),
    "a durable seq": (False, lambda: log_file((0, 1))),
    "no seal": (False, lambda: log_file(seal=b"")),
    "two seals": (False, lambda: log_file(seal=seal() * 2)),
    "a seal of another count": (False, lambda: log_file(seal=seal(count=3))),
    "a seal of another seq": (False, lambda: log_file(seal=seal(seq=3))),
    "a seal of another size": (False, lambda: log_file(seal=seal(log_size=5))),
    "a seal of another link": (False, lambda: log_file(seal=seal(link=ZERO))),
    "a seal of another root": (False, lambda: log_file(seal=seal(log_root=ZERO))),
    "none, and a zero": (False, lambda: EMPTY + b"\0"),
    "none, and zeros": (False, lambda: EMPTY + bytes(5000)),
    "zeros for a seal": (False, lambda: log_file(seal=bytes(144))),
    "a tail": (False, lambda: log_file() + b"\0"),
    "a seal before the last commit": (False, lambda: log_file()[:128] + seal(seq=1, count=1) + log_file()[128:]),
    "a header alone cut": (False, lambda: EMPTY[:127]),
    "nothing": (False, lambda: b""),
}


@pytest.mark.parametrize("why", LOGS)
def test_of_every_exported_log(tmp_path: Path, why: str) -> None:
    good, make = LOGS[why]
    (tmp_path / "log").write_bytes(make())
    assert verifier_takes(tmp_path / "log") == good
    try:
        checkpoint = exchange.load(tmp_path / "log", tmp_path / "store")
    except DetmemError:
        assert not good
    else:
        assert good
        assert verifier_takes(tmp_path / "log", str(checkpoint))


@pytest.mark.parametrize("archived", [False, True])
def test_an_exported_log_without_a_payload_is_refused(tmp_path: Path, archived: bool) -> None:
    """Erased, and no erasure says so; archived, and no snapshot stands in."""
    _, (_, add) = commits()
    bare = add._replace(operations=(TWIN.without_payload(add.operations[0], archived),))
    (tmp_path / "log").write_bytes(log_file(add=bare))
    with pytest.raises(VERIFIER.Refused, match="archived" if archived else "no erasure names"):
        VERIFIER.verify_log(tmp_path / "log")
    with pytest.raises(DetmemError):
        exchange.load(tmp_path / "log", tmp_path / "store")


def test_a_log_cut_behind_a_commit_is_not_whole_whatever_bytes_it_ends_in(tmp_path: Path) -> None:
    """The verifier looked for a seal's header 144 bytes from the end, where a recorded hash may stand."""
    memory = TWIN.Memory()
    header = TWIN.seal_frame(1, 1, 1, 2, LINK_ZERO, ZERO, NOBODY, 1)[:32]
    commit = memory.write(("record", header, "x" * 46))
    data = bytes(EMPTY + TWIN.commit_frame(commit, 0, NOBODY, 1))
    assert data[-144:-112] == header
    assert VERIFIER.frame_header(data, len(data) - 144, crc32(NOBODY + (1).to_bytes(8, "little")))
    (tmp_path / "log").write_bytes(data)
    assert not verifier_takes(tmp_path / "log")
    with pytest.raises(DetmemError):
        exchange.load(tmp_path / "log", tmp_path / "store")


# --- checkpoints ------------------------------------------------------------------------------------------------------


IMPOSSIBLE = {
    "leaves, and no commit": (0, 3, bytes(range(32)), ZERO),
    "no leaf, and a root of some": (0, 0, bytes(range(32)), ZERO),
    "no commit, and a state": (0, 0, TWIN.log_root([]), b"x" * 32),
    "commits, and no leaf": (2, 0, TWIN.log_root([]), ZERO),
}


@pytest.mark.parametrize("why", IMPOSSIBLE)
def test_no_log_has_such_a_checkpoint(why: str) -> None:
    """The verifier took one of seq 0 with leaves, and so did the package from a caller."""
    text = TWIN.checkpoint_text(*IMPOSSIBLE[why])
    for read in (detmem.Checkpoint.parse, VERIFIER.read_checkpoint, TWIN.read_checkpoint):
        with pytest.raises((DetmemError, VERIFIER.Refused, TWIN.Refused)):
            read(text)
