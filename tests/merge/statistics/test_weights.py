"""Statistics: exact against sorting, kept on disk, and what preparing finds."""

import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.checkpoint.folder import open_folder
from evomerge.checkpoint.reader import TensorReader, open_readers
from evomerge.errors import CheckpointError
from evomerge.merge.passes.sparsity import Sparsity
from evomerge.merge.statistics.joint import TaskVectors
from evomerge.merge.statistics.order import rank
from evomerge.merge.statistics.prepare import prepare_statistics
from evomerge.merge.statistics.weights import WeightStatistics
from tests.checkpoint.folders import llama, save, write_family


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return write_family(tmp_path_factory.mktemp("family"))


def delta(family, expert, tensor):
    new, old = (TensorReader(family[n]).read(tensor).float() for n in (expert, "base"))
    return (new - old).view(-1).numpy()


@pytest.mark.parametrize(
    ("density", "size", "expected"),
    [(0.29, 100, 29), (0.3, 10, 3), (0.001, 5, 1), (1.0, 7, 7), (0.5, 3, 1)],
)
def test_rank_counts_decimals(density, size, expected):
    assert rank(density, size) == expected


@pytest.mark.parametrize("density", [0.001, 0.05, 0.29, 0.5, 0.999, 1.0, 0.12345, 1 / 3])
@pytest.mark.parametrize("tensor", ["model.embed_tokens.weight", "model.norm.weight"])
def test_thresholds_are_order_statistics(family, density, tensor):
    statistics = WeightStatistics(family)
    magnitudes = np.sort(np.abs(delta(family, "a", tensor)))[::-1]
    expected = magnitudes[rank(density, magnitudes.size) - 1]
    assert statistics.threshold("base", "a", tensor, density) == expected


@pytest.mark.parametrize("density", [0.001, 0.2, 0.75, 1.0, 0.33333])
def test_model_thresholds_are_order_statistics(family, density):
    everything = np.concatenate([delta(family, "b", tensor) for tensor in family["base"].tensors])
    magnitudes = np.sort(np.abs(everything))[::-1]
    expected = magnitudes[rank(density, magnitudes.size) - 1]
    assert WeightStatistics(family).model_threshold("base", "b", density) == expected


