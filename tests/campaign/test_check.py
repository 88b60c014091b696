"""What `check` sees without reading a weight: all faults of a whole campaign, in one report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.campaign.campaign import load_campaign
from evomerge.campaign.check import (
    CheckReport,
    check_campaign,
    check_devices,
    locate,
)
from evomerge.campaign.devices import check_device
from evomerge.campaign.prepared import prepared_sources
from evomerge.errors import CheckpointError, ConfigError, EnvironmentFault, UsageError
from evomerge.ledger.events import PreparedEvent, PreparedLayout
from tests.tiny_models import write_campaign, write_evaluator


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_campaign(tmp_path)
    return tmp_path


def report(folder: Path, **overrides: Any) -> CheckReport:
    return check_campaign(load_campaign(write_campaign(folder, **overrides)))


def codes(found: CheckReport) -> list[str]:
    return [problem.code for problem in found.problems]


def test_a_sound_campaign_has_no_problems_and_honest_estimates(folder: Path) -> None:
    found = report(folder)
    assert found.problems == found.warnings == []
    assert found.storage == "bfloat16"
    assert found.genes == 2 * 5  # two experts: embed, two layers, final norm, head
    assert found.layout is not None
    total = sum(
        tensor.numel() for tensor in load_file(folder / "models/base/model.safetensors").values()
    )
    assert found.estimates["parameters"] == found.layout.parameters == total
    assert found.estimates["items"] == 48
    assert found.estimates["evaluations"] == 18
    assert found.paths["math"] == str(folder / "models" / "math")
    one = found.estimates["memory_bytes"]
    assert report(folder, workers={"pool": "local", "count": 3}).estimates["memory_bytes"] > 2 * one
    assert found.raise_problems() is None  # type: ignore[func-returns-value]
    assert found.starts == {}
    assert found.genes == 10


def test_chats_need_a_chat_template_of_the_tokenizer_that_merges_have(folder: Path) -> None:
    evaluator = min((folder / "evaluators").glob("*.yaml"))
    evaluator.write_text(json.dumps({**json.loads(evaluator.read_text()), "apply_chat_template": True}))
    (fault,) = report(folder).problems
    assert (fault.code, fault.file, fault.field) == ("E154", str(evaluator), "apply_chat_template")
    assert fault.found == f"none in {folder / 'models' / 'base'}"
    (folder / "models" / "base" / "chat_template.jinja").write_text("{{ messages }}")
    assert report(folder).problems == []


@pytest.mark.parametrize(
    ("budget", "evaluations", "rescored"),
    [
        ({"items": 1}, 1, 1),
        ({"items": 480}, 10, 5),
        ({"items": 481}, 11, 6),
        ({"items": 4800}, 18, 9),
        ({"items": 96, "evaluations": None}, 2, 1),
        ({"hours": 1.0, "evaluations": None}, 0, 0),
    ],
)
def test_estimates_follow_the_budget_that_ends_first(
    folder: Path, budget: dict[str, Any], evaluations: int, rescored: int
) -> None:
    found = report(folder, budget=budget).estimates
    assert (found["evaluations"], found["rescored"]) == (evaluations, rescored)
    whole = report(folder).estimates
    assert (found["seconds"] < whole["seconds"]) == (evaluations < 18)
    assert (found["disk_bytes"] < whole["disk_bytes"]) == (evaluations < 18)


def test_statistics_on_a_text_take_memory(folder: Path) -> None:
    (folder / "text.txt").write_text("cats run\n")
    plain = report(folder)
    shapes = {n: t.shape for n, t in load_file(folder / "models/base/model.safetensors").items()}
    linear = [s[1] ** 2 for n, s in shapes.items() if len(s) == 2 and "embed" not in n]
    parameters = plain.estimates["parameters"]
    for method, numbers, copies in (("fisher", parameters, 2), ("regmean", sum(linear), 1)):
        space = {"schema": 1, "method": method, "calibration": str(folder / "text.txt")}
        space |= {"coefficients": {"weight": {"field": "model"}}}
        found = report(folder, space=space).estimates
        assert found["calibration_bytes"] == 2 * 4 * numbers
        more = found["memory_bytes"] - plain.estimates["memory_bytes"]
        assert more == 2 * 4 * numbers + copies * 4 * parameters
    assert "calibration_bytes" not in plain.estimates


def test_the_soups_of_three_experts_take_time_too(tmp_path: Path) -> None:
    def seconds(*experts: str, single: tuple[float, ...] = (0.5,)) -> float:
        own = tmp_path / str(len(experts))
        return report(own, experts=experts, baselines={"single": list(single)}).estimates["seconds"]

    trio = seconds("math", "code", "law")
    run = seconds("math", "code", "law", single=(0.5, 0.6)) - trio
    # Beside the third expert's own run there may be two soups.
    assert trio - seconds("math", "code") > 3 * run > 0


def test_a_tied_head_has_no_gene(tmp_path: Path) -> None:
    assert report(tmp_path, model={"tie_word_embeddings": True}).genes == 2 * 4


def test_an_architecture_that_transformers_lacks_is_a_fault(folder: Path) -> None:
    for name in ("base", "math", "code"):
        path = folder / "models" / name / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "llamma"}))
    (found,) = report(folder).problems
    assert (found.code, found.field) == ("E203", "model_type")


def test_faults_of_every_kind_come_in_one_report(folder: Path) -> None:
    (folder / "models/math/config.json").unlink()
    weights = load_file(folder / "models/code/model.safetensors")
    weights["model.norm.weight"] = torch.zeros(31, dtype=torch.bfloat16)
    save_file(weights, folder / "models/code/model.safetensors", metadata={"format": "pt"})
    (folder / "evaluators/tasks/data/pets_test.jsonl").unlink()
    objectives = [
        {"metric": "pets.accuracy", "direction": "maximize"},
        {"metric": "birds.acc", "direction": "minimize"},
    ]
    space = {"schema": 1, "method": "slerp", "coefficients": {"t": {"field": "band", "bands": 9}}}
    found = report(folder, objectives=objectives, space=space)
    assert set(codes(found)) == {"E202", "E223", "E101", "E124", "E125", "E119"}
    text = "\n".join(map(str, found.problems))
    assert "did you mean `pets.acc`?" in text
    assert "found minimize; write `maximize`" in text
    assert "9 bands, 2 layers" in text
    with pytest.raises(ConfigError, match=r"E202[\s\S]*E124"):
        found.raise_problems()


def test_faults_of_checkpoints_alone_have_their_own_exit_code(folder: Path) -> None:
    (folder / "models/math/model.safetensors").write_bytes(b"")
    found = report(folder)
    assert codes(found) == ["E211"]
    with pytest.raises(CheckpointError, match=r"error\[E211\]"):
        found.raise_problems()


def test_a_base_that_cannot_be_read_does_not_hide_the_experts(folder: Path) -> None:
    (folder / "models/base/config.json").unlink()
    (folder / "models/code/model.safetensors").unlink()
    found = report(folder)
    assert codes(found)[0] == "E202"
    assert len(found.problems) == 2
    assert found.layout is None


def test_a_missing_evaluator_of_another_name(folder: Path) -> None:
    write_evaluator(folder / "more", "pets", seed=9)
    campaign = load_campaign(
        write_campaign(folder, evaluators=("pets", "birds"))
    )  # the same name from two files
    text = json.loads(campaign.file.read_text())
    text["evaluators"].append("more/pets.yaml")
    campaign.file.write_text(json.dumps(text))
    found = check_campaign(load_campaign(campaign.file))
    assert codes(found) == ["E122"]
    assert "two evaluators are called `pets`" in str(found.problems[0])


def test_what_deserves_a_warning(folder: Path) -> None:
    one = report(folder, objectives=[{"metric": "pets.acc", "direction": "maximize"}])
    assert [(p.code, p.field) for p in one.warnings] == [("E130", "objectives")]
    half = report(folder, evaluation={"dtype": "float16"})
    assert [(p.code, p.field) for p in half.warnings] == [("E132", "evaluation.dtype")]
    assert half.problems == []


def test_matrices_without_rows_are_told_where_rows_are_searched(folder: Path) -> None:
    weight = {"field": "row", "outside_layers": "shared"}
    space = {"schema": 1, "method": "task_arithmetic", "coefficients": {"weight": weight}}
    assert report(folder, space=space).warnings == []
    for name in ("base", "math", "code"):
        file = folder / "models" / name / "model.safetensors"
        tensors = load_file(file)
        # As a mixture whose experts are stacked has them.
        for layer in (0, 1):
            key = f"model.layers.{layer}.mlp.up_proj.weight"
            tensors[key] = tensors[key].reshape(4, -1, tensors[key].shape[1])
        save_file(tensors, file, metadata={"format": "pt"})
    found = check_campaign(load_campaign(folder / "campaign.yaml"))
    assert found.problems == []
    (warning,) = found.warnings
    assert (warning.code, warning.field) == ("E155", "coefficients.weight.field")
    assert warning.file == str(folder / "space.yaml")
    assert "stacked" in warning.wrong
    assert warning.found == "2 of 16, layers.0.mlp.mlp.up_proj the first"
    space = {"schema": 1, "method": "task_arithmetic", "coefficients": {"weight": {"field": "tensor"}}}
    (folder / "space.yaml").write_text(json.dumps(space))
    assert check_campaign(load_campaign(folder / "campaign.yaml")).warnings == []


def test_a_hub_model_must_be_in_the_local_cache(folder: Path) -> None:
    missing = {"hub": "nobody/nothing", "revision": "0" * 40}
    found = report(folder, experts=("math",), base=missing | {"path": None})
    assert codes(found) == ["E201"]
    assert "hf download nobody/nothing --revision 0000" in str(found.problems[0])
    reference = load_campaign(folder / "campaign.yaml").config.base
    with pytest.raises(CheckpointError, match=r"E201.*is not in the local hub cache.*gated or private"):
        locate("base", reference)


def test_a_device_that_is_not_there() -> None:
    assert check_device("cpu") is None  # type: ignore[func-returns-value]
    if not torch.cuda.is_available():
        with pytest.raises(EnvironmentFault, match=r"E401.*no device `cuda:0` here.*; give `cpu`"):
            check_device("cuda:0")
    with pytest.raises(UsageError, match=r"E500.*`gpu` is no device; give cpu, cuda or cuda:N"):
        check_device("gpu")


def test_a_metric_that_is_misspelt_is_shown_where_it_stands(folder: Path) -> None:
    objectives = [
        {"metric": "pets.accuracy", "direction": "maximize"},
        {"metric": "birds.acc", "direction": "minimize"},
    ]
    found = report(folder, objectives=objectives, constraints=["pet.acc >= 0.5"])
    places = {p.field: (p.code, p.line > 0, p.column > 0) for p in found.problems}
    assert places == {
        "objectives[0].metric": ("E124", True, True),
        "constraints[0]": ("E124", True, True),
        "objectives[1].direction": ("E125", True, True),
    }


def test_an_item_in_different_splits_of_two_evaluators_is_an_error(folder: Path) -> None:
    """Models are chosen on it by one task and judged on it by the other."""
    assert codes(report(folder)) == []
    data = folder / "evaluators" / "tasks" / "data"
    lines = (data / "pets_search.jsonl").read_text().splitlines()
    with (data / "birds_test.jsonl").open("a") as file:
        file.write("\n".join(lines[:3]) + "\n")
    found = report(folder)
    assert codes(found) == ["E128"]
    assert found.problems[0].field == "evaluators[1]"
    assert "`birds` and `pets` share items across splits" in str(found.problems[0])
    assert "3 test items are search items there" in str(found.problems[0])


def test_a_driver_needs_no_device_where_workers_are_elsewhere(folder: Path) -> None:
    evaluation = {"device": "cuda"}
    for address in ({}, {"address": "auto"}):
        workers = {"pool": "ray", "gpus": 999, **address}
        campaign = load_campaign(write_campaign(folder, workers=workers, evaluation=evaluation))
        if address:
            check_devices(campaign)
        else:
            with pytest.raises(EnvironmentFault, match=r"E401.*(no device|asks for 999 devices)"):
                check_devices(campaign)


def test_a_device_that_is_not_there_is_told_by_its_field(folder: Path) -> None:
    campaign = load_campaign(write_campaign(folder, evaluation={"device": "cuda:99"}))
    place = r"E401\] \S*campaign.yaml:\d+:\d+ evaluation.device: no device `cuda:99`.*"
    with pytest.raises(EnvironmentFault, match=place + r"; write `evaluation.device: cpu` for a trial"):
        check_devices(campaign)


def test_checking_loads_neither_torch_nor_lm_eval(folder: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from evomerge.campaign.campaign import load_campaign
from evomerge.campaign.check import check_campaign
assert not check_campaign(load_campaign(Path({str(folder / "campaign.yaml")!r}))).problems
heavy = {{"torch", "transformers", "lm_eval", "ray", "pymoo", "optuna", "datasets"}}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_settings_of_workers_that_their_pool_does_not_know_are_told(folder: Path) -> None:
    found = report(folder, workers={"pool": "local", "address": "auto"})
    assert found.problems == []
    assert [(p.code, p.field, p.words) for p in found.warnings] == [
        ("E142", "workers.address", "`pool: local` has no address; found auto; write `pool: ray`, or "
         "leave it out"),
    ]  # fmt: skip
    found = report(folder, workers={"pool": "inline", "count": 3})
    assert [p.words for p in found.warnings] == [
        "`pool: inline` is one worker; found 3; write `pool: local`, or leave it out"
    ]
    assert report(folder, workers={"pool": "ray", "address": "auto", "count": 3}).warnings == []


def test_results_are_shared_in_a_folder(folder: Path) -> None:
    assert report(folder, results="shared").problems == []
    (folder / "shared").touch()
    (fault,) = report(folder, results="shared").problems
    assert (fault.code, fault.field) == ("E135", "results")
    assert fault.found == f"{folder / 'shared'} is a file"


def test_a_bound_on_an_accuracy_is_no_percentage(folder: Path) -> None:
    found = report(folder, constraints=["pets.acc >= 45", "birds.acc <= 90"])
    assert [(p.code, p.field) for p in found.problems] == [("E110", "constraints[0]")]
    assert "`pets.acc >= 45`: scores are shares of 1; write 0.45 for 45 %" in str(found.problems[0])
    assert [(p.code, p.field) for p in found.warnings] == [("E110", "constraints[1]")]
    found = report(folder, optimizer={"kind": "auto", "focus": "pets>=60,birds>=0.2"})
    assert found.problems == []
    assert [p.words for p in found.warnings] == [
        "`pets.acc >= 60`: scores are shares of 1; write 0.6 for 60 %"
    ]


def test_a_constraint_names_a_metric_that_is_measured(folder: Path) -> None:
    found = report(folder, constraints=["pets.acc >= 0.2", "bird.acc >= 0.9 x math"])
    assert [(p.code, p.field) for p in found.problems] == [("E124", "constraints[1]")]
    assert "did you mean `birds.acc`?" in str(found.problems[0])


def test_a_missing_folder_is_a_fault_of_the_line_that_names_it(folder: Path) -> None:
    experts = {"math": {"path": "models/maht"}, "code": {"path": "org/name"}}
    file = folder / "campaign.yaml"
    data = json.loads(file.read_text())
    file.write_text(json.dumps({**data, "experts": experts}, indent=1))
    first, second = check_campaign(load_campaign(file)).problems
    assert (first.code, first.file, first.field) == ("E201", str(file), "experts.math.path")
    assert first.line > 0
    assert first.todo == f"did you mean {folder / 'models' / 'math'}?"
    assert second.field == "experts.code.path"
    assert "a model of the hub is written `{hub: org/name, revision: COMMIT}`" in second.todo


def test_other_rotary_positions_may_be_allowed_by_name(folder: Path) -> None:
    path = folder / "models" / "math" / "config.json"
    rope = {"rope_type": "default", "rope_theta": 1e6}
    path.write_text(json.dumps({**json.loads(path.read_text()), "rope_parameters": rope}))
    (problem,) = report(folder).problems
    assert problem.code == "E245"
    assert "`allow: [rope]` at its entry in a campaign" in problem.todo
    file = folder / "campaign.yaml"
    text = file.read_text()
    allowed = text.replace('"path": "models/math"', '"path": "models/math", "allow": ["rope"]')
    file.write_text(allowed)
    found = check_campaign(load_campaign(file))
    (warning,) = found.warnings
    assert (found.problems, warning.todo) == ([], "allowed: merges have those of the base")
    campaign = load_campaign(file)
    assert campaign.to_json()["experts"]["math"]["allow"] == ["rope"]
    assert "allow" not in campaign.to_json()["experts"]["code"]
    prepared = PreparedEvent(
        checkpoints={"base": "0", "math": "1", "code": "2"},
        storage="bfloat16",
        layout=PreparedLayout(layers=1, places=(), parameters=0),
        evaluators={},
    )
    sources = prepared_sources(campaign, prepared, found.paths)
    assert {name: source.allow for name, source in sources.items()} == {
        "base": (), "math": ("rope",), "code": ()
    }  # fmt: skip
    file.write_text(allowed.replace('"rope"', '"heads"'))
    with pytest.raises(ConfigError, match=r"experts.math.allow\[0\]: input should be 'rope'"):
        load_campaign(file)
