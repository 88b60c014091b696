"""Adapters without factors: PEFT's own merge, loaded as people load it, is the oracle for every type."""

import json
import warnings
from dataclasses import dataclass, field

import peft
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM

from evomerge.checkpoint.adapter import AdapterFolder
from evomerge.checkpoint.by_peft import foreseen
from evomerge.checkpoint.compare import compare_with_base
from evomerge.checkpoint.digest import content_digest
from evomerge.checkpoint.folder import open_folder
from evomerge.checkpoint.model_form import with_heads
from evomerge.checkpoint.open import open_source
from evomerge.checkpoint.reader import open_readers
from evomerge.errors import CheckpointError, EnvironmentFault
from evomerge.merge import peft_adapters
from evomerge.merge.binding import bind
from evomerge.merge.peft_adapters import merge_adapters
from tests.checkpoint.folders import SIZES, llama, save
from tests.other_models import FAMILIES, tiny
from tests.tiny_runs import killed_at

PROJECTIONS = ["q_proj", "down_proj"]
LORA = {"r": 4, "lora_alpha": 6, "target_modules": PROJECTIONS}


@dataclass
class Kind:
    """How adapters of a kind are made, and the kind they are read as."""

    said: str
    config: type = peft.LoraConfig
    fields: dict = field(default_factory=lambda: dict(LORA))
    model: dict = field(default_factory=dict)


def lora(said, **fields):
    return Kind(said, fields={**LORA, **fields})


def other(said, config, **fields):
    return Kind(said, getattr(peft, config), {"target_modules": PROJECTIONS, **fields})


