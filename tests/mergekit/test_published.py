"""Files as people publish them: the real mergekit's tensors, a warning with its line, or an error by name."""

import json
import re
from pathlib import Path

import pytest

from evomerge.errors import ConfigError
from evomerge.export.export import merge_recipe
from tests.mergekit.published import FORMS, GOLDEN, Form, fingerprint, write_models

KNOWN = json.loads(GOLDEN.read_text())


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("published")
    write_models(root)
    return root


def test_there_are_many_and_the_golden_numbers_are_of_them() -> None:
    assert len(FORMS) >= 50
    assert set(KNOWN) == {form.name for form in FORMS if not form.refused}


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_form(models: Path, form: Form) -> None:
    file = models / "merge.yml"
    file.write_text(form.text)
    if form.refused:
        with pytest.raises(ConfigError, match=form.refused):
            merge_recipe(file, models / "out", overwrite=True)
        return
    report = merge_recipe(file, models / "out", overwrite=True)
    for pattern in form.warns:
        assert any(re.search(pattern, note) for note in report.warnings), (pattern, report.warnings)
    ignored = [note for note in report.warnings if "is ignored" in note]
    assert len(ignored) == len(form.warns), ignored
    found = fingerprint(models / "out")
    # Sums of about 10,000 elements of up to 0.35; half precision rounds each of them.
    assert found == pytest.approx(KNOWN[form.name], abs=0.2 if form.loose else 1e-3)
    # What we write of it is the same merge.
    written = models / "out" / "mergekit_config.yml"
    if written.exists() and not form.random:
        merge_recipe(written, models / "again", overwrite=True)
        assert fingerprint(models / "again") == pytest.approx(found, abs=0.2 if form.loose else 1e-3)
