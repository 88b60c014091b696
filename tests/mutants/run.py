"""Tests against a copy of the checkout that holds one mutant."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from tests.mutants.mutant import REPOSITORY, Mutant

SURVIVED = "SURVIVED"
TIMEOUT = 300.0
"""Seconds for the tests of one mutant; one that makes them hang is noticed."""
HEAVY = ("torch", "transformers", "scipy.stats", "pymoo.algorithms.moo.nsga2", "datasets", "lm_eval")
"""What tests import from elsewhere: loaded once, since every run is a fork of this process."""


def load_libraries() -> None:
    """Load what runs share, with the settings that tests have."""
    importlib.import_module("tests.conftest")
    for name in HEAVY:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def copy_checkout(to: Path) -> None:
    """Copy what git knows or would take, so that no mutant ever stands in the checkout itself."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=True).stdout
    for name in filter(None, os.fsdecode(names).split("\0")):
        if (REPOSITORY / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / name, to / name)


def killed_by(mutant: Mutant, copy: Path) -> str:
    """The first test that notices, or `SURVIVED`; the copy is as it was afterwards."""
    path = mutant.source(copy)
    sound = path.read_text(encoding="utf-8")
    try:
        path.write_text(mutant.of(sound), encoding="utf-8")
        return failing_test(copy, [f"tests/{test}" for test in mutant.tests], TIMEOUT) or SURVIVED
    finally:
        path.write_text(sound, encoding="utf-8")


def failing_test(copy: Path, tests: Sequence[str], seconds: float) -> str | None:
    """The first test that fails among some of a copy (files, or single ones by id), None if all pass."""
    report = copy.with_name("report.json")
    report.unlink(missing_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.setsid()
        try:
            _run_tests(copy, tests, report)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    end = time.monotonic() + seconds
    while not os.waitpid(child, os.WNOHANG)[0]:
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return f"more than {seconds:.0f} s"
        time.sleep(0.05)
    if not report.exists():
        raise RuntimeError(copy.with_name("output.txt").read_text(encoding="utf-8"))
    code, failed = json.loads(report.read_text())
    return None if code == 0 else failed or f"pytest's exit code {code}"


def _run_tests(copy: Path, tests: Sequence[str], report: Path) -> None:
    """Pytest in this process, with the package and the tests of the copy."""
    nowhere = os.open(report.with_name("output.txt"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.chdir(copy)
    # No bytecode: it is told from its source by size and second, which a mutant may share.
    sys.dont_write_bytecode = True
    os.environ |= {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    sys.path[:] = [str(copy), *(p for p in sys.path if Path(p).resolve() != REPOSITORY)]
    for name in list(sys.modules):
        if name.split(".")[0] in ("tests", "evomerge"):
            del sys.modules[name]
    import pytest

    class First:
        failed = ""

        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.failed:
                self.failed = self.failed or report.nodeid

        def pytest_collectreport(self, report: pytest.CollectReport) -> None:
            if report.failed:
                self.failed = self.failed or report.nodeid

    first = First()
    # Libraries that are loaded already cannot have their assertions rewritten, which pytest warns of.
    options = ["-x", "-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    code = pytest.main([*options, *tests], plugins=[first])
    report.write_text(json.dumps([int(code), first.failed]))
