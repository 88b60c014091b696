"""Every command of README and docs is run, page by page, in the order in which it is printed.

In this process, with tiny models and a campaign that is made once. What a command needs from elsewhere is
replaced as `STAND_INS` says; what cannot be run here is in `NOT_RUN`, and looked at as far as it can be.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import huggingface_hub.constants
import pytest

from evomerge.cli.starter import toy_models
from evomerge.export.push import Pushed
from evomerge.run.study import campaigns
from tests.cli.terminal import Forked, call
from tests.cli.test_hub_models import commit_of, put_into_cache
from tests.docs.test_written import PAGES, REPOSITORY, blocks, commands, name, typed
from tests.evaluators.conftest import make_items
from tests.faults.bed import report, write_plan
from tests.faults.sessions import toy_pool, toys
from tests.tiny_models import write_campaign, write_model
from tests.tiny_runs import finished

STAND_INS = {
    "OWNER/NAME": "me/tiny",  # `push` meets a stub instead of the hub
    "ORG/BASE@COMMIT": f"acme/base@{commit_of('base')}",  # a cache of the hub with tiny models
    "ORG/CHAT@COMMIT": f"acme/chat@{commit_of('chat')}",
    "ORG/CODER@COMMIT": f"acme/coder@{commit_of('coder')}",
    "/data/": "data/",  # a volume of a cluster
    "/shared/": "shared/",
    "population=48": "population=4",  # budgets are small
}
"""What in a command stands for something that is not on this machine."""

NOT_RUN = {
    "make": "builds, tests and the quickstart are runs of their own; a target must be in the Makefile",
    "python": "benchmarks and beds take minutes; the file must be there and know its options",
    "python3": "as `python`; these need a device",
    "lm_eval": "stock lm-eval on the quickstart's models takes a minute; its own parser reads the words",
    "hf": "fetches models from the hub",
    "kubectl": "needs a cluster",
    "pip": "installs",
    "cd": "a folder of a bed or checkout",
}
"""Programs that are not run here, and why."""

TASK = """task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{train: {name}.jsonl, test: {name}-test.jsonl}}}}
training_split: train
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 1}}
"""
HUB_TASKS = ("arc_easy", "my_task", "gsm8k", "wmt16-en-de", "arc_challenge")

MERGE = """merge_method: linear
models:
  - {model: models/math, parameters: {weight: 0.5}}
  - {model: models/code, parameters: {weight: 0.5}}
dtype: float32
"""
GENOME = """genome:
  {models: [models/math, models/code], base_model: models/base, merge_method: ties, layer_granularity: 1}
tasks: [{name: pets, weight: 1.0}]
"""


def small(folder: Path, *, own_models: bool = False, **sections: object) -> Path:
    """A campaign of a few evaluations over the models of the tiny one."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in ["evaluators"] if own_models else ["models", "evaluators"]:
        if not (folder / part).exists():
            shutil.copytree(finished().file.parent / part, folder / part)
    few = {"budget": {"evaluations": 4}, "optimizer": {"population": 4}, "baselines": {"single": [0.4]}}
    return write_campaign(folder, **{**few, **sections})  # type: ignore[arg-type]


def on_ray(folder: Path) -> None:
    small(folder, workers={"pool": "ray", "address": "auto", "count": 8})


def run_folder(folder: Path) -> None:
    """A campaign that has run."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(finished().directory, folder)


def hub_tasks(folder: Path) -> None:
    """Tasks by the names of lm-eval's, over items that lie here."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, each in enumerate(HUB_TASKS):
        (folder / f"{each}.yaml").write_text(TASK.format(name=each))
        for seed, end in ((number, ""), (50 + number, "-test")):
            lines = "".join(json.dumps(item) + "\n" for item in make_items(seed, 24))
            (folder / f"{each}{end}.jsonl").write_text(lines)


def shortened(file: Path) -> None:
    """A starter campaign with a small budget and without processes."""
    text = file.read_text().replace("pool: local", "pool: inline")
    text = re.sub(r"\b(evaluations|population): \d+", r"\1: 4", text)
    file.write_text(text + "baselines: {single: [0.3]}\n")


def cluster(folder: Path) -> None:
    on_ray(folder)
    run_folder(folder / "runs" / "mine")
    (page,) = [page for page in PAGES if name(page).endswith("kubernetes.md")]
    values = next(block for block in blocks(page, "yaml") if "mounts" in block)
    (folder / "values.yaml").write_text(values.replace("/data", str(folder)))


def several(folder: Path) -> None:
    small(folder)
    (folder / "runs").mkdir()
    write_plan(folder / "runs", report())
    (folder / "spaces").mkdir()
    shutil.copy(folder / "space.yaml", folder / "spaces" / "model.yaml")
    (page,) = [page for page in PAGES if name(page) == "docs/cluster/README.md"]
    (folder / "arms.yaml").write_text(
        next(b for b in blocks(page, "yaml") if b.startswith("schema: 1\narms"))
    )
    run_folder(folder / "runs" / "20")
    run_folder(folder / "runs" / "22")


def mergekit(folder: Path) -> None:
    small(folder)
    (folder / "mergekit.yml").write_text(MERGE)
    (folder / "genome.yml").write_text(GENOME)
    run_folder(folder / "DIR")


