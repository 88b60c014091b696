"""The forms of `tests/mergekit/published.txt`, carried out by the real mergekit and by us."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from safetensors.torch import load_file

from evomerge.export.export import merge_recipe
from evomerge.mergekit.stated import read_recipe
from tests.mergekit.published import FORMS, GOLDEN, fingerprint, write_models

RELATIVE = 1e-6
HALF = 2.0**-7


def compare(python: str, remember: bool = False) -> bool:
    """Print a row for each form that is carried out; gives whether all agree.

    Args:
        python: of mergekit's environment.
        remember: whether to write the fingerprints of mergekit's results to `published.json`.
    """
    from tests.oracles.compare import mergekit, write_draws

    forms = [form for form in FORMS if not form.refused]
    sound, prints = True, {}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_models(root)
        jobs = []
        for number, form in enumerate(forms):
            file = root / f"{number}.yml"
            file.write_text(form.text)
            merge_recipe(file, root / f"ours-{number}")
            job = {"yaml": str(file), "out": str(root / f"theirs-{number}"), "folder": str(root)}
            job["cache"] = str(root / "cache")
            if form.random:
                job["draws"] = str(root / f"draws-{number}.safetensors")
                write_draws(read_recipe(file).recipe, root, Path(job["draws"]))
            jobs.append(job)
        said = mergekit(python, root, jobs)
        print(
            "\nForms as people publish them\n\n| form | largest difference, relative | |\n| --- | --- | --- |"
        )
        for number, form in enumerate(forms):
            error = said.get(str(root / f"theirs-{number}"), "no answer")
            if error:
                print(f"| {form.name} | {error} | NOT CARRIED OUT |")
                sound = False
                continue
            ours, theirs = (
                load_file(str(root / f"{who}-{number}" / "model.safetensors"))
                for who in ("ours", "theirs")
            )
            same = set(ours) == set(theirs)
            worst = max(
                float((ours[n].double() - t.double()).abs().max()) / (float(t.abs().max()) or 1.0)
                for n, t in theirs.items()
                if n in ours
            )
            fits = same and worst <= (HALF if form.loose else RELATIVE)
            sound = sound and fits
            prints[form.name] = fingerprint(root / f"theirs-{number}")
            print(f"| {form.name} | {worst:.1e} | {'' if fits else 'OUT OF BOUNDS'} |")
    if remember:
        GOLDEN.write_text(json.dumps(prints, indent=1) + "\n")
    return sound


if __name__ == "__main__":
    sys.exit(0 if compare(sys.argv[1], "--remember" in sys.argv) else 1)
