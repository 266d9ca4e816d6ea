from __future__ import annotations

import platform
import subprocess
import sys

import pytest

CODE = """
import resource
import torch
from stabsearch.training.memory import keep_freed_memory

torch.set_num_threads(1)
keep_freed_memory()
def step():
    return [torch.ones(1 << 18) for _ in range(20)]  # 20 blocks of 1 MB, freed together


for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults():
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=True, timeout=60
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="speaks to glibc")
def test_memory_that_was_freed_is_taken_again_without_page_faults():
    """By default it is some 50,000 most of the time."""
    assert page_faults() < 200
