"""Merge methods of installed packages: found by their entry point, sent to workers by their module."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

MODULE = """
import evomerge as em
from math import tanh

@em.merge_method("installed", em.Coefficient("weight", 0.0, 1.0, 0.5))
def bent(base, experts, weight):
    return base + tanh(weight) * (experts[0] - base)
"""

CODE = """
import sys
sys.path.insert(0, {folder!r})
from evomerge.errors import ConfigError
from evomerge.recipe import registered as room
print(room.installed_methods()["installed"], "installed" in room.known_methods())
method = room.find_method("installed")
(sent,) = room.shipped_methods(["installed", "ties"])
print(method.coefficients[0].default, len(method.function), sent.function.module, sent.function.text == "")
room._REGISTERED.clear()
del sys.modules["mine"]
room.install_methods([sent])
print(room.find_method("installed").function == method.function, "torch" in sys.modules)
for name in ("broken", "other"):
    try:
        room.find_method(name)
    except ConfigError as error:
        print(error)
"""


def test_methods_of_installed_packages(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MODULE)
    info = tmp_path / "mine-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[evomerge.methods]\ninstalled = mine\nbroken = mine.nothing\nother = mine\n"
    )
    code = CODE.format(folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[:3] == ["mine True", "0.5 64 mine True", "True False"]
    assert "E123" in lines[3]
    assert "mine.nothing cannot be imported" in lines[3]
    assert "mine registers no merge method `other`" in lines[4]