def test_gram(family):
    statistics = WeightStatistics(family)
    a, b = (TensorReader(family[n]).read("model.layers.0.mlp.up_proj.weight").double() for n in "ab")
    found = statistics.gram("model.layers.0.mlp.up_proj.weight", ("a", "b"))
    expected = [[float((x * y).sum()) for y in (a, b)] for x in (a, b)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    turned = statistics.gram("model.layers.0.mlp.up_proj.weight", ("b", "a"))
    assert np.array_equal(turned, found[::-1, ::-1])
    base = TensorReader(family["base"]).read("model.layers.0.mlp.up_proj.weight").float()
    deltas = [(x.float() - base).double() for x in (a, b)]
    expected = [[float((x * y).sum()) for y in deltas] for x in deltas]
    found = statistics.gram("model.layers.0.mlp.up_proj.weight", ("a", "b"), "base")
    np.testing.assert_allclose(found, expected, rtol=1e-12)


NORM, UP = "model.norm.weight", "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize("density", [0.001, 0.25, 0.6, 1.0])
@pytest.mark.parametrize("tensor", [NORM, UP])
def test_energies_of_every_density_are_prepared_in_one_pass(family, density, tensor):
    statistics = WeightStatistics(family)
    least = statistics.least_variance("base", ("a", "b"), tensor, density)
    deltas = np.stack([delta(family, name, tensor) for name in "ab"])
    kept = deltas.var(axis=0) >= least * (1 - 1e-6)
    expected = np.square(deltas.astype(np.float64) * kept).sum(axis=1)
    found = statistics.energies("base", ("b", "a"), tensor, least)
    np.testing.assert_allclose(found, expected[::-1], rtol=1e-9)
    everything = statistics.energies("base", ("a", "b"), tensor, 0.0)
    np.testing.assert_allclose(everything, np.square(deltas.astype(np.float64)).sum(axis=1), rtol=1e-9)


SPARSITIES = [
    *(Sparsity(keep=keep, key=77) for keep in (0.001, 0.3, 0.999, 0.12345)),
    *(Sparsity(threshold=threshold) for threshold in (0.01, 0.3)),
    Sparsity(threshold=0.01, ceiling=0.2),
]


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("tensor", [NORM, UP])
def test_prepared_rescaling_is_what_a_pass_finds(family, sparsity, tensor):
    statistics = WeightStatistics(family)
    if sparsity.threshold > 0.0 and sparsity.ceiling == math.inf:
        density = sparsity.threshold
        sparsity = Sparsity(threshold=statistics.threshold("base", "a", tensor, density))
    readers = open_readers(family)
    expected = TaskVectors(tensor, [readers["a"]], readers["base"]).l1_factor(sparsity)
    found = statistics.l1_factor("base", "a", tensor, sparsity, 1)
    assert found == pytest.approx(expected, rel=1e-12)


def test_rescaling_on_the_grid_walks_the_weights_but_once(family, monkeypatch):
    statistics = WeightStatistics(family)
    passes = []
    drawn = TaskVectors.magnitudes_drawn
    monkeypatch.setattr(
        TaskVectors, "magnitudes_drawn", lambda self, key: passes.append(key) or drawn(self, key)
    )
    for step in range(1, 1000):
        statistics.l1_factor("base", "a", UP, Sparsity(keep=step / 1000, key=5), 1)
    assert passes == [5]


def test_ranks_are_kept_in_a_file_and_computed_once(family, tmp_path):
    digests = {name: name for name in family}
    found = WeightStatistics(family, tmp_path, digests).ranks("base", "a", UP)
    rows = np.abs(delta(family, "a", UP)).reshape(family["base"].tensors[UP].shape)
    expected = rows.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    assert np.array_equal(found.numpy().reshape(rows.shape), expected)
    (folder,) = tmp_path.glob("ranks-*")
    inode = (folder / "model.safetensors").stat().st_ino
    again = WeightStatistics(family, tmp_path, digests)
    assert torch.equal(again.ranks("base", "a", UP), found)
    assert (folder / "model.safetensors").stat().st_ino == inode
    # Another file: a mapped one must not become shorter.
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").write_bytes(b"damaged")
    assert torch.equal(WeightStatistics(family, tmp_path, digests).ranks("base", "a", UP), found)
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    assert WeightStatistics(family).ranks("base", "a", UP) is None


def test_cache_is_used_and_damage_is_repaired(family, tmp_path):
    digests = {name: name for name in family}
    first = WeightStatistics(family, tmp_path, digests).threshold("base", "a", "model.norm.weight", 0.5)
    (file,) = tmp_path.glob("*.safetensors")
    before = file.stat().st_mtime_ns
    assert (
        WeightStatistics(family, tmp_path, digests).threshold("base", "a", "model.norm.weight", 0.5)
        == first
    )
    assert file.stat().st_mtime_ns == before
    file.write_bytes(b"broken")
    assert (
        WeightStatistics(family, tmp_path, digests).threshold("base", "a", "model.norm.weight", 0.5)
        == first
    )
    assert file.stat().st_size > 100
    # Other content, other file.
    changed = digests | {"a": "changed"}
    WeightStatistics(family, tmp_path, changed).threshold("base", "a", "model.norm.weight", 0.5)
    assert len(list(tmp_path.iterdir())) == 2


def test_digests_are_computed_when_not_given(family, tmp_path):
    WeightStatistics(family, tmp_path).gram("model.norm.weight", ("a", "b"))
    assert len(list(tmp_path.glob("gram-*"))) == 1


def test_prepare_finds_active_places(tmp_path):
    family = write_family(tmp_path, ("a",))
    path = tmp_path / "a" / "model.safetensors"
    start = load_file(str(tmp_path / "base" / "model.safetensors"))
    tensors = {name: tensor.clone() for name, tensor in start.items()}
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] += 1
    tensors["model.norm.weight"][3] += 1
    save_file(tensors, str(path))
    family["a"] = open_folder(tmp_path / "a", "a")
    report = prepare_statistics(WeightStatistics(family), family, "base", ["ties", "slerp"])
    assert report.active == {"a": ("layers.1.mlp", "final_norm")}
    finest = prepare_statistics(WeightStatistics(family), family, "base", [], by_tensor=True)
    assert finest.active == {"a": ("layers.1.mlp.mlp.up_proj", "final_norm")}
    coarse, fine = report.task_vectors.gram, finest.task_vectors.gram
    assert set(fine) == {"", *family["base"].tensor_layout.places}
    assert fine["layers.1.mlp.mlp.up_proj"] == coarse["layers.1.mlp"] != ((0.0,),)
    assert fine["layers.1.mlp.mlp.down_proj"] == ((0.0,),)
    assert report.warnings == ()


def test_prepare_names_every_bad_tensor(tmp_path):
    write_family(tmp_path, ("a", "b"))
    for name, value in (("a", math.nan), ("base", math.inf)):
        path = tmp_path / name / "model.safetensors"
        tensors = {n: t.clone() for n, t in load_file(str(path)).items()}
        tensors["model.norm.weight"][:3] = value
        save_file(tensors, str(path))
    family = {n: open_folder(tmp_path / n, n) for n in ("base", "a", "b")}
    with pytest.raises(CheckpointError, match=r"E232.*3 elements") as caught:
        prepare_statistics(WeightStatistics(family), family, "base", [])
    assert {p.wrong.split()[0] for p in caught.value.problems} == {"base", "a"}


def test_prepare_warns_of_an_expert_equal_to_the_base(tmp_path):
    write_family(tmp_path, ())
    family = {"base": open_folder(tmp_path / "base", "base"), "a": open_folder(tmp_path / "base", "a")}
    report = prepare_statistics(WeightStatistics(family), family, "base", ["ties"], ["tensor", "model"])
    assert [warning.code for warning in report.warnings] == ["E233"]
    assert report.active == {"a": ()}


def test_prepare_refuses_a_tied_config_with_another_head(tmp_path):
    save(llama(tie_word_embeddings=True), tmp_path / "base", torch.float32)
    path = tmp_path / "base" / "model.safetensors"
    tensors = {n: t.clone() for n, t in load_file(str(path)).items()}
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, str(path))
    same = {"base": open_folder(tmp_path / "base", "base")}
    assert prepare_statistics(WeightStatistics(same), same, "base", []).active == {}
    tensors["lm_head.weight"][0, 0] += 1
    save_file(tensors, str(path))
    other = {"base": open_folder(tmp_path / "base", "base")}
    with pytest.raises(CheckpointError, match=r"E229.*lm_head\.weight"):
        prepare_statistics(WeightStatistics(other), other, "base", [])
