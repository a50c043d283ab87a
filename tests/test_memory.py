"""How much memory there is: the device's limit, or the machine's within the limits of its container."""

import os
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from ntkgen import ensemble, memory, ntk

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("groups", "files", "limits"),
    [
        # Version 2: the group, the ones around it, and the mount itself, which is a container's own group.
        ("0::/a/b\n", {"a/b/memory.max": "max\n", "a/memory.max": "3000\n", "c/memory.max": "1\n"}, [3000]),
        ("0::/\n", {"memory.max": "2000\n"}, [2000]),
        # Version 1: without a limit, a number that no machine has.
        ("4:cpu,cpuacct:/a\n3:memory:/a\n0::/\n",
         {"memory/a/memory.limit_in_bytes": "5000\n", "memory/memory.limit_in_bytes": f"{2**63 - 4096}\n",
          "cpu/a/memory.limit_in_bytes": "1\n"}, [5000, 2**63 - 4096]),
        # A container that sees its path on the host, which is not mounted inside.
        ("3:memory:/docker/0a1b\n", {"memory/memory.limit_in_bytes": "4000\n"}, [4000]),
        ("nonsense\n", {}, []),
        (None, {"memory.max": "7\n"}, [7]),
    ],
)  # fmt: skip
def test_limits_of_both_versions_of_control_groups(tmp_path, groups, files, limits):
    if groups is not None:
        write(tmp_path / "groups", groups)
    for name, text in files.items():
        write(tmp_path / "mount" / name, text)
    assert sorted(memory.container_limits(tmp_path / "mount", tmp_path / "groups")) == limits


def test_the_lowest_limit_counts_on_cpu(monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: [SimpleNamespace(memory_stats=lambda: None)])
    monkeypatch.setattr(memory, "container_limits", lambda: [2**62, 3000, 4000])
    assert memory.total() == 3000 and memory.budget() == 1500
    monkeypatch.setattr(memory, "container_limits", list)
    assert memory.total() == MACHINE


def test_an_accelerator_has_its_own(monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: [SimpleNamespace(memory_stats=lambda: {"bytes_limit": 8000})])
    monkeypatch.setattr(memory, "container_limits", lambda: [10])
    assert memory.total() == 8000


def test_kernels_and_seeds_ask_the_same(monkeypatch):
    def f(params, x):
        return x @ params

    params, x = jnp.ones((4, 1)), jnp.ones((3, 4))
    variables = {"params": {"kernel": params}}
    layout = ensemble.plan("sequential", variables, 1)
    need = 4 * 6 * 4  # bytes of one seed: six copies of four numbers
    monkeypatch.setattr(memory, "total", lambda: 2 * 7 * need)
    assert ensemble.seeds_per_chunk(variables, 1, 1, layout) == 7 * layout.num_devices
    monkeypatch.setattr(memory, "total", lambda: 100)
    with pytest.raises(ValueError, match=r"memory_budget: .* got 50"):
        ntk.plan(f, params, x)


def test_a_users_own_setting_of_the_allocator_stays(monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: pytest.fail("set"))
    for name, value in {"MALLOC_ARENA_MAX": "1", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}.items():
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert not memory.keep_freed()


def test_a_c_library_without_the_setting_is_no_error(monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert not memory.keep_freed()
