"""Environment of every test: offline, one thread; and which process runs it."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.shared import ROOT
from tests.xdist_forks import fork_processes

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
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")  # how fast a machine is says nothing of what a property holds
os.environ.pop("COLUMNS", None)  # xdist sets it: tables would be as narrow as the terminal it runs in

RAY = (
    "tests/run/pool/test_ahead.py",
    "tests/run/pool/test_ray_actors.py",
    "tests/run/test_driver_on_ray.py",
)
"""Files of tests that use the one local Ray: they run in one process, so that it is started once."""

CLUSTERS = ("tests/faults/test_cluster.py", "tests/campaign/test_launch.py")
"""Files whose tests start clusters: in one process too, since two that start at once are slow to."""

FIRST = (
    *CLUSTERS,
    "tests/run/test_driver.py",
    "tests/run/test_steady_state.py",
    "tests/faults/test_driver_stopped.py",
    "tests/faults/test_workers_lost.py",
    "tests/merge/passes/test_compiled.py",
    "tests/faults/test_ledger_hurt.py",
    "tests/run/test_learned_front.py",
    "tests/docs/test_commands.py",
    "tests/report/test_in_chromium.py",
    "tests/evaluators/test_generation.py",
    "tests/test_gpu_benchmark.py",
    "tests/merge/test_materialize.py",
    "tests/evaluators/test_shipped_tasks.py",
    "tests/export/test_interrupted.py",
    "tests/evaluators/test_racing.py",
)
"""Files that take longest, the longest first: begun last, one of them would run alone at the end."""

SERVED = (
    "tests/evaluators/test_registered.py",
    "tests/merge/test_own_methods.py",
    "tests/run/test_learned_front.py",
    "tests/run/test_rows_of_auto.py",
)
"""Files whose tests use `served_workers`."""

LAST = (
    "tests/optimizers/test_conformance.py",
    "tests/checkpoint/",
    "tests/front/",
    "tests/mergekit/",
    "tests/objectives/",
    "tests/optimizers/",
    "tests/recipe/",
    "tests/search_space/",
)
"""Tests that neither fork nor wait come after those that use Ray and fill their pauses, the longest first."""

SLOW = (
    "tests/run/",
    "tests/faults/",
    "tests/evaluators/",
    "tests/merge/mixture/",
    "tests/merge/passes/test_compiled",
    "tests/merge/passes/test_methods",
    "tests/merge/statistics/test_calibrated",
    "tests/merge/test_",
    "tests/export/",
    "tests/cli/",
    "tests/api/",
    "tests/campaign/test_bundle",
    "tests/campaign/test_check",
    "tests/campaign/test_items",
    "tests/campaign/test_launch",
    "tests/campaign/test_model_form",
    "tests/campaign/test_prepared",
    "tests/campaign/test_vocabularies",
    "tests/docs/test_commands",
    "tests/docs/test_notebook",
    "tests/docs/test_site",
    "tests/front/test_front",
    "tests/front/test_statistics",
    "tests/front/test_uncertainty",
    "tests/ledger/test_durability",
    "tests/ledger/test_item_store",
    "tests/ledger/test_records",
    "tests/ledger/test_takeover",
    "tests/mergekit/test_published",
    "tests/mergekit/test_write",
    "tests/optimizers/test_adoption",
    "tests/optimizers/test_conformance",
    "tests/optimizers/test_hm3",
    "tests/optimizers/test_optuna",
    "tests/optimizers/test_proposals",
    "tests/optimizers/test_stages",
    "tests/optimizers/test_surrogate",
    "tests/test_gpu_benchmark",
    "tests/report/test_in_chromium",
    "tests/test_layers",
    "tests/test_mutants",
    "tests/test_snippets",
    "tests/cli/verify/",
)
"""How files begin that run campaigns, start processes, compile or take many seconds: not in `make quick`."""

QUICK = (
    "tests/cli/test_list.py",
    "tests/evaluators/test_lm_eval_declaration.py",
    "tests/export/test_files.py",
    "tests/run/pool/test_shared.py",
    "tests/run/test_log.py",
    "tests/run/test_safeguards.py",
    "tests/run/test_worker.py",
)
"""Files among them that take little: `make quick` looks into these rooms too."""


def pytest_configure(config: pytest.Config) -> None:
    """A folder for what is made once, in the process that starts the others; and these others."""
    if hasattr(config, "workerinput"):
        return
    os.environ[ROOT] = tempfile.mkdtemp(prefix="evomerge-tests-")
    if count := len(getattr(config.option, "tx", [])):
        fork_processes(count, config.rootpath, _files(config))


def _files(config: pytest.Config) -> Iterator[Path]:
    """The files of tests that are going to be collected."""
    wanted = [Path(each.partition("::")[0]).resolve() for each in config.args]
    for file in sorted((config.rootpath / "tests").rglob("test_*.py")):
        if any(file.is_relative_to(each) for each in wanted) and not pytest_ignore_collect(
            file, config
        ):
            yield file


def pytest_unconfigure(config: pytest.Config) -> None:
    """Away with it."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ.pop(ROOT), ignore_errors=True)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """`make quick` does not even import the slow files."""
    slow = _is_slow(collection_path.relative_to(config.rootpath).as_posix())
    quick = config.option.markexpr == "not slow" and collection_path.suffix == ".py"
    return True if quick and slow else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files into the order in which they are begun, and mark what lies in a slow one.

    Ray's tests come late: its threads are no good company for tests that fork.
    """
    items.sort(key=_turn)
    for item in items:
        if _is_slow(item.nodeid):
            item.add_marker(pytest.mark.slow)


def _is_slow(path: str) -> bool:
    return path.startswith(SLOW) and not path.startswith(QUICK)


def _turn(item: pytest.Item) -> int:
    file = item.nodeid.partition("::")[0]
    if file in FIRST:
        return FIRST.index(file)
    if file in RAY:
        return len(FIRST) + 1
    places = [place for place, room in enumerate(LAST) if file.startswith(room)]
    return len(FIRST) + (2 + places[0] if places else 0)


def pytest_collection_finish(session: pytest.Session) -> None:
    """What imports have made stays: no collection needs to look through it again."""
    gc.freeze()
    if any(item.nodeid.startswith(SERVED) for item in session.items):
        from tests.local_workers import start_server

        start_server()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests stay together, since they share what they have made."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "ray" if file in RAY else "clusters" if file in CLUSTERS else file

    config.option.loadscopereorder = False
    return ByFile(config, log)
