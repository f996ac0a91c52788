"""What a user installs: a wheel with the package, its data and types, nothing else; an sdist that can test itself."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_wheel_holds_the_whole_package_and_nothing_else(built):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = archive.read(
            next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        ).decode()
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "detmem").rglob("*") if path.is_file()}
    assert names == {name for name in package if "__pycache__" not in name}
    assert {"detmem/py.typed", "detmem/data/wordnet-sample.npz", "detmem/data/LICENSE.wordnet"} <= names
    assert "License-Expression: Apache-2.0" in metadata
    assert "Requires-Python: >=3.11" in metadata


def test_sdist_brings_its_tests_and_its_specification(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    wanted = {
        "Makefile",
        "LICENSE",
        "requirements.lock",
        "tests/conftest.py",
        "tests/test_house.py",
        "spec/reference.py",
    }
    assert wanted <= names
    assert [name for name in names if name.startswith(".venv")] == []
