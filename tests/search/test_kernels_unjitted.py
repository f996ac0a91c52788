"""The kernels once as plain Python, once with bounds checks: under the jit a wrapped sum or a stray index says
nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

from detmem import search

SCRIPT = textwrap.dedent("""
    import math
    import numpy as np
    from detmem import search
    from detmem.machine.vectors import Vectors
    from detmem.search import front, kernels

    jitted = hasattr(kernels.scan, "signatures")
    usable = [name for name, refusal in search.available_kernels().items() if refusal is None and name != "reference"]
    random = np.random.default_rng(9)
    for dimension in (1, 2, 5, 16, 17, 33, 64):
        top = math.isqrt(2**60 // dimension)
        rows = random.integers(-top, top, size=(57, dimension), endpoint=True).astype(np.int32)
        rows[20:40] //= 1 << 20
        rows[0] = 0
        rows[0, 0] = 2**30
        rows[1] = -rows[0]
        rows[2] = top
        rows[3] = -top
        mask = random.random(57) < 0.7
        mask[:4] = True
        vectors = Vectors(dimension)
        vectors.append(rows)
        ids = [f"{(i * 31) % 57:02d}" for i in range(57)]
        died = np.where(random.random(57) < 0.2, 3, 9)
        queries = np.concatenate([rows[:5], rows[30:35]])
        for metric in ("l2", "ip"):
            expected = []
            for query in queries.tolist():
                found = []
                for slot, row in enumerate(rows.tolist()):
                    if mask[slot] and died[slot] > 3:
                        pairs = list(zip(row, query))
                        raw = -sum(x * q for x, q in pairs) if metric == "ip" else sum((x - q) ** 2 for x, q in pairs)
                        found.append((raw, ids[slot], slot))
                expected.append(sorted(found)[:9])
            moment = vectors.moment()
            live = search.Live(died, 3, mask)
            for kernel in usable:
                half, third = max(1, dimension // 2), max(1, dimension // 3)
                for learned in (None, front._front(np.eye(dimension)[:half], third, 12)):
                    follower = search.Follower(metric)
                    followed = follower.follow(moment, kernel, 1)
                    if learned is not None:
                        follower._planes._learned = learned
                        followed = follower.follow(moment, kernel, 1)
                        assert any(segment.two_planes for segment in followed.segments)
                    for asked in (queries, queries[:2]):
                        answers = search.nearest(followed, live, ids, asked, 9, metric, kernel)
                        for (slots, raw), wanted in zip(answers, expected):
                            assert slots.tolist() == [slot for _, _, slot in wanted], (dimension, metric, kernel)
                            assert raw.tolist() == [distance for distance, _, _ in wanted]
    print("jitted" if jitted else "plain")
""")


# `python -c` looks into the working directory first, and there stands an unpacked detmem.
LEAVE_THIS_TREE = "import sys; sys.path.remove('')\n"


def judge(environment: dict[str, str], mode: str, script: str = SCRIPT) -> None:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, env=inherited | environment, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == (mode, 0), done.stderr


@pytest.mark.parametrize(
    ("variable", "mode"), [("NUMBA_DISABLE_JIT", "plain"), ("NUMBA_BOUNDSCHECK", "jitted"), ("NUMBA_OPT", "jitted")]
)
def test_kernels_give_the_answers_of_python_ints(variable, mode, tmp_path):
    # compiled anew, with the checks in (or, for NUMBA_OPT=1, with hardly any vectorising)
    judge({"NUMBA_CACHE_DIR": str(tmp_path), variable: "1"}, mode)


def test_kernels_whose_cache_folder_cannot_be_made_compile_without_one(tmp_path):
    """Imported from a zip file, while the home of caches lies below a file."""
    package = Path(search.__file__).parent.parent
    archive = tmp_path / "house.zip"
    with zipfile.ZipFile(archive, "w") as house:
        house.writestr("detmem/__init__.py", "")
        for part in ("errors.py", "machine/__init__.py", "machine/vectors.py"):
            house.write(package / part, f"detmem/{part}")
        for part in (package / "search").glob("*.py"):
            house.write(part, f"detmem/search/{part.name}")
    nowhere = str(archive / "below")
    judge({"PYTHONPATH": str(archive), "HOME": nowhere, "XDG_CACHE_HOME": nowhere}, "jitted", LEAVE_THIS_TREE + SCRIPT)
