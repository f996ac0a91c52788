"""What every test shares: how Hypothesis draws, and that child processes run this checkout.

``ci`` (the default) draws the same bounded set of examples on every run, so a red build is red again at home.
``campaign`` (``HYPOTHESIS_PROFILE=campaign``) draws many fresh ones and prints how to repeat a failure; what it finds
becomes an ``@example`` or a named test.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from detmem.journal.disk import OsDisk

ROOT = Path(__file__).resolve().parent.parent

# The first example of a kernel test pays for compiling it: slowness says nothing about the test.
settings.register_profile(
    "ci",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=60,
    stateful_step_count=25,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "campaign",
    derandomize=False,
    deadline=None,
    max_examples=2_000,
    stateful_step_count=80,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

# Tests start `python -m detmem` and small writers in directories of their own: they must find this tree, no other.
_inherited = os.environ.get("PYTHONPATH")
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), _inherited] if _inherited else [str(ROOT)])


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders that are listed from here on."""
    names: list[str] = []
    plain = OsDisk.list

    def counted(disk: OsDisk, folder: str) -> list[str]:
        names.append(folder)
        return plain(disk, folder)

    monkeypatch.setattr(OsDisk, "list", counted)
    return names
