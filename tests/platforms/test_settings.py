"""One machine, many settings: none of what makes floats differ moves the digest.

Every setting is a process of its own, and two run side by side.  Numba's cache does not know all of its settings, so
those that compile otherwise have a cache of their own.  That a setting took hold is looked at where it shows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from detmem import selfcheck

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


def play(settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """The scenario under these settings, and no others that matter."""
    matter = ("NUMBA_", "OPENBLAS_", "OMP_", "PYTHONHASHSEED", "DETMEM_")
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(matter)}
    command = [sys.executable, "-W", "ignore", str(PROGRAM)]
    return subprocess.run(
        command, env={**inherited, **settings}, capture_output=True, text=True, encoding="utf-8", check=False
    )


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, subprocess.CompletedProcess[str]]:
    """What each setting came to."""
    without = tmp_path_factory.mktemp("without")
    (without / "numba.py").write_text('raise ImportError("hidden by a test")\n', encoding="ascii")
    runs = {}
    for name, settings in SETTINGS.items():
        runs[name] = {key: value.replace("WITHOUT_NUMBA", str(without)) for key, value in settings.items()}
        if name in COMPILE_ANEW:
            runs[name]["NUMBA_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(runs, pool.map(play, runs.values()), strict=True))


def story_of(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_digest_is_the_golden_one(name, stories):
    story = story_of(stories[name])
    assert story["stages"] == GOLDEN["stages"]
    assert story["sha256"] == GOLDEN["sha256"]


def test_the_settings_took_hold(stories):
    kernels = {name: story_of(done)["platform"]["kernels"] for name, done in stories.items()}
    assert kernels["no numba"] == ["reference"]
    assert kernels["Haswell"] == kernels["oldest CPU at once"] == ["reference", "portable"]
    assert kernels["seven threads"] == kernels["as it is"]
    assert "portable" in kernels["as it is"]
