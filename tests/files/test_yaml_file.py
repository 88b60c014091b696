"""The YAML reader: positions, refusals, and what YAML 1.2 makes of numbers and words."""

from __future__ import annotations

import contextlib
import math
import re
from pathlib import Path
from typing import Annotated

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field
from ruamel.yaml.nodes import SequenceNode

from evomerge.errors import ConfigError
from evomerge.files.yaml_file import MAX_BYTES, _parsed, dotted, load_yaml, position, validate


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    size: int = 1
    rate: Annotated[float, Field(allow_inf_nan=False)] = 0.5


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    schema_: Annotated[int, Field(alias="schema")] = 1
    name: str = ""
    inner: Inner = Inner()
    listed: list[Inner] = []
    named: dict[str, Inner] = {}
    either: int | str | None = None


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "some.yaml"


def read(file: Path) -> Outer:
    data, positions = load_yaml(file)
    return validate(Outer, data, positions, str(file))


def faults(file: Path, content: str | bytes) -> list[tuple[str, int, str]]:
    """(code, line, field) of every problem, in order."""
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=r"error\[E1\d\d\]") as caught:
        read(file)
    assert all(problem.file == str(file) for problem in caught.value.problems)
    return [(problem.code, problem.line, problem.field) for problem in caught.value.problems]


def message(file: Path, content: str) -> str:
    file.write_text(content)
    with pytest.raises(ConfigError, match=r"error\[E1\d\d\]") as caught:
        read(file)
    return str(caught.value)


def test_yaml_1_2_reads_numbers_as_numbers_and_words_as_words(file: Path) -> None:
    file.write_text(
        "a: 1e-3\nb: no\nc: on\nd: 012\ne: 0o14\nf: 1_000\ng: yes\nh: true\ni: ~\nj: .inf\nk: 12:30:45\n"
    )
    data, _ = load_yaml(file)
    assert data == {
        "a": 1e-3,
        "b": "no",
        "c": "on",
        "d": 12,
        "e": 12,
        "f": 1000,
        "g": "yes",
        "h": True,
        "i": None,
        "j": math.inf,
        "k": "12:30:45",
    }


def test_positions_are_those_of_the_fields(file: Path) -> None:
    file.write_text("a: 1\nb:\n  - x: 2\n    y: 3\n")
    _, positions = load_yaml(file)
    assert positions[("a",)] == (1, 1)
    assert positions[("b", 0, "y")] == (4, 5)
    assert position(positions, ("b", 0, "z")) == positions[("b", 0)]
    assert position({}, ("b",)) == (0, 0)
    assert dotted(("b", 0, "y")) == "b[0].y"


def test_a_byte_order_mark_and_windows_lines_are_read(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    assert load_yaml(file)[0] == {"a": 1, "b": 2}


def test_merge_keys_and_harmless_aliases_work(file: Path) -> None:
    file.write_text("a: &x {size: 2}\nb: *x\nc: {<<: *x, rate: 1}\n")
    assert load_yaml(file)[0]["c"] == {"size": 2, "rate": 1}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"error\[E101\] .*none.yaml: no such file"):
        load_yaml(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r"error\[E101\].*cannot read the file; embedded null"):
        load_yaml(tmp_path / "a\0b")


@pytest.mark.parametrize(
    ("content", "code", "line"),
    [
        (b"a: \xff\xfe\n", "E101", 0),
        ("a:\n\tb: 1\n", "E102", 2),
        ("a: 1\n b: 2\n", "E102", 2),
        ("a: [1, 2\n", "E102", 2),
        ("a: 1\n---\nb: 2\n", "E102", 2),
        ("a: *nothing\n", "E102", 1),
        ("? {x: 1}\n: 2\n", "E102", 1),
        ("a: b\0\n", "E102", 0),
        ("a: {<<: 3}\n", "E102", 1),
        ("a: " + "9" * 5000 + "\n", "E102", 0),
        ("", "E103", 0),
        ("# nothing\n", "E103", 0),
        ("- a\n- b\n", "E103", 0),
        ("just words\n", "E103", 0),
        ("name: a\nname: b\n", "E105", 2),
        ("name: a\n'name': b\n", "E105", 2),
        ("name: !!python/object/apply:os.system ['true']\n", "E106", 1),
        ("name: !custom x\n", "E106", 1),
        ("name: !!binary aGk=\n", "E106", 1),
        ("name: !!set {a}\n", "E106", 1),
        ("either: !!int no number\n", "E102", 0),
        ("name: 2026-01-02\n", "E108", 1),
        ("name: 2026-13-45\n", "E108", 1),
        ("name: hf_abcdefghijklmnopqrstuvwxyz0123\n", "E140", 1),
        ("a: " + "[" * 40 + "]" * 40, "E107", 1),
        ("a: " + "[" * 20_000 + "]" * 20_000, "E107", 1),
        ("a: &a [*a]\n", "E107", 1),
        ("# " + "x" * MAX_BYTES, "E107", 0),
    ],
)
def test_what_is_refused(file: Path, content: str | bytes, code: str, line: int) -> None:
    found = faults(file, content)
    assert [(c, n) for c, n, _ in found] == [(code, line)]


