"""A signal ends a command at any moment, quietly, and with the code that says: call again."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wsiseg.cluster import ClusterOptions
from wsiseg.cluster.local import worker_options

pytestmark = pytest.mark.skipif(os.name != "posix", reason="other systems have other signals")

BEGIN = """
import os, signal, sys, time
from wsiseg import signals
def send():
    os.kill(os.getpid(), signal.SIGTERM)
"""


def ran(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BEGIN + code]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=env)


def catches(process: int) -> bool:
    """Return whether a process has settled what SIGTERM does."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="what a process catches is not known")
@pytest.mark.parametrize("start", ["from wsiseg.__main__ import main; main()", None])
def test_a_signal_while_a_command_starts_ends_it(start: str | None, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").touch()
    how = ["-m", "wsiseg"] if start is None else ["-c", start]
    command = [sys.executable, *how, "segment", "in", "-o", "out", "--mpp", "0.25"]
    for delay_s in (0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5):
        with subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as call:
            deadline = time.monotonic() + 30
            while not catches(call.pid):
                assert time.monotonic() < deadline
                time.sleep(0.001)
            time.sleep(delay_s)
            call.send_signal(signal.SIGTERM)
            said = call.communicate(timeout=30)[1]
        assert (call.returncode, delay_s) == (75, delay_s), said
        assert "call the same command again" in said
        assert said.count("\n") == 1


def test_an_import_is_not_interrupted_half_way(tmp_path: Path) -> None:
    (tmp_path / "slow_to_load.py").write_text(
        "import __main__, time\n__main__.send()\ntime.sleep(0.2)\nprint('loaded')\n"
    )
    code = """
with signals.ended_by_signals() as came:
    signals.work_begins()
    try:
        import slow_to_load
        time.sleep(20)
    except KeyboardInterrupt as error:
        print(error, came())
"""
    done = ran(code, tmp_path)
    assert done.stdout.splitlines() == ["loaded", "interrupted by SIGTERM True"]
    assert done.stderr == ""


def test_what_python_has_to_ignore_is_raised_again(tmp_path: Path) -> None:
    code = """
class Deaf:
    def __del__(self):
        send()
        time.sleep(0.1)
with signals.ended_by_signals():
    signals.work_begins()
    try:
        Deaf()
        time.sleep(20)
    except KeyboardInterrupt as error:
        print(error)
"""
    done = ran(code, tmp_path)
    assert done.stdout == "interrupted by SIGTERM\n"
    assert done.stderr == ""


@pytest.mark.parametrize("becomes", ["SystemExit(130)", "SystemExit(1)", "ImportError('numpy')"])
def test_whatever_an_interruption_becomes_the_code_is_one(becomes: str, tmp_path: Path) -> None:
    code = f"""
from wsiseg import cli
def app():
    signals.work_begins()
    try:
        send()
        time.sleep(20)
    except KeyboardInterrupt as error:
        raise {becomes} from error
cli.app = app
cli.main()
"""
    done = ran(code, tmp_path)
    assert done.returncode == 75
    assert done.stderr == "interrupted; call the same command again to continue\n"


@pytest.mark.parametrize("code", [0, 2, 3])
def test_without_a_signal_a_command_ends_as_it_says(code: int, tmp_path: Path) -> None:
    text = f"from wsiseg import cli\ncli.app = lambda: sys.exit({code})\ncli.main()"
    assert ran(text, tmp_path).returncode == code


def test_other_packages_say_nothing_of_what_is_cut_short(tmp_path: Path) -> None:
    code = """
import logging, warnings
logging.basicConfig()
logger = logging.getLogger("distributed.core")
logger.setLevel("INFO")
with signals.ended_by_signals():
    signals.work_begins()
    logger.error("before")
    try:
        send()
        time.sleep(20)
    except KeyboardInterrupt:
        logger.error("after")
        warnings.warn("after")
        logging.getLogger("wsiseg").error("ours")
"""
    done = ran(code, tmp_path)
    assert done.stderr == "ERROR:distributed.core:before\nERROR:wsiseg:ours\n"


def test_workers_leave_it_to_the_caller_to_say_what_goes_wrong() -> None:
    (options,) = worker_options(ClusterOptions(workers=1, memory_gb=1.0))
    assert options["silence_logs"] == logging.CRITICAL
