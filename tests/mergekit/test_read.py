"""A mergekit YAML to a recipe: what each tensor gets, and what is refused with its line."""

from pathlib import Path

import pytest
from jinja2 import TemplateError
from safetensors.torch import load_file
from transformers.utils.chat_template_utils import render_jinja_template

from evomerge.checkpoint.folder import open_folder
from evomerge.checkpoint.layout import place_of
from evomerge.errors import CheckpointError, ConfigError
from evomerge.export.export import merge_recipe
from evomerge.mergekit import MergekitMerge, read_mergekit
from evomerge.mergekit.templates import TEMPLATES
from evomerge.recipe.places import lookup
from evomerge.recipe.recipe import CheckpointSource, LayerStep, MergedSource
from tests.tiny_models import write_model

LAYERS = 3


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    write_model(root / "base", num_hidden_layers=LAYERS)
    for number, name in enumerate(("math", "code")):
        write_model(root / name, expert=number, num_hidden_layers=LAYERS)
    return root


def read(models: Path, text: str) -> MergekitMerge:
    (models / "merge.yml").write_text(text)
    return read_mergekit(models / "merge.yml")


def merged(found: MergekitMerge, name: str = "merged") -> MergedSource:
    source = found.recipe.sources[name]
    assert isinstance(source, MergedSource)
    return source


def weights(models: Path, source: MergedSource, expert: str, name: str = "weight") -> dict[str, float]:
    """A coefficient of an expert by tensor."""
    folder = open_folder(models / "base", "base")
    found = {}
    for tensor, header in folder.tensors.items():
        split = folder.names.split(tensor)
        own = f"{place_of(tensor, folder.names, header)}.{tensor if split is None else split[1]}"
        found[tensor] = lookup(source.coefficients[name][expert], own)
    return found


TIES = """
merge_method: ties
base_model: base
models:
  - model: base
  - model: math
    parameters: {weight: [0.2, 0.8], density: 0.5}
  - model: code
    parameters:
      weight:
        - {filter: q_proj, value: 0.3}
        - {filter: mlp, value: [0.1, 0.9]}
        - {filter: proj, value: 7}
        - {filter: "*", value: 0.6}
parameters: {normalize: true, lambda: 0.9}
dtype: float32
out_dtype: bfloat16
"""


def test_gradients_filters_and_the_places_outside_the_layers(models: Path) -> None:
    found = read(models, TIES)
    recipe, source = found.recipe, merged(found)
    assert (source.method, source.base, source.inputs) == ("ties", "base", ("math", "code"))
    assert source.options == {"election": "after", "divisor": "weight", "rounding": "binary"}
    assert recipe.dtype == "bfloat16"
    assert set(recipe.outer.values()) == {"merged"}
    math = weights(models, source, "math")
    assert (
        math["model.embed_tokens.weight"] == math["lm_head.weight"] == math["model.norm.weight"] == 0.2
    )
    assert [math[f"model.layers.{i}.mlp.up_proj.weight"] for i in range(3)] == [0.2, 0.5, 0.8]
    code = weights(models, source, "code")
    assert [code[f"model.layers.{i}.mlp.up_proj.weight"] for i in range(3)] == [0.1, 0.5, 0.9]
    assert code["model.layers.1.self_attn.q_proj.weight"] == 0.3
    assert code["model.layers.1.self_attn.k_proj.weight"] == 7.0
    assert code["model.layers.1.input_layernorm.weight"] == code["lm_head.weight"] == 0.6
    assert set(weights(models, source, "code", "density").values()) == {1.0}
    assert lookup(source.coefficients["lambda"]["*"], "layers.0.mlp") == 0.9


