"""One run of each example for all tests that look at what it left behind."""

from __future__ import annotations

import contextlib
import importlib
import io
from pathlib import Path
from typing import NamedTuple

import pytest

from detmem.examples import story


class Kept(NamedTuple):
    """What a run printed, and its stores: the one it wrote, and the replayed one."""

    text: str
    path: Path
    replayed: Path


@pytest.fixture(scope="session")
def kept(tmp_path_factory):
    """A function from an example's name to its run."""
    runs: dict[str, Kept] = {}

    def run(name: str) -> Kept:
        if name not in runs:
            module = importlib.import_module(f"detmem.examples.{name}")
            folder = tmp_path_factory.mktemp(name)
            shown = io.StringIO()
            with contextlib.redirect_stdout(shown):
                assert story.main(module.play, module.__doc__, ["--keep", str(folder)]) == 0
            path = folder / f"{name.replace('_', '-')}.detmem"
            runs[name] = Kept(shown.getvalue(), path, story.replayed_beside(path))
        return runs[name]

    return run
