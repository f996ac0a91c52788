"""An ENGRAM-style memory: three types of memory, the nearest of each, and the union as context.

A router gives each thing that is told to one type or more: episodic (it tells of a time), procedural (how something is
done, or what with), semantic (what something is).  Each type is a collection.  A question takes the nearest few of each
type, so that a large type cannot crowd out a small one, and the union by id is what a model would be given.

What an agent has read matters as much as what it has written: receipts of the answers go into the audit trail.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import detmem
from detmem.examples import story
from detmem.examples.story import Sample, Say

__all__ = ["EACH", "FAR", "TURN", "TYPES", "Recalled", "play", "recall", "remember", "route"]

TYPES = ("episodic", "procedural", "semantic")
EACH = 3  # so many of each type
FAR = 0.75  # what is farther away has nothing to do with the question
TURN = 10  # things told in one turn of the conversation
SHOWN = (0, 1, 4, 7)

_TIME = re.compile(r"\b(1\d|20)\d\d\b|\bcentury\b|\bancient\b|\bWar\b")
_USE = re.compile(r"\bused (for|to|in|as|by)\b|\bby \w+ing\b|\bby means of\b|\b(tool|device|instrument|method)\b")
_DEFINES = re.compile(r"(\([^)]*\) )?(an?|the|any|any of) ")


class Recalled(NamedTuple):
    """One record of the context: its exact distance first, then its id, so that they sort as answers do."""

    raw: int
    id: str
    types: tuple[str, ...]
    distance: float
    text: str


def route(text: str) -> list[str]:
    """The types that a text belongs to.  Rules stand here for the model that would decide."""
    chosen = [name for name, rule in (("episodic", _TIME), ("procedural", _USE)) if rule.search(text)]
    return [*chosen, "semantic"] if not chosen or _DEFINES.match(text) else chosen


def remember(db: detmem.Database, told: Sample, rows: range) -> None:
    """Write one turn to the types that it is routed to: one commit, whole or absent."""
    with db.batch():
        for name in TYPES:
            of_type = [row for row in rows if name in route(told.texts[row])]
            if of_type:
                db[name].add(
                    [f"gloss-{row:04d}" for row in of_type],
                    told.vectors[of_type],
                    metadatas=[{"turn": row // TURN, "word": told.words[row]} for row in of_type],
                    documents=[told.texts[row] for row in of_type],
                )


def recall(db: detmem.Database, query: NDArray[np.float32]) -> tuple[list[Recalled], list[detmem.Result]]:
    """The union of the EACH nearest of each type, nearest first, and the answers that it was made of."""
    moment = db.at(db.seq)  # three searches of one moment, also when somebody writes between them
    answers = [moment[name].search(query, k=EACH, max_distance=FAR) for name in TYPES]
    union: dict[str, Recalled] = {}
    for name, answer in zip(TYPES, answers, strict=True):
        for hit in answer:
            types = (*union[hit.id].types, name) if hit.id in union else (name,)
            text = f"{hit.metadata['word']}: {hit.document}"
            union[hit.id] = Recalled(hit.raw, hit.id, types, hit.distance, text)
    return sorted(union.values()), answers


def play(folder: Path, say: Say) -> bool:
    """Tell the sample, ask, look back, replay; True when the replayed memory is the same."""
    told = story.sample()
    path = folder / "engram.detmem"
    with detmem.open(path, "x") as db:
        _tell(db, told, say)
        receipts = _ask(db, told, say)
        half = _look_back(db, told, say)

    def everything(db: detmem.Database) -> list[list[Recalled]]:
        return [recall(db, query)[0] for query in told.queries]

    same = story.same_memory(path, everything, say, [half])
    with detmem.open(story.replayed_beside(path), "r") as copy:
        verdicts = [detmem.check_receipt(receipt, copy) for receipt in receipts]
    held = sum(verdict.level == "R2" for verdict in verdicts)
    say(f"            to the questions of {len(receipts)} receipts it gives {held} answers again")
    return same and held == len(receipts)


def _tell(db: detmem.Database, told: Sample, say: Say) -> None:
    for name in TYPES:
        db.collection(name, dim=story.DIMENSIONS)
    count = len(told.texts)
    for first in range(0, count, TURN):
        remember(db, told, range(first, first + TURN))
    say(f"remember    {count} things told in {count // TURN} turns, each turn one commit")
    for name in TYPES:
        say(f"            {name:<12}{len(db[name]):>4}")
    say(f"            {sum(len(route(text)) > 1 for text in told.texts)} of them stand in more than one type")


def _ask(db: detmem.Database, told: Sample, say: Say) -> list[detmem.Receipt]:
    """All questions; what was read goes into the log, as receipts."""
    say(f"recall      the union of the {EACH} nearest of each type, at most {FAR} away")
    say("            distance, types that it was found in (e p s), text")
    recalled = crowded = 0
    receipts: list[detmem.Receipt] = []
    for number, (question, query) in enumerate(zip(told.questions, told.queries, strict=True)):
        context, answers = recall(db, query)
        if number in SHOWN:
            say(f"            {question}?")
            for one in context:
                marks = "".join(name[0] if name in one.types else "." for name in TYPES)
                say(f"              {one.distance:.4f}  {marks}  {story.short(one.text)}")
        nearest = sorted({(hit.raw, hit.id) for name in TYPES for hit in db[name].search(query, k=len(context))})
        recalled += len(context)
        crowded += len({one.id for one in context} - {id for _, id in nearest[: len(context)]})
        made = [answer.receipt() for answer in answers]
        with db.batch():
            for receipt in made:
                db.record(receipt, note=question)
        receipts += made
    say(f"            {len(told.questions)} questions brought {recalled} records. One memory without types,")
    say(f"            asked for as many, would have brought {crowded} others: a large type crowds out a small one")
    say(f"record      {len(receipts)} receipts of what was read are in the log, beside what was written")
    return receipts


def _look_back(db: detmem.Database, told: Sample, say: Say) -> int:
    """What the first question would have found after half of the turns; the seq of that moment."""
    half = len(TYPES) + len(told.texts) // TURN // 2  # a commit for each collection, then one for each turn
    then, now = (recall(moment, told.queries[0])[0][0] for moment in (db.at(half), db))
    say(f"look back   {told.questions[0]}?")
    say(f"            at seq {half:<4} {then.distance:.4f}  {story.short(then.text)}")
    say(f"            at seq {db.seq:<4} {now.distance:.4f}  {story.short(now.text)}")
    return half


if __name__ == "__main__":
    sys.exit(story.main(play, __doc__))
