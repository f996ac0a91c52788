"""Each search bench runs to its end on a tiny made set without any peer, and says who was absent.

The scripts are run as a person runs them; only that they run and write is looked at, never a time.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPTS = [
    "floats",
    "paper_table",
    "past",
    "proofs",
    "search_bandwidth",
    "search_profile",
    "search_batch",
    "search_cold",
    "search_filtered",
    "search_latency",
    "search_memory",
    "search_targets",
]


@pytest.mark.parametrize("name", SCRIPTS)
def test_quick_run_writes_its_result(tmp_path, name):
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT), "DETMEM_BENCH_DATA": str(tmp_path / "data")}
    surroundings.pop("DETMEM_KERNEL", None)
    call = [sys.executable, str(ROOT / "bench" / f"{name}.py"), "--quick", "--results", str(tmp_path)]
    done = subprocess.run(call, cwd=tmp_path, env=surroundings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / f"{name}.md").read_text(encoding="utf-8")
    assert "commit " in text
    assert "\n| " in text or "Not measured" in text, "a result has a table, or says why there is none"
