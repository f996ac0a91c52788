"""The tree, against one of dicts and float64 that shares no line with it; and what must hold for every tree."""

from __future__ import annotations

import numpy as np
import pytest

import detmem
from detmem.examples import memtree, story

TOLD = story.sample()
ROWS = memtree.told_rows(TOLD)


def naive_tree():
    """{node: parent or None}, with a summary named by the row that made it, negated; and {summary: its leaves}."""
    parent, below = {}, {}

    def children(node):
        return [one for one in parent if parent[one] == node]

    def leaves(node):
        return [node] if node >= 0 else [leaf for one in children(node) for leaf in leaves(one)]

    def distance(node, vector):
        mean = np.mean([TOLD.vectors[leaf].astype(float) for leaf in leaves(node)], axis=0)
        return 1 - mean @ vector / np.linalg.norm(mean) / np.linalg.norm(vector)

    for row in ROWS:
        vector, place = TOLD.vectors[row].astype(float), None
        for within in (0.72, 0.66, 0.60, 0.54, 0.48, 0.42):
            near = min(((distance(one, vector), one) for one in children(place)), default=(9.0, 0))
            if near[0] > within:
                break
            place = near[1]
            if place >= 0:
                break
        if place is not None and place >= 0:
            over = -row
            parent[over], parent[place] = parent[place], over
            place = over
        parent[row] = place
    for node in parent:
        below[node] = sorted(leaves(node))
    return parent, below


def name(node):
    return None if node is None else f"gloss-{node:04d}" if node >= 0 else f"over-gloss-{-node:04d}"


@pytest.fixture
def db(kept):
    with detmem.open(kept("memtree").path, "r") as db:
        yield db


def parents(tree):
    found = dict.fromkeys(tree)
    for id in tree:
        for link in tree.neighbors(id, "child"):
            assert found[link.dst] is None, f"{link.dst} has two parents"
            found[link.dst] = id
    return found


def test_the_tree_is_that_of_the_naive_one(db):
    parent, _ = naive_tree()
    assert parents(db["tree"]) == {name(node): name(above) for node, above in parent.items()}


def test_a_summary_points_where_the_mean_of_its_leaves_does_counts_them_and_says_what_they_share(db):
    parent, below = naive_tree()
    stored = db["tree"].get(include=("metadatas", "documents", "vectors"))
    records = {
        id: parts for id, *parts in zip(stored.ids, stored.metadatas, stored.documents, stored.vectors, strict=True)
    }
    for node, leaves in below.items():
        metadata, document, vector = records[name(node)]
        mean = TOLD.vectors[leaves].astype(float).mean(axis=0)
        assert vector == pytest.approx(mean / np.linalg.norm(mean), abs=2.0**-15)  # rounded twice, to steps of 2^-16
        assert metadata["leaves"] == len(leaves)
        assert metadata["depth"] == (1 if parent[node] is None else records[name(parent[node])][0]["depth"] + 1)
        if node >= 0:
            assert document == TOLD.texts[node]
        elif " / " not in document:
            for word in document.split(", "):
                assert sum(word in TOLD.texts[leaf].lower() for leaf in leaves) > 1


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"a": "a small boat", "b": "a boat with oars", "c": "Small oars of a BOAT"}, "boat, oars, small"),
        ({"cat": "a pet", "dog": "that barks"}, "cat / dog"),
        ({"a": "used with that", "b": "that is used with"}, "a / b"),
    ],
)
def test_summaries(told, said):
    assert memtree.summary([memtree.Leaf("id", word, text) for word, text in told.items()]) == said


def test_each_text_is_one_commit_and_every_moment_is_a_whole_tree(db):
    assert db.seq == 1 + len(ROWS)
    for told in (1, 2, 60, 200):
        tree = db.at(1 + told)["tree"]
        found = parents(tree)
        assert sorted(id for id in found if id.startswith("gloss-")) == [name(row) for row in ROWS[:told]]
        assert sum(tree.get(id).metadatas[0]["leaves"] for id, above in found.items() if above is None) == told


def test_a_question_brings_the_whole_branch_along(db):
    _, below = naive_tree()
    (best,) = db["tree"].search(TOLD.queries[7], k=1, where={"leaves": {"$gt": 1}}, expand=memtree.BRANCH)
    summaries = {name(node): leaves for node, leaves in below.items() if node < 0}
    brought = [one.id for one in best.linked if one.id not in summaries]
    assert sorted(brought) == [name(leaf) for leaf in summaries[best.id]]
    assert {TOLD.words[leaf] for leaf in summaries[best.id]} == {"bad debt", "pay", "debtor", "fly-by-night"}


def test_what_is_said_of_the_tree_is_true(kept):
    parent, below = naive_tree()
    assert f" {len(ROWS)} texts told, each one commit; {len(parent)} nodes:\n" in kept("memtree").text
    nearest = []
    for query in TOLD.queries.astype(float):
        means = {node: TOLD.vectors[leaves].astype(float).mean(axis=0) for node, leaves in below.items()}
        nearest.append(max(means, key=lambda node: means[node] @ query / np.linalg.norm(means[node])))
    summaries = sum(node < 0 for node in nearest)
    assert f" the nearest node is a summary for {summaries} of 12 questions; " in kept("memtree").text


def test_the_life_of_a_summary_is_that_of_its_leaves(kept, db):
    """It is written when its second leaf comes, and again with each further one."""
    _, below = naive_tree()
    told = kept("memtree").text.split("look back ")[1]
    node = next(node for node in below if node < 0 and told.startswith(f"  the life of {name(node)}\n"))
    arrived = sorted(2 + ROWS.index(leaf) for leaf in below[node])
    lines = [line.split("  [")[0].strip() for line in told.splitlines()[1 : len(arrived)]]
    assert lines == [f"at seq {seq}  {count} leaves" for count, seq in enumerate(arrived[1:], 2)]