def own_task(folder: Path) -> None:
    small(folder)
    page = REPOSITORY / "docs" / "recipes" / "own_task.md"
    for block in blocks(page, "yaml"):
        path = folder / block.splitlines()[0].removeprefix("# ")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block)
    file = folder / "capitals_campaign.yaml"
    few = "workers: {pool: inline, count: 1}\nbaselines: {single: [0.4]}\noptimizer: {population: 4}\n"
    file.write_text(file.read_text().replace("evaluations: 40", "evaluations: 4") + few)
    (stated,) = blocks(page, "json")
    items = [json.loads(line) for line in stated.splitlines()]
    items = [{**item, "question": f"{n}: {item['question']}"} for n in range(20) for item in items]
    lines = "".join(json.dumps(item) + "\n" for item in items)
    (folder / "tasks" / "capitals.jsonl").write_text(lines)


def hub_cache(folder: Path) -> None:
    hub_tasks(folder / "tasks")
    for number, each in ((None, "base"), (0, "chat"), (1, "coder")):
        write_model(folder / "sources" / each, expert=number, num_hidden_layers=4)
        put_into_cache(folder / "hub", folder / "sources" / each)


def published(folder: Path) -> None:
    file = small(folder, own_models=True, experts=("chat", "coder"))
    (folder / "models" / "chat" / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    assert call("run", file, "--dir", folder / "runs" / "mine").code == 0


def reports(folder: Path) -> None:
    run_folder(folder / "RUN")
    run_folder(folder / "RANDOM_RUN")


BEDS: dict[str, Callable[[Path], object]] = {
    "README.md": lambda folder: run_folder(folder / "runs" / "quickstart"),
    "docs/cluster/README.md": several,
    "docs/cluster/kubernetes.md": cluster,
    "docs/cluster/ray.md": on_ray,
    "docs/cluster/slurm.md": on_ray,
    "docs/evaluation.md": lambda folder: hub_tasks(folder / "tasks"),
    "docs/index.md": lambda folder: None,
    "docs/mergekit.md": mergekit,
    "docs/other_models.md": small,
    "docs/publishing.md": published,
    "docs/recipes/cluster.md": cluster,
    "docs/recipes/from_mergekit_evolve.md": mergekit,
    "docs/recipes/gsm8k_chrf.md": lambda folder: hub_tasks(folder / "tasks"),
    "docs/recipes/own_task.md": own_task,
    "docs/recipes/two_models.md": hub_cache,
    "docs/report.md": reports,
}
"""What each page takes for granted: it writes that into a folder."""


def toy_starter_models(folder: Path, tell: Callable[[str], None]) -> None:
    """Instead of training (`tests/cli/test_init.py` trains): tiny models by the starter's names."""
    for number, each in ((None, "base"), (0, "largest"), (1, "smallest")):
        write_model(folder / each, expert=number, num_hidden_layers=4)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, with stand-ins for the hub and for the workers of studies."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(toy_models, "write_toy_models", toy_starter_models)
    monkeypatch.setattr(
        "evomerge.export.push.push_folder", lambda *_, **__: Pushed("there", "a" * 40, True, 3)
    )
    return tmp_path


def before(line: str, folder: Path) -> str:
    """The command as it is run: with stand-ins, and without what an example before it has left in its way."""
    for written, meant in STAND_INS.items():
        line = line.replace(written, meant)
    words = shlex.split(line)
    if words[1] in ("split", "init") and "--include-path" not in words and "my-campaign" not in words:
        line += " --include-path tasks"
    for out in ("OUT", "exports/knee", "exports/again", "DIR" if words[1] == "import" else "OUT"):
        if words[1] in ("export", "import", "bundle") and out in words and (folder / out).exists():
            shutil.rmtree(folder / out)
    return line


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=name)
def test_commands_run_as_they_stand(page: Path, elsewhere: Path) -> None:
    BEDS[name(page)](elsewhere)
    study = name(page) == "docs/cluster/README.md"
    for line in commands(page):
        words = shlex.split(before(line, elsewhere))[1:]
        if "--watch" in words:  # serves until it is interrupted
            watched = Forked(elsewhere / "said", *words)
            watched.wait_until(
                lambda said=watched.err: said.exists() and "http://127" in said.read_text()
            )
            watched.signal(signal.SIGINT)
            assert watched.wait().code in (0, 130), line
            continue
        if study:
            with toys(), mock.patch.object(campaigns, "open_pool", toy_pool):
                found = call(*words)
        else:
            found = call(*words)
        assert found.code == 0, (line, found.err)
        if words[0] == "init":
            shortened(elsewhere / words[1] / "campaign.yaml")
        if words[0] == "import" and page.name == "from_mergekit_evolve.md":
            shutil.rmtree(elsewhere / "campaign")  # the reader deals out the tasks' items first
            small(elsewhere / "campaign")


@pytest.mark.parametrize("page", [page for page in PAGES if typed(page)], ids=name)
def test_other_commands_are_there(page: Path) -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for line in typed(page):
        program, *words = shlex.split(re.sub(r"^(\w+=\S+ )*", "", line))
        if program == "evomerge":
            assert name(page) in BEDS, line
            continue
        assert program in NOT_RUN, line
        if program == "make":
            assert re.search(rf"^{words[0]}:", makefile, re.M), line
        elif program == "python" and words[0] != "-c":
            script = words[1].replace(".", "/") + ".py" if words[0] == "-m" else words[0]
            path = REPOSITORY / script
            path = path if path.exists() else path.with_suffix("") / "__main__.py"
            source = path.read_text(encoding="utf-8")
            for word in words:
                if word.startswith("--"):
                    assert f'"{word}"' in source, line
        elif program == "lm_eval":
            from lm_eval._cli import HarnessCLI

            with mock.patch("sys.argv", ["lm_eval", "run", *words]):
                assert HarnessCLI().parse_args().tasks, line
