"""Tokenizer and chat template of another model, what models state differently, and licences."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from transformers import AutoTokenizer, GenerationConfig

from evomerge.cli.verify.invariants import verify
from evomerge.errors import UsageError
from evomerge.export.export import export_candidate, merge_recipe
from evomerge.export.files import write_json
from evomerge.export.stated import refuse_export, refuse_merge
from evomerge.export.taken import Taken
from tests.export.finished import Finished, hand_made, write_recipe

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"


@pytest.fixture
def chatty(finished: Finished) -> Iterator[Path]:
    """The expert `code`, with a chat template, generation settings and a licence of its own for a while."""
    folder = finished.model("code")
    files = {
        "chat_template.jinja": TEMPLATE,
        "generation_config.json": '{"eos_token_id": 3, "max_new_tokens": 9}',
        "README.md": "---\nlicense: llama3.2  # of the base\ntags: [x]\n---\n# code\n",
    }
    assert not any((folder / name).exists() for name in files)
    for name, text in files.items():
        (folder / name).write_text(text)
    yield folder
    for name in files:
        (folder / name).unlink()


def test_a_tokenizer_of_an_expert_is_told_recorded_and_verified(
    finished: Finished, chatty: Path, tmp_path: Path
) -> None:
    out, merge = tmp_path / "out", finished.real_merge()
    plain = export_candidate(finished.directory, merge, tmp_path / "plain", rescore=False)
    report = export_candidate(finished.directory, merge, out, taken=Taken("code"))
    assert report.recipe != plain.recipe
    assert AutoTokenizer.from_pretrained(out).chat_template == TEMPLATE
    assert GenerationConfig.from_pretrained(out).eos_token_id == 3
    told = {each.what: each for each in report.differences}
    assert told["max_new_tokens"].stated == {"base": 7, "code": 9, "math": None}
    assert told["max_new_tokens"].taken == 9
    assert "max_new_tokens: base 7, code 9, math none; taken: that of code" in report.warnings
    assert "max_new_tokens: base 7, code 9, math none; taken: that of base" in plain.warnings
    assert "| `max_new_tokens` | `7` | `9` | `none` | `9` |" in (out / "README.md").read_text()
    # The published recipe states it, so that it makes the same files.
    again = merge_recipe(out / "recipe.json", tmp_path / "again")
    assert again.recipe == report.recipe
    for name in ("model.safetensors", "config.json", "chat_template.jinja", "generation_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes()


def test_verify_knows_what_was_taken(finished: Finished, chatty: Path) -> None:
    name = "taken-from-code"
    out = finished.root / name  # where `verify` looks for it
    # The knee is `math` itself: a model that the recipe does without may be named too.
    export_candidate(finished.directory, "knee", out, rescore=False, taken=Taken("code", "code"))
    assert (out / "chat_template.jinja").read_text() == TEMPLATE
    assert GenerationConfig.from_pretrained(out).max_new_tokens == 9
    manifest = json.loads((out / "evomerge.json").read_text())
    recorded = finished.history.candidates[finished.knee()].recipe
    assert manifest["searched"]["recipe"] == recorded
    assert (manifest["searched"]["tokenizer"], manifest["searched"]["chat_template"]) == ("base", "")
    assert manifest["recipe"] != recorded
    problems = verify(finished.directory)
    assert [problem for problem in problems if name in str(problem)] == []
    recipe = json.loads((out / "recipe.json").read_text())
    write_json(out / "recipe.json", {**recipe, "dtype": "float32"})
    found = [str(problem) for problem in verify(finished.directory)]
    assert any(f"{name}/recipe.json: not the candidate's but for tokenizer" in text for text in found)


def test_what_cannot_be_taken(finished: Finished, chatty: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for taken, said in (
        (Taken("chemistry"), r"E500.*--tokenizer-from: `chemistry` is no model.*base, code, math"),
        (Taken(None, "math"), r"E500.*--chat-template-from: `math` has no chat template.*base, code"),
    ):
        with pytest.raises(UsageError, match=said):
            refuse_export(finished.directory, "knee", out, overwrite=False, taken=taken)
    aligned = hand_made(finished, align=True, tokenizer="union")
    with pytest.raises(UsageError, match=r"E500.*a vocabulary of its own.*union.*state another"):
        refuse_merge(aligned, out, overwrite=False, taken=Taken("code"))
    stated = finished.model("math") / "tokenizer.json"
    hidden = stated.rename(stated.with_suffix(".away"))
    config = finished.model("math") / "tokenizer_config.json"
    aside = config.rename(config.with_suffix(".away")) if config.exists() else None
    try:
        file = write_recipe(tmp_path / "recipe.json", hand_made(finished))
        with pytest.raises(UsageError, match=r"E500.*`math` has no tokenizer files"):
            refuse_merge(file, out, overwrite=False, taken=Taken("math"))
    finally:
        hidden.rename(stated)
        if aside is not None:
            aside.rename(config)


def test_the_card_has_a_picture_and_a_licence_that_the_hub_reads(
    finished: Finished, chatty: Path, exported: tuple[Path, object], tmp_path: Path
) -> None:
    out, _ = exported
    assert (out / "front.png").read_bytes().startswith(b"\x89PNG")
    assert "](front.png)" in (out / "README.md").read_text()
    assert ModelCard.load(out / "README.md").data.license is None
    assert "No source states a licence" in (out / "README.md").read_text()
    (finished.model("base") / "README.md").rename(tmp_path / "card")
    try:
        (finished.model("base") / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
        report = export_candidate(
            finished.directory, finished.real_merge(), tmp_path / "mixed", rescore=False
        )
    finally:
        (tmp_path / "card").rename(finished.model("base") / "README.md")
    data = ModelCard.load(tmp_path / "mixed" / "README.md").data
    assert data.license == "other"
    assert any("licences differ: base apache-2.0, code llama3.2" in text for text in report.warnings)
    assert "different licences" in (tmp_path / "mixed" / "README.md").read_text()
    assert len(data.eval_results) == 2
    one = data.eval_results[0]
    assert (one.dataset_split, set(one.metric_args)) == ("search", {"n", "stderr"})