def test_an_alias_bomb_is_refused_at_once(file: Path) -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 20)]
    assert [code for code, *_ in faults(file, "\n".join(rows))] == ["E107"]


def test_a_syntax_error_shows_its_line(file: Path) -> None:
    assert "the line is 'c: d: 2'" in message(file, "a: 1\nc: d: 2\n")
    assert "`name` given twice, lines 1 and 3" in message(file, "name: a\ninner: {}\nname: b\n")


def test_every_fault_is_found_and_in_the_order_of_the_file(file: Path) -> None:
    text = """\
schema: one
nmae: x
inner:
  size: 8.5
  rate: .nan
  extra: 1
listed:
  - {size: 1}
  - {size: true}
  - {rat: 1}
named:
  first: {size: "3"}
"""
    assert faults(file, text) == [
        ("E108", 1, "schema"),
        ("E104", 2, "nmae"),
        ("E108", 4, "inner.size"),
        ("E109", 5, "inner.rate"),
        ("E104", 6, "inner.extra"),
        ("E108", 9, "listed[1].size"),
        ("E104", 10, "listed[2].rat"),
        ("E108", 12, "named.first.size"),
    ]


def test_faults_the_reader_finds_come_together(file: Path) -> None:
    text = "name: !x a\ninner: {size: 1, size: 2}\nnamed: {a: !!python/none x}\n"
    assert [(code, line) for code, line, _ in faults(file, text)] == [
        ("E106", 1),
        ("E105", 2),
        ("E106", 3),
    ]


def test_messages_say_what_was_found_and_what_to_do(file: Path) -> None:
    assert "unknown field; did you mean `name`?" in message(file, "nam: x\n")
    known = "known fields: either, inner, listed, name, named, schema"
    assert known in message(file, "zzzzzz: x\n")
    assert "did you mean `size`?" in message(file, "named: {a: {siz: 1}}\n")
    assert "input should be a valid integer; found '1e-3 '" in message(file, 'schema: "1e-3 "\n')


