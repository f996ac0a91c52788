"""What the fuzzer runs, and the corpus test without it: bytes in, a typed error or a value out, and nothing in between.

A target returns for bytes that it accepts and for bytes that it refuses with a ``DetmemError``; anything else is a
fault.  What is accepted must be the one spelling: encoding it again gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from detmem.errors import DetmemError
from detmem.journal import snapshot
from detmem.journal.disk import MemoryDisk
from detmem.journal.frame import (
    BadFrame,
    SegmentHeader,
    SegmentReader,
    encode_commit,
    encode_seal,
    last_durable,
    read_seal,
)
from detmem.journal.head import Head
from detmem.machine import commands, encoding
from detmem.machine.state import State
from detmem.proof.proofs import ConsistencyProof, Proof, RecordProof
from detmem.proof.receipt import Receipt, Refutation, Subtree

__all__ = ["RECEIPT", "STORE_ID", "TARGETS"]

VECTORS = json.loads((Path(__file__).resolve().parents[2] / "spec/vectors/receipts.json").read_text("ascii"))
RECEIPT = Receipt.decode(bytes.fromhex(VECTORS["false_receipt"]["bytes"]))

STORE_ID = b"store of a test."
_MOST_BYTES = 1 << 20


def fuzz_encoding(data: bytes) -> None:
    """A value, a content, a definition: each is refused or is its own only spelling."""
    try:
        value = encoding.decode(data, max_bytes=_MOST_BYTES)
        assert encoding.encode(value) == data
    except DetmemError:
        pass
    try:
        metadata, document = encoding.decode_content(data)
        assert encoding.encode_content(metadata, document) == data
    except DetmemError:
        pass
    try:
        assert commands.Definition.decode(data).encode() == data
    except DetmemError:
        pass


def fuzz_operations(data: bytes) -> None:
    """The body of a frame, with payloads that need not match: refused, or the bytes of what was read."""
    try:
        operations = list(commands.decode(memoryview(data)))
    except DetmemError:
        return
    assert commands.encode(operations, _MOST_BYTES) == data


def fuzz_frame(data: bytes) -> None:
    """The bytes behind a segment's header, as they are read when a store is opened; then they are applied."""
    header = SegmentHeader(STORE_ID, 1, 0, State().link, State().log.root)
    file = MemoryDisk().open("segment", create=True)
    file.pwrite(header.encode(), 0)
    file.pwrite(data, header.size_bytes)
    reader = SegmentReader(file, header)
    state = State()
    written, stopped = b"", -1
    try:
        for frame in reader:
            written += encode_commit(frame, frame.durable_seq, header.seed)
            change = state.apply(frame.operations)
            if change.state_root == frame.state_root:
                state.publish(change)
    except BadFrame as bad:
        stopped = bad.offset
    except DetmemError:
        return
    if stopped >= 0:
        assert header.size_bytes <= stopped <= header.size_bytes + len(data)
        assert last_durable(file, stopped, header.seed) >= 0
    if reader.seal is not None:
        written += encode_seal(reader.seal, header.first_seq, header.seed)
    assert data.startswith(written)
    try:
        read_seal(file, header)
    except DetmemError:
        pass


def fuzz_snapshot(data: bytes) -> None:
    """A snapshot file: refused, or exactly what its state writes."""
    disk = MemoryDisk()
    file = disk.open("snapshot", create=True)
    file.pwrite(data, 0)
    try:
        snapshot.read_digest(file, "snapshot")
    except DetmemError:
        pass
    try:
        state, digest = snapshot.load(file, "snapshot")
    except DetmemError:
        return
    again = disk.open("again", create=True)
    assert snapshot.write(state, again) == digest
    assert bytes(disk.files["again"]) == data


def fuzz_head(data: bytes) -> None:
    """A slot of HEAD and a segment's header."""
    try:
        head = Head.decode(data)
        assert head is None or head.encode() == data[:140]
    except DetmemError:
        pass
    try:
        header = SegmentHeader.decode(data)
        assert header.encode() == data[: header.size_bytes]
    except DetmemError:
        pass


def fuzz_proofs(data: bytes) -> None:
    """The files of spec/receipts.md: refused, or their own only spelling, and then checked under what they name
    themselves."""
    for kind in (Proof, Receipt, Subtree, Refutation):
        try:
            file = kind.decode(data)
        except DetmemError:
            continue
        assert file.encode() == data
        if isinstance(file, ConsistencyProof):
            file.verify(file.old, file.new)
        elif isinstance(file, (RecordProof, Receipt)):
            file.verify(file.checkpoint)
        elif isinstance(file, Subtree):
            RECEIPT.check_subtree(file, RECEIPT.checkpoint)
        elif isinstance(file, Refutation):
            file.verify(RECEIPT, RECEIPT.checkpoint)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "encoding": fuzz_encoding,
    "operations": fuzz_operations,
    "frame": fuzz_frame,
    "snapshot": fuzz_snapshot,
    "head": fuzz_head,
    "proofs": fuzz_proofs,
}
