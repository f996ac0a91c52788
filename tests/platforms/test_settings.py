"""One machine, many settings: none of what makes floats differ moves the digest.

Every setting is a process of its own.  Numba's cache does not know all of its settings, so those that compile otherwise
have a cache of their own.  That a setting took hold is looked at where it shows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from detmem import search, selfcheck

PROGRAM = Path(__file__).with_name("scenario.py")
GOLDEN = json.loads(selfcheck.REFERENCE.read_text(encoding="ascii"))

HASWELL = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""}  # without the empty one, AVX-512 is still emitted
OLDEST = {
    "NUMBA_CPU_NAME": "generic",
    "NUMBA_CPU_FEATURES": "",
    "NUMBA_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OPENBLAS_CORETYPE": "Prescott",
    "NPY_DISABLE_CPU_FEATURES": "AVX512_SPR AVX512_ICL X86_V4 X86_V3",
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-FMA4",
}
UNVECTORISED = {"NUMBA_LOOP_VECTORIZE": "0", "NUMBA_SLP_VECTORIZE": "0", "NUMBA_OPT": "1"}
SETTINGS: dict[str, dict[str, str]] = {
    "oldest CPU at once": OLDEST,
    "Haswell": HASWELL,
    "no vectoriser": UNVECTORISED,
    "as it is": {},
    "one thread": {"NUMBA_NUM_THREADS": "1"},
    "two threads": {"NUMBA_NUM_THREADS": "2"},
    "seven threads": {"NUMBA_NUM_THREADS": "7", "OPENBLAS_NUM_THREADS": "2"},
    "no numba": {"PYTHONPATH": "WITHOUT_NUMBA"},
    "pure Python msgpack": {"MSGPACK_PUREPYTHON": "1"},
    "hash seed 0": {"PYTHONHASHSEED": "0"},
    "hash seed 1": {"PYTHONHASHSEED": "1"},
    "-OO": {"PYTHONOPTIMIZE": "2"},
    "Turkish in Kathmandu": {"LC_ALL": "tr_TR.UTF-8", "TZ": "Asia/Kathmandu"},
    "ASCII in the Pacific": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TZ": "XXX-14"},
}
COMPILE_ANEW = ("oldest CPU at once", "Haswell", "no vectoriser")
KERNELS = {
    "no numba": ["reference"],
    "Haswell": ["reference", "portable"],
    "oldest CPU at once": ["reference", "portable"],
}


def play(settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """The scenario under these settings, and no others that matter."""
    matter = ("NUMBA_", "OPENBLAS_", "OMP_", "PYTHONHASHSEED", "DETMEM_")
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(matter)}
    command = [sys.executable, "-W", "ignore", str(PROGRAM)]
    return subprocess.run(
        command, env={**inherited, **settings}, capture_output=True, text=True, encoding="utf-8", check=False
    )


@pytest.mark.parametrize("name", SETTINGS)
def test_the_digest_is_the_golden_one(name, tmp_path):
    (tmp_path / "numba.py").write_text('raise ImportError("hidden by a test")\n', encoding="ascii")
    settings = {key: value.replace("WITHOUT_NUMBA", str(tmp_path)) for key, value in SETTINGS[name].items()}
    if name in COMPILE_ANEW:
        settings["NUMBA_CACHE_DIR"] = str(tmp_path / "cache")
    done = play(settings)
    assert done.returncode == 0, done.stdout + done.stderr
    story = json.loads(done.stdout)
    assert story["stages"] == GOLDEN["stages"]
    assert story["sha256"] == GOLDEN["sha256"]
    usable = [kernel for kernel, refusal in search.available_kernels().items() if refusal is None]
    assert story["platform"]["kernels"] == KERNELS.get(name, usable)