def test_nearer_parameters_go_first_and_a_filter_list_without_a_match_gives_way(models: Path) -> None:
    found = read(
        models,
        """
merge_method: linear
slices:
  - sources:
      - {model: math, layer_range: [0, 2], parameters: {weight: [{filter: mlp, value: 2}]}}
      - {model: code, layer_range: [0, 2]}
    parameters: {weight: [{filter: self_attn, value: 3}]}
  - sources:
      - {model: math, layer_range: [2, 3], parameters: {weight: [5, 6]}}
      - {model: code, layer_range: [2, 3]}
parameters: {weight: 4, normalize: false}
dtype: float32
""",
    )
    source = merged(found)
    assert source.options == {"normalise": "no"}
    math, code = (weights(models, source, name) for name in ("math", "code"))
    assert math["model.layers.1.mlp.up_proj.weight"] == 2
    assert math["model.layers.1.self_attn.q_proj.weight"] == 3
    assert (
        code["model.layers.1.mlp.up_proj.weight"] == math["model.layers.1.input_layernorm.weight"] == 4
    )
    # A slice of one layer takes the end of a gradient; what lies outside the layers its start.
    assert math["model.layers.2.mlp.up_proj.weight"] == 6
    assert math["lm_head.weight"] == 5
    assert math["model.embed_tokens.weight"] == 4


def test_a_layer_taken_twice_with_other_numbers_is_two_sources(models: Path) -> None:
    text = """
merge_method: task_arithmetic
base_model: base
slices:
  - sources:
      - {model: base, layer_range: [0, 2]}
      - {model: math, layer_range: [0, 2], parameters: {weight: 0.5}}
  - sources:
      - {model: base, layer_range: [1, 3]}
      - {model: math, layer_range: [1, 3], parameters: {weight: 0.7}}
"""
    found = read(models, text)
    assert [(s.source, s.layer) for s in found.recipe.path] == [
        ("merged", 0), ("merged", 1), ("merged2", 1), ("merged", 2),
    ]  # fmt: skip
    assert found.recipe.dtype == "bfloat16"
    report = merge_recipe(models / "merge.yml", models / "stacked", overwrite=True)
    assert any("mergekit would compute in bfloat16" in note for note in report.warnings)
    assert open_folder(models / "stacked", "x").layers == 4


def test_passthrough_stacks_layers_and_scales_tensors(models: Path) -> None:
    text = """
merge_method: passthrough
slices:
  - sources: [{model: math, layer_range: [0, 2]}]
  - sources:
      - model: code
        layer_range: [1, 3]
        parameters: {scale: [{filter: o_proj, value: 0.5}, {value: 1.0}]}
dtype: bfloat16
"""
    found = read(models, text)
    assert found.recipe.path[:2] == (LayerStep("math", 0), LayerStep("math", 1))
    assert merged(found).inputs == ("code",)
    merge_recipe(models / "merge.yml", models / "passed", overwrite=True)
    out, code = (load_file(models / name / "model.safetensors") for name in ("passed", "code"))
    scaled = out["model.layers.3.self_attn.o_proj.weight"]
    assert scaled.equal(code["model.layers.2.self_attn.o_proj.weight"] * 0.5)
    assert out["model.layers.3.mlp.up_proj.weight"].equal(code["model.layers.2.mlp.up_proj.weight"])
    assert isinstance(found.recipe.sources[found.recipe.outer["embed"]], CheckpointSource)


def test_slerp_begins_at_the_base(models: Path) -> None:
    text = "merge_method: slerp\nbase_model: code\nmodels: [{model: math}, {model: code}]\n"
    found = read(models, text + "parameters: {t: [0, 1]}\n")
    assert merged(found).inputs == ("base", "math")
    assert found.recipe.sources["base"] == CheckpointSource(str((models / "code").resolve()))


def test_the_module_of_a_decoder_is_the_file_itself(models: Path) -> None:
    plain = "models: [{model: math}, {model: code, parameters: {weight: 0.7}}]\n"
    head = "merge_method: linear\nparameters: {weight: 0.2, normalize: false}\n"
    inside = f"modules:\n  default:\n    {plain}"
    first, second = read(models, head + plain), read(models, head + inside)
    assert first.recipe == second.recipe
    nearer = read(models, head + inside + "    parameters: {weight: 0.4}\n")
    found = weights(models, merged(nearer), "math")
    assert set(found.values()) == {0.4}
    assert set(weights(models, merged(nearer), "code").values()) == {0.7}
    sliced = "    slices: [{sources: [{model: math, layer_range: [0, 3]}]}]\n"
    assert len(read(models, f"{head}modules:\n  default:\n{sliced}").recipe.path) == 3


