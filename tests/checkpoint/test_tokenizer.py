"""Tokenizer files of a union, read by the tokenizers library itself."""

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from evomerge.checkpoint.tokenizer import write_union
from evomerge.checkpoint.vocabulary import token_ids

TEXTS = {"base": "the cat sat on the mat", "expert": "el perro grande corre por la calle"}


def write_bpe(folder: Path, text: str, *, pairs: bool) -> Tokenizer:
    """Byte-level BPE trained on a text; merges as pairs, or as older releases wrote them (`left right`)."""
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = byte_level  # type: ignore[assignment]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([text] * 20, trainer)
    data = json.loads(tokenizer.to_str())
    if not pairs:
        data["model"]["merges"] = [" ".join(merge) for merge in data["model"]["merges"]]
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(data))
    return tokenizer


@pytest.mark.parametrize("base_pairs", [True, False])
@pytest.mark.parametrize("expert_pairs", [True, False])
def test_merges_of_both_models_work_whoever_wrote_them(
    tmp_path: Path, base_pairs: bool, expert_pairs: bool
) -> None:
    written = {"base": base_pairs, "expert": expert_pairs}
    own = {n: write_bpe(tmp_path / n, TEXTS[n], pairs=pairs) for n, pairs in written.items()}
    ids = token_ids(tmp_path / "base")
    for token in token_ids(tmp_path / "expert"):
        ids.setdefault(token, len(ids))
    shutil.copytree(tmp_path / "base", tmp_path / "union")
    write_union(tmp_path / "union", [tmp_path / "expert"], ids)
    union = Tokenizer.from_file(str(tmp_path / "union" / "tokenizer.json"))
    assert union.get_vocab() == ids
    assert union.encode(TEXTS["base"]).tokens == own["base"].encode(TEXTS["base"]).tokens
    assert union.encode(" perro").tokens == own["expert"].encode(" perro").tokens == ["Ġperro"]
