"""A person's own evaluator: a function of a script, in local workers without a package or a pickle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import evomerge as em
from evomerge.evaluators import registered as room
from evomerge.evaluators.kinds import load_declaration, open_evaluator
from evomerge.testing.evaluators import CHECKS, tiny_subject
from tests.local_workers import script_in_a_fork
from tests.tiny_models import write_campaign

SCRIPT = """
import sys
import math
import evomerge as em

def helper(text):
    return len(text)

@em.evaluator("vowels")
def vowels(subject, items, options) -> "dict[str, list[float]]":
    scale = math.tanh(float(next(subject.model.parameters()).double().abs().mean()))
    return {"share": [scale * sum(c in "aeiou" for c in i["text"]) / len(i["text"]) for i in items]}

@em.evaluator("stuck")
def stuck(subject, items, options):
    return {"share": [helper(item["text"]) for item in items]}

run = em.Campaign.load("campaign.yaml").run("run", progress=False)
print(run.history.stopped, len(run.front()))
print(em.Campaign.load("other.yaml").check().problems[0])
"""


def declare(folder: Path, kind: str) -> Path:
    lines = [json.dumps({"text": f"a text about {n} words"}) for n in range(40)]
    (folder / "texts.jsonl").write_text("\n".join(lines) + "\n")
    path = folder / f"{kind}.yaml"
    fields = {"schema": 1, "kind": kind, "name": "own", "items": "texts.jsonl"}
    path.write_text(json.dumps({**fields, "metrics": {"share": "maximize"}}))
    return path


def test_a_function_of_a_script_is_used_by_workers_in_other_processes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    objectives = [{"metric": name, "direction": "maximize"} for name in ("pets.acc", "own.share")]
    for kind, name in (("stuck", "other.yaml"), ("vowels", "campaign.yaml")):
        declare(tmp_path, kind)
        file = write_campaign(
            tmp_path,
            objectives=objectives,
            budget={"evaluations": 4},
            optimizer={"population": 4},
            baselines={"single": [0.5]},
            workers={"pool": "local", "count": 1},
        )
        config = json.loads(file.read_text())
        config["evaluators"] = ["evaluators/pets.yaml", f"{kind}.yaml"]
        (tmp_path / name).write_text(json.dumps(config))
    (tmp_path / "script.py").write_text(SCRIPT)
    capfd.readouterr()
    code = script_in_a_fork(tmp_path / "script.py")
    said = capfd.readouterr()
    assert code == 0, said.err
    first, second = said.out.splitlines()
    assert first.startswith("budget ")
    assert "E513" in second
    assert "it uses `helper` of its file; define or import that inside" in second


@pytest.fixture(autouse=True)
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_REGISTERED", {})


def test_it_conforms_and_its_digest_follows_its_source(tmp_path: Path) -> None:
    @em.evaluator("length")
    def length(subject, items, options):
        import torch

        finite = all(bool(torch.isfinite(p).all()) for p in subject.model.parameters())
        scale = float(next(subject.model.parameters()).double().sum()) if finite else float("nan")
        return {"share": [scale * len(item["text"]) for item in items]}

    path = declare(tmp_path, "vowels")
    room._REGISTERED["vowels"] = room._REGISTERED.pop("length")
    subject = tiny_subject()
    for check in CHECKS:
        check(lambda: open_evaluator(load_declaration(path)), subject)
    before = load_declaration(path).digest()

    @em.evaluator("vowels")
    def other(subject, items, options):
        return {"share": [0.0 for _ in items]}

    assert load_declaration(path).digest() != before


def test_what_is_shipped_is_the_function_by_itself() -> None:
    @em.evaluator("plain")
    def plain(subject: object, items: list[str], options: dict[str, int]) -> dict[str, list[float]]:
        return {"n": [float(len(json.dumps(item))) for item in items]}

    (one,) = room.shipped(["plain", "lm_eval"])
    assert one.text.startswith("import json as json\ndef plain(subject, items, options):")
    digest = room.registered()["plain"].digest
    room._REGISTERED.clear()
    room.install([one])
    assert room.registered()["plain"].function(None, ["ab"], {}) == {"n": [4.0]}
    assert room.registered()["plain"].digest == digest
    outer = 3

    @em.evaluator("closed")
    def closed(subject, items, options):
        return {"n": [outer for _ in items]}

    assert room.registered()["closed"].why_not == "it uses `outer` of the function around it"
    assert room.shipped(["closed"]) == ()
    with pytest.raises(em.EvomergeError, match=r"E123.*cannot be loaded in a worker.*no_such_module"):
        room.install([room.Shipped("x", "no_such_module", "x", "")])


def test_a_function_with_the_name_of_a_built_in_kind_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file would be read as the built-in kind, and the function never called."""
    monkeypatch.setattr(room, "_REGISTERED", {})
    em.evaluator("size")(lambda subject, items, options: {"share": [0.0]})
    (tmp_path / "own.yaml").write_text(json.dumps({"schema": 1, "kind": "size", "name": "own"}))
    with pytest.raises(
        em.EvomergeError, match=r"E108.* kind: `size` is built in, and a function too; reg"
    ):
        load_declaration(tmp_path / "own.yaml")
