"""The kernels once as plain Python, once with bounds checks: under the jit a wrapped sum or a stray index says
XX nothing."""

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
    from detmem.search import kernels

    jitted = hasattr(kernels.squared_distances, "signatures")
    random = np.random.default_rng(9)
    for dimension in (1, 2, 5, 16, 17, 33):
        top = math.isqrt(2**60 // dimension)
        rows = random.integers(-top, top, size=(23, dimension), endpoint=True).astype(np.int32)
        rows[0] = 0
        rows[0, 0] = 2**30
        rows[1] = -rows[0]
        rows[2] = top
        rows[3] = -top
        mask = random.random(23) < 0.7
        mask[:4] = True
        for query in rows[:5]:
            for name in ("squared_distances", "inner_products"):
                out = np.full(23, 7, dtype=np.int64)
                getattr(kernels, name)(rows, query, mask, 0, 20, out)
                for slot in range(23):
                    pairs = list(zip(rows[slot].tolist(), query.tolist()))
                    if slot >= 20:
                        expected = 7  # outside the range: untouched
                    elif not mask[slot]:
                        expected = 2**63 - 1
                    elif name == "squared_distances":
                        expected = sum((x - q) ** 2 for x, q in pairs)
                    else:
                        expected = -sum(x * q for x, q in pairs)
                    assert int(out[slot]) == expected, (dimension, name, slot)
        ids = [str(i) for i in range(23)]
        for metric in ("l2", "ip", "cosine"):
            one = search.nearest(rows, ids, rows[:3], 9, metric, mask, "portable")
            other = search.nearest(rows, ids, rows[:3], 9, metric, mask, "reference")
            for a, b in zip(one, other):
                assert a[0].tolist() == b[0].tolist() and a[1].tolist() == b[1].tolist()
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
def test_kernels_give_the_sums_of_python_ints(variable, mode, tmp_path):
    # compiled anew, with the checks in (or, for NUMBA_OPT=1, with hardly any vectorising)
    judge({"NUMBA_CACHE_DIR": str(tmp_path), variable: "1"}, mode)


def test_kernels_whose_cache_folder_cannot_be_made_compile_without_one(tmp_path):
    """Imported from a zip file, while the home of caches lies below a file."""
    package = Path(search.__file__).parent.parent
    archive = tmp_path / "house.zip"
    with zipfile.ZipFile(archive, "w") as house:
        house.writestr("detmem/__init__.py", "")
        for part in ("errors.py", "machine/__init__.py", "machine/fixed.py", "machine/units.py"):
            house.write(package / part, f"detmem/{part}")
        for part in ("__init__.py", "reference.py", "kernels.py"):
            house.write(package / "search" / part, f"detmem/search/{part}")
    nowhere = str(archive / "below")
    judge({"PYTHONPATH": str(archive), "HOME": nowhere, "XDG_CACHE_HOME": nowhere}, "jitted", LEAVE_THIS_TREE + SCRIPT)


def test_kernels_without_a_source_file_compile_without_a_cache():
    """Numba finds no locator for code that came from no file."""
    source = Path(search.__file__).with_name("kernels.py").read_text(encoding="utf-8")
    script = f"namespace = {{'__name__': 'kernels'}}\nexec(compile({source!r}, '<kernels>', 'exec'), namespace)\n"
    judge({}, "1", script + "print(len(namespace['inner_products'].signatures))")
