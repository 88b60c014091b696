"""Symmetries that change no output, planted permutations found again, and the loss between two models."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from evomerge.checkpoint.folder import open_folder
from evomerge.checkpoint.reader import TensorReader, open_readers
from evomerge.errors import CheckpointError
from evomerge.export.aligned import measure_barrier, write_aligned
from evomerge.merge.align.activations import activations
from evomerge.merge.align.matching import Seen, match_weights
from evomerge.merge.align.symmetries import symmetries_of
from evomerge.merge.statistics.calibration_items import read_items
from evomerge.merge.statistics.kinship import kinship
from evomerge.recipe.calibration import Calibration
from tests.checkpoint.folders import SIZES, save, write_family
from tests.cli.terminal import call

KINDS = {
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {"tie_word_embeddings": True}),
}
HEADS = {"num_attention_heads": 8, "num_key_value_heads": 4}


def model_of(kind, folder, seed=0):
    model, config, own = KINDS[kind]
    torch.manual_seed(seed)
    made = model(config(**{**SIZES, **HEADS, **own}))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    save(made, folder, torch.float32)
    return open_folder(folder, folder.name)


def planted(symmetries, seed=1, residual=True):
    rng = np.random.default_rng(seed)
    found = {}
    for layer in symmetries.layers:
        found[f"mlp.{layer}"] = rng.permutation(symmetries.counts[f"mlp.{layer}"])
        groups = rng.permutation(symmetries.counts[f"groups.{layer}"])
        size = symmetries.counts[f"heads.{layer}"] // len(groups)
        found[f"groups.{layer}"] = groups
        found[f"heads.{layer}"] = np.concatenate([g * size + rng.permutation(size) for g in groups])
    found["residual"] = rng.permutation(symmetries.counts["residual"])
    return found if residual else {k: v for k, v in found.items() if k != "residual"}


def permuted(folder, out, symmetries, permutations, noise=0.0):
    """The same model in another order, with a little noise."""
    torch.manual_seed(9)
    out.mkdir()
    tensors = {}
    for name, tensor in load_file(folder.path / "model.safetensors").items():
        value = symmetries.apply(name, tensor, permutations)
        tensors[name] = value + noise * torch.randn_like(value)
    save_file(tensors, str(out / "model.safetensors"), metadata={"format": "pt"})
    (out / "config.json").write_text((folder.path / "config.json").read_text())
    return open_folder(out, out.name)


def logits(folder, kind):
    model = KINDS[kind][0].from_pretrained(folder.path, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.arange(5, 35)[None]).logits


@pytest.mark.parametrize("kind", KINDS)
def test_no_permutation_changes_an_output(tmp_path, kind):
    folder = model_of(kind, tmp_path / "a")
    symmetries = symmetries_of(folder)
    expected = logits(folder, kind)
    every = planted(symmetries)
    for units in ("mlp", "groups", "residual", ""):
        kinds = ("groups", "heads") if units == "groups" else (units,)
        own = {k: v for k, v in every.items() if not units or k.split(".")[0] in kinds}
        symmetries.check(own)
        other = permuted(folder, tmp_path / f"p{units}", symmetries, own)
        assert (
            not torch.equal(
                TensorReader(other).read("model.layers.1.mlp.up_proj.weight"),
                TensorReader(folder).read("model.layers.1.mlp.up_proj.weight"),
            )
            or units == "groups"
        )
        torch.testing.assert_close(logits(other, kind), expected, rtol=1e-4, atol=1e-4)


def test_what_breaks_rotary_positions_is_rejected(tmp_path):
    symmetries = symmetries_of(model_of("llama", tmp_path / "a"))
    inside = np.arange(SIZES["hidden_size"])
    inside[[0, 1]] = [1, 0]
    with pytest.raises(ValueError, match=r"heads\.0.*its 8 units.*found 32.*rotary positions"):
        symmetries.check({"heads.0": inside})
    with pytest.raises(ValueError, match=r"heads\.1.*parts query heads from the keys"):
        symmetries.check({"heads.1": np.array([2, 1, 0, 3, 4, 5, 6, 7])})
    # And rightly so: it does change the outputs.
    folder = open_folder(tmp_path / "a", "a")
    out = tmp_path / "b"
    out.mkdir()
    tensors = load_file(folder.path / "model.safetensors")
    for name in ("q_proj", "k_proj"):
        key = f"model.layers.0.self_attn.{name}.weight"
        rows = tensors[key].view(-1, 4, SIZES["hidden_size"])
        tensors[key] = rows[:, [1, 0, 2, 3]].reshape(tensors[key].shape).contiguous()
    save_file(tensors, str(out / "model.safetensors"), metadata={"format": "pt"})
    (out / "config.json").write_text((folder.path / "config.json").read_text())
    difference = logits(open_folder(out, "b"), "llama") - logits(folder, "llama")
    assert difference.abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_planted_permutations_are_found_again(tmp_path, kind):
    folder = model_of(kind, tmp_path / "a")
    symmetries = symmetries_of(folder)
    for residual in (False, True):
        orders = planted(symmetries, residual=residual)
        other = permuted(folder, tmp_path / f"b{residual}", symmetries, orders, noise=0.01)
        found = match_weights(
            symmetries, TensorReader(folder).read, TensorReader(other).read, residual=residual
        )
        symmetries.check(found)
        for name, order in orders.items():
            assert np.array_equal(order[found[name]], np.arange(len(order))), name


def text_of(folder, count=12, length=24, seed=3):
    rng = np.random.default_rng(seed)
    rows = rng.integers(3, SIZES["vocab_size"], (count, length)).tolist()
    (folder / "units.txt").write_text("".join(f"{row}\n" for row in rows))
    return folder / "units.txt"


@pytest.mark.parametrize("kind", KINDS)
def test_planted_permutations_are_found_by_what_units_do(tmp_path, kind):
    folder = model_of(kind, tmp_path / "a")
    symmetries = symmetries_of(folder)
    orders = planted(symmetries)
    other = permuted(folder, tmp_path / "b", symmetries, orders, noise=0.01)
    items = read_items(Calibration(str(text_of(tmp_path))), [folder.path], folder)
    both = [activations(each, symmetries, items) for each in (folder, other)]
    for name, count in symmetries.counts.items():
        alike = (both[0][name] @ both[1][name].T).numpy()
        assert alike.shape == (count, count)
        assert np.abs(alike).max() < 1.0 + 1e-4
        # The unit that stands at i in the other model is unit orders[i] of the first.
        assert (alike[orders[name], np.arange(count)] > 0.8).all(), name
    # The correlation of one hidden unit with one of the other model, by NumPy.
    seen = []
    for each in (folder, other):
        model = KINDS[kind][0].from_pretrained(each.path, dtype=torch.float32).eval()
        down, rows = model.model.layers[0].mlp.down_proj, []
        down.register_forward_pre_hook(lambda m, given, rows=rows: rows.append(given[0][0]))
        with torch.no_grad():
            for ids in items:
                model(ids)
        seen.append(torch.cat(rows).double().numpy())
    expected = np.corrcoef(seen[0][:, 2], seen[1][:, 5])[0, 1]
    found = both[0]["mlp.0"][2] @ both[1]["mlp.0"][5]
    assert float(found) == pytest.approx(expected, abs=1e-5)
    read = TensorReader(folder).read, TensorReader(other).read
    for mix in (0.0, 0.5):
        matched = match_weights(symmetries, *read, seen=Seen(*both, mix))
        symmetries.check(matched)
        for name, order in orders.items():
            assert np.array_equal(order[matched[name]], np.arange(len(order))), name
    # Weights alone are what they were.
    plain, mixed = (
        match_weights(symmetries, *read),
        match_weights(symmetries, *read, seen=Seen(*both, 1.0)),
    )
    assert all(np.array_equal(plain[name], mixed[name]) for name in plain)


def test_units_are_compared_on_a_text_by_the_verb(tmp_path):
    folder = model_of("llama", tmp_path / "a")
    symmetries = symmetries_of(folder)
    other = permuted(folder, tmp_path / "b", symmetries, planted(symmetries), noise=0.01)
    given = ("align", str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / "c"), "--mix", "0.3")
    refused = call(*given)
    assert refused.code == 2
    assert "E500" in refused.err
    assert "found --mix 0.3 and no --text" in refused.err
    assert call(*given, "--text", str(text_of(tmp_path))).code == 0
    aligned = open_folder(tmp_path / "c", "c")
    torch.testing.assert_close(logits(aligned, "llama"), logits(other, "llama"), rtol=1e-4, atol=1e-4)
    for name in folder.tensors:
        difference = TensorReader(aligned).read(name) - TensorReader(folder).read(name)
        assert float(difference.abs().max()) < 0.06


def test_an_aligned_model_is_the_same_function_and_merges_again(tmp_path):
    folder = model_of("llama", tmp_path / "a")
    symmetries = symmetries_of(folder)
    other = permuted(folder, tmp_path / "b", symmetries, planted(symmetries), noise=0.01)
    done = call("align", str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / "c"))
    assert done.code == 0
    assert "64 mlp" in done.err or "96 mlp" in done.err
    aligned = open_folder(tmp_path / "c", "c")
    torch.testing.assert_close(logits(aligned, "llama"), logits(other, "llama"), rtol=1e-4, atol=1e-4)
    for name in folder.tensors:
        difference = TensorReader(aligned).read(name) - TensorReader(folder).read(name)
        assert float(difference.abs().max()) < 0.06
    with pytest.raises(Exception, match="E601"):
        write_aligned(tmp_path / "a", tmp_path / "b", tmp_path / "c")


def test_the_barrier_between_permuted_models_goes_away(tmp_path):
    folder = model_of("llama", tmp_path / "a")
    symmetries = symmetries_of(folder)
    permuted(folder, tmp_path / "b", symmetries, planted(symmetries), noise=0.01)
    model = KINDS["llama"][0].from_pretrained(folder.path, dtype=torch.float32).eval()
    starts = torch.arange(8)[:, None]
    said = model.generate(starts, max_new_tokens=20, do_sample=False, pad_token_id=0)
    (tmp_path / "text.txt").write_text("".join(f"{row.tolist()}\n" for row in said))
    found = measure_barrier(tmp_path / "a", tmp_path / "b", tmp_path / "text.txt", points=5)
    assert found.plain.shares == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert found.plain.losses[0] == pytest.approx(found.aligned.losses[0])
    assert found.plain.losses[-1] == pytest.approx(found.aligned.losses[-1], rel=1e-3)
    assert found.plain.barrier > 1.0
    assert found.aligned.barrier < 0.1
    done = call(
        "barrier", str(tmp_path / "a"), str(tmp_path / "b"), "--text", str(tmp_path / "text.txt"),
        "--points", "3", "--json",
    )  # fmt: skip
    assert done.json["aligned"]["barrier"] < 0.1 < done.json["plain"]["barrier"]


def test_architectures_without_known_symmetries_are_named(tmp_path):
    folder = model_of("llama", tmp_path / "a")
    config = json.loads((folder.path / "config.json").read_text()) | {"model_type": "gpt2"}
    (folder.path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"E234.*symmetries.*model_type gpt2"):
        symmetries_of(open_folder(folder.path, "a"))


def soft_signs(x, y):
    """Sung et al. (2023), over the entries of which one is not zero."""
    live = (x != 0) | (y != 0)
    return float(np.mean(1 - np.abs(x + y)[live] / (np.abs(x) + np.abs(y))[live]))


def larger_half(values):
    """The rest set to zero; of equal magnitudes all are kept."""
    return np.where(np.abs(values) >= np.sort(np.abs(values))[len(values) // 2], values, 0.0)


def test_kinship_is_that_of_whole_task_vectors(tmp_path):
    family = write_family(tmp_path, ("a", "b"), dtype=torch.float32)
    readers = open_readers(family)
    names = list(family["base"].tensors)

    def vector(name):
        parts = [(readers[name].read(t) - readers["base"].read(t)).reshape(-1) for t in names]
        return torch.cat(parts).double().numpy()

    def split(whole):
        return np.split(whole, np.cumsum([readers["base"].read(t).numel() for t in names])[:-1])

    first, second = vector("a"), vector("b")
    found = kinship(readers["base"], {n: readers[n] for n in ("a", "b", "base")}, names)
    cosine = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    assert found.cosine[0, 1] == pytest.approx(cosine, rel=1e-6)
    assert found.pearson[0, 1] == pytest.approx(np.corrcoef(first, second)[0, 1], rel=1e-6)
    assert found.distance[0, 1] == pytest.approx(np.linalg.norm(first - second), rel=1e-6)
    assert np.isnan(found.cosine[0, 2])
    assert found.ssd[0, 1] == pytest.approx(soft_signs(first, second), rel=1e-6)
    halves = [np.concatenate([larger_half(p) for p in split(v)]) for v in (first, second)]
    assert found.tssd[0, 1] == pytest.approx(soft_signs(*halves), rel=1e-6)
    assert found.ssd[0, 0] == found.tssd[1, 1] == 0.0
    assert np.isnan(found.tssd[0, 2])
    done = call("kinship", *(str(tmp_path / n) for n in ("base", "a", "b")), "--json")
    assert done.json["kinship"]["cosine"] == pytest.approx(cosine, rel=1e-6)
    assert "model kinship" in call("kinship", *(str(tmp_path / n) for n in ("base", "a", "b"))).out
