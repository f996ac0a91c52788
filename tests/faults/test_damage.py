"""Damage to a small store that was closed cleanly: no changed bit may open as something else than what was written.

Each file of each case is damaged on a copy in memory; the copy then either refuses to open, or opens as exactly the
original.  Where it opens, ``verify`` must not call anything good that is not the original either.
"""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from detmem.database import verify_disk
from detmem.errors import DetmemError
from detmem.journal.disk import MemoryDisk
from tests.faults.workloads import Broken
from tests.journal.stores import (
    HEAD_PAGE,
    add,
    contents,
    contents_of,
    copy,
    frames_of,
    identity,
    last_segment,
    opened,
    small_store,
)

SECTOR = 512
SLOT_BYTES = 140


@functools.cache
def store() -> MemoryDisk:
    """Three segments, two snapshots, HEAD."""
    disk = small_store(commits=5, snapshots=(2, 4))
    assert (len(disk.list("log")), len(disk.list("snap"))) == (3, 2)
    return disk


FILES = sorted(name for name in small_store(commits=5, snapshots=(2, 4)).files if name != "LOCK")


@functools.cache
def original() -> Any:
    with opened(copy(store()), write=False) as database:
        return contents(database)


def verdict(name: str, data: bytes | bytearray, *, write: bool = True) -> str:
    """What becomes of the store when ``name`` holds ``data``: refused, same, or changed (which must not be)."""
    disk = copy(store())
    disk.files[name] = bytearray(data)
    try:
        with opened(disk, write=write) as database:
            return "same" if contents(database) == original() else "changed"
    except DetmemError:
        return "refused"


def flips(data: bytes, positions: Iterator[int] | range) -> Iterator[bytearray]:
    for bit in positions:
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        yield changed


def sector_cases(data: bytes) -> list[bytes]:
    """Each sector of 512 bytes zeroed, inserted again, written in the place of each other, and exchanged with it."""
    starts = range(0, len(data), SECTOR)
    cases: list[bytes] = []
    for start in starts:
        sector = data[start : start + SECTOR]
        cases.append(data[:start] + bytes(len(sector)) + data[start + SECTOR :])
        cases.append(data[: start + SECTOR] + sector + data[start + SECTOR :])  # inserted again
        for other in starts:
            if other != start:  # written in the wrong place as well, and the two exchanged
                there = data[other : other + SECTOR]
                written = bytearray(data)
                written[other : other + len(sector)] = sector
                cases.append(bytes(written))
                if other > start and len(there) == len(sector):
                    written[start : start + SECTOR] = there
                    cases.append(bytes(written))
    return [case for case in cases if case != data]


def slot_bits() -> list[int]:
    """Every bit of both slots, and one of each sixteenth byte of the padding, which nobody reads."""
    slots = [range(8 * page, 8 * (page + SLOT_BYTES)) for page in (0, HEAD_PAGE)]
    padding = [range(8 * (page + SLOT_BYTES), 8 * (page + HEAD_PAGE), 128) for page in (0, HEAD_PAGE)]
    return [bit for bits in (*slots, *padding) for bit in bits]


@pytest.mark.parametrize("name", FILES)
def test_any_flipped_bit_is_refused_or_harmless(name: str) -> None:
    data = bytes(store().files[name])
    bits: Any = slot_bits() if name == "HEAD" else range(8 * len(data))
    seen = Counter(verdict(name, changed) for changed in flips(data, bits))
    assert seen["changed"] == 0
    assert sum(seen.values()) == len(bits)
    if name.endswith("05.seg"):  # behind the snapshot: all of it is read on opening, and nothing passes
        assert seen["same"] == 0
    if name.startswith("snap") or name == "HEAD":  # caches, and two slots of which one is enough: nothing refuses
        assert seen["refused"] == 0


