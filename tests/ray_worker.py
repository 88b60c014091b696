"""What Ray starts its workers with in tests: its own script imports Ray, only to begin another interpreter.

As that one does, it sets the variables of the runtime environment and then runs Ray's worker, but in this
process: a worker costs 1.2 s of processor time instead of 1.6. Nothing else of an environment is known here.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import sys

if __name__ == "__main__":
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--serialized-runtime-env-context", default="{}")
    parser.add_argument("--language")
    mine, sys.argv = parser.parse_known_args()
    environment = json.loads(mine.serialized_runtime_env_context)
    assert not environment.get("command_prefix"), environment
    os.environ.update(environment.get("env_vars") or {})
    sys.path[0] = os.path.dirname(sys.argv[0])
    runpy.run_path(sys.argv[0], run_name="__main__")
