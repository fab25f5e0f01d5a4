"""A container's limit is seen, in both layouts of control groups, with what others in it use."""

from pathlib import Path

import psutil
import pytest

from factory import cgroup, hardware

MIB = 1 << 20


@pytest.fixture
def member(tmp_path: Path, monkeypatch):
    """Return a function that puts this process into groups: one line of membership, files by folder."""
    monkeypatch.setattr(cgroup, "ROOT", tmp_path / "fs")
    monkeypatch.setattr(cgroup, "MEMBERSHIP", tmp_path / "self")

    def put(membership: str, files: dict[str, str]) -> None:
        (tmp_path / "self").write_text(membership)
        for name, text in files.items():
            path = tmp_path / "fs" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return put


def test_the_tightest_of_the_groups_that_hold_the_process_counts(member) -> None:
    member(
        "0::/pod/box\n",
        {
            "pod/box/memory.max": f"{900 * MIB}\n",
            "pod/box/memory.current": f"{300 * MIB}\n",
            "pod/box/memory.stat": f"anon 5\ninactive_file {100 * MIB}\n",
            "pod/memory.max": f"{800 * MIB}\n",
            "pod/memory.current": f"{300 * MIB}\n",
            "pod/memory.stat": "inactive_file 0\n",
        },
    )
    assert cgroup.limit_bytes() == 800 * MIB
    assert cgroup.free_bytes() == 500 * MIB


def test_the_older_layout_is_read_too_and_its_files_count_as_free(member) -> None:
    member(
        "5:cpu,cpuacct:/a\n4:memory:/box\n",
        {
            "memory/box/memory.limit_in_bytes": f"{512 * MIB}\n",
            "memory/box/memory.usage_in_bytes": f"{500 * MIB}\n",
            "memory/box/memory.stat": f"cache 7\ntotal_inactive_file {200 * MIB}\n",
        },
    )
    assert (cgroup.limit_bytes(), cgroup.free_bytes()) == (512 * MIB, 212 * MIB)
    assert hardware.total_memory_bytes() == 512 * MIB
    assert hardware.available_memory_bytes() <= 212 * MIB


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"memory.max": "max\n", "memory.current": "7\n", "memory.stat": ""},
        {"memory.max": "12\n"},
        {"memory.max": "12\n", "memory.current": "x\n", "memory.stat": ""},
        {"memory.max": "12\n", "memory.current": "1\n", "memory.stat": "a b c\n"},
    ],
)
def test_without_a_limit_that_can_be_read_the_machine_counts(member, files) -> None:
    member("0::/\n", files)
    assert (cgroup.limit_bytes(), cgroup.free_bytes()) == (None, None)
    assert hardware.total_memory_bytes() == psutil.virtual_memory().total


def test_a_group_that_is_over_its_limit_leaves_nothing(member) -> None:
    member("0::/\n", {"memory.max": "5\n", "memory.current": "9\n", "memory.stat": ""})
    assert cgroup.free_bytes() == 0


def test_a_system_without_groups_has_no_limit(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(cgroup, "MEMBERSHIP", tmp_path / "none")
    assert cgroup.free_bytes() is None
