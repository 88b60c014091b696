"""`push` by the hub's own client, against a stub of the hub's API on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from evomerge.export.files import MANIFEST_FILE, write_manifest
from tests.export.hub_stub import Hub, hub

TOKEN = "hf_planted"


def export_in(folder: Path) -> Path:
    """A folder that looks like an export: a few files, and the manifest that lists them."""
    (folder / "parts").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlibrary_name: transformers\n---\n# tiny\n")
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    (folder / "parts" / "recipe.json").write_text("{}\n")
    write_manifest(folder, {"name": "tiny"})
    return folder


def push(at: Hub, *words: object, **env: str) -> subprocess.CompletedProcess[str]:
    settings = {
        "HF_ENDPOINT": at.address,
        "HF_TOKEN": TOKEN,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",  # the stub speaks the other protocol
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    command = [sys.executable, "-m", "evomerge.cli", "push", *map(str, words)]
    environment = {**os.environ, **settings, **env}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)


def test_an_export_arrives_as_it_is_and_private(tmp_path: Path) -> None:
    folder = export_in(tmp_path / "tiny")
    with hub() as at:
        done = push(at, folder, "me/tiny", "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        again = push(at, folder, "me/tiny")
        assert again.returncode == 0, again.stdout + again.stderr
    said = json.loads(done.stdout)
    assert said == {"url": f"{at.address}/me/tiny", "commit": "a" * 40, "private": True, "files": 4}
    assert at.private == {"me/tiny": True}
    sent = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert at.files["me/tiny"] == sent
    assert at.tokens == {f"Bearer {TOKEN}"}
    assert "4 files are at" in again.stderr
    assert TOKEN not in done.stdout + done.stderr + again.stderr


def test_what_is_refused_and_named(tmp_path: Path) -> None:
    folder = export_in(tmp_path / "tiny")
    with hub() as at:
        at.private["me/open"] = False
        open_ = push(at, folder, "me/open")
        assert open_.returncode == 2
        assert "everybody can see me/open" in open_.stderr
        at.refuses = 403
        refused = push(at, folder, "me/tiny")
        assert refused.returncode == 5
        assert f"error[E408]: {at.address} did not take it" in refused.stderr
        assert TOKEN not in refused.stderr
        at.refuses = 0
        assert "is no repository" in push(at, folder, "tiny").stderr
        (folder / "README.md").write_text("changed")
        changed = push(at, folder, "me/tiny")
        assert changed.returncode == 9
        assert "README.md: changed" in changed.stderr
        (folder / MANIFEST_FILE).unlink()
        assert "this is no export" in push(at, folder, "me/tiny").stderr
    assert at.files == {}