def test_the_last_segment_and_the_headers_refuse_every_flipped_bit() -> None:
    """What opening reads: without a snapshot in use, all of the log."""
    disk = small_store(commits=5, snapshots=())
    refused = total = 0
    for name in [name for name in disk.files if name.startswith("log")]:
        for changed in flips(bytes(disk.files[name]), range(0, 8 * len(disk.files[name]), 3)):
            damaged = copy(disk)
            damaged.files[name] = changed
            total += 1
            try:
                opened(damaged, write=False)
            except DetmemError:
                refused += 1
    assert refused == total > 3_000


@pytest.mark.parametrize("name", [name for name in FILES if name != "HEAD"])
def test_verify_finds_any_changed_byte_of_log_and_snapshots(name: str) -> None:
    """Also where opening did not look, because a snapshot stood in."""
    data = store().files[name]
    for at in range(len(data)):
        disk = copy(store())
        disk.files[name][at] ^= 1 << at % 8
        report = verify_disk(disk, "chain", None)
        assert not report.ok, at
        assert report.reason
    assert verify_disk(copy(store()), "replay", None).ok


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_at_any_byte_is_refused_or_harmless(name: str) -> None:
    data = bytes(store().files[name])
    sizes = range(len(data)) if name != "HEAD" else [*range(150), *range(4090, 4250), 8191]
    seen = Counter(verdict(name, data[:size]) for size in sizes)
    assert seen["changed"] == 0
    assert sum(seen.values()) == len(sizes)
    if name.startswith("log"):
        assert seen["same"] == 0


@pytest.mark.parametrize("name", FILES)
def test_zeroed_duplicated_and_swapped_sectors_are_refused_or_harmless(name: str) -> None:
    data = bytes(store().files[name])
    cases = sector_cases(data)
    seen = Counter(verdict(name, case) for case in cases)
    assert seen["changed"] == 0
    assert sum(seen.values()) == len(cases) >= 2


def test_any_file_gone_or_empty_is_refused_or_harmless() -> None:
    for name in FILES:
        gone = copy(store())
        gone.remove(name)
        empty = copy(store())
        empty.files[name] = bytearray()
        for disk in (gone, empty):
            if name.startswith("snap"):
                with opened(disk) as database:
                    assert contents(database) == original()
            else:
                with pytest.raises(DetmemError):
                    opened(disk)


def test_files_of_different_ages_and_stores_never_mix_into_a_third_state() -> None:
    """Each file of the store is replaced by its counterpart of another age, or of another store with like names."""
    ages = [small_store(commits=count, snapshots=(2, 4)) for count in (1, 2, 3, 4, 5, 6, 7)]
    legal = []
    for disk in ages:
        with opened(copy(disk), write=False) as database:
            legal.append(contents(database))
    other = MemoryDisk()
    with identity(b"another store...."), opened(other) as database:
        for number in range(20, 24):
            if database.seq in (2, 4):
                database.snapshot()
            add(database, number)
    seen: Counter[str] = Counter()
    for source in [*ages, other]:
        for name in set(FILES) | {name for name in source.files if name != "LOCK"}:
            for disk_at in range(3, 7):
                disk = copy(ages[disk_at])
                if name not in source.files or disk.files.get(name) == source.files[name]:
                    continue
                disk.files[name] = bytearray(source.files[name])
                try:
                    with opened(disk) as database:
                        found = contents(database)
                except DetmemError:
                    seen["refused"] += 1
                    continue
                # A file of the same store and another age may bring the log forward; it never makes a state that
                # no age had, and what was acknowledged here is there.
                assert found in legal
                assert legal.index(found) >= disk_at
                seen["legal"] += 1
    assert seen["refused"] > 20
    assert seen["legal"] > 5


@functools.cache
def _frames() -> list[bytes]:
    """Whole commits: of another store at the same seqs, of each segment of this one, and of a store that copied it."""
    theirs, replayed = MemoryDisk(), MemoryDisk()
    for disk, name in ((theirs, b"another store..."), (replayed, b"a copy of a copy")):
        with identity(name), opened(disk, segment_bytes=1 << 20) as database:
            for number in range(1 if disk is theirs else 2, 9):
                add(database, number)
    found = []
    for disk in (theirs, replayed, store()):
        for name in disk.list("log"):
            data = disk.files[f"log/{name}"]
            found += [bytes(data[one.offset : one.offset + one.size]) for one in frames_of(disk, f"log/{name}")]
    return found