EMBEDDINGS = ["embed_tokens", "lm_head", "q_proj"]
TIED = {"tie_word_embeddings": True}
KINDS = {
    "DoRA": lora("DoRA", use_dora=True),
    "modules_to_save": lora("LoRA with modules_to_save", modules_to_save=["lm_head", "embed_tokens"]),
    "norms saved": lora("LoRA with modules_to_save", modules_to_save=["norm", "input_layernorm"]),
    "bias: all": Kind(
        "LoRA with trained biases", fields={**LORA, "bias": "all"}, model={"attention_bias": True}
    ),
    "bias: lora_only": Kind(
        "LoRA with trained biases", fields={**LORA, "bias": "lora_only"}, model={"attention_bias": True}
    ),
    "lora_bias": Kind(
        "LoRA with biases of its own",
        fields={**LORA, "target_modules": ["q_proj"], "lora_bias": True},
        model={"attention_bias": True},
    ),
    "trained tokens": lora("LoRA with trained tokens", trainable_token_indices=[3, 90]),
    "tied, trained tokens": Kind(
        "LoRA with trained tokens",
        fields={**LORA, "trainable_token_indices": [3, 90]},
        model=TIED,
    ),
    "tied, embedding saved": Kind(
        "LoRA with modules_to_save",
        fields={**LORA, "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
        model=TIED,
    ),
    "tied, both saved": Kind(
        "LoRA with modules_to_save",
        fields={**LORA, "modules_to_save": ["lm_head"], "ensure_weight_tying": True},
        model=TIED,
    ),
    "embeddings": lora("LoRA with whole embedding rows", target_modules=EMBEDDINGS),
    "PiSSA": lora("PiSSA", init_lora_weights="pissa"),
    "OLoRA": lora("OLoRA", init_lora_weights="olora"),
    "AdaLoRA": other("AdaLoRA", "AdaLoraConfig", init_r=6, target_r=3, total_step=10),
    "IA3": other("IA3", "IA3Config", feedforward_modules=["down_proj"]),
    "LoHa": other("LoHa", "LoHaConfig", r=3, alpha=5),
    "LoKr": other("LoKr", "LoKrConfig", r=3, alpha=5, decompose_both=True),
    "VeRA": Kind("VeRA", peft.VeraConfig, {"r": 8, "target_modules": ["q_proj", "o_proj"]}),
    "VeRA from its seed": Kind(
        "VeRA", peft.VeraConfig, {"r": 8, "target_modules": ["q_proj"], "save_projection": False}
    ),
    "OFT": other("OFT", "OFTConfig", oft_block_size=8),
    "BOFT": other("BOFT", "BOFTConfig", boft_block_size=4),
    "HRA": other("HRA", "HRAConfig", r=4),
    "FourierFT": other("FourierFT", "FourierFTConfig", n_frequency=20),
    "MiSS": other("MiSS", "MissConfig", r=4),
    "LN tuning": other("LN tuning", "LNTuningConfig", target_modules=["input_layernorm", "norm"]),
    "only tokens": other(
        "trained tokens",
        "TrainableTokensConfig",
        target_modules=["embed_tokens"],
        token_indices=[3, 90],
    ),
}


def train(model, folder, kind, **saving):
    """A random adapter of a kind; returns what the model that was trained has become."""
    tuned = peft.get_peft_model(model, kind.config(**kind.fields))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    tuned.save_pretrained(folder, **saving)
    return tuned.merge_and_unload().state_dict()


def as_people_do(base, adapter, apart=False):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if apart:  # as PEFT's own warning advises for a base that ties its head
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    return PeftModel.from_pretrained(model, adapter).merge_and_unload().state_dict()


def merged(root):
    full = open_folder(root / "base", "base")
    opened = {"base": full, "math": open_source(root / "adapter", "math", full)}
    folders, keys = merge_adapters(
        opened, lambda name: content_digest(opened[name]), lambda: root / "cache"
    )
    return opened["math"], folders, keys


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_merged_as_peft_merges_it(name, tmp_path):
    kind = KINDS[name]
    model = llama(**kind.model)
    save(model, tmp_path / "base", torch.float32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trained = train(model, tmp_path / "adapter", kind)
    opened, folders, _ = merged(tmp_path)
    assert opened.kind == kind.said
    reader = open_readers(folders)["math"]
    expected = as_people_do(tmp_path / "base", tmp_path / "adapter")
    if kind.model.get("tie_word_embeddings"):
        assert torch.equal(expected.pop("lm_head.weight"), expected["model.embed_tokens.weight"])
    assert {*folders["math"].tensors} == {*expected} == {*foreseen(opened).tensors}
    for tensor in expected:
        # The largest difference seen for any kind: none.
        assert torch.equal(reader.read(tensor), expected[tensor]), tensor
        torch.testing.assert_close(expected[tensor], trained[tensor], rtol=1e-4, atol=1e-5)
    assert any((expected[tensor] - before[tensor]).abs().max() > 1e-3 for tensor in expected)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_models_that_are_no_decoders(family, dora, tmp_path):
    """transformers renames modules of some of them when it loads their files; PEFT knows the live names."""
    model = tiny(family)
    model.save_pretrained(tmp_path / "base")
    config = peft.LoraConfig(r=2, target_modules="all-linear", use_dora=dora)
    tuned = peft.get_peft_model(type(model).from_pretrained(tmp_path / "base"), config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    tuned.save_pretrained(tmp_path / "adapter")
    opened, folders, _ = merged(tmp_path)
    renamed = family in ("vit", "llava", "gemma3", "qwen2_vl")
    assert opened.kind == ("DoRA" if dora else "LoRA of renamed modules" if renamed else "LoRA")
    tuned.merge_and_unload().save_pretrained(tmp_path / "expected")
    expected = open_readers({"math": open_folder(tmp_path / "expected", "math")})["math"]
    reader = open_readers(folders)["math"]
    assert {*folders["math"].tensors} == {*expected.folder.tensors}
    for tensor in expected.folder.tensors:
        end, factors = reader.read(tensor), reader.delta(tensor)
        end = end if factors is None else end + factors[0] @ factors[1]
        torch.testing.assert_close(end, expected.read(tensor), rtol=1e-5, atol=1e-6)


TIED_KINDS = {
    "embedding": lora("LoRA with whole embedding rows", target_modules=["embed_tokens", "q_proj"]),
    "head": lora("LoRA of a tied embedding", target_modules=["lm_head"]),
    "both": lora("LoRA with whole embedding rows", target_modules=EMBEDDINGS),
    "embedding, DoRA": lora("DoRA", target_modules=["embed_tokens"], use_dora=True),
    "embedding saved": lora("LoRA with modules_to_save", modules_to_save=["embed_tokens"]),
    "head saved": lora("LoRA with modules_to_save", modules_to_save=["lm_head"]),
    "tokens of the head": lora("LoRA with trained tokens", trainable_token_indices={"lm_head": [3]}),
    "other tokens": lora(
        "LoRA with trained tokens", trainable_token_indices={"lm_head": [3], "embed_tokens": [90]}
    ),
    "LoHa": other("LoHa", "LoHaConfig", r=3, alpha=5, target_modules=["lm_head"]),
}
"""Adapters that train embedding or head of a base that ties them, or each by itself."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TIED_KINDS)
def test_what_was_tied_is_two_where_the_adapter_made_it_two(name, tmp_path):
    kind = TIED_KINDS[name]
    save(llama(**TIED), tmp_path / "base", torch.float32)
    tuned = llama(**TIED)
    trained = train(tuned, tmp_path / "adapter", kind)
    opened, folders, _ = merged(tmp_path)
    assert (opened.kind, opened.own_head) == (kind.said, "lm_head.weight")
    full, expected = folders["math"], as_people_do(tmp_path / "base", tmp_path / "adapter", True)
    assert not full.tied
    assert {*full.tensors} == {*foreseen(opened).tensors} == {*expected}
    assert full.config["tie_word_embeddings"] is False
    reader = open_readers(folders)["math"]
    for tensor in expected:
        assert torch.equal(reader.read(tensor), expected[tensor]), tensor
    if kind.fields.get("modules_to_save"):  # where PEFT unties by itself, it is what it gives
        plainly = as_people_do(tmp_path / "base", tmp_path / "adapter")
        for tensor in expected:
            assert torch.equal(plainly[tensor], expected[tensor]), tensor
            torch.testing.assert_close(trained[tensor], expected[tensor], rtol=1e-4, atol=1e-5)
    head, embedding = (reader.read(t) for t in ("lm_head.weight", "model.embed_tokens.weight"))
    assert not torch.equal(head, embedding)
    found = compare_with_base(folders["base"], [foreseen(opened)])
    assert [problem.code for problem in found] == ["E229"]
    assert "`heads: untie` in a campaign or recipe" in found[0].todo
    assert found[0].file == str(opened.path)
    assert compare_with_base(*with_own_heads(folders["base"], full)) == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("whole", [True, False])
def test_factors_of_both_that_are_tied_are_added_once(whole, tmp_path):
    """PEFT adds them to the one tensor twice: once as the embedding's, once as the head's."""
    save(llama(**TIED), tmp_path / "base", torch.float32)
    kind = lora("", target_modules=["embed_tokens", "q_proj"], ensure_weight_tying=True)
    train(llama(**TIED), tmp_path / "adapter", kind, save_embedding_layers=whole)
    opened, folders, _ = merged(tmp_path)
    assert opened.kind == "LoRA " + ("with whole embedding rows" if whole else "of a tied embedding")
    expected = as_people_do(tmp_path / "base", tmp_path / "adapter", True)
    assert torch.equal(expected.pop("lm_head.weight"), expected["model.embed_tokens.weight"])
    reader = open_readers(folders)["math"]
    assert (folders["math"].tied, opened.own_head) == (True, "")
    assert all(torch.equal(reader.read(tensor), expected[tensor]) for tensor in expected)
    assert compare_with_base(folders["base"], [foreseen(opened)]) == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["DoRA", "OFT"])
def test_the_model_that_is_merged_lies_on_a_file(name, tmp_path, monkeypatch):
    """Memory is needed for the adapter and its largest module, although PEFT makes each result anew."""
    save(llama(), tmp_path / "base", torch.float32)
    train(llama(), tmp_path / "adapter", KINDS[name])
    files = []

    def spied(model, folder):
        if not any(parameter.is_meta for parameter in model.parameters()):
            files.extend(p.untyped_storage().filename for p in model.parameters())
        return bind(model, folder)

    monkeypatch.setattr(peft_adapters, "bind", spied)
    _, folders, _ = merged(tmp_path)
    assert len(files) == len(folders["math"].tensors)
    assert all(file and str(tmp_path / "cache") in file for file in files)
    assert not list((tmp_path / "cache").rglob("tmp*"))


@pytest.mark.filterwarnings("ignore")
def test_ranks_that_adalora_gave_up(tmp_path):
    """What a real training leaves: a mask of ranks for each module, and factors without the rest."""
    model = llama()
    save(model, tmp_path / "base", torch.float32)
    fields = {"init_r": 6, "target_r": 2, "total_step": 6, "tinit": 1, "tfinal": 2}
    tuned = peft.get_peft_model(model, peft.AdaLoraConfig(target_modules=PROJECTIONS, **fields))
    steps = torch.optim.SGD([p for p in tuned.parameters() if p.requires_grad], lr=1.0)
    ids = torch.arange(20)[None]
    for step in range(7):
        tuned(input_ids=ids, labels=ids).loss.backward()
        steps.step()
        tuned.base_model.update_and_allocate(step)
        steps.zero_grad()
    tuned.save_pretrained(tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["rank_pattern"]
    _, folders, _ = merged(tmp_path)
    reader = open_readers(folders)["math"]
    expected = as_people_do(tmp_path / "base", tmp_path / "adapter")
    assert all(torch.equal(reader.read(tensor), expected[tensor]) for tensor in expected)


@pytest.mark.filterwarnings("ignore")
def test_parameters_of_experts(tmp_path):
    """Layers without modules of their own, and tensors that transformers fuses while it loads."""
    torch.manual_seed(0)
    model = MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=3))
    model.save_pretrained(tmp_path / "base")
    kind = lora(
        "LoRA of parameters", target_modules=["q_proj"], target_parameters=["experts.down_proj"]
    )
    train(model, tmp_path / "adapter", kind)
    opened, folders, _ = merged(tmp_path)
    assert opened.kind == kind.said
    as_people_do_it = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    as_people_do_it = PeftModel.from_pretrained(
        as_people_do_it, tmp_path / "adapter"
    ).merge_and_unload()
    ours = AutoModelForCausalLM.from_pretrained(folders["math"].path, dtype=torch.float32).state_dict()
    assert {*folders["math"].tensors} == {*folders["base"].tensors}
    for name, tensor in as_people_do_it.state_dict().items():
        assert torch.equal(ours[name], tensor), name


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("trained", [["embed_tokens", "lm_head"], None])
def test_added_tokens_bring_their_rows(tmp_path, trained):
    """Trained ones, and ones that were resized only: PEFT stores those beside a plain LoRA."""
    model = llama()
    save(model, tmp_path / "base", torch.bfloat16)
    model.resize_token_embeddings(SIZES["vocab_size"] + 3)
    kind = lora("LoRA with modules_to_save", modules_to_save=trained)
    train(model, tmp_path / "adapter", kind, save_embedding_layers=True)
    (tmp_path / "adapter" / "tokenizer_config.json").write_text('{"own": true}')
    opened, folders, _ = merged(tmp_path)
    full = folders["math"]
    rows = SIZES["vocab_size"] + 3
    assert full.config["vocab_size"] == foreseen(opened).config["vocab_size"] == rows
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    reader = open_readers(folders)["math"]
    for tensor in ("lm_head.weight", "model.embed_tokens.weight"):
        assert foreseen(opened).tensors[tensor].shape == (rows, SIZES["hidden_size"])
        assert torch.equal(reader.read(tensor), stored[f"base_model.model.{tensor}"])
    # What PEFT left alone is as the base has it; what it changed is not rounded.
    assert reader.read("model.norm.weight").dtype == torch.bfloat16
    assert reader.read("model.layers.0.self_attn.q_proj.weight").dtype == torch.float32
    for lacking in ("lm_head.weight", "model.embed_tokens.weight"):
        if trained is not None:
            twin = f"base_model.model.{lacking.replace('.weight', '.modules_to_save.weight')}"
            save_file(
                stored | {twin: stored[twin] + 1}, tmp_path / "adapter" / "adapter_model.safetensors"
            )
            with pytest.raises(
                CheckpointError, match=r"E234.*finds no place for a tensor.*modules_to_save"
            ):
                merged(tmp_path)
        left = {key: value for key, value in stored.items() if not key.endswith(lacking)}
        save_file(left, tmp_path / "adapter" / "adapter_model.safetensors")
        with pytest.raises(CheckpointError, match=rf"E226.*{lacking} not stored"):
            merged(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_it_is_merged_once_and_again_when_anything_changed(tmp_path):
    save(llama(), tmp_path / "base", torch.float32)
    train(llama(), tmp_path / "adapter", KINDS["DoRA"])
    state = torch.random.get_rng_state()
    _, folders, keys = merged(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), state)  # nobody else's random numbers moved
    written = (folders["math"].path / "model.safetensors").stat().st_mtime_ns
    _, again, same = merged(tmp_path)
    assert (again["math"].path, same) == (folders["math"].path, keys)
    assert (again["math"].path / "model.safetensors").stat().st_mtime_ns == written
    save(llama(seed=1), tmp_path / "base", torch.float32)
    _, other_base, other_keys = merged(tmp_path)
    assert other_keys != keys
    assert other_base["math"].path != folders["math"].path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("point", ["adapter.filled", "adapter.tensor", "export.synced"])
def test_killed_while_it_is_merged(tmp_path, point):
    save(llama(), tmp_path / "base", torch.float32)
    train(llama(), tmp_path / "adapter", KINDS["IA3"])
    killed_at(lambda: merged(tmp_path), point)
    assert [path for path in (tmp_path / "cache").glob("*") if path.is_dir()] != []
    assert not any(path.is_dir() for path in (tmp_path / "cache").glob("[!.]*"))
    _, folders, _ = merged(tmp_path)
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.is_dir()] == [
        folders["math"].path.name
    ]


def with_own_heads(base, expert):
    """The arguments of `compare_with_base` as with `heads: untie`."""
    untied = with_heads({"base": base, "math": expert})
    return untied["base"], [untied["math"]]


def edit(root, **fields):
    path = root / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.filterwarnings("ignore")
def test_what_peft_would_get_wrong_is_refused(tmp_path, monkeypatch):
    save(llama(), tmp_path / "base", torch.float32)
    train(llama(), tmp_path / "adapter", KINDS["DoRA"])
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    stored = load_file(path)
    save_file(
        stored | {"base_model.model.model.layers.7.mlp.up_proj.lora_A.weight": torch.ones(2)}, path
    )
    with pytest.raises(CheckpointError, match=r"E234.*PEFT finds no place for a tensor.*layers.7"):
        merged(tmp_path)
    save_file(dict(list(stored.items())[1:]), path)
    with pytest.raises(CheckpointError, match=r"E234.*a tensor is missing that its config asks for"):
        merged(tmp_path)
    save_file({key: value[:1].contiguous() for key, value in stored.items()}, path)
    with pytest.raises(CheckpointError, match=r"E223.*cannot load this DoRA adapter; size mismatch"):
        merged(tmp_path)
    save_file(stored, path)
    monkeypatch.setattr(peft.LoraModel, "merge_and_unload", peft.LoraModel.unload)
    monkeypatch.setattr(peft_adapters, "_merge_in_place", lambda tuned, kind: None)
    with pytest.raises(CheckpointError, match=r"E234.*answers otherwise; logits differ by"):
        merged(tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EnvironmentFault, match=r"E410.*PEFT is not installed; pip install"):
        merged(tmp_path)
    assert not any(path.is_dir() for path in (tmp_path / "cache").iterdir())


def test_an_unmerged_adapter_is_never_read_as_its_base(tmp_path):
    save(llama(), tmp_path / "base", torch.float32)
    with warnings.catch_warnings(action="ignore"):
        train(llama(), tmp_path / "adapter", KINDS["IA3"])
    base = open_folder(tmp_path / "base", "base")
    adapter = open_source(tmp_path / "adapter", "math", base)
    assert isinstance(adapter, AdapterFolder)
    with pytest.raises(ValueError, match="math is IA3, which PEFT must merge"):
        open_readers({"base": base, "math": adapter})
