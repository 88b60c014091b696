"""Vocabularies that differ: rows by token, checked against a loop over tokens in NumPy."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from evomerge.checkpoint.aligned import align_sources
from evomerge.checkpoint.folder import open_folder
from evomerge.checkpoint.reader import open_readers
from evomerge.checkpoint.vocabulary import align, token_ids
from evomerge.errors import CheckpointError, ConfigError
from evomerge.export.export import merge_recipe
from evomerge.export.files import write_json
from evomerge.recipe.recipe import (
    CheckpointSource,
    MergedSource,
    Recipe,
    TokenRow,
    single_source_recipe,
)
from tests.tiny_models import write_model

TENSORS = ("model.embed_tokens.weight", "lm_head.weight")


def change_tokens(
    folder: Path, drop: tuple[str, ...], add: tuple[str, ...], special: str, rows: int
) -> None:
    """Give a model another vocabulary: fewer words, other words, an added token, padding rows."""
    path = folder / "tokenizer.json"
    data = json.loads(path.read_text())
    words = [w for w in data["model"]["vocab"] if w not in drop] + list(add)
    data["model"]["vocab"] = {word: number for number, word in enumerate(words)}
    entry = {**data["added_tokens"][0], "content": special, "id": len(words)}
    data["added_tokens"] = [
        {**e, "id": data["model"]["vocab"][e["content"]]} for e in data["added_tokens"]
    ] + [entry]
    path.write_text(json.dumps(data))
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    generator = torch.Generator().manual_seed(rows)
    for name in TENSORS:
        width = tensors[name].shape[1]
        tensors[name] = torch.randn(rows, width, generator=generator).to(tensors[name].dtype)
    save_file(tensors, str(weights), metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text()) | {"vocab_size": rows}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("vocabularies")
    write_model(root / "base", dtype=torch.float32)
    for number, name in enumerate(("math", "code")):
        write_model(root / name, expert=number, dtype=torch.float32)
    change_tokens(root / "base", (), (), "<base>", 40)
    change_tokens(root / "math", ("bird", "cat"), ("sum", "both"), "<tool>", 38)
    change_tokens(root / "code", ("dog",), ("both", "def"), "<fim>", 44)
    return root


def recipe(models: Path, tokenizer: str, align_them: bool = True) -> Recipe:
    sources = {n: CheckpointSource(str(models / n)) for n in ("base", "math", "code")}
    weight = {"math": {"": 0.25}, "code": {"": 0.5}}
    merged = MergedSource("task_arithmetic", ("math", "code"), "base", {"weight": weight})
    plain = single_source_recipe({**sources, "merged": merged}, "merged", 2, "float32", tokenizer)
    return Recipe(plain.sources, plain.path, plain.outer, plain.dtype, {}, tokenizer, align_them)


def export(models: Path, stated: Recipe, name: str) -> Path:
    write_json(models / "recipe.json", stated.to_json())
    merge_recipe(models / "recipe.json", models / name, overwrite=True)
    return models / name


def slowly(models: Path, tensor: str, ids: dict[str, int], rows: int) -> np.ndarray:
    """Every row of every model by the rules, one at a time, and their merge."""
    names = ("base", "math", "code")
    own = {n: load_file(models / n / "model.safetensors")[tensor].numpy() for n in names}
    tokens = {n: {t: i for t, i in token_ids(models / n).items() if i < len(own[n])} for n in names}
    by_id = {number: token for token, number in ids.items()}
    out = np.zeros((rows, own["base"].shape[1]), dtype=np.float64)
    for row in range(rows):
        token = by_id.get(row)
        found: dict[str, np.ndarray] = {}
        for n in names:
            if token is not None and token in tokens[n]:
                found[n] = own[n][tokens[n][token]]
            elif token is None and row < len(own[n]) and row not in tokens[n].values():
                found[n] = own[n][row]
        if "base" in found:
            default = found["base"]
        elif token is None and found:
            default = next(iter(found.values()))
        else:
            default = np.mean(list(found.values()), axis=0) if found else np.zeros(out.shape[1])
        base, math, code = (found.get(n, default).astype(np.float64) for n in names)
        out[row] = base + 0.25 * (math - base) + 0.5 * (code - base)
    return out


@pytest.mark.parametrize("tokenizer", ["base", "union", "code"])
def test_rows_follow_their_tokens(models: Path, tokenizer: str) -> None:
    out = export(models, recipe(models, tokenizer), f"out-{tokenizer}")
    merged = load_file(out / "model.safetensors")
    rows = json.loads((out / "config.json").read_text())["vocab_size"]
    ids = token_ids(out)
    for name in TENSORS:
        assert merged[name].shape[0] == rows
        expected = slowly(models, name, ids, rows)
        np.testing.assert_allclose(merged[name].numpy(), expected, rtol=1e-5, atol=1e-6)
    # The tokenizer that is written has the ids that the rows have.
    loaded = AutoTokenizer.from_pretrained(out)
    assert loaded.get_vocab() == ids
    if tokenizer == "union":
        assert {"<tool>", "<fim>", "sum", "def", "both", "cat"} <= set(ids)
        assert {token: ids[token] for token in token_ids(models / "base")} == token_ids(models / "base")
        text = loaded("sum <fim> cat both")["input_ids"]
        assert [
            number for number in text if number in (ids["sum"], ids["<fim>"], ids["cat"], ids["both"])
        ]
        assert loaded.convert_ids_to_tokens(ids["<tool>"]) == "<tool>"
    else:
        assert rows == {"base": 40, "code": 44}[tokenizer]


STATED = {
    "<sum>": TokenRow("math", "sum"),
    "cat": TokenRow("code", "fish"),
    "fish": TokenRow("code", force=True),
    "<none>": TokenRow(),
    "<tenth>": TokenRow("code", 10, force=True),
}


@pytest.mark.parametrize("tokenizer", ["base", "union"])
def test_rows_of_tokens_that_a_recipe_states(models: Path, tokenizer: str) -> None:
    stated = replace(recipe(models, tokenizer), tokens=STATED)
    out = export(models, stated, f"stated-{tokenizer}")
    merged = load_file(out / "model.safetensors")
    plain = load_file(export(models, recipe(models, tokenizer), "plain") / "model.safetensors")
    ids, before = token_ids(out), token_ids(models / "plain")
    assert AutoTokenizer.from_pretrained(out).get_vocab() == ids
    assert {t: ids[t] for t in before} == before
    added = [t for t in ("<sum>", "<none>", "<tenth>") if t not in before]
    assert [ids[t] for t in added] == list(range(max(before.values()) + 1, max(before.values()) + 4))
    assert AutoTokenizer.from_pretrained(out)("cat <sum>")["input_ids"][-1] == ids["<sum>"]
    own = {n: token_ids(models / n) for n in ("base", "math", "code")}
    for name in TENSORS:
        rows = {n: load_file(models / n / "model.safetensors")[name] for n in own}
        code, math = rows["code"], rows["math"]
        base = rows["base"][own["base"]["cat"]]
        # "cat" is no token of math, which then has code's "fish"; the rest are the same in all three models.
        cat = base + 0.25 * (code[own["code"]["fish"]] - base)
        cat = cat + 0.5 * (code[own["code"]["cat"]] - base)
        for token, row in {
            "<sum>": math[own["math"]["sum"]],
            "fish": code[own["code"]["fish"]],
            "<none>": torch.zeros_like(base),
            "<tenth>": code[10],
            "cat": cat,
        }.items():
            torch.testing.assert_close(merged[name][ids[token]], row, rtol=0, atol=1e-6)
        others = [number for token, number in before.items() if token not in STATED]
        assert merged[name][others].equal(plain[name][others])
    said = json.loads((out / "recipe.json").read_text())["tokenizer"]
    assert said["tokens"]["fish"] == {"source": "code", "force": True}
    merge_recipe(out / "mergekit_config.yml", models / "spoken", overwrite=True)
    spoken = load_file(models / "spoken" / "model.safetensors")
    for name in TENSORS:
        torch.testing.assert_close(spoken[name], merged[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("tokenizer", ["base", "union"])
def test_rows_up_to_a_multiple(models: Path, tokenizer: str) -> None:
    """A row for each token; what is left to the multiple is, in each model, the mean of these."""
    stated = replace(recipe(models, tokenizer), pad_to_multiple_of=16, tokens={"<none>": TokenRow()})
    out = export(models, stated, f"padded-{tokenizer}")
    ids = token_ids(out)
    rows = -(-len(ids) // 16) * 16
    assert len(ids) < rows == json.loads((out / "config.json").read_text())["vocab_size"]
    assert {**ids, "<none>": 0} == {
        **token_ids(export(models, replace(stated, pad_to_multiple_of=0), "loose")),
        "<none>": 0,
    }
    loose, merged = (
        load_file(models / n / "model.safetensors") for n in ("loose", f"padded-{tokenizer}")
    )
    folders = {n: open_folder(models / n, n) for n in ("base", "math", "code")}
    target = None if tokenizer == "union" else tokenizer
    changed, readers, _ = align_sources(
        folders, open_readers(folders), "base", target, stated.tokens, 16
    )
    for name in TENSORS:
        own = {n: reader.read(name) for n, reader in readers.items()}
        for n, found in own.items():
            assert found.shape == changed[n].tensors[name].shape == (rows, found.shape[1])
            mean = found[: len(ids)].double().mean(dim=0).expand(rows - len(ids), -1)
            torch.testing.assert_close(found[len(ids) :].double(), mean, rtol=0, atol=1e-6)
        expected = 0.25 * own["base"] + 0.25 * own["math"] + 0.5 * own["code"]
        torch.testing.assert_close(merged[name], expected, rtol=0, atol=1e-6)
        assert merged[name][: len(ids)].equal(loose[name][: len(ids)])
    spoken = (out / "mergekit_config.yml").read_text()
    assert "pad_to_multiple_of: 16" in spoken
    assert "rows of the embedding that have no token" not in spoken
    merge_recipe(out / "mergekit_config.yml", models / "spoken", overwrite=True)
    again = load_file(models / "spoken" / "model.safetensors")
    assert all(torch.allclose(again[name], merged[name], rtol=0, atol=1e-6) for name in TENSORS)
    # Rows as they are where the number of tokens is a multiple.
    whole = export(models, replace(stated, pad_to_multiple_of=1), "whole")
    assert json.loads((whole / "config.json").read_text())["vocab_size"] == len(ids)


def test_a_multiple_that_is_none(models: Path) -> None:
    wrong = replace(recipe(models, "base"), pad_to_multiple_of=-8)
    with pytest.raises(ConfigError, match=r"E108.*pad_to_multiple_of: must be a whole number of rows"):
        export(models, wrong, "lacking")


def test_the_order_of_new_tokens_is_part_of_a_recipe(models: Path) -> None:
    one = replace(recipe(models, "base"), tokens={"<b>": TokenRow(), "<a>": TokenRow()})
    other = replace(one, tokens={"<a>": TokenRow(), "<b>": TokenRow()})
    assert one.digest != other.digest


def test_a_row_of_a_token_that_a_model_lacks(models: Path) -> None:
    stated = replace(recipe(models, "base"), tokens={"cat": TokenRow("math", "<nothing>")})
    with pytest.raises(CheckpointError, match=r"E226.*math has no token '<nothing>', whose row 'cat'"):
        export(models, stated, "lacking")
    wrong = replace(recipe(models, "base"), tokens={"cat": TokenRow("nobody")})
    with pytest.raises(ConfigError, match=r"E108.*tokens.cat.source: names no checkpoint source"):
        export(models, wrong, "lacking")


def test_other_tensors_are_not_touched(models: Path) -> None:
    left = load_file(export(models, recipe(models, "union"), "u") / "model.safetensors")
    right = load_file(export(models, recipe(models, "base"), "b") / "model.safetensors")
    assert all(left[name].equal(right[name]) for name in left if name not in TENSORS)


def test_a_recipe_that_is_exported_says_how_it_was_aligned(models: Path) -> None:
    out = export(models, recipe(models, "union"), "first")
    assert json.loads((out / "recipe.json").read_text())["tokenizer"] == {"source": "union"}
    merge_recipe(out / "recipe.json", models / "second", overwrite=True)
    left, right = (load_file(models / n / "model.safetensors") for n in ("first", "second"))
    assert all(left[name].equal(right[name]) for name in left)
    spoken = (out / "mergekit_config.yml").read_text()
    assert "tokenizer_source: union" in spoken


def test_without_alignment_it_is_refused_with_the_difference(models: Path) -> None:
    with pytest.raises(
        CheckpointError,
        match=r"E226.*math: vocabulary sizes differ; base 40, math 38; 3 tokens the base lacks: 'sum', "
        r"'both', '<tool>'; 3 tokens math lacks: .*; `tokenizer: {source: union}`",
    ):
        export(models, recipe(models, "base", align_them=False), "refused")


def test_a_model_without_a_tokenizer_cannot_be_aligned(models: Path, tmp_path: Path) -> None:
    bare = write_model(tmp_path / "bare", tokenizer=False)
    folders = {"base": open_folder(models / "base", "base"), "x": open_folder(bare, "x")}
    with pytest.raises(
        CheckpointError, match=r"E226.*x: its tokens cannot be read.*add tokenizer.json"
    ):
        align(folders, "base", "base")
