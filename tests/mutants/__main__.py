"""Run the tests against each mutant: `python -m tests.mutants [NAME ...]`.

Prints a table (mutant, which test killed it) and a summary. Exit code 1 if more than one in thirty survive, 2
if a test that killed one fails without it too. Results are kept; what was run on the same code and tests is
not run again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from tests.mutants.mutant import MUTANTS, REPOSITORY, Mutant
from tests.mutants.run import SURVIVED, TIMEOUT, copy_checkout, failing_test, killed_by, load_libraries

ALLOWED = 1 / 30
"""Share of mutants that may survive."""


def main(words: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", help="mutants to run, `ledger-*` for several; all without")
    parser.add_argument("--results", type=Path, default=REPOSITORY / "runs" / "mutants.json")
    parser.add_argument(
        "--again", action="store_true", help="also what was run on the same code before"
    )
    options = parser.parse_args(words)
    chosen = [m for m in MUTANTS if not options.names or any(fnmatch(m.name, n) for n in options.names)]
    if not chosen:
        parser.error(f"no such mutant; there are {', '.join(m.name for m in MUTANTS)}")
    known = json.loads(options.results.read_text()) if options.results.exists() else {}
    left = [m for m in chosen if options.again or known.get(m.name, {}).get("digest") != digest(m)]
    with tempfile.TemporaryDirectory(prefix="evomerge-mutants-") as folder:
        copy = Path(folder) / "checkout"
        copy_checkout(copy)
        load_libraries()
        for mutant in left:
            began = time.monotonic()
            killer = killed_by(mutant, copy)
            known[mutant.name] = {"digest": digest(mutant), "killed_by": killer}
            options.results.parent.mkdir(parents=True, exist_ok=True)
            options.results.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
            print(
                f"{mutant.name}: {killer} ({time.monotonic() - began:.0f} s)",
                file=sys.stderr,
                flush=True,
            )
        killers = {mutant.name: str(known[mutant.name]["killed_by"]) for mutant in chosen}
        tests = sorted({killers[mutant.name] for mutant in left if "::" in killers[mutant.name]})
        failed = failing_test(copy, tests, 10 * TIMEOUT) if tests else None
        if failed:
            print(f"without any mutant fails {failed}", file=sys.stderr)
            return 2
    print(table(chosen, killers))
    survivors = sum(killer == SURVIVED for killer in killers.values())
    print(f"\n{len(chosen)} mutants, {len(chosen) - survivors} killed, {survivors} survived")
    return int(survivors > ALLOWED * len(chosen))


def table(mutants: Sequence[Mutant], killers: dict[str, str]) -> str:
    """Markdown: each mutant, where it is, what goes wrong, who killed it."""
    rows = [(m.name, f"`{m.file}`", m.note, _short(killers[m.name])) for m in mutants]
    head = [("mutant", "file", "what goes wrong", "killed by"), ("---",) * 4]
    return "\n".join(f"| {' | '.join(row)} |" for row in (*head, *rows))


def _short(killer: str) -> str:
    return killer if "::" not in killer else f"`{killer.removeprefix('tests/')}`"


def digest(mutant: Mutant) -> str:
    """SHA-256 over the mutant, the code it changes and its tests."""
    files = [mutant.source(), *(REPOSITORY / "tests" / test.split("::")[0] for test in mutant.tests)]
    parts = [repr(mutant).encode(), *(path.read_bytes() for path in files)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