def test_a_fault_inside_a_union_names_the_field(file: Path) -> None:
    assert faults(file, "either: [1]\n") == [("E108", 1, "either")]
    assert "valid integer or input should be a valid string" in message(file, "either: [1]\n")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=60),
        st.text(alphabet="ab: \n-[]{}&*!|>'\"#%@,?\t0.e<", max_size=60).map(str.encode),
    )
)
def test_nothing_but_config_errors_comes_out(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with contextlib.suppress(ConfigError):
        read(file)


def test_a_folder_a_binary_file_and_an_empty_one_are_called_what_they_are(file: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"E101.*: this is a folder, no file; name the YAML file in it"
    ):
        load_yaml(file.parent)
    file.write_bytes(b"name: x\nlatin: caf\xe9\n")
    with pytest.raises(
        ConfigError, match=r"E101.*: this is no UTF-8 text; byte 0xe9 in line 2; save it"
    ):
        load_yaml(file)
    assert "the file is empty" in message(file, "# nothing\n")
    assert "found a sequence" in message(file, "- a\n- b\n")


def test_a_value_in_the_place_of_a_section_is_told_without_names_of_our_code(file: Path) -> None:
    text = message(file, "schema: 1\ninner: yes\n")
    assert "inner: this needs fields of its own; found 'yes'" in text
    assert "Inner" not in text


def test_equal_files_are_parsed_once_and_share_nothing(tmp_path: Path) -> None:
    one, other = tmp_path / "one.yaml", tmp_path / "other.yaml"
    for file in (one, other):
        file.write_text("name: kept\nsizes: [1, 2]\n")
    before = _parsed.cache_info().misses
    data, positions = load_yaml(one)
    data["sizes"].append(3)
    assert load_yaml(other) == ({"name": "kept", "sizes": [1, 2]}, positions)
    assert _parsed.cache_info().misses == before + 1


def test_a_fault_is_told_of_the_file_that_was_asked_for(tmp_path: Path) -> None:
    for name in ("one.yaml", "other.yaml"):
        (tmp_path / name).write_text("a: 1\na: 2\n")
        with pytest.raises(ConfigError, match=rf"E105\] \S+/{name}:2:1 a: `a` given twice"):
            load_yaml(tmp_path / name)


class Campaign(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    name: str
    search_space: str
    budget: int


def test_a_file_of_another_form_is_one_fault(file: Path) -> None:
    """Whoever names one file for another is told that, and not of each of its fields."""
    file.write_text("schema: 1\nname: math\nmethod: ties\noptions: {}\n")
    data, positions = load_yaml(file)
    with pytest.raises(ConfigError) as caught:
        validate(Campaign, data, positions, "some.yaml")
    assert str(caught.value) == (
        "error[E103] some.yaml: this is a search space; it has `method`; "
        "name a file that has `search_space`, `budget`"
    )


@pytest.mark.parametrize("content", ["name: x\nmethod: ties\nbudget: 3\n", "name: x\nother: 1\n"])
def test_a_file_of_its_form_has_its_own_faults(file: Path, content: str) -> None:
    file.write_text(content)
    data, positions = load_yaml(file)
    with pytest.raises(ConfigError, match=r"E103\].* search_space: missing field") as caught:
        validate(Campaign, data, positions, str(file))
    assert len(caught.value.problems) > 1


def test_what_helps_is_said_of_quotes_and_tabs(file: Path) -> None:
    file.write_text('name: x\nsearch_space: s\nbudget: "12"\n')
    data, positions = load_yaml(file)
    with pytest.raises(ConfigError, match=r"budget: .*integer; found '12'; write it without quotes$"):
        validate(Campaign, data, positions, str(file))
    with pytest.raises(ConfigError, match=r"budget: .*integer; found 'many'$"):
        validate(Campaign, {**data, "budget": "many"}, positions, str(file))
    file.write_text("inner:\n\tsize: 2\n")
    with pytest.raises(ConfigError, match=r"E102\].*; indent with spaces$"):
        load_yaml(file)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("inner: 3\n", r"inner: .*; found 3; its fields: size, rate$"),
        ("inner: [1]\n", r"inner: .*; found a list; its fields: size, rate$"),
        (
            "listed: {size: 1}\n",
            r"listed: .*; found fields; write a list, `\[{size: ..., rate: ...}\]`$",
        ),
        ("listed: [4]\n", r"listed\[0\]: .*; found 4; its fields: size, rate$"),
        ("named: [1]\n", r"named: .*; found a list; write `NAME: ...` for each$"),
        ("name: 3\n", r"name: .*; found 3; put it in quotes$"),
        ("inner: {rate: '0,5'}\n", r"inner.rate: .*; found '0,5'; write it with a dot, 0.5$"),
        ("inner:\n  rate: 0,5\n", r":2:3 inner.rate: .*; found '0,5'; write it with a dot, 0.5$"),
        ("inner: {rate: 0,5}\n", r":1:9 inner.rate: `0,5` has a comma; write it with a dot$"),
        ("inner: {size: 4, rate: -1,25, }\n", r"inner.rate: `-1,25` has a comma; write it with a dot$"),
    ],
)
def test_what_to_write_instead_is_said(file: Path, content: str, words: str) -> None:
    assert re.search(words, message(file, content))


@pytest.mark.parametrize(
    ("content", "begun"),
    [
        ("schema: 1\nname x\ninner: {}\n", r"line 2, 'name x', does not end"),
        ("name: x\ninner: {size: 1\nlisted: []\n", r"line 2, 'inner: {size: 1', does not end"),
        ("listed: [\nname: 'x\n", r"line 2, \"name: 'x\", does not end"),
    ],
)
def test_a_syntax_error_names_the_line_where_it_began(file: Path, content: str, begun: str) -> None:
    assert re.search(r"error\[E102\].*what begins in " + begun, message(file, content))


def test_no_node_is_spelled_out_on_the_way_to_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of lists of aliases of lists of aliases the text is millions of times as long as the file."""

    def spelled(self: SequenceNode) -> str:
        raise AssertionError("a list was written out")

    monkeypatch.setattr(SequenceNode, "__repr__", spelled)
    monkeypatch.setattr(SequenceNode, "__str__", spelled)
    file = tmp_path / "laughs.yaml"
    file.write_text("a: &a [x, x]\nb: {c: *a, d: [*a, *a], e: 1, f: }\n")
    data, _ = load_yaml(file)
    assert data["b"]["c"] == ["x", "x"]
