"""Special tokens, generation settings and chat templates of models that are merged."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import AutoTokenizer, GenerationConfig

from evomerge.checkpoint.compare import compare_with_base
from evomerge.checkpoint.folder import open_folder
from evomerge.export.export import merge_recipe
from tests.tiny_models import write_model

TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


def write_pair(folder: Path) -> tuple[int, int]:
    """A base that stops at its end token and a chat expert that also stops at another; gives the two ids."""
    for name, expert in (("base", None), ("chat", 0)):
        write_model(folder / name, expert=expert)
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    ids = tokenizer.eos_token_id, max(tokenizer.get_vocab().values())
    GenerationConfig(eos_token_id=ids[0]).save_pretrained(folder / "base")
    settings = GenerationConfig(eos_token_id=list(ids), temperature=0.7, do_sample=True)
    settings.save_pretrained(folder / "chat")
    (folder / "chat" / "chat_template.jinja").write_text(TEMPLATE)
    return ids


def merge_yaml(folder: Path, extra: str = "") -> Path:
    file = folder / "merge.yml"
    file.write_text(
        "merge_method: task_arithmetic\nbase_model: base\ndtype: bfloat16\n"
        f"models: [{{model: chat, parameters: {{weight: 0.5}}}}]\n{extra}"
    )
    return file


def test_every_difference_is_named_with_both_values(tmp_path: Path) -> None:
    end, other = write_pair(tmp_path)
    base, chat = (open_folder(tmp_path / name, name) for name in ("base", "chat"))
    (problem,) = compare_with_base(base, [chat])
    assert problem.code == "E228"
    for text in (
        f"eos_token_id: base {end}, chat [{end}, {other}]",
        "temperature: base null, chat 0.7",
        "chat template: base null, chat",
    ):
        assert text in problem.found
    assert compare_with_base(base, [open_folder(tmp_path / "base", "twin")]) == []


def test_a_union_stops_where_any_of_its_models_does(tmp_path: Path) -> None:
    ids = write_pair(tmp_path)
    alone = merge_recipe(merge_yaml(tmp_path), tmp_path / "alone")
    report = merge_recipe(merge_yaml(tmp_path, "tokenizer_source: union\n"), tmp_path / "union")
    assert GenerationConfig.from_pretrained(tmp_path / "alone").eos_token_id == ids[0]
    assert GenerationConfig.from_pretrained(tmp_path / "union").eos_token_id == sorted(ids)
    assert any("generation stops at" in text for text in report.warnings)
    assert any("eos_token_id: base" in text for text in alone.warnings)
    # The base has no template, and the only expert's is what all agree on.
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "alone")
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi"
    listed = json.loads((tmp_path / "union" / "evomerge.json").read_text())["files"]
    assert {"chat_template.jinja", "generation_config.json"} <= set(listed)
