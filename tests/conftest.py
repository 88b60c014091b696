"""Environment of every test: offline, one thread; and which of two processes runs it."""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import Any

import pytest

from tests.shared import ROOT

for name in (
    "HF_HUB_OFFLINE",
    "HF_DATASETS_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "HF_HUB_DISABLE_TELEMETRY",
):
    os.environ[name] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"
os.environ.pop("COLUMNS", None)  # xdist sets it: tables would be as narrow as the terminal it runs in

RAY = (
    "tests/run/pool/test_ahead.py",
    "tests/run/pool/test_ray_actors.py",
    "tests/run/test_driver_on_ray.py",
)
"""Files of tests that use the one local Ray: they run in one process, so that it is started once."""


def pytest_configure(config: pytest.Config) -> None:
    """A folder for what is made once, in the process that starts the others."""
    if not hasattr(config, "workerinput"):
        os.environ[ROOT] = tempfile.mkdtemp(prefix="evomerge-tests-")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Away with it."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ.pop(ROOT), ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, so that the processes end together."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests stay together, since they share what they have made."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "ray" if file in RAY else file

    config.option.loadscopereorder = False
    return ByFile(config, log)
