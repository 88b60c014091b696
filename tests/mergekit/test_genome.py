"""mergekit-evolve files become campaign folders that load."""

from pathlib import Path

import pytest

from evomerge.campaign.campaign import load_campaign
from evomerge.cli.app import main
from evomerge.errors import ConfigError, UsageError
from evomerge.evaluators.lm_eval_declaration import load_evaluator
from evomerge.mergekit.genome import import_genome
from tests.tiny_models import write_model

GENOME = """
genome:
  models: [math, code, base]
  base_model: base
  merge_method: dare_ties
  layer_granularity: 1
  filters: [self_attn, mlp]
  allow_negative_weights: true
tasks:
  - {name: "org/pets", weight: 0.7}
  - {name: birds, weight: -0.3, metric: "ppl,strict"}
limit: 100
shuffle: true
num_fewshot: 2
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    write_model(root / "base")
    for number, name in enumerate(("math", "code")):
        write_model(root / name, expert=number)
    return root


def write(models: Path, text: str) -> Path:
    (models / "genome.yml").write_text(text)
    return models / "genome.yml"


def test_a_campaign_folder_is_written(models: Path, tmp_path: Path) -> None:
    found = import_genome(write(models, GENOME), tmp_path / "out")
    campaign = load_campaign(tmp_path / "out" / "campaign.yaml")
    assert campaign.experts == ("math", "code")
    assert [(o.metric, o.direction) for o in campaign.config.objectives] == [
        ("org_pets.acc", "maximize"),
        ("birds.ppl,strict", "minimize"),
    ]
    assert campaign.space.method == "dare_ties"
    assert campaign.space.options == {"election": "after", "divisor": "weight", "rescale": "l1"}
    assert campaign.space.coefficients["weight"].field == "layer_module"
    pets = load_evaluator(campaign.evaluator_files[0])
    assert (pets.tasks.search, pets.num_fewshot, pets.apply_chat_template) == ("org/pets", 2, True)
    text = " ".join(found.left_out)
    assert "prefer:org_pets=0.7,birds=0.3" in text
    assert all(word in text for word in ("limit 100", "shuffle", "negative weights"))
    assert "# - limit 100" in (tmp_path / "out" / "campaign.yaml").read_text()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (("layer_granularity: 1", "layer_granularity: 0"), "model"),
        (("filters: [self_attn, mlp]", ""), "layer"),
        (("filters: [self_attn, mlp]", "smooth: true"), "depth_curve"),
    ],
)
def test_groups_of_layers_are_fields(
    models: Path, tmp_path: Path, change: tuple[str, str], field: str
) -> None:
    import_genome(write(models, GENOME.replace(*change)), tmp_path / "out")
    space = load_campaign(tmp_path / "out" / "campaign.yaml").space
    assert space.coefficients["weight"].field == field


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GENOME.replace("base_model: base", ""), "E137.*base_model: a campaign measures"),
        (GENOME.replace("dare_ties", "ram"), "E108.*genome.merge_method"),
        (GENOME.replace("limit:", "limits:"), "E104.*limits: unknown field.*mean `limit`"),
        (GENOME.replace("granularity: 1", "granularity: 3"), "E137.*:6:.*2 layers cannot be cut"),
        ("merge_method: ties\n", "E138.*nothing to search.*evomerge merge"),
    ],
)
def test_what_cannot_be_imported(models: Path, tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        import_genome(write(models, text), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_verb(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(models, GENOME)
    assert main(["import", str(file), "--out", str(tmp_path / "out")]) == 0
    assert "not carried over: limit 100" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"E601.*not empty"):
        import_genome(file, tmp_path / "out")
