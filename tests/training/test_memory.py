"""A training process keeps the memory that it frees: no step takes its large blocks from the system anew."""

from __future__ import annotations

import subprocess
import sys

import pytest

STEPS = """
import resource, sys, torch
from rmp_deploy.training.memory import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit(3)
def step():
    parts = [torch.ones(20_000_000) for _ in range(2)]  # 80 MB each: beyond what glibc's own threshold can grow to
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(which: str) -> int:
    found = subprocess.run([sys.executable, "-c", STEPS, which], capture_output=True, text=True, check=False)
    if found.returncode == 3:
        pytest.skip("the C library here is not glibc, whose malloc is told to keep memory")
    return int(found.stdout)


def test_freed_memory_is_taken_again():
    assert page_faults("keep") < page_faults("by default")