FAULTS = [
    ("merge_method: tie\n", r"E137.*:1:\d+ merge_method: unsupported merge method.*mean ties"),
    (
        "merge_method: nearswap\nbase_model: base\nmodels: [{model: math}, {model: code}]\n"
        "parameters: {t: 0.1}\n",
        "E118.*:3:.*nearswap takes exactly one model besides the base_model.*found 2",
    ),
    (
        "merge_method: nearswap\nbase_model: base\nmodels: [{model: math}]\nparameters: {t: -1}\n",
        "E111.*:4:.*the t of nearswap is a distance and at least 0.*found -1.0",
    ),
    ("merge_method: linear\nmodules: {}\n", r"E137.*:2:\d+ modules: .*other modules than `default`"),
    (
        "merge_method: linear\nmodules: {text: {models: [{model: math}]}, vision: {models: []}}\n",
        "E137.*:2.*other modules than `default`, the one of a decoder",
    ),
    (
        "merge_method: linear\nmodules:\n  default:\n    modells: [{model: math}]\n",
        r"E104.*:4:5 modules\.default\.modells: unknown field.*mean `models`",
    ),
    (
        "merge_method: linear\nmodels: [{model: math}]\nmodules: {default: {models: [{model: math}]}}\n",
        "E103.*:2.*give `modules`, or else",
    ),
    ("merge_method: ties\nmodels: [{model: math}]\n", "E115.*ties needs a base_model"),
    ("merge_method: linear\nmodels: [{model: math}]\nparamters: {}\n", "E104.*:3.*mean `parameters`"),
    (
        "merge_method: linear\nmodels:\n  - model: math\n    parameters: {weigth: 1}\n",
        r"E104.*:4:.*weigth: linear has no parameter `weigth`.*mean `weight`",
    ),
    ("merge_method: linear\nmodels: [{model: math}]\n", "E103.*`weight` has no value.*of math"),
    (
        "merge_method: linear\nmodels: [{model: math}]\nparameters: {weight: much}\n",
        "E108.*must be a number",
    ),
    (
        "merge_method: linear\nmodels: [{model: math, parameters: {weight: 1}}]\n"
        "tokenizer: {tokens: {a: {}}}\n",
        r"E103.*tokenizer.tokens.a.source: missing field.*kind: zero",
    ),
    (
        "merge_method: linear\nmodels: [{model: math, parameters: {weight: 1}}]\n"
        "tokenizer: {tokens: {a: {source: {kind: model_token, model: math}}}}\n",
        r"E108.*:3:.*tokenizer.tokens.a.source: give either `token` or `token_id`",
    ),
    (
        "merge_method: linear\nmodels: [{model: math, parameters: {weight: 1}}]\n"
        "tokenizer: {pad_to_multiple_of: 7.5}\n",
        r"E108.*:3:.*tokenizer.pad_to_multiple_of: must be a whole number of rows",
    ),
    (
        "merge_method: ties\nbase_model: base\nmodels: [{model: math}]\n"
        "parameters: {weight: 1, density: 0}\n",
        "E111.*a density lies above 0.*found 0.0",
    ),
    (
        "merge_method: linear\nslices:\n  - sources:\n"
        "    - {model: math, layer_range: [0, 2]}\n    - {model: code, layer_range: [1, 4]}\n",
        r"E108.*:3:.*slices\[0\]: sources of a slice must have equally many layers",
    ),
    (
        "merge_method: linear\nslices:\n  - sources:\n    - {model: math, layer_range: [0, 4]}\n",
        r"E119.*:4:.*math has 3 layers",
    ),
    (
        "merge_method: linear\nmodels: [{model: math}]\nparameters: {weight: 1}\nchat_template: alpacka\n",
        "E137.*:4:.*no template of this name; found 'alpacka'",
    ),
    (
        "merge_method: ties\nbase_model: base\nmodels: [{model: math}]\n"
        "parameters: {weight: 1, normalize: [{filter: mlp, value: true}, {value: false}]}\n",
        "E137.*:4:.*`normalize` that differs between tensors",
    ),
]


