"""The recipe of the image: what it copies is there and let through, and nothing runs as root."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
LINES = re.sub(r"\\\n\s*", " ", (REPOSITORY / "Dockerfile").read_text()).splitlines()


def instructions(name: str) -> list[str]:
    return [line.removeprefix(name).strip() for line in LINES if line.startswith(f"{name} ")]


def test_what_is_copied_is_in_the_checkout_and_let_through() -> None:
    let_through = {
        line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    copied = {
        name
        for line in instructions("COPY")
        if not line.startswith("--from")
        for name in line.split()[:-1]
    }
    assert copied == let_through
    assert all((REPOSITORY / name).exists() for name in copied)


def test_two_stages_and_no_root() -> None:
    assert len(instructions("FROM")) == 2
    last = LINES[max(n for n, line in enumerate(LINES) if line.startswith("FROM ")) :]
    assert "USER 1000" in last
    assert any("useradd --uid 1000" in line for line in last)
    assert not any("pip install" in line for line in last), "no caches, compilers' leavings or sources"
    assert all("latest" not in line for line in instructions("FROM"))


def test_it_is_linted_where_a_linter_is() -> None:
    if shutil.which("hadolint") is None:
        pytest.skip("hadolint is not installed")
    subprocess.run(["hadolint", "--ignore", "DL3008", "Dockerfile"], cwd=REPOSITORY, check=True)
