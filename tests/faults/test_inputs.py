"""Files that are broken, do not fit together, or change under a campaign: F26 to F29."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from evomerge.cli.app import main
from evomerge.ledger.records import RecordFile, read_records
from tests.faults.bed import RUN
from tests.faults.harness import Tally, Trial, row
from tests.tiny_models import write_campaign, write_model
from tests.tiny_runs import finished


def copied(folder: Path) -> Path:
    """Files of the tiny campaign that may be changed; returns the campaign file."""
    source = finished().file.parent
    for name in ("models", "evaluators"):
        shutil.copytree(source / name, folder / name)
    return write_campaign(folder)


def said(*words: str | os.PathLike[str]) -> tuple[int, str]:
    """Exit code of a command line and what it wrote to stderr."""
    text = io.StringIO()
    with contextlib.redirect_stderr(text), contextlib.redirect_stdout(io.StringIO()):
        code = main([os.fspath(word) for word in words])
    return code, text.getvalue()


@row("F26", "an expert's weights altered after the campaign began", quick=2, t1=20, t2=100)
def test_f26_weights_that_change(trial: Trial) -> Tally:
    """A flipped bit or another model's file: exit 4 by name, and not a byte more in the ledger."""
    file = copied(trial.folder)
    shutil.copytree(finished().directory, trial.folder / RUN)
    write_campaign(trial.folder, budget={"evaluations": 24})
    ledger = trial.folder / RUN / "ledger.jsonl"
    before = ledger.read_bytes()
    path = trial.folder / "models" / "code" / "model.safetensors"
    if trial.index % 2:
        other = load_file(trial.folder / "models" / "math" / "model.safetensors")
        save_file(other, path, metadata={"format": "pt"})
    else:
        data = bytearray(path.read_bytes())
        head = 8 + struct.unpack("<Q", data[:8])[0]
        # Not the exponent's top bits, which could make a NaN, and that would be another fault.
        data[head + 2 * trial.rng.randrange((len(data) - head) // 2)] ^= 1
        path.write_bytes(data)
    code, text = said("run", file, "--dir", trial.folder / RUN)
    assert code == 4, text
    assert "error[E239]" in text
    assert "`code`" in text
    assert ledger.read_bytes() == before
    return Tally(injections=1)


def weights(folder: Path) -> Path:
    return folder / "model.safetensors"


def index_file(content: Any) -> Callable[[Path], None]:
    """Makes the weights two shards with this index (a function of the sound one)."""

    def change(folder: Path) -> None:
        tensors = load_file(weights(folder))
        names = sorted(tensors)
        shards = {n: f"model-0000{1 + (i % 2)}-of-00002.safetensors" for i, n in enumerate(names)}
        for shard in set(shards.values()):
            part = {n: tensors[n] for n in names if shards[n] == shard}
            save_file(part, folder / shard, metadata={"format": "pt"})
        weights(folder).unlink()
        index = content({"metadata": {}, "weight_map": shards}, folder)
        if index is not None:
            (folder / "model.safetensors.index.json").write_text(index)

    return change


def without_shard(index: dict[str, Any], folder: Path) -> str:
    (folder / "model-00002-of-00002.safetensors").unlink()
    return json.dumps(index)


def damaged_header(folder: Path) -> None:
    data = weights(folder).read_bytes()
    weights(folder).write_bytes(data[:8] + b"x" + data[9:])


def without_tensor(folder: Path) -> None:
    tensors = load_file(weights(folder))
    del tensors["model.norm.weight"]
    save_file(tensors, weights(folder), metadata={"format": "pt"})


BROKEN: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "empty file": ("E211", lambda f: weights(f).write_bytes(b"")),
    "truncated data": ("E212", lambda f: weights(f).write_bytes(weights(f).read_bytes()[:-100])),
    "bytes too many": ("E213", lambda f: weights(f).write_bytes(weights(f).read_bytes() + b"xx")),
    "damaged header": ("E214", damaged_header),
    "Git LFS pointer": (
        "E209",
        lambda f: weights(f).write_text(
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
        ),
    ),
    "web page": ("E210", lambda f: weights(f).write_text("<!DOCTYPE html><html>Not found</html>")),
    "pickle renamed": ("E208", lambda f: torch.save({"a": torch.ones(2)}, weights(f))),
    "pickle only": ("E206", lambda f: weights(f).rename(f / "pytorch_model.bin")),
    "shard missing": ("E215", index_file(without_shard)),
    "no index": ("E216", index_file(lambda index, folder: None)),
    "index cut": ("E217", index_file(lambda index, folder: json.dumps(index)[:-40])),
    "tensor missing": ("E220", without_tensor),
    "no config": ("E202", lambda f: (f / "config.json").unlink()),
    "no folder": ("E201", lambda f: f.rename(f.with_name("moved"))),
}


@row("F27", "14 kinds of broken checkpoint", quick=len(BROKEN), t1=len(BROKEN), t2=2 * len(BROKEN))
def test_f27_broken_checkpoints(trial: Trial) -> Tally:
    """`check` names each by its code, exit 4, and no Ray and no model was loaded for it."""
    kinds = list(BROKEN.items())
    for kind, (expected, change) in kinds:
        folder = trial.folder / kind.replace(" ", "_")
        file = copied(folder)
        expert = ("math", "code", "base")[trial.index % 3]
        change(folder / "models" / expert)
        code, text = said("check", file)
        assert code == 4, (kind, text)
        assert f"error[{expected}]" in text, (kind, text)
        assert f"models/{expert}" in text, (kind, text)
    return Tally(injections=len(kinds))


def edited(**fields: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | fields))

    return change