@pytest.mark.parametrize(("text", "message"), FAULTS)
def test_faults_name_their_line(models: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(models, text)


def test_a_model_that_is_not_here(models: Path) -> None:
    text = "merge_method: linear\nmodels:\n  - model: org/nothing\n    parameters: {weight: 1}\n"
    with pytest.raises(CheckpointError, match=r"E201.*:3:.*not in the local hub cache; download"):
        read(models, text)
    with pytest.raises(CheckpointError, match=r"E201.*no such model folder; found 'nothing'"):
        read(models, text.replace("org/", ""))


def test_a_file_of_weights_is_named_for_what_it_is(models: Path) -> None:
    (models / "model.gguf").write_bytes(b"GGUF")
    text = "merge_method: linear\nmodels: [{model: model.gguf, parameters: {weight: 1}}]\n"
    with pytest.raises(CheckpointError, match=r"E230.*GGUF files are for inference"):
        read(models, text)


def test_notes_say_what_has_no_effect(models: Path) -> None:
    text = TIES.replace("lambda: 0.9", "int8_mask: true").replace("q_proj", "w_proj")
    notes = read(models, text).notes
    assert "line 15: `int8_mask` has no effect on ties here" in notes
    assert any("no tensor matches filter 'w_proj'" in note for note in notes)


def test_chat_template_is_written(models: Path) -> None:
    text = "merge_method: linear\nmodels: [{model: math}]\nparameters: {weight: 1}\n"
    (models / "merge.yml").write_text(text + "chat_template: chatml\n")
    merge_recipe(models / "merge.yml", models / "chat", overwrite=True)
    assert "<|im_start|>" in (models / "chat" / "chat_template.jinja").read_text()
    again = merge_recipe(models / "chat" / "recipe.json", models / "again", overwrite=True)
    assert "chat_template.jinja" in again.files


SAYS = [
    (
        "alpaca",
        "Be brief\n\n### Instruction:\nHi\n\n### Response:\nYes?\n\n### Instruction:\nBye\n\n### Response:\n",
    ),
    (
        "chatml",
        "<|im_start|>system\nBe brief<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nYes?<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n",
    ),
    (
        "exaone",
        "[|system|]Be brief[|endofturn|]\n[|user|]Hi\n[|assistant|]Yes?[|endofturn|]\n[|user|]Bye\n"
        "[|assistant|]",
    ),
    (
        "llama3",
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nYes?<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    ("mistral", "<s> [INST] Be brief\n\nHi [/INST] Yes?</s> [INST] Bye [/INST]"),
]


@pytest.mark.parametrize(("name", "expected"), SAYS)
def test_templates_render_as_their_formats_say(name: str, expected: str) -> None:
    turns = [("system", "Be brief"), ("user", "Hi"), ("assistant", "Yes?"), ("user", "Bye")]
    talk = [{"role": role, "content": content} for role, content in turns]
    found, _ = render_jinja_template(
        [talk],
        chat_template=TEMPLATES[name],
        add_generation_prompt=True,
        bos_token="<s>",
        eos_token="</s>",
    )
    assert found[0] == expected


def test_mistral_wants_turns() -> None:
    talk = [{"role": "user", "content": "Hi"}, {"role": "user", "content": "there?"}]
    with pytest.raises(TemplateError, match="must take turns"):
        render_jinja_template([talk], chat_template=TEMPLATES["mistral"], bos_token="", eos_token="")


def test_a_genome_file_is_sent_to_import(models: Path) -> None:
    (models / "genome.yml").write_text("genome: {models: []}\ntasks: []\n")
    with pytest.raises(ConfigError, match=r"E138.*states a search.*evomerge import"):
        merge_recipe(models / "genome.yml", models / "out")


@pytest.mark.parametrize("stated", ["8", '"8"', "8.0"])
def test_rows_are_padded_as_the_file_says(models: Path, stated: str) -> None:
    found = read(
        models,
        "merge_method: linear\nmodels: [{model: math, parameters: {weight: 1}}]\n"
        f"tokenizer: {{source: base, pad_to_multiple_of: {stated}}}\n",
    )
    assert (found.recipe.align, found.recipe.tokenizer) == (True, "math")
    assert found.recipe.pad_to_multiple_of == 8