def strange_bytes(rng: random.Random) -> bytes:
    """Noise, magics, zeros, and frames from elsewhere, whole, cut or with a flipped bit: what may lie where no commit
    of ours does.  Never zeros alone."""
    pieces = [bytes([rng.randrange(1, 256)])] if rng.random() < 0.3 else []
    for _ in range(rng.randrange(1, 6)):
        one = rng.choice(_frames())
        cut = rng.randrange(1, len(one))
        flipped = bytearray(one)
        flipped[rng.randrange(len(one))] ^= 1 << rng.randrange(8)
        kinds = [one, one, one[:cut], one[cut:], bytes(flipped), b"DMF1", bytes(cut), rng.randbytes(cut)]
        pieces.append(rng.choice(kinds))
    joined = b"".join(pieces)
    return joined if any(joined) else joined + b"\1"


def meet_strangers(seed: int) -> None:
    """Strange bytes behind the last commit, and in a commit that is then torn: they are no commit, and no refusal."""
    rng = random.Random(seed)
    disk, tail = copy(store()), strange_bytes(rng)
    name = last_segment(disk)
    disk.files[name] += tail
    _goes_on_as_before(disk, tail.rstrip(b"\0"), f"meet_strangers({seed}), behind the log")
    text = strange_bytes(rng).decode("latin-1")
    carrier = copy(store())
    with opened(carrier, segment_bytes=1 << 20) as database:
        database["c"].add("carrier", raw=[1, 2], documents=text, metadatas={"text": text, "list": [text, text]})
        carried = contents(database)
    if contents_of(carrier) != carried:
        raise Broken(f"meet_strangers({seed}): a commit that carries strange bytes is not what it was")
    intact = len(store().files[name])
    torn = copy(store())
    torn.files[name] += carrier.files[name][intact : rng.randrange(intact + 1, len(carrier.files[name]))]
    _goes_on_as_before(torn, None, f"meet_strangers({seed}), in a torn commit")


def _goes_on_as_before(disk: MemoryDisk, tail: bytes | None, where: str) -> None:
    for write in (False, True):
        try:
            with opened(disk, write=write) as database:
                found, recovery = contents(database), database.recovery
        except DetmemError as error:
            raise Broken(f"{where}, write={write}: refused: {error}") from None
        if found != original() or recovery is None:
            raise Broken(f"{where}, write={write}: another state, or not a word: {recovery}")
    if tail is not None and bytes(disk.files[recovery.quarantined[0]]) != tail:
        raise Broken(f"{where}: quarantine has other bytes")
    with opened(disk) as database:
        if database.recovery is not None or not verify_disk(disk, "replay", None).ok:
            raise Broken(f"{where}: not at rest after recovery")


@pytest.mark.parametrize("part", range(4))
def test_strange_bytes_never_parse_and_never_cause_a_refusal(part: int) -> None:
    for seed in range(125 * part, 125 * (part + 1)):
        meet_strangers(seed)


def test_a_reader_agrees_with_a_writer_about_damage() -> None:
    """Both refuse, or both see the original."""
    total = 0
    for name in FILES:
        if name == "HEAD":
            continue
        data = bytes(store().files[name])
        for changed in flips(data, range(0, 8 * len(data), 8 * 5)):
            assert verdict(name, changed, write=False) == verdict(name, changed, write=True)
            total += 1
    assert total > 500


def test_after_a_clean_close_either_slot_of_head_says_all_that_is_durable() -> None:
    """Once, only one slot was renewed by a close: with that one bad, a reader saw a shorter prefix."""
    whole = contents_of(store())
    for page in (0, HEAD_PAGE):
        disk = copy(store())
        disk.files["HEAD"][page] ^= 1
        with opened(disk, write=False) as database:
            assert contents(database) == whole
            assert database.recovery is not None
            assert "slot of HEAD was bad" in database.recovery.actions[0]
