"""The main job on real input, as one story: ingest, ask, crash, recover, snapshot, replay elsewhere, compare.

Rule 1  What the store holds at the end is a function of the shipped sample alone.  The crash falls at any moment, but
        afterwards the records that are missing are written, one commit each, as they would have been: so the roots are
        constants, and they stand in EXPECTED.
Rule 2  Nothing is shown as equal that was not compared; what is not equal makes ``run`` return False.

Run as a program (``python -m detmem.demo STORE``) this file is the child that writes until it is killed.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import detmem

__all__ = ["EXPECTED", "run"]

# What every machine must arrive at.  The README repeats these; tests derive them with spec/reference.py.
EXPECTED: dict[str, Any] = {
    "seq": 312,
    "log_size": 1614,
    "log_root": "59ae86db1c78c044a051c56e4d947b7c5f77d270be1aa8cca155771f223c9927",
    "state_root": "f304a8a3a8b8f8b7534ba2aaa70fd1c118539a21c3ccd04bf91226277c8922c2",
    "snapshot_sha256": "5aba2c39766bb2347b29ab32c9e326d931d22f4285b1c7a300ec587f3b05e3bb",
}

SAMPLE = Path(__file__).with_name("data") / "wordnet-sample.npz"
GLOSSES, DIARY = "glosses", "diary"
BATCH = 100
DIARY_COUNT = 300
KILL_AFTER = 120  # acknowledgements; the child is somewhere behind that when the signal reaches it
SHOWN_QUESTIONS = (0, 1, 6, 11)
SHOWN_HITS = 3
_TEXT_WIDTH = 76
_TABLES = (
    ("seq and log size", ("seq", "log_size")),
    ("log root: everything that happened", ("log_root",)),
    ("state root: everything that is there", ("state_root",)),
    ("SHA-256 of the snapshot file", ("snapshot_sha256",)),
)
_HERE = Path(__file__).resolve().parent.parent  # where children start, so that they run this very package

Say = Callable[[str], None]


@dataclass(frozen=True)
class _Sample:
    """What ships with the package: 1,000 glosses of WordNet and 12 questions, with their sentence vectors."""

    ids: list[str]
    lemmas: list[str]
    glosses: list[str]
    vectors: NDArray[np.float32]
    questions: list[str]
    queries: NDArray[np.float32]


@dataclass
class _Outcome:
    """``checkpoints`` by who holds them; ``faults``: a sentence for everything that must be equal and is not."""

    events: dict[str, Any] = field(default_factory=dict)
    checkpoints: dict[str, dict[str, Any]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def check(self, holds: bool, otherwise: str) -> bool:
        if not holds:
            self.faults.append(otherwise)
        return holds


def run(keep: str | None = None, *, as_json: bool = False) -> bool:
    """Play the story in a temporary folder, or in ``keep``; True when every root is what it must be.

    Text goes to stdout; with ``as_json`` one JSON document goes there, and the text to stderr.
    """

    def say(line: str = "") -> None:
        print(line, file=sys.stderr if as_json else sys.stdout, flush=True)

    if keep is None:
        with tempfile.TemporaryDirectory(prefix="detmem-demo-") as folder:
            outcome = _story(Path(folder), say)
    else:
        Path(keep).mkdir(parents=True, exist_ok=True)
        outcome = _story(Path(keep).resolve(), say)
        say(f"The stores are left in {keep}: memory.detmem and replayed.detmem.")
    for fault in outcome.faults:
        print(f"detmem: {fault}", file=sys.stderr)
    if as_json:
        story = {**outcome.events, "checkpoints": outcome.checkpoints, "expected": EXPECTED}
        print(json.dumps({"ok": not outcome.faults, "faults": outcome.faults, **story}))
    return not outcome.faults


def _story(folder: Path, say: Say) -> _Outcome:
    outcome = _Outcome()
    sample = _load()
    store, copy = folder / "memory.detmem", folder / "replayed.detmem"
    _ingest(store, sample, say)
    acknowledged = _crash(store, outcome, say)
    answers = _recover(store, acknowledged, sample, outcome, say)
    _reopen(store, outcome, say)
    _replay(store, copy, answers, sample, outcome, say)
    _compare(outcome, say)
    return outcome


# ----------------------------------------------------------------------------------------------------------- the scenes


def _ingest(store: Path, sample: _Sample, say: Say) -> None:
    with detmem.open(store, "x") as db:
        glosses = db.collection(GLOSSES, dim=sample.vectors.shape[1], metric="cosine")
        for start in range(0, len(sample.ids), BATCH):
            part = slice(start, start + BATCH)
            metadatas = [{"lemma": lemma, "letters": len(lemma)} for lemma in sample.lemmas[part]]
            glosses.add(sample.ids[part], sample.vectors[part], metadatas=metadatas, documents=sample.glosses[part])
        say(f"1 ingest    {len(glosses)} WordNet glosses with their sentence vectors, {db.seq} commits")
        say("2 ask       the nearest glosses, with their cosine distance")
        for number in SHOWN_QUESTIONS:
            say(f"            {sample.questions[number]}?")
            for hit in glosses.search(sample.queries[number], k=SHOWN_HITS):
                text = textwrap.shorten(f"{hit.metadata['lemma']}: {hit.document}", _TEXT_WIDTH, placeholder=" ..")
                say(f"              {hit.distance:.4f}  {text}")


def _crash(store: Path, outcome: _Outcome, say: Say) -> list[tuple[int, str]]:
    """Let a child write, and kill it; returns the (seq, id) that it had acknowledged."""
    command = [sys.executable, "-m", "detmem.demo", str(store)]
    with subprocess.Popen(
        command, cwd=_HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="ascii"
    ) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(KILL_AFTER)]
        outcome.check(child.poll() is None, "the writing child ended before it was killed")
        child.kill()  # SIGKILL; on Windows TerminateProcess
        lines += child.stdout.readlines()
    acknowledged = [(int(seq), id) for seq, id in (line.split() for line in lines if line.endswith("\n"))]
    outcome.events |= {"acknowledged": len(acknowledged), "child_exit": child.returncode}
    say(f"3 crash     a child process writes to collection {DIARY!r}, one durable commit for each record,")
    say(f"            and was killed (exit status {child.returncode}) when it had acknowledged {len(acknowledged)}")
    return acknowledged


def _recover(
    store: Path, acknowledged: list[tuple[int, str]], sample: _Sample, outcome: _Outcome, say: Say
) -> detmem.Result:
    """Open again, look for every acknowledged commit, and write what the child did not come to."""
    with detmem.open(store, "r+") as db:
        actions = [] if db.recovery is None else list(db.recovery.actions)
        survived = [(entry.seq, entry.ids[0]) for entry in db.log(collection=DIARY) if entry.op == "add"]
        more = len(survived) - len(acknowledged)  # the last commit may have been killed on its way to stdout
        whole = outcome.check(
            survived[: len(acknowledged)] == acknowledged and more in (0, 1),
            f"the child acknowledged {len(acknowledged)} commits; after recovery {len(survived)} others are there",
        )
        outcome.events |= {"recovery": actions, "survived": len(survived)}
        say("4 recover   " + textwrap.fill("; ".join(actions) or "nothing to do", 92, subsequent_indent=" " * 12))
        if whole:
            extra = ", and one that it had no time to acknowledge" if more else ""
            say(f"            all {len(acknowledged)} acknowledged commits are there{extra}")
        written = list(_write_diary(db, sample))
        say(f"            the other {len(written)} records are written now; the last seq is {db.seq}")
        outcome.checkpoints["written"] = asdict(db.checkpoint())
        return db[GLOSSES].search(sample.queries)


def _reopen(store: Path, outcome: _Outcome, say: Say) -> None:
    snapshot = _snapshot(store)
    with detmem.open(store, "r") as db:
        outcome.checkpoints["reopened"] = {**asdict(db.checkpoint()), "snapshot_sha256": snapshot}
        say(f"5 snapshot  of seq {db.seq}; the store has been opened from it")


def _replay(store: Path, copy: Path, answers: detmem.Result, sample: _Sample, outcome: _Outcome, say: Say) -> None:
    """Replay the log in another process, and ask its store the same questions."""
    command = [sys.executable, "-m", "detmem", "replay", str(store), str(copy), "--json"]
    done = subprocess.run(command, cwd=_HERE, stdout=subprocess.PIPE, text=True, encoding="ascii", check=False)
    if not outcome.check(done.returncode == 0, f"replay in a second process ended with status {done.returncode}"):
        return
    snapshot = _snapshot(copy)
    with detmem.open(copy, "r") as db:
        outcome.checkpoints["replayed"] = {**asdict(db.checkpoint()), "snapshot_sha256": snapshot}
        again = db[GLOSSES].search(sample.queries)
        say(f"6 replay    {db.seq} commands in a second process, into a new store")
    same = again.ids == answers.ids and np.array_equal(again.raw, answers.raw)
    if outcome.check(same, "the replayed store answers differently"):
        say(f"            it gives the same answers to all {len(sample.questions)} questions, bit for bit")


def _compare(outcome: _Outcome, say: Say) -> None:
    """Every checkpoint and snapshot against EXPECTED, and so against each other."""
    for title, names in _TABLES:
        say("")
        say(title)
        for side, found in {**outcome.checkpoints, "README": EXPECTED}.items():
            wrong = [name for name in names if name in found and found[name] != EXPECTED[name]]
            for name in wrong:
                outcome.check(False, f"{name} as {side}: expected {EXPECTED[name]}, found {found[name]}")
            if names[0] in found:
                values = " ".join(str(found[name]) for name in names)
                say(f"  {side:<10}{values}{'   DIFFERENT' if wrong else ''}")
    say("")
    say("all equal" if not outcome.faults else "NOT all equal")


# ---------------------------------------------------------------------------------------------------------- the writing


def _load() -> _Sample:
    with np.load(SAMPLE, allow_pickle=False) as archive:
        return _Sample(
            [f"gloss-{number:04d}" for number in range(len(archive["lemmas"]))],
            archive["lemmas"].tolist(),
            archive["glosses"].tolist(),
            archive["vectors"],
            archive["query_texts"].tolist(),
            archive["query_vectors"],
        )


def _write_diary(db: detmem.Database, sample: _Sample) -> Iterator[tuple[int, str]]:
    """Write the records of the diary that are not there yet, one commit each; (seq, id) once each is acknowledged."""
    diary = db.collection(DIARY, dim=sample.vectors.shape[1], metric="l2", format="Q8.24")
    for number in range(len(diary), DIARY_COUNT):
        id = f"day-{number:04d}"
        metadata = {"read": sample.ids[number]}
        commit = diary.add(id, sample.vectors[number], metadatas=metadata, documents=sample.lemmas[number])
        assert commit is not None
        yield commit.seq, id


def _snapshot(store: Path) -> str:
    """Take a snapshot; the SHA-256 of its file."""
    with detmem.open(store, "r+") as db:
        taken = db.snapshot()
    assert taken.path is not None
    return hashlib.sha256(Path(taken.path).read_bytes()).hexdigest()


def _write_until_killed(store: str) -> None:
    """The child: acknowledge each commit on stdout, then hold the store open until the end comes."""
    with detmem.open(store, "r+") as db:
        for seq, id in _write_diary(db, _load()):
            print(seq, id, flush=True)
        sys.stdin.read()  # the parent never writes: this ends when the parent does, if the kill did not come before


if __name__ == "__main__":
    _write_until_killed(sys.argv[1])
