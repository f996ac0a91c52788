"""A Memory-R1-style manager: for each message ADD, UPDATE, DELETE or NOOP, exactly once.

Messages come to an inbox, at least once.  The manager takes them in id order, looks at what stands nearest in the
memory, and decides; the change and the decision are one commit, so a crash leaves neither alone.  Where a policy would
be trained, rules stand here; the first that fits is taken:

    retracted, and something is near enough            DELETE it           else NOOP
    said already: nearly the same vector, same word    NOOP
    said already, of another word                      UPDATE: that record is about both words
    the word stands for something else by now          UPDATE: the new record ``supersedes`` the old one
    anything else                                      ADD

What was superseded stays, linked and not current; what was deleted can still be seen in the past.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import detmem
from detmem.examples import story
from detmem.examples.story import Sample, Say

__all__ = ["CURRENT", "DELIVERY", "NEAR", "SAME", "Message", "deliver", "manage", "messages", "play"]

SAME = 0.02  # cosine distance up to which two texts say the same
NEAR = 0.35  # and up to which a retraction is of this record
CURRENT = {"current": True}
DELIVERY = 25  # messages that a sender hands over at once
RETRACTED = (7, 11, 1)  # questions whose nearest record the speaker takes back, or would if one were near enough
STOP_AFTER = 60  # decisions


@dataclass(frozen=True)
class Message:
    """``kind``: "tell" or "retract"; a retraction has no word, only a text that says what is meant."""

    id: str
    kind: str
    word: str
    text: str
    vector: NDArray[np.floating[Any]]


def messages(told: Sample) -> list[Message]:
    """Some of the sample: whole stretches of it, all words that stand in it twice, then repetitions and retractions."""
    twice = {word for word, count in Counter(told.words).items() if count > 1}
    rows = [n for n, word in enumerate(told.words) if n < 100 or n >= 950 or word in twice]
    said = [("tell", told.words[n], told.texts[n], told.vectors[n]) for n in rows]
    # Said again, and embedded on another machine: the same sentence, other bits.
    again = [("tell", told.words[n], told.texts[n], told.vectors[n].astype(np.float16)) for n in rows[5:50:9]]
    back = [("retract", "", told.questions[n], told.queries[n]) for n in RETRACTED]
    return [Message(f"m{number:03d}", *parts) for number, parts in enumerate([*said, *again, *back], 1)]


def deliver(db: detmem.Database, number: int, sent: list[Message]) -> bool:
    """Put messages into the inbox; False when they are there already, from an earlier try of the same delivery."""
    before = db.seq
    commit = db["inbox"].add(
        [message.id for message in sent],
        np.stack([message.vector for message in sent]),
        metadatas=[{"kind": message.kind, "word": message.word} for message in sent],
        documents=[message.text for message in sent],
        request_id=f"delivery-{number}",
    )
    assert commit is not None
    return commit.seq > before


def manage(db: detmem.Database, limit: int | None = None) -> Counter[str]:
    """Decide about the messages that nobody has decided about, in id order; how often each operation was chosen."""
    inbox, chosen = db["inbox"], Counter[str]()
    pending = inbox.get(where={"decision": {"$exists": False}}, limit=limit, include=("metadatas", "documents", "raw"))
    for message in pending:
        chosen[_decide(db, message)] += 1
    return chosen


def _decide(db: detmem.Database, message: detmem.Record) -> str:
    """Choose for one message, and commit the change together with the decision."""
    inbox, memory = db["inbox"], db["memory"]
    said = message.metadata or {}
    retracts, word = said["kind"] == "retract", said["word"]
    near = memory.search(raw=message.raw, k=1, where=CURRENT, max_distance=NEAR if retracts else SAME)
    target = near.ids[0] if near else None
    standing = memory.get(where={"words": {"$contains": word}, **CURRENT}).ids
    with db.batch():
        if retracts:
            decision = "NOOP" if target is None else "DELETE"
            if target is not None:
                memory.delete(target, missing="error")
        elif target is not None and target in standing:
            decision = "NOOP"
        elif target is not None:
            decision = "UPDATE"
            memory.update(target, metadatas={"words": [*near[0].metadata["words"], word]})
        else:
            decision = "UPDATE" if standing else "ADD"
            memory.add(message.id, raw=message.raw, metadatas={"words": [word], **CURRENT}, documents=message.document)
            for target in standing:
                memory.update(target, metadatas={"current": False})
                memory.link(message.id, "supersedes", target)
        inbox.update(message.id, metadatas={"decision": decision, **({} if target is None else {"target": target})})
    return decision


def play(folder: Path, say: Say) -> bool:
    """Deliver, decide, stop in the middle, go on, deliver again; True when the replayed memory is the same."""
    told = story.sample()
    sent = messages(told)
    deliveries = [sent[first : first + DELIVERY] for first in range(0, len(sent), DELIVERY)]
    path = folder / "memory-r1.detmem"
    with detmem.open(path, "x") as db:
        for name in ("inbox", "memory"):
            db.collection(name, dim=story.DIMENSIONS)
        for number, part in enumerate(deliveries):
            deliver(db, number, part)
        say(f"deliver     {len(sent)} messages in {len(deliveries)} deliveries, each under a request id")
        chosen = manage(db, limit=STOP_AFTER)
        say(f"decide      {chosen.total()} messages; then the manager is stopped, and started again")
    with detmem.open(path, "r+") as db:
        rest = manage(db)
        say(f"go on       with the {rest.total()} that have no decision; {len(sent)} in all:")
        _show_decisions(db, chosen + rest, say)
        _deliver_again(db, len(deliveries) - 1, deliveries[-1], say)
        moments = _look_back(db, say)

    def everything(db: detmem.Database) -> object:
        answers = db["memory"].search(told.queries, k=3, where=CURRENT, expand="supersedes")
        return db["inbox"].get().metadatas, answers.ids, answers.raw.tolist(), answers.linked

    return story.same_memory(path, everything, say, moments)


def _show_decisions(db: detmem.Database, chosen: Counter[str], say: Say) -> None:
    """How often each operation was chosen, and every message that was not simply added."""
    for decision in ("ADD", "UPDATE", "DELETE", "NOOP"):
        say(f"            {decision:<7}{chosen[decision]:>4}")
        for message in db["inbox"].get(where={"decision": decision}):
            metadata = message.metadata or {}
            target = metadata.get("target", "")
            how = {
                "UPDATE": "supersedes" if message.id in db["memory"] else "joins",
                "DELETE": "deletes",
                "NOOP": "repeats" if target else "finds nothing",
            }
            if decision in how:
                said = f"{metadata['word'] or 'not so'}: {message.document}"
                say(f"              {message.id} {how[decision]:<10} {target:<4} {story.short(said, 64)}")


def _deliver_again(db: detmem.Database, number: int, part: list[Message], say: Say) -> None:
    """As a sender does that has seen no acknowledgement."""
    before = db.seq
    new = deliver(db, number, part)
    say(f"again       the last {len(part)} messages, under the same request id: {'new' if new else 'known already'},")
    say(f"            {sum(manage(db).values())} decisions to take, {db.seq - before} commits")
    retraction = next(message for message in part if message.kind == "retract")
    (next_one,) = db["memory"].search(retraction.vector, k=1, where=CURRENT, max_distance=NEAR)
    say(f"            taken for a new message, {retraction.text!r} would have deleted one more:")
    say(f"              {next_one.id} at {next_one.distance:.4f}  {next_one.metadata['words'][0]}: {next_one.document}")
    try:
        deliver(db, number, part[1:])
    except detmem.UsageError as error:
        say("            other messages under that id are refused:")
        say(f"              {error}")


def _look_back(db: detmem.Database, say: Say) -> list[int]:
    """What a word stood for before it was superseded, and what was deleted; the seqs of these moments."""
    memory, inbox = db["memory"], db["inbox"]
    now = memory.get(where={"words": {"$contains": "fuel"}, **CURRENT}).ids[0]
    (link,) = memory.neighbors(now, "supersedes")
    (added,) = (entry.seq for entry in db.log(collection="memory", id=now) if entry.op == "add")
    deleted = (inbox.get(where={"decision": "DELETE"})[0].metadata or {})["target"]
    life = [(entry.op, entry.seq) for entry in db.log(collection="memory", id=deleted)]
    gone = life[-1][1]
    say(f"look back   {now} supersedes {link.dst}: the word 'fuel'")
    for seq in (added - 1, added):
        (then,) = db.at(seq)["memory"].get(where={"words": {"$contains": "fuel"}, **CURRENT})
        say(f"              at seq {seq}  {then.document}")
    say(f"            {deleted} is gone; its life: {', '.join(f'{op} at seq {seq}' for op, seq in life)}")
    (then,) = db.at(gone - 1)["memory"].get(deleted)
    say(f"              at seq {gone - 1}  {then.document}")
    return [added - 1, gone - 1]


if __name__ == "__main__":
    sys.exit(story.main(play, __doc__))
