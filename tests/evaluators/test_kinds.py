"""Evaluators beyond lm-eval: slow definitions, lm-eval's rolling scores, the conformance suite."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from evomerge.errors import CandidateError, ConfigError, UsageError
from evomerge.evaluators.items import split_of
from evomerge.evaluators.kinds import KINDS, load_declaration, open_evaluator
from evomerge.evaluators.perplexity import windows
from evomerge.testing.evaluators import CHECKS, CLOCKED_CHECKS, byte_tokenizer, opened, tiny_subject

REPOSITORY = Path(__file__).parents[2]
GENERAL = REPOSITORY / "evaluators" / "general"
SHIPPED = sorted(GENERAL.glob("*.yaml"))
TEXT = (GENERAL / "data" / "english.txt").read_text()


def declare(folder: Path, **fields: object) -> Path:
    path = folder / "own.yaml"
    path.write_text(json.dumps({"schema": 1, "name": "own", **fields}))
    return path


@pytest.fixture(scope="module")
def subject():
    return tiny_subject()


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_declarations_pass_the_conformance_suite(path: Path, subject) -> None:
    assert load_declaration(path).problems() == []
    short = {"max_tokens": 5, "prompt_tokens": 8, "tokens": 2, "repeats": 2}
    declaration = load_declaration(path)
    known = {name: value for name, value in short.items() if name in type(declaration).model_fields}
    evaluator = open_evaluator(declaration.model_copy(update=known))
    for check in CHECKS if declaration.deterministic else CLOCKED_CHECKS:
        check(lambda: evaluator, subject)


def test_every_kind_is_shipped() -> None:
    """Classifiers are no language models; theirs stand in `test_classification.py`."""
    others = {"lm_eval", "text_classification", "image_classification"}
    assert {load_declaration(path).kind for path in SHIPPED} == set(KINDS) - others


def test_windows_are_the_text_cut_at_white_space() -> None:
    pieces = windows(TEXT, 200)
    assert "".join(pieces) == TEXT
    assert max(map(len, pieces)) <= 200
    assert all(piece[0].isspace() for piece in pieces[1:])
    assert windows("x" * 50, 20) == ["x" * 20, "x" * 20, "x" * 10]


def test_perplexity_is_that_of_lm_evals_rolling_log_likelihoods(tmp_path: Path, subject) -> None:
    """Windows of up to 700 byte tokens on a model that reads 256: three parts and more."""
    (tmp_path / "text.txt").write_text(TEXT[:6000])
    path = declare(tmp_path, kind="perplexity", text="text.txt", window=700, block_size=3)
    evaluator = opened(path)
    scores = evaluator.evaluate(subject, "search")
    texts = [str(item["text"]) for item in evaluator._splits["search"].items]  # type: ignore[attr-defined]
    lm = HFLM(pretrained=subject.model, tokenizer=subject.tokenizer, batch_size=1, max_length=256)
    requests = [Instance("loglikelihood_rolling", {}, (text,), i) for i, text in enumerate(texts)]
    expected = lm.loglikelihood_rolling(requests, disable_tqdm=True)
    assert scores.items["own.loglikelihood"] == pytest.approx(expected, rel=1e-6)
    tokens = [len(text.encode()) for text in texts]
    assert scores.items["own.tokens"].tolist() == tokens
    value = math.exp(-sum(expected) / sum(tokens))
    assert scores.metrics["own.perplexity"].value == pytest.approx(value, rel=1e-6)
    assert scores.metrics["own.perplexity"].items == len(texts)
    # In the direction of the metric: less is better.
    assert scores.smooth.keys() == {"own.perplexity"}
    assert scores.smooth["own.perplexity"] == pytest.approx([-each for each in expected], rel=1e-6)
    mean = scores.metrics["own.perplexity"].smooth
    assert mean == pytest.approx(-sum(expected) / len(expected), rel=1e-6)


def test_the_error_of_perplexity_is_that_of_resampling_windows(tmp_path: Path, subject) -> None:
    path = declare(tmp_path, kind="perplexity", text=str(GENERAL / "data" / "english.txt"), window=100)
    scores = opened(path).evaluate(subject, "search")
    sums, tokens = scores.items["own.loglikelihood"], scores.items["own.tokens"]
    rng = np.random.default_rng(0)
    draws = rng.integers(len(sums), size=(4000, len(sums)))
    resampled = np.exp(-sums[draws].sum(axis=1) / tokens[draws].sum(axis=1))
    assert scores.metrics["own.perplexity"].stderr == pytest.approx(resampled.std(), rel=0.1)


def test_lengths_of_a_chat_need_a_chat_template(tmp_path: Path, subject) -> None:
    lines = "".join(json.dumps({"prompt": f"say {number}"}) + "\n" for number in range(20))
    (tmp_path / "prompts.jsonl").write_text(lines)
    path = declare(tmp_path, kind="length", prompts="prompts.jsonl", apply_chat_template=True)
    with pytest.raises(ConfigError, match=r"E154.* apply_chat_template: .*chat_template is not set"):
        opened(path).evaluate(subject, "search")


def test_lengths_are_those_of_writing_one_answer_after_the_other(tmp_path: Path, subject) -> None:
    """Token by token without padding, cache or batch."""
    lines = [{"q": text} for text in ("one", "a longer question?", "x", "and four", "five", "si", "7")]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    files = {"search": "prompts.jsonl", "selection": "b.jsonl", "test": "c.jsonl"}
    for name in ("b.jsonl", "c.jsonl"):
        (tmp_path / name).write_text(json.dumps({"q": name}))
    path = declare(tmp_path, kind="length", prompts=files, field="q", max_tokens=12)
    evaluator = opened(path)
    # A model that ends often: the end token is made likely after some bytes.
    model = subject.model
    head = model.get_output_embeddings().weight
    before = head.detach().clone()
    try:
        with torch.no_grad():
            head[2] = 1.5 * head[3:].max(dim=0).values
        scores = evaluator.evaluate(subject, "search")
        expected = []
        for item in evaluator._splits["search"].items:  # type: ignore[attr-defined]
            tokens = subject.tokenizer(item["q"])["input_ids"]
            count = 0
            while count < 12:
                with torch.no_grad():
                    token = int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax())
                if token == 2:
                    break
                tokens, count = [*tokens, token], count + 1
            expected.append(float(count))
        assert scores.items["own.tokens"].tolist() == expected
        assert len(set(expected)) > 1
        assert scores.metrics["own.capped"].value == np.mean([count == 12 for count in expected])
    finally:
        with torch.no_grad():
            head.copy_(before)


def test_size_counts_tied_parameters_once(tmp_path: Path, subject) -> None:
    scores = opened(declare(tmp_path, kind="size")).evaluate(subject, "test")
    unique = {p.data_ptr(): p.numel() for p in subject.model.parameters()}
    assert scores.metrics["own.parameters"].value == sum(unique.values())
    assert scores.metrics["own.layers"].value == 2


def test_a_distance_needs_a_base(tmp_path: Path, subject) -> None:
    evaluator = opened(declare(tmp_path, kind="distance"))
    assert evaluator.evaluate(subject, "search").metrics["own.l1"].value == 12.5
    with pytest.raises(UsageError, match=r"E500.*`own` measures a distance.*--base"):
        evaluator.evaluate(replace(subject, statistics={}), "search")


def test_latency_is_positive_and_says_that_it_differs(tmp_path: Path, subject) -> None:
    path = declare(tmp_path, kind="latency", prompt_tokens=8, tokens=4, repeats=3)
    assert not load_declaration(path).deterministic
    scores = opened(path).evaluate(subject, "search")
    assert (scores.items["own.seconds_per_token"] > 0).all()
    assert len(scores.items["own.seconds_per_token"]) == 3
    assert load_declaration(path).digest() == load_declaration(path).digest()


def test_one_file_is_dealt_out_by_content(tmp_path: Path) -> None:
    lines = [json.dumps({"prompt": f"number {n}", "id": n}) for n in range(400)]
    (tmp_path / "p.jsonl").write_text("\n".join([*lines, *lines[:40]]))
    path = declare(tmp_path, kind="length", prompts="p.jsonl")
    evaluator = opened(path)
    counts = [evaluator.item_count(split) for split in ("search", "selection", "test")]
    assert sum(counts) == 440
    assert 160 < counts[0] < 280
    assert all(split_of(i) == "search" for i in evaluator.item_ids("search"))
    before = load_declaration(path).digest()
    (tmp_path / "p.jsonl").write_text("\n".join(lines))
    assert load_declaration(path).digest() != before


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "perplexty", "text": "t"}, r"E108.*kind.*did you mean `perplexity`"),
        ({"kind": 3}, r"E108.*kinds: lm_eval, perplexity"),
        (
            {"text": "t.txt"},
            r"E103\] .*own.yaml:\S+ kind: missing field; add `kind`, one of lm_eval, per",
        ),
        (
            {"task": "pets", "output_type": "multiple_choice"},
            r"E103\] .*own.yaml: this is a task of lm-eval, which an evaluator names; it has `output_type`",
        ),
        ({"kind": "size", "block_size": 4}, r"E104.*block_size: unknown field"),
        ({"kind": "perplexity"}, r"E103.*text: missing field"),
        ({"kind": "perplexity", "text": "t.txt", "window": 3}, r"E108.*window: .*16"),
        ({"kind": "perplexity", "text": "none.txt"}, r"E101.*text: no such file; found 'none.txt'"),
        ({"kind": "perplexity", "text": "short.txt"}, r"E128.*text: the \w+ split has no items"),
        ({"kind": "length", "prompts": "short.txt"}, r"E102.*prompts: .*short.txt:1: not a JSON line"),
        (
            {"kind": "perplexity", "text": "latin.txt"},
            r"E102.* latin.txt:2: no UTF-8 text \(byte 0xe4\); save",
        ),
        (
            {"kind": "length", "prompts": "latin.jsonl"},
            r"E102.* latin.jsonl:1: no UTF-8 text \(byte 0xe4\)",
        ),
        ({"kind": "length", "prompts": "p.jsonl", "field": "q"}, r"E102.*p.jsonl:1: an item lacks q"),
        (
            {
                "kind": "length",
                "prompts": {"search": "p.jsonl", "selection": "p.jsonl", "test": "p.jsonl"},
            },
            r"E128.*search and selection share items; 1 are in both",
        ),
        ({"kind": "size", "name": "a.b"}, r"E136.*name: an evaluator's name"),
    ],
)
def test_faults_name_code_and_field(tmp_path: Path, fields: dict[str, object], words: str) -> None:
    (tmp_path / "short.txt").write_text("a text")
    (tmp_path / "latin.txt").write_bytes(b"a text\n\xe4 word")
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "\xe4 word"}\n')
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n')
    with pytest.raises(ConfigError, match=words):
        opened(declare(tmp_path, **fields))


PLUGIN = '''
import torch

def vowels(subject, items, options):
    """Share of vowels in a text, weighed by the model's first weight."""
    scale = float(next(subject.model.parameters()).double().sum()) if options.get("scale") else 1.0
    texts = [item.get("text", "") for item in items]
    return {"share": [scale * sum(c in "aeiou" for c in t) / (len(t) or 1) for t in texts]}

