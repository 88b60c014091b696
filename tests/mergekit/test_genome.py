"""mergekit-evolve files become campaign folders that load."""

import shlex
from pathlib import Path

import pytest

from evomerge.campaign.campaign import load_campaign
from evomerge.campaign.check import check_campaign
from evomerge.cli.app import main
from evomerge.errors import ConfigError, UsageError
from evomerge.evaluators.lm_eval_declaration import load_evaluator
from evomerge.mergekit.genome import import_genome
from evomerge.recipe.recipe import TokenRow
from tests.evaluators.test_splits import write_task
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
    assert (pets.tasks.search, pets.num_fewshot, pets.apply_chat_template) == (
        "org_pets_search",
        2,
        True,
    )
    assert campaign.tokenizer is None
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


@pytest.mark.parametrize(("stated", "kept"), [("union", "union"), ("base", "base"), ("math", "math")])
def test_the_tokenizers_source_is_kept(models: Path, tmp_path: Path, stated: str, kept: str) -> None:
    text = GENOME.replace("layer_gran", f"tokenizer_source: {stated}\n  layer_gran")
    found = import_genome(write(models, text), tmp_path / "out")
    assert load_campaign(tmp_path / "out" / "campaign.yaml").tokenizer == kept
    assert not [text for text in found.left_out if "tokenizer" in text]


def test_a_tokenizer_of_another_model_is_refused(models: Path, tmp_path: Path) -> None:
    write_model(models / "third", expert=5)
    text = GENOME.replace("layer_gran", "tokenizer_source: third\n  layer_gran")
    with pytest.raises(
        ConfigError, match=r"E137.*genome.tokenizer_source: the tokenizer is that of no"
    ):
        import_genome(write(models, text), tmp_path / "out")


def test_a_tokenizer_section_is_kept(models: Path, tmp_path: Path) -> None:
    section = (
        "  tokenizer:\n    source: union\n    pad_to_multiple_of: 8\n    tokens:\n"
        "      <tool>: {source: {kind: model_token, model: math, token: cat}}\n"
        "      dog: {source: code, force: true}\n      <none>: {source: {kind: zero}}\n"
    )
    import_genome(
        write(models, GENOME.replace("  layer_gran", f"{section}  layer_gran")), tmp_path / "out"
    )
    form = load_campaign(tmp_path / "out" / "campaign.yaml").form
    assert (form.tokenizer, form.pad_to_multiple_of) == ("union", 8)
    assert form.tokens == {
        "<none>": TokenRow(),
        "<tool>": TokenRow("math", "cat"),
        "dog": TokenRow("code", force=True),
    }
    wrong = section.replace("model: math, token: cat", "model: math")
    with pytest.raises(ConfigError, match=r"E108.*:10:.*<tool>.source: give either `token` or"):
        import_genome(
            write(models, GENOME.replace("  layer_gran", f"{wrong}  layer_gran")), tmp_path / "no"
        )


def test_the_commands_in_its_comments_complete_the_campaign(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = "apply_chat_template: false\ntasks: [{name: pets}, {name: org/birds}]\n"
    text = GENOME[: GENOME.index("tasks:")] + tasks
    import_genome(write(models, text), tmp_path / "out")
    source = write_task(tmp_path / "source")
    birds = source / "pets.yaml"
    (source / "birds.yaml").write_text(birds.read_text().replace("task: pets", "task: org/birds"))
    head = (tmp_path / "out" / "campaign.yaml").read_text()
    commands = [shlex.split(line[1:]) for line in head.splitlines() if "evomerge split" in line]
    assert len(commands) == 2
    monkeypatch.chdir(tmp_path / "out")
    for words in commands:
        assert " ".join(words) in (Path("evaluators") / f"{Path(words[3]).name}.yaml").read_text()
        assert main([*words[1:], "--include-path", str(source)]) == 0
    found = check_campaign(load_campaign(Path("campaign.yaml")), data=True)
    assert found.problems == []
    assert sum(found.items["org_birds"].values()) == 40


def test_the_verb(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(models, GENOME)
    assert main(["import", str(file), "--out", str(tmp_path / "out")]) == 0
    assert "not carried over: limit 100" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"E601.*not empty"):
        import_genome(file, tmp_path / "out")
