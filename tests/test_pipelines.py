"""Recipes for clusters: the job array carries signals and exit codes, files name what exists."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from wsiseg.cli import INTERRUPTED, SOME_FAILED, app

REPOSITORY = Path(__file__).resolve().parent.parent
PIPELINES = REPOSITORY / "pipelines"
SLURM_ARRAY = PIPELINES / "slurm_array.sh"

FAKE_WSISEG = """#!/bin/bash
printf '%s\\n' "$@" > "$FAKE_FOLDER/arguments"
printf '%s' "$TMPDIR" > "$FAKE_FOLDER/temporary"
trap 'sleep 0.2; exit 75' USR1 TERM
touch "$FAKE_FOLDER/started"
for _ in $(seq "$FAKE_TENTHS"); do sleep 0.1; done
exit "$FAKE_CODE"
"""
FAKE_SCONTROL = """#!/bin/bash
echo "$*" >> "$FAKE_FOLDER/scontrol"
[ "$1" = show ] && echo "JobId=7 EligibleTime=2026-01-01T00:00:00 PreemptTime=$FAKE_PREEMPTED"
exit 0
"""

pytestmark = pytest.mark.skipif(
    os.name != "posix" or shutil.which("bash") is None, reason="scripts are for bash"
)


@dataclass
class Node:
    """A folder that plays a node of a SLURM cluster."""

    folder: Path

    def start(
        self, *arguments: str, code: int = 0, tenths: int = 0, **more: str
    ) -> subprocess.Popen[str]:
        """Start the job script as SLURM does."""
        for name, text in (("wsiseg", FAKE_WSISEG), ("scontrol", FAKE_SCONTROL)):
            program = self.folder / "bin" / name
            program.parent.mkdir(exist_ok=True)
            if not program.exists():
                program.write_text(text, encoding="utf-8")
                program.chmod(program.stat().st_mode | stat.S_IXUSR)
        scratch = self.folder / "scratch"
        scratch.mkdir()
        environment = os.environ | {
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "FAKE_FOLDER": str(self.folder),
            "FAKE_CODE": str(code),
            "FAKE_TENTHS": str(tenths),
            "FAKE_PREEMPTED": "None",
            "SLURM_TMPDIR": str(scratch),
            "SLURM_JOB_ID": "12",
            "SLURM_ARRAY_JOB_ID": "7",
            "SLURM_ARRAY_TASK_ID": "3",
            "SLURM_ARRAY_TASK_MIN": "1",
            "SLURM_ARRAY_TASK_MAX": "8",
            "SLURM_ARRAY_TASK_COUNT": "8",
            **more,
        }
        return subprocess.Popen(
            ["bash", str(SLURM_ARRAY), *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, sent: int | None = None, **more: str | int) -> int:
        """Run the job script, send it a signal when wsiseg is at work, return its exit code."""
        process = self.start(*arguments, **more)
        if sent is not None:
            self.wait_for("started")
            process.send_signal(sent)
        _, self.errors = process.communicate(timeout=60)
        return process.returncode

    def wait_for(self, name: str) -> None:
        until = time.monotonic() + 30
        while not (self.folder / name).exists():
            assert time.monotonic() < until, f"no {name}"
            time.sleep(0.01)

    @property
    def queued_again(self) -> bool:
        said = self.folder / "scontrol"
        return said.exists() and "requeue 7_3" in said.read_text().splitlines()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


@pytest.mark.parametrize("code", [0, 1, 2, 3])
def test_an_exit_code_of_its_own_is_final(node: Node, code: int) -> None:
    assert node.run("slides dir", "out;dir", "--mpp", "0.25", code=code) == code
    assert not node.queued_again
    arguments = (node.folder / "arguments").read_text().splitlines()
    assert arguments[:4] == ["segment", "slides dir", "-o", "out;dir"]
    assert arguments[4:] == ["--part", "auto", "--quiet", "--mpp", "0.25"]
    temporary = Path((node.folder / "temporary").read_text())
    assert temporary.parent == node.folder / "scratch"
    assert list((node.folder / "scratch").iterdir()) == [], "scratch was not cleared"


def test_before_its_time_is_up_a_task_queues_itself_again(node: Node) -> None:
    start = time.monotonic()
    assert node.run("s", "o", sent=signal.SIGUSR1, tenths=300) == 75
    assert time.monotonic() - start < 20
    assert node.queued_again
    assert "SIGUSR1" in node.errors


@pytest.mark.parametrize(("preempted", "again"), [("2026-01-01T00:00:00", True), ("None", False)])
def test_a_preempted_task_queues_itself_again_a_cancelled_one_does_not(
    node: Node, preempted: str, again: bool
) -> None:
    assert node.run("s", "o", sent=signal.SIGTERM, tenths=300, FAKE_PREEMPTED=preempted) == 75
    assert node.queued_again is again


def test_a_task_that_is_done_when_the_signal_comes_is_not_queued_again(node: Node) -> None:
    (node.folder / "bin").mkdir()
    program = node.folder / "bin" / "wsiseg"
    program.write_text(FAKE_WSISEG.replace("sleep 0.2; exit 75", "exit 3"), encoding="utf-8")
    program.chmod(0o755)
    assert node.run("s", "o", sent=signal.SIGUSR1, tenths=300) == 3
    assert not node.queued_again


def test_a_task_that_dies_of_the_signal_while_it_starts_is_queued_again(node: Node) -> None:
    (node.folder / "bin").mkdir()
    program = node.folder / "bin" / "wsiseg"
    program.write_text(FAKE_WSISEG.replace("sleep 0.2; exit 75", "kill -9 $$"), encoding="utf-8")
    program.chmod(0o755)
    assert node.run("s", "o", sent=signal.SIGUSR1, tenths=300) == 75
    assert node.queued_again


def test_a_task_does_not_queue_itself_for_ever(node: Node) -> None:
    more = {"SLURM_RESTART_COUNT": "2", "WSISEG_MOST_RESTARTS": "2"}
    assert node.run("s", "o", sent=signal.SIGUSR1, tenths=300, **more) == 75
    assert not node.queued_again
    assert "2 restarts" in node.errors


def test_without_slides_nothing_starts(node: Node) -> None:
    assert node.run("slides") == 2
    assert not (node.folder / "arguments").exists()


def test_the_job_script_asks_for_what_it_relies_on() -> None:
    asked = re.findall(r"^#SBATCH (--\S+)", SLURM_ARRAY.read_text(encoding="utf-8"), re.MULTILINE)
    assert {"--signal=B:USR1@120", "--requeue", "--open-mode=append"} <= set(asked)


@pytest.mark.parametrize(
    "name",
    ["slurm_array.sh", "slurm_dask.yaml", "Dockerfile", "wsiseg.def", "nextflow/main.nf"],
)
def test_recipes_call_what_exists(name: str) -> None:
    group: Any = typer.main.get_command(app)
    known = {each for option in group.commands["segment"].params for each in option.opts}
    calls = re.findall(r"\bsegment (.*)$", (PIPELINES / name).read_text("utf-8"), re.MULTILINE)
    assert calls
    used = {word for call in calls for word in re.findall(r"(?<![\w-])--?[a-z][\w-]*", call)}
    assert used
    assert used <= known


def test_the_module_retries_what_may_go_on() -> None:
    settings = (PIPELINES / "nextflow" / "nextflow.config").read_text(encoding="utf-8")
    (retried,) = re.findall(r"task\.exitStatus in \[([\d, ]+)\] \? 'retry'", settings)
    assert str(INTERRUPTED) in retried.split(", ")
    assert f"task.exitStatus == {SOME_FAILED} ? 'ignore'" in settings
    assert f'"$code" -eq {INTERRUPTED}' in SLURM_ARRAY.read_text(encoding="utf-8")


def test_what_the_images_copy_exists() -> None:
    dockerfile = (PIPELINES / "Dockerfile").read_text(encoding="utf-8")
    copied = {
        name
        for line in re.findall(r"^COPY (?!--from)(.*) \S+$", dockerfile, re.MULTILINE)
        for name in line.split()
    }
    ignored = (PIPELINES / "Dockerfile.dockerignore").read_text(encoding="utf-8").split()
    definition = (PIPELINES / "wsiseg.def").read_text(encoding="utf-8")
    files = definition.partition("%files")[2].partition("%post")[0]
    assert copied == set(re.findall(r"^ +(\S+) /src/", files, re.MULTILINE))
    for name in copied:
        assert (REPOSITORY / name).exists(), name
        assert f"!{name}" in ignored
    assert {"constraints.txt", "wsiseg", "pyproject.toml"} <= copied


def test_the_queue_is_yaml() -> None:
    said = yaml.safe_load((PIPELINES / "slurm_dask.yaml").read_text(encoding="utf-8"))
    assert said["kind"] == "slurm"
