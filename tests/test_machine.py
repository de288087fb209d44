"""Memory is counted over all processes of a run, and how many tiles run at once follows it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from wsiseg import machine
from wsiseg.machine import cpu_predictors, process_tree, pss_mb

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

HOLD = """
import os, sys, time
held = bytearray(int(sys.argv[1]) << 20)
held[::4096] = bytes(len(held[::4096]))
if sys.argv[2] == "forked" and os.fork() == 0:
    time.sleep(60)
print("held", flush=True)
time.sleep(60)
"""


def hold(mb: int, how: str) -> subprocess.Popen[str]:
    """Start a process that holds memory; it has a child that shares it if `forked`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(mb), how],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    for child in process_tree(process.pid):
        os.kill(child, 9)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


WATCH = """
import os, subprocess, sys, time
from wsiseg.machine import PeakMemory
with PeakMemory() as peak:
    before_mb = peak.mb
    child = subprocess.Popen([sys.executable, "-c", sys.argv[1], "300", "alone"], stdout=-1)
    child.stdout.readline()
    time.sleep(2.5)
    child.kill()
    child.wait()
print(peak.mb - before_mb, {os.getpid(), child.pid} <= peak.processes)
"""


@linux
def test_the_memory_of_children_counts_at_its_peak() -> None:
    """In a process of its own, which takes and gives back nothing meanwhile."""
    command = [sys.executable, "-c", WATCH, HOLD]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert 290 < float(said[0]) < 400
    assert said[1] == "True"


@linux
def test_a_page_that_processes_share_counts_once() -> None:
    child = hold(300, "forked")
    try:
        tree = process_tree(child.pid)
        assert len(tree) == 2
        total_mb = sum(map(pss_mb, tree))
    finally:
        end(child)
    assert 290 < total_mb < 400, "and not 600"


@linux
def test_processes_that_are_gone_count_nothing() -> None:
    child = hold(1, "alone")
    end(child)
    assert pss_mb(child.pid) == 0
    assert process_tree(child.pid) == [child.pid]


def test_few_tiles_at_once_where_memory_is_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 64)
    monkeypatch.setattr(machine, "available_mb", lambda: 500_000)
    assert cpu_predictors("rows") >= 8, "wsiseg's own arithmetic needs little"
    assert cpu_predictors("torch") == 2
    assert cpu_predictors("rows", 1000.0) == cpu_predictors("torch", 1000.0) == 64
    assert cpu_predictors("rows", 0.1) == 1
    monkeypatch.setattr(machine, "available_mb", lambda: 1200)
    assert cpu_predictors("rows", 1000.0) == 1
    monkeypatch.setattr(machine, "cores", lambda: 2)
    monkeypatch.setattr(machine, "available_mb", lambda: 500_000)
    assert cpu_predictors("rows", 1000.0) == 2