def other_model(**fields: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        shutil.rmtree(folder)
        write_model(folder, expert=0, **fields)

    return change


def swapped_tokens(folder: Path) -> None:
    path = folder / "tokenizer.json"
    text = json.loads(path.read_text())
    vocabulary = text["model"]["vocab"]
    one, two = list(vocabulary)[4:6]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    path.write_text(json.dumps(text))


MISMATCHED: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "architecture": ("E225", edited(model_type="qwen2")),
    "unknown architecture": ("E225", edited(model_type="llamma")),
    "layers": ("E224", other_model(num_hidden_layers=3)),
    "config without its layers": ("E222", edited(num_hidden_layers=4)),
    "width": ("E224", other_model(intermediate_size=80)),
    "heads": ("E224", edited(num_attention_heads=2)),
    "tokens": ("E227", swapped_tokens),
    "quantised": ("E230", edited(quantization_config={"quant_method": "gptq", "bits": 4})),
    "vocabulary": ("E226", other_model(vocab_size=90)),
    "adapter without its rank": (
        "E234",
        lambda f: (
            (f / "config.json").unlink(),
            (f / "adapter_config.json").write_text('{"peft_type": "LORA"}'),
        ),
    ),
}


@row("F28", "10 kinds of models that do not fit", quick=10, t1=10, t2=20)
def test_f28_models_that_do_not_fit(trial: Trial) -> Tally:
    """Each named, and two of them in one report: the second expert has a fault of its own."""
    for kind, (expected, change) in MISMATCHED.items():
        folder = trial.folder / kind.replace(" ", "_")
        file = copied(folder)
        change(folder / "models" / "math")
        weights(folder / "models" / "code").write_bytes(b"")
        code, text = said("check", file)
        assert code == 4, (kind, text)
        assert f"error[{expected}]" in text, (kind, text)
        assert "error[E211]" in text, (kind, text)
    return Tally(injections=len(MISMATCHED))


def longer(folder: Path, **sections: Any) -> None:
    write_campaign(folder, **{"budget": {"evaluations": 24}, **sections})


def other_item(folder: Path) -> None:
    path = folder / "evaluators" / "tasks" / "data" / "birds_search.jsonl"
    lines = path.read_text().splitlines()
    item = json.loads(lines[0])
    lines[0] = json.dumps(item | {"answer": (item["answer"] + 1) % 4})
    path.write_text("\n".join(lines) + "\n")


def other_space(folder: Path) -> None:
    space = json.loads((folder / "space.yaml").read_text())
    space["coefficients"]["weight"]["high"] = 2.0
    (folder / "space.yaml").write_text(json.dumps(space))


def older_ledger(folder: Path) -> None:
    """A library that asks otherwise, as one of another version might."""
    path = folder / RUN / "ledger.jsonl"
    events = read_records(path)
    path.unlink()
    with RecordFile.open(path, create=True) as ledger:
        for event in events:
            event = {k: v for k, v in event.items() if k not in ("n", "format")}
            if event["event"] == "campaign":
                event["versions"]["pymoo"] = "0.0.1"
            if event["event"] == "told":
                event["state"] = "0" * 64
            ledger.append(event)


DRIFT: dict[str, tuple[int, str, Callable[[Path], Any]]] = {
    "seed": (3, "seed: changed since the campaign began; was 7, is 8", lambda f: longer(f, seed=8)),
    "batch size": (3, "evaluation.batch_size", lambda f: longer(f, evaluation={"batch_size": 4})),
    "dtype": (3, "evaluation.dtype", lambda f: longer(f, evaluation={"dtype": "bfloat16"})),
    "population": (3, "optimizer.population", lambda f: longer(f, optimizer={"population": 8})),
    "bounds": (3, "search_space.coefficients.weight.high", other_space),
    "objective": (
        3,
        "objectives",
        lambda f: longer(f, objectives=[{"metric": "pets.acc", "direction": "maximize"}]),
    ),
    "items": (3, "evaluator `birds` or its items changed", other_item),
    "library": (7, "pymoo was 0.0.1", older_ledger),
}


@row("F29", "8 kinds of drift between sessions", quick=8, t1=8, t2=16)
def test_f29_drift_between_sessions(trial: Trial) -> Tally:
    """Refused with what differs, and nothing written; budget and workers may change."""
    for kind, (expected, words, change) in DRIFT.items():
        folder = trial.folder / kind.replace(" ", "_")
        file = copied(folder)
        shutil.copytree(finished().directory, folder / RUN)
        longer(folder)
        change(folder)
        ledger = folder / RUN / "ledger.jsonl"
        before = ledger.read_bytes()
        code, text = said("run", file, "--dir", folder / RUN)
        assert code == expected, (kind, text)
        assert words in text, (kind, text)
        assert ledger.read_bytes() == before, kind
    return Tally(injections=len(DRIFT))


def test_f27_checking_starts_neither_ray_nor_a_model(tmp_path: Path) -> None:
    file = copied(tmp_path)
    weights(tmp_path / "models" / "math").write_bytes(b"")
    code = f"""
import sys
from evomerge.cli.app import main
assert main(["check", {str(file)!r}]) == 4
print(sorted({{"ray", "torch", "transformers"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr
