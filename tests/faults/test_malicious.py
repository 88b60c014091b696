"""F37: files made to do harm. Nothing they name may run, nothing outside their folder may be touched."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.version import Version
from safetensors.torch import load_file, save_file

from evomerge.cli.app import main
from evomerge.cli.verify.invariants import verify
from evomerge.ledger.records import RecordFile, read_records
from tests.faults.harness import Tally, Trial, row
from tests.tiny_models import write_campaign
from tests.tiny_runs import finished

CANARY = "canary"


class Bait:
    """Pickled, it makes the canary file when it is loaded."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.canary}",)


def shards(place: str) -> Callable[[Path, Path], None]:
    """An index that names weights at another place; a sound file lies there."""

    def attack(expert: Path, canary: Path) -> None:
        tensors = load_file(expert / "model.safetensors")
        outside = expert.parent / "outside.safetensors"
        save_file(tensors, outside, metadata={"format": "pt"})
        (expert / "model.safetensors").unlink()
        target = place.replace("ABSOLUTE", str(outside))
        index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, target)}
        (expert / "model.safetensors.index.json").write_text(json.dumps(index))

    return attack


def header(head: bytes, data: bytes = b"") -> Callable[[Path, Path], None]:
    def attack(expert: Path, canary: Path) -> None:
        (expert / "model.safetensors").write_bytes(head + data)

    return attack


def packed(head: dict[str, Any], data: bytes) -> bytes:
    text = json.dumps(head).encode()
    return struct.pack("<Q", len(text)) + text + data


def pickled(name: str) -> Callable[[Path, Path], None]:
    def attack(expert: Path, canary: Path) -> None:
        (expert / "model.safetensors").unlink()
        (expert / name).write_bytes(pickle.dumps(Bait(canary)))

    return attack


def entry(span: list[int]) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [2], "data_offsets": span}


OVERLAP = packed({"a": entry([0, 8]), "b": entry([4, 12])}, bytes(12))
MANY = packed(
    {str(n): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(100_000)}, b""
)

IN_A_MODEL: dict[str, tuple[str, Callable[[Path, Path], None]]] = {
    "pickle weights": ("E206", pickled("pytorch_model.bin")),
    "pickle called safetensors": ("E2", pickled("model.safetensors")),
    "index to the parent": ("E218", shards("../outside.safetensors")),
    "index to an absolute path": ("E218", shards("ABSOLUTE")),
    "index through a folder": ("E218", shards("a/../../outside.safetensors")),
    "index with NUL": ("E218", shards("outside\0.safetensors")),
    "index with backslashes": ("E218", shards("..\\outside.safetensors")),
    "header of a terabyte": ("E214", header(struct.pack("<Q", 2**40), b"{}")),
    "tensors that overlap": ("E214", header(OVERLAP)),
    "a hundred thousand tensors": ("E2", header(MANY)),
}


def campaign_text(change: Callable[[str, Path], str]) -> Callable[[Path, Path], None]:
    """A change of the campaign file's text."""

    def attack(file: Path, canary: Path) -> None:
        file.write_text(change(file.read_text(), canary))

    return attack


def first_field(field: str) -> Callable[[Path, Path], None]:
    return campaign_text(
        lambda text, canary: text.replace("{", "{" + field.replace("CANARY", str(canary)), 1)
    )


BOMB = "x: [&a [1,1], &b [*a,*a,*a,*a,*a,*a,*a,*a,*a], &c [*b,*b,*b,*b,*b,*b,*b,*b,*b], " + ", ".join(
    f"&{chr(100 + n)} [{','.join(['*' + chr(99 + n)] * 9)}]" for n in range(6)
)

IN_A_CAMPAIGN: dict[str, tuple[str, Callable[[Path, Path], None]]] = {
    "a Python tag": ("E106", first_field('x: !!python/object/apply:os.system ["touch CANARY"],')),
    "an alias bomb": ("E107", first_field(BOMB + "],")),
    "a list a hundred thousand deep": (
        "E107",
        campaign_text(lambda text, canary: text.replace("{", "{x: " + "[" * 100_000, 1)),
    ),
    "a key twice": ("E105", first_field('"seed": 1,')),
    "a name that is a command": (
        "E136",
        campaign_text(lambda text, canary: text.replace('"tiny"', f'"x;$(touch {canary})"')),
    ),
    "a name that is a path": ("E136", campaign_text(lambda t, c: t.replace('"tiny"', '"../../x"'))),
    "an expert that is a path": (
        "E136",
        campaign_text(lambda t, c: t.replace('"code":', '"../code":')),
    ),
}


def task(field: str, value: str) -> Callable[[Path, Path], None]:
    """A field of a task file, with a Python file beside it that makes the canary when it is imported."""

    def attack(file: Path, canary: Path) -> None:
        tasks = file.parent / "evaluators" / "tasks"
        (tasks / "bait.py").write_text(f"open({str(canary)!r}, 'w')\ndef process(*_): return 'x'\n")
        path = tasks / "birds_search.yaml"
        lines = [line for line in path.read_text().splitlines() if not line.startswith(field + ":")]
        lines.append(f"{field}: {value}".replace("CANARY", str(canary)))
        path.write_text("\n".join(lines) + "\n")

    return attack


TEMPLATE = "\"{{ cycler.__init__.__globals__.os.system('touch CANARY') }}\""

IN_A_TASK: dict[str, tuple[str, Callable[[Path, Path], None]]] = {
    "a task with a function": ("E126", task("doc_to_text", "!function bait.process")),
    "a task with unsafe code": ("E126", task("unsafe_code", "true")),
    "a task that loads by a script": ("E", task("dataset_path", "bait.py")),
    "a task with a template that runs a command": ("E", task("doc_to_text", TEMPLATE)),
}

ATTACKS = {**IN_A_MODEL, **IN_A_CAMPAIGN, **IN_A_TASK}
OTHERS = 3


@row("F37", "24 malicious inputs", quick=24, t1=24, t2=48)
def test_f37_malicious_inputs(trial: Trial) -> Tally:
    """Each refused by its code; the canary is never made, and files outside stay as they were."""
    for name, (expected, attack) in ATTACKS.items():
        folder = trial.folder / name.replace(" ", "_")
        canary = trial.folder / CANARY
        file = copied(folder)
        attack(folder / "models" / "code" if name in IN_A_MODEL else file, canary)
        before = everything(folder)
        code, text = said("check", file)
        if name in IN_A_TASK:
            # What `check` cannot see is met by a worker.
            code, text = said("run", file, "--dir", folder / "run")
        assert code in (3, 4, 5), (name, code, text)
        assert f"error[{expected}" in text, (name, text)
        assert "E999" not in text, (name, text)
        assert not canary.exists(), name
        assert {k: v for k, v in everything(folder).items() if k in before} == before, name
    planted_pickles(trial.folder)
    a_ledger_that_points_elsewhere(trial.folder)
    a_folder_whose_name_is_a_command(trial.folder)
    return Tally(injections=len(ATTACKS) + OTHERS)


def copied(folder: Path) -> Path:
    source = finished().file.parent
    for name in ("models", "evaluators"):
        shutil.copytree(source / name, folder / name)
    return write_campaign(folder)


def everything(folder: Path) -> dict[str, int]:
    """Every file in a folder with its size."""
    return {str(p): p.stat().st_size for p in folder.rglob("*") if p.is_file() and "run" not in p.parts}


def said(*words: str | os.PathLike[str]) -> tuple[int, str]:
    """Exit code of a command line and what it wrote to stderr."""
    text = io.StringIO()
    with contextlib.redirect_stderr(text), contextlib.redirect_stdout(io.StringIO()):
        code = main([os.fspath(word) for word in words])
    return code, text.getvalue()


def planted_pickles(place: Path) -> None:
    """A campaign folder from somebody else: every cached file is a pickle that makes the canary."""
    folder, canary = place / "planted", place / CANARY
    shutil.copytree(finished().directory, folder / "run")
    file = copied(folder)
    write_campaign(folder, budget={"evaluations": 24})
    cache = folder / "run" / "cache"
    planted = [path for path in cache.rglob("*") if path.is_file()]
    assert planted
    for path in planted:
        path.write_bytes(pickle.dumps(Bait(canary)))
    said("run", file, "--dir", folder / "run")
    assert not canary.exists()


def a_ledger_that_points_elsewhere(place: Path) -> None:
    """Item references that lead out of the folder are not followed."""
    folder = place / "pointing"
    shutil.copytree(finished().directory, folder)
    path = folder / "ledger.jsonl"
    events = read_records(path)
    path.unlink()
    secret = place / "secret.bin"
    secret.write_bytes(b"secret" * 100)
    with RecordFile.open(path, create=True) as ledger:
        for event in events:
            event = {k: v for k, v in event.items() if k not in ("n", "format")}
            for reference in event.get("items", {}).values():
                reference["segment"] = "../../secret.bin"
            ledger.append(event)
    problems = verify(folder)
    assert any("no reference to a segment" in str(problem) for problem in problems)
    assert "secretsecret" not in " ".join(map(str, problems))


def a_folder_whose_name_is_a_command(place: Path) -> None:
    """Generated job files quote what they are given."""
    canary = place / CANARY
    folder = place / "ray"
    copied(folder)
    file = write_campaign(folder, workers={"pool": "ray", "count": 1, "address": "auto"})
    out = io.StringIO()
    name = f"$(touch {canary});`touch {canary}`"
    with contextlib.redirect_stdout(out):
        assert main(["launch", "slurm", str(file), "--dir", str(place / name)]) == 0
    shims = place / "shims"
    shims.mkdir()
    listens = "import socket, sys, time\ns = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
    listens += "time.sleep(60)"
    (shims / "listens.py").write_text(listens)
    for tool, does in {
        "scontrol": "true",
        "ray": f'exec {sys.executable} "$(dirname "$0")/listens.py" "${{@: -3:1}}"',
        "evomerge": 'echo "$@" > "$(dirname "$0")/ran"',
    }.items():
        (shims / tool).write_text(f"#!/bin/bash\n{does}\n")
        (shims / tool).chmod(0o755)
    script = place / "job.sh"
    script.write_text(out.getvalue())
    environment = {
        **os.environ,
        "PATH": f"{shims}:{os.environ['PATH']}",
        "HOME": str(place),
        "SLURM_JOB_ID": str(os.getpid()),
    }
    subprocess.run(["bash", str(script)], env=environment, timeout=60, capture_output=True, check=False)
    assert name in (shims / "ran").read_text(), "the line was reached"
    assert not canary.exists()


def test_f37_floors_of_libraries_with_known_flaws() -> None:
    """Older Ray runs commands for everybody; older torch and safetensors can be made to by a file."""
    asked = {r.name: r for r in map(Requirement, metadata.requires("evomerge") or [])}
    for name, floor in {"ray": "2.54", "torch": "2.10", "safetensors": "0.8"}.items():
        assert str(asked[name].specifier) == f">={floor}"
        assert Version(metadata.version(name)) >= Version(floor)
