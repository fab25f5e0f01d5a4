"""tools/install.sh on machines that lack something: one line that names it, exit 1, nothing made."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path("tools/install.sh").resolve()
SHELL = shutil.which("sh")


@pytest.fixture
def install(tmp_path):
    """Return a function that runs the script with a PATH that holds just the named programs."""
    programs = tmp_path / "bin"
    programs.mkdir()

    def run(**have):
        for name, target in have.items():
            (programs / name).symlink_to(target)
        return subprocess.run(
            [SHELL, str(SCRIPT), str(tmp_path / "venv"), "https://localhost:1"],
            env={"PATH": str(programs), "HOME": str(tmp_path)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )

    yield run
    assert not (tmp_path / "venv").exists()


def fake(tmp_path, name, body):
    path = tmp_path / name
    path.write_text(f"#!{SHELL}\n{body}\n")
    path.chmod(0o755)
    return path


def assert_one_line(done, *words):
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert all(word in line for word in words), line


def test_without_python_it_names_the_versions_and_how_to_get_one(install):
    assert_one_line(
        install(cmake=os.devnull), "Python 3.11, 3.12 or 3.13 is missing", "apt install", "brew install"
    )


def test_a_python_that_is_too_old_is_as_good_as_none(install, tmp_path):
    assert_one_line(install(python3=fake(tmp_path, "old", "exit 1")), "Python 3.11, 3.12 or 3.13 is missing")


def test_without_cmake_it_names_cmake(install):
    assert_one_line(install(python3=sys.executable), "cmake is missing", "apt install cmake")


def test_without_a_compiler_it_names_one(install, tmp_path):
    tool = fake(tmp_path, "tool", "exit 0")
    assert_one_line(
        install(python3=sys.executable, cmake=tool), "g++ is missing", "build-essential", "xcode-select"
    )
