"""A MemTree-like hierarchy: what is told finds its place under what is like it, and summaries grow above.

A new text goes down from the top: at each depth to the nearest node, while that is near enough, and what is near enough
is less the deeper it comes.  Where it stops it becomes a leaf; where it stops at a leaf, both go under a new summary.
Every summary on the way takes it in: its vector points where the mean of the leaves below does, its text is the words
that they share (where a language model would write).  One insertion is one commit, so nobody ever sees half a tree.

A question finds nodes of every depth at once, and ``expand`` brings the branch below them along.

The means are computed in floats, once.  What is logged is the vector that came out: a replay computes no mean again.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import detmem
from detmem.examples import story
from detmem.examples.story import Sample, Say

__all__ = ["BRANCH", "WITHIN", "Leaf", "Node", "insert", "play", "summary", "told_rows", "way_down"]

WITHIN = (0.72, 0.66, 0.60, 0.54, 0.48, 0.42)  # cosine distance to go under a node of depth 1, 2, ..; then no deeper
SHARED = 4  # words in a summary
BRANCH = {"child": len(WITHIN) + 1}  # expand: a node with all that is below it
SHOWN = (3, 7, 8)
_EMPTY = {"especially", "from", "having", "more", "some", "such", "than", "that", "used", "which", "with"}


class Leaf(NamedTuple):
    """A text that was told, and the word that it explains."""

    id: str
    word: str
    text: str


class Node(NamedTuple):
    """A node on the way down, with the leaves below it; a leaf has itself."""

    id: str
    leaves: list[Leaf]


def insert(db: detmem.Database, id: str, vector: NDArray[np.float32], word: str, text: str) -> None:
    """Give a text its place: one commit."""
    tree, new = db["tree"], Leaf(id, word, text)
    way = way_down(tree, vector)
    twin = way.pop() if way and len(way[-1].leaves) == 1 else None
    with db.batch():
        for node in way:
            leaves = [*node.leaves, new]
            mean = _mean(tree, node, vector)
            tree.update(node.id, vectors=mean, metadatas={"leaves": len(leaves)}, documents=summary(leaves))
        depth, parent = len(way) + 1, way[-1].id if way else None
        if twin is not None:  # a leaf was near enough: a summary takes its place, and both go below
            over, leaves = f"over-{id}", [*twin.leaves, new]
            metadata = {"depth": depth, "leaves": len(leaves)}
            tree.add(over, _mean(tree, twin, vector), metadatas=metadata, documents=summary(leaves))
            if parent is not None:
                tree.unlink(parent, "child", twin.id)
                tree.link(parent, "child", over)
            tree.link(over, "child", twin.id)
            depth, parent = depth + 1, over
            tree.update(twin.id, metadatas={"depth": depth})
        tree.add(id, vector, metadatas={"depth": depth, "leaves": 1, "word": word}, documents=text)
        if parent is not None:
            tree.link(parent, "child", id)


def way_down(tree: detmem.Collection, vector: NDArray[np.float32]) -> list[Node]:
    """From the top: the nearest node of each depth, below the one before it; a leaf ends the way."""
    way: list[Node] = []
    children: list[str] | None = None  # anything
    for depth, within in enumerate(WITHIN, 1):
        near = tree.search(vector, k=1, where={"depth": depth}, ids=children, max_distance=within, expand=BRANCH)
        for hit in near:  # one at most
            below = [one for one in (hit, *hit.linked) if "word" in one.metadata]
            way.append(Node(hit.id, [Leaf(one.id, one.metadata["word"], one.document) for one in below]))
            children = [one.id for one in hit.linked if one.depth == 1]
        if not near or not children:
            break
    return way


def _mean(tree: detmem.Collection, node: Node, vector: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of the leaves below a node, and one more; the metric is cosine, so only its direction is stored."""
    stored = tree.get([leaf.id for leaf in node.leaves], include=("vectors",)).vectors
    assert stored is not None
    mean: NDArray[np.float64] = np.mean([*stored, vector], axis=0)
    return mean


def summary(leaves: list[Leaf]) -> str:
    """What leaves have in common: the words that most of their texts share; failing that, the words they explain."""
    counts = Counter(found for leaf in leaves for found in set(re.findall("[a-z]{4,}", leaf.text.lower())) - _EMPTY)
    shared = sorted((-count, found) for found, count in counts.items() if count > 1)
    return ", ".join(found for _, found in shared[:SHARED]) or " / ".join(leaf.word for leaf in leaves)


def told_rows(told: Sample) -> list[int]:
    """Every fourth text of the sample, and all of the last fifty, where the answers to the questions stand."""
    return [row for row in range(len(told.texts)) if row % 4 == 0 or row >= len(told.texts) - 50]


def play(folder: Path, say: Say) -> bool:
    """Grow a tree, ask it, look at a summary's life, replay; True when the replayed memory is the same."""
    told = story.sample()
    path = folder / "memtree.detmem"
    with detmem.open(path, "x") as db:
        tree = db.collection("tree", dim=story.DIMENSIONS)
        for row in told_rows(told):
            insert(db, f"gloss-{row:04d}", told.vectors[row], told.words[row], told.texts[row])
        say(f"grow        {db.seq - 1} texts told, each one commit; {len(tree)} nodes:")
        say("            depth  leaves  summaries")
        for depth in range(1, len(WITHIN) + 2):
            leaves = tree.count({"depth": depth, "leaves": 1})
            say(f"            {depth:>5}  {leaves:>6}  {tree.count({'depth': depth}) - leaves:>9}")
        best = _ask(tree, told, say)
        moments = _look_back(db, best, say)

    def everything(db: detmem.Database) -> object:
        answers = db["tree"].search(told.queries, k=3, expand=BRANCH)
        return answers.ids, answers.raw.tolist(), answers.documents, answers.linked

    return story.same_memory(path, everything, say, moments)


def _ask(tree: detmem.Collection, told: Sample, say: Say) -> str:
    """All questions; the id of the summary that is shown last."""
    nearest = [hit for answer in tree.search(told.queries, k=1) for hit in answer]
    summaries = sum(hit.metadata["leaves"] > 1 for hit in nearest)
    say(f"recall      the nearest node is a summary for {summaries} of {len(nearest)} questions; branches come along")
    shown = ""
    for number in SHOWN:
        (best,) = tree.search(told.queries[number], k=1, where={"leaves": {"$gt": 1}}, expand=BRANCH)
        say(f"            {told.questions[number]}?")
        say(f"              {best.distance:.4f}  [{best.document}]")
        _draw(best.id, best.linked, say, " " * 22)
        shown = best.id
    return shown


def _draw(node: str, branch: list[detmem.Linked], say: Say, indent: str) -> None:
    for one in branch:
        if one.source == ("tree", node):
            word = (one.metadata or {}).get("word")
            say(indent + story.short(f"[{one.document}]" if word is None else f"{word}: {one.document}"))
            _draw(one.id, branch, say, indent + "  ")


def _look_back(db: detmem.Database, node: str, say: Say) -> list[int]:
    """How a summary grew; the seqs at which it did."""
    grown = [entry.seq for entry in db.log(collection="tree", id=node) if entry.op in ("add", "update")]
    say(f"look back   the life of {node}")
    for seq in grown:
        (then,) = db.at(seq)["tree"].get(node)
        say(f"              at seq {seq}  {(then.metadata or {})['leaves']} leaves  [{then.document}]")
    return grown


if __name__ == "__main__":
    sys.exit(story.main(play, __doc__))