def wrong_names(subject, items, options):
    return {"other": [0.0 for _ in items]}

def wrong_count(subject, items, options):
    return {"share": [0.0]}

def restless(subject, items, options):
    next(subject.model.parameters()).data.add_(1.0)
    return {"share": [float(torch.rand(())) for _ in items]}

number = 3
'''


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed distribution with functions under the entry point group, and items for them."""
    info = tmp_path / "site" / "vowel_count-1.0.dist-info"
    info.mkdir(parents=True)
    (tmp_path / "site" / "vowel_count_plugin.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vowel-count\nVersion: 1.0\n")
    names = ("vowels", "wrong_names", "wrong_count", "restless", "number", "absent")
    lines = "".join(f"{name} = vowel_count_plugin:{name}\n" for name in names)
    (info / "entry_points.txt").write_text(f"[evomerge.evaluators]\n{lines}")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "vowel_count_plugin", raising=False)
    texts = [{"text": TEXT[n : n + 30]} for n in range(0, 1500, 30)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    return tmp_path


@pytest.mark.parametrize("items", ["texts.jsonl", None])
def test_an_installed_function_is_an_evaluator(plugin: Path, items: str | None, subject) -> None:
    fields = {"metrics": {"share": "maximize"}, "options": {"scale": True}, "block_size": 6}
    path = declare(plugin, kind="vowels", **fields, **({"items": items} if items else {}))
    for check in CHECKS:
        check(lambda: opened(path), subject)
    declaration = load_declaration(path)
    assert declaration.directions() == {"own.share": True}
    before = declaration.digest()
    source = plugin / "site" / "vowel_count_plugin.py"
    source.write_text(source.read_text() + "# changed\n")
    assert load_declaration(path).digest() != before


def test_a_metric_named_like_smooth_values_is_refused(plugin: Path) -> None:
    path = declare(plugin, kind="vowels", metrics={"share~smooth": "maximize"})
    with pytest.raises(ConfigError, match=r"E136.*metrics: a metric's name must not end in `~smooth`"):
        load_declaration(path)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("wrong_names", r"E124.*metrics: the function of `wrong_names` gives other.*it gives: other"),
        ("wrong_count", r"E124.*`share` needs one number for each of \d+ items; found shape \(1,\)"),
        ("number", r"E123.*kind: vowel_count_plugin:number is no function"),
        ("absent", r"E123.*cannot be imported; AttributeError"),
    ],
)
def test_functions_that_do_not_fit_stop_the_run(plugin: Path, kind: str, words: str, subject) -> None:
    path = declare(plugin, kind=kind, items="texts.jsonl", metrics={"share": "either"})
    with pytest.raises(ConfigError, match=words):
        opened(path).evaluate(subject, "search")


def test_the_suite_finds_what_is_wrong_with_an_evaluator(plugin: Path) -> None:
    path = declare(plugin, kind="restless", items="texts.jsonl", metrics={"share": "either"})
    found = []
    for check in CHECKS:
        try:
            check(lambda: opened(path), tiny_subject())
        except AssertionError as error:
            found.append(str(error).splitlines()[0])
    assert "evaluation changed model.embed_tokens.weight" in found
    assert "a second evaluation gives other scores" in found
    assert "NaN weights give scores like any other" in found
    assert len(found) == 4


def test_the_byte_tokenizer_gives_back_any_text() -> None:
    tokenizer = byte_tokenizer()
    text = "naïve 東京\n\t<x>"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer(text)["input_ids"]) == len(text.encode())


def test_nonfinite_models_are_refused(subject) -> None:
    broken = tiny_subject()
    with torch.no_grad():
        broken.model.get_output_embeddings().weight[5] = math.nan
    for stem in ("perplexity", "length", "latency"):
        with pytest.raises(CandidateError, match="not"):
            opened(GENERAL / f"{stem}.yaml").evaluate(broken, "search")
