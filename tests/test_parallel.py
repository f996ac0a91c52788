"""Threads of a search: every task runs once, an error of one is raised, and who waits long is told so."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from detmem.errors import UsageError
from detmem.parallel import Workers, said_if_long, thread_count


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 40])
def test_every_task_runs_once_before_run_returns(threads: int, count: int) -> None:
    workers, done = Workers(threads), list[int]()
    tasks: list[Callable[[], None]] = [lambda number=number: done.append(number) for number in range(count)]  # type: ignore[misc]
    for _ in range(3):
        done.clear()
        workers.run(tasks)
        assert sorted(done) == list(range(count))
    workers.close()


def test_tasks_run_side_by_side() -> None:
    """Each waits for the other: one after the other they would never end."""
    workers, met = Workers(2), threading.Barrier(2, timeout=30)
    workers.run([lambda: met.wait() and None, lambda: met.wait() and None])
    workers.close()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("place", [0, 7])
def test_the_error_of_a_task_is_raised(threads: int, place: int) -> None:
    def fail() -> None:
        raise UsageError("no")

    tasks: list[Callable[[], None]] = [lambda: None] * 8
    tasks[place] = fail
    workers = Workers(threads)
    with pytest.raises(UsageError, match="no"):
        workers.run(tasks)
    workers.run([lambda: None] * 8)  # and the next call is served
    workers.close()


def test_after_a_fork_threads_are_started_anew() -> None:
    workers = Workers(2)
    workers.run([lambda: None, lambda: None])
    before = workers._pool
    workers.after_fork()
    workers.run([lambda: None, lambda: None])
    assert workers._pool is not before
    assert before is not None
    before.shutdown()
    workers.close()


def test_the_number_of_threads_is_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_NUM_THREADS", "3")
    assert thread_count() == 3
    monkeypatch.setenv("NUMBA_NUM_THREADS", "")
    assert thread_count() >= 1
    for wrong in ("0", "-1", "two", "1.5", "99999"):
        monkeypatch.setenv("NUMBA_NUM_THREADS", wrong)
        with pytest.raises(UsageError, match=f"NUMBA_NUM_THREADS: expected a number of threads, found '{wrong}'"):
            thread_count()


def test_who_waits_long_is_told_and_nobody_else(capfd: pytest.CaptureFixture[str]) -> None:
    written = threading.Event()
    with said_if_long("quick", 60.0):
        pass
    assert capfd.readouterr().err == ""
    with said_if_long("slow", 0.0):
        for _ in range(3000):
            if "slow\n" in capfd.readouterr().err:
                written.set()
                break
            threading.Event().wait(0.01)
    assert written.is_set()


def test_without_helpers_the_caller_does_all_of_it() -> None:
    """Once a search beside close(), or one at the interpreter's exit, was a RuntimeError of the thread pool."""
    workers, done = Workers(4), []
    workers.run([lambda: None] * 4)
    workers.close()
    workers.run([lambda number=number: done.append(number) for number in range(9)])  # type: ignore[misc]
    assert done == list(range(9))


def test_at_exit_a_search_still_answers() -> None:
    code = (
        "import atexit\n"
        "from detmem.parallel import Workers\n"
        "done = []\n"
        "atexit.register(lambda: (Workers(4).run([lambda: done.append(1)] * 9), print(len(done))))"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (finished.stdout, finished.stderr) == ("9\n", "")
