"""Readers beside a writer: each answer is of one seq.

The writer moves values between records in batches, so that something holds at every seq and at no moment in between.
Each reader checks it in every answer, as often as it can until the writer has finished.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import detmem

RECORDS = 12
TOTAL = 1 << 20
ROUNDS = 250


@pytest.fixture(autouse=True)
def _eager_switching() -> Iterator[None]:
    """Threads change places a thousand times more often than they would."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(before)


def run(writer: Callable[[], None], *readers: Callable[[], None]) -> list[int]:
    """Run the writer once and the readers until it has ended; the first error of any is raised.  Returns the rounds."""
    finished = threading.Event()
    errors: list[BaseException] = []
    counts = [0] * len(readers)

    def write() -> None:
        try:
            writer()
        except BaseException as error:  # noqa: BLE001 - raised in the main thread below
            errors.append(error)
        finally:
            finished.set()

    def read(number: int) -> None:
        try:
            while not finished.is_set() or counts[number] == 0:
                readers[number]()
                counts[number] += 1
        except BaseException as error:  # noqa: BLE001 - raised in the main thread below
            errors.append(error)

    threads = [threading.Thread(target=write), *(threading.Thread(target=read, args=(n,)) for n in range(len(readers)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return counts


def test_every_answer_beside_a_writer_is_of_one_seq() -> None:
    """Money moves between accounts: the sum over all is the same at each seq, and no account is seen twice or not."""
    with detmem.open(":memory:") as db:
        ids = [f"{number:02}" for number in range(RECORDS)]
        accounts = db.collection("accounts", dim=1, metric="ip")
        amounts = np.full(RECORDS, TOTAL // RECORDS)
        amounts[0] += TOTAL - amounts.sum()
        source = np.random.default_rng(1)

        def records(chosen: list[int]) -> dict[str, list[object]]:
            return {
                "ids": [ids[n] for n in chosen],
                "raw": [[int(amounts[n])] for n in chosen],
                "metadatas": [
                    {
                        "amount": int(amounts[n]),
                        "even": n % 2 == 0,
                        "text": f"{amounts[n]:07}",
                        "list": [str(amounts[n])],
                    }
                    for n in chosen
                ],
                "documents": [str(amounts[n]) for n in chosen],
            }

        accounts.add(**records(list(range(RECORDS))))  # type: ignore[arg-type]

        def write() -> None:
            for number in range(ROUNDS):
                giver, taker = source.choice(RECORDS, 2, replace=False)
                moved = int(source.integers(0, amounts[giver] + 1))
                amounts[giver] -= moved
                amounts[taker] += moved
                if number % 3 == 0:
                    accounts.upsert(**records([taker, giver]))  # type: ignore[arg-type]
                else:
                    with db.batch():
                        accounts.delete([ids[giver], ids[taker]])
                        accounts.add(**records([taker, giver]))  # type: ignore[arg-type]
                if number % 50 == 0:
                    with db.batch():  # a churn that makes dead rows leave
                        for _ in range(60):
                            accounts.upsert(**records(list(range(RECORDS))))  # type: ignore[arg-type]

        seen: list[int] = []

        def by_search() -> None:
            result = accounts.search(raw=[1], k=99)
            assert sorted(result.ids) == ids
            assert -int(result.raw.sum()) == TOTAL
            assert result.metadatas is not None
            assert [hit["amount"] for hit in result.metadatas] == (-result.raw).tolist()
            assert [int(text) for text in result.documents or []] == (-result.raw).tolist()
            seen.append(result.seq)

        def by_filtered_batch_search() -> None:
            result = accounts.search(raw=[[1], [-1]], k=99, where={"amount": {"$gte": 0}}, ids=ids)
            assert result[0].ids != []
            assert (result.raw[0] == -result.raw[1][::-1]).all()
            assert -int(result.raw[0].sum()) == TOTAL

        def by_get() -> None:
            found = accounts.get(include=("raw", "metadatas", "documents"))
            assert found.ids == ids
            assert found.raw is not None
            assert int(found.raw.sum()) == TOTAL
            asked = accounts.get(ids[::-1], include=("raw",))
            assert asked.raw is not None
            assert int(asked.raw.sum()) == TOTAL
            assert (
                sum(record["amount"] for record in accounts.get(where={"amount": {"$gte": 0}}).metadatas or []) == TOTAL
            )

        def by_count() -> None:
            assert accounts.count() == len(accounts) == RECORDS
            assert accounts.count({"even": True}) == RECORDS // 2
            assert accounts.count({"text": {"$gte": "0", "$lt": "2"}, "list": {"$ne": []}}) == RECORDS
            assert list(accounts) == ids
            assert ids[3] in accounts

        counts = run(write, by_search, by_filtered_batch_search, by_get, by_count)
        assert min(counts) > 0
        assert seen == sorted(seen)
        assert db.verify().ok


def test_checkpoints_and_collections_taken_beside_a_writer_are_ones_that_stood() -> None:
    with detmem.open(":memory:") as db:
        stood = {db.checkpoint()}
        taken: list[detmem.Checkpoint] = []

        def write() -> None:
            for number in range(120):
                with db.batch():
                    db.collection(f"pair-{number}-a", dim=1)
                    db.collection(f"pair-{number}-b", dim=1)
                stood.add(db.checkpoint())
                if number % 2:
                    with db.batch():
                        db.drop(f"pair-{number}-a")
                        db.drop(f"pair-{number}-b")
                    stood.add(db.checkpoint())

        def read() -> None:
            taken.append(db.checkpoint())
            names = db.collections()
            assert [name[:-1] for name in names[::2]] == [name[:-1] for name in names[1::2]]

        run(write, read, read)
        assert set(taken) <= stood
        assert [one.seq for one in taken] != []


def test_writes_of_many_threads_are_one_after_another() -> None:
    with detmem.open(":memory:") as db:
        c = db.collection("c", dim=1, metric="l2")
        commits: list[detmem.Commit] = []

        def writer(name: str) -> Callable[[], None]:
            def write() -> None:
                for number in range(60):
                    db.collection("c", dim=1, metric="l2")
                    db.collection(f"made-by-all-{number % 7}", dim=1)  # whoever comes first makes it
                    commit = c.add(f"{name}{number}", raw=[number])
                    assert commit is not None
                    commits.append(commit)
                    with db.batch() as batch:
                        c.update(f"{name}{number}", documents=name)
                        c.add(f"{name}{number}-more", raw=[number])
                    assert batch.commit is not None
                    commits.append(batch.commit)

            return write

        writers = [writer(name) for name in "abc"]
        threads = [threading.Thread(target=one) for one in writers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(commits) == len({commit.seq for commit in commits}) == 360
        assert db.seq == 1 + 7 + 360
        assert len(c) == 360
        assert c.get("b59").documents == ["b"]
        assert db.verify().ok


def test_a_batch_of_one_thread_is_not_the_batch_of_another() -> None:
    with detmem.open(":memory:") as db:
        c = db.collection("c", dim=1, metric="l2")
        inside, order = threading.Event(), list[str]()

        def other() -> None:
            inside.wait()
            assert "new" not in db
            with pytest.raises(detmem.NotFoundError):
                db["new"]
            commit = c.add("other", raw=[1])  # waits for the batch
            order.append("other")
            assert commit is not None

        thread = threading.Thread(target=other)
        thread.start()
        with db.batch():
            db.collection("new", dim=1)
            inside.set()
            thread.join(0.2)
            assert thread.is_alive()
            c.add("mine", raw=[2])
            order.append("mine")
        thread.join()
        assert order == ["mine", "other"]
        assert [(entry.seq, entry.op, entry.ids) for entry in db.log(2)] == [
            (2, "create_collection", []),
            (2, "add", ["mine"]),
            (3, "add", ["other"]),
        ]
