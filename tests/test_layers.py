"""Imports go downward only, and heavy libraries stay in the files that are named for them."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "evomerge"

# A layer's row lists columns; the modules of one column may import each other. Layer 2's columns do not
# import one another, except that front and selection read what the ledger column stores.
LAYERS: list[dict[str, tuple[str, ...]]] = [
    {"base": ("errors", "failpoint", "storage", "versions")},
    {
        "plain": (
            "yaml_file",
            "scores",
            "constraint",
            "objective",
            "pareto",
            "merge_method",
            "recipe",
            "recipe_json",
            "search_space",
            "campaign",
            "devices",
            "campaign_file",
            "prepared",
            "racing",
            "job",
            "history",
            "baselines",
        )
    },
    {
        "engine": (
            "checkpoint",
            "methods",
            "binding",
            "skeleton",
            "device_map",
            "plan",
            "statistics",
            "weight_statistics",
            "materialize",
            "staging",
        ),
        "evaluators": ("evaluators",),
        "optimizers": ("optimizers",),
        "ledger": (
            "ledger",
            "ledger_lock",
            "item_store",
            "front_statistics",
            "front_report",
            "selection",
            "racing_references",
            "front",
            "campaign_folder",
        ),
    },
    {"work": ("worker", "judge", "estimates", "check", "pool"), "testing": ("testing",)},
    {
        "driver": (
            "dispatch",
            "safeguards",
            "result_events",
            "progress",
            "schedule",
            "search",
            "driver",
            "export",
            "verify",
            "repair",
            "launch",
            "model_card",
            "mergekit",
            "seeders",
        )
    },
    {"top": ("cli", "report", "starter")},
]

# Library to the modules that may import it; all others must not, not even inside a function.
HOMES = {
    "ray": ("pool/ray_actors",),
    "pymoo": ("optimizers/",),
    "optuna": ("optimizers/",),
    "lm_eval": ("evaluators/",),
    "mergekit": (),
    "peft": (),
    "accelerate": ("device_map",),
}


def place_of(part: str) -> tuple[int, str]:
    for level, columns in enumerate(LAYERS):
        for column, parts in columns.items():
            if part in parts:
                return level, column
    raise AssertionError(f"evomerge.{part} is in no layer: put it into the table, or into its place")


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def imports(path: Path) -> list[tuple[str, int]]:
    """(dotted module, line) of every import, also those inside functions; not those for type checkers."""
    tree = ast.parse(path.read_text())
    skipped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            skipped.update(id(inner) for each in node.body for inner in ast.walk(each))
    found = []
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: relative import"
            name = str(node.module)
            found += (
                [(f"evomerge.{alias.name}", node.lineno) for alias in node.names]
                if name == "evomerge"
                else [(name, node.lineno)]
            )
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downward_only(path: Path) -> None:
    relative = path.relative_to(PACKAGE)
    level, column = place_of(relative.parts[0].removesuffix(".py"))
    wrong = []
    for name, line in imports(path):
        parts = name.split(".")
        if parts[0] == "evomerge" and len(parts) > 1 and parts[1] != "__version__":
            other, beside = place_of(parts[1])
            if other > level or (other == level and beside != column):
                wrong.append(f"{relative}:{line} imports {name}")
        elif parts[0] in HOMES and not str(relative).startswith(HOMES[parts[0]] or "-"):
            wrong.append(f"{relative}:{line} imports {name}, which has a file of its own")
    assert wrong == []


@pytest.mark.parametrize(
    "statement",
    [
        "import evomerge",
        "import evomerge.campaign.campaign, evomerge.search_space",
        "import evomerge.cli",
    ],
)
def test_importing_loads_nothing_heavy(statement: str) -> None:
    code = f"""
import sys
{statement}
heavy = {{"torch", "transformers", "lm_eval", "ray", "pymoo", "optuna", "datasets"}}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_worker_needs_no_optimizer_and_no_ray(tmp_path: Path) -> None:
    """A real worker in a process of its own, from `prepare` to the scores of a merge."""
    code = f"""
import sys
from pathlib import Path
from tests.tiny_models import write_campaign
from evomerge.campaign.campaign import load_campaign
from evomerge.run.job import Job, WorkerSetup
from evomerge.run.worker import Worker
campaign = load_campaign(write_campaign(Path({str(tmp_path)!r})))
sources = {{name: reference.path for name, reference in campaign.references().items()}}
worker = Worker(WorkerSetup(
    sources=sources, evaluators=tuple(map(str, campaign.evaluator_files)), methods=("task_arithmetic",),
    trims=("tensor",), dtype="float32", storage="bfloat16", device="cpu", threads=1, batch_size=8,
    cache={str(tmp_path / "cache")!r},
))
prepared = worker.run(Job("p", "prepare"))
assert prepared.status == "ok", prepared.message
from evomerge.campaign.prepared import prepared_space
space = prepared_space(campaign, prepared.data, sources)
recipe = space.decode(space.snap([0.5] * len(space.genes)))
result = worker.run(Job("c", "evaluate", recipe.to_json()))
assert result.status == "ok", result.message
assert "torch" in sys.modules
print(sorted({{"pymoo", "ray", "optuna", "moocore"}} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, timeout=200
    )
    assert done.stdout.strip().endswith("[]"), done.stdout + done.stderr
