"""Shared by all tests: one torch thread, so that results and load are the same everywhere."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _one_torch_thread():
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """Side by side (`make test`): one worker takes the tests around Ray, which mostly wait.

    It has the only Ray clusters, each started once. Everything else goes to whoever is free: file
    by file, or the folder where all files share trainings. (`--dist loadgroup` would do, but
    pytest-xdist 3.8 loses its groups under pytest 9.2.)
    """
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(config.rootpath, nodeid.partition("::")[0])

    return Scheduling(config, log)


@functools.cache
def _group(root: Path, file: str) -> str:
    if file.startswith("tests/cluster/") or "mark.ray" in (root / file).read_text():
        return "ray"
    return "tests/chapter" if file.startswith("tests/chapter/") else file
