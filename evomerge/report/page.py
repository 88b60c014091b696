"""The page: a template, a style, scripts and data made one HTML file that asks for nothing beyond itself.

Its content security policy allows the two scripts and the style by their SHA-256 and nothing else: no
request,
no further script, no `eval`. plotly and the data lie in it as gzip, which browsers unpack; what is
unpacked of
plotly must have the hash that the policy names. Every text goes through Jinja's escaping, or into the page
as text.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined, Template
from markupsafe import Markup, escape

SCRIPTS = ("base.js", "front.js", "member.js", "search.js", "main.js")

_STYLE_GUARD = re.compile(r'getElementById\("([0-9a-f]{64})"\)')
"""plotly adds the style of its maps unless an element with this id is there; no map is drawn here."""


def render(context: Mapping[str, Any], data: Mapping[str, Any], *, served: bool = False) -> str:
    """The whole file.

    Args:
        context: what the template shows.
        data: plain JSON data for the scripts.
        served: whether the page may ask the server that it came from (and no other) for news.
    """
    css, script, plotly = _asset("report.css"), _script(), _plotly()
    policy = [
        "default-src 'none'",
        f"script-src {_hash(script)} {_hash(plotly)}",
        # plotly makes style elements and attributes that are empty, and sets rules and properties by script.
        f"style-src {_hash(css)} {_hash('')}",
        f"style-src-attr 'unsafe-hashes' {_hash('')}",
        "img-src data: blob:",
        f"connect-src {chr(39)}{'self' if served else 'none'}{chr(39)}",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return _template().render(
        **context,
        policy="; ".join(policy),
        css=Markup(css),
        script=Markup(script),
        plotly=Markup(_packed_plotly()),
        data=Markup(_packed(text)),
        guards=sorted(set(_STYLE_GUARD.findall(plotly))),
    )


def _asset(name: str) -> str:
    return (files("evomerge.report") / "assets" / name).read_text(encoding="utf-8")


@cache
def _template() -> Template:
    environment = Environment(
        loader=DictLoader({"report": _asset("report.html.j2")}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["name"] = _name
    found: Template = environment.get_template("report")
    return found


def _name(text: str) -> Markup:
    """A metric with its unit: may be broken before a dot, and never before the percent sign."""
    whole = str(escape(text)).replace(" %", "&nbsp;%")
    return Markup(whole.replace(".", "<wbr>."))


@cache
def _script() -> str:
    return "\n".join(_asset(name) for name in SCRIPTS)


@cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    # HTML parsers and script elements know no carriage return: the hash is of what they hold.
    return str(get_plotlyjs()).replace("\r\n", "\n").replace("\r", "\n")


@cache
def _packed_plotly() -> str:
    return _packed(_plotly())


def _packed(text: str) -> str:
    """Gzip as base64: letters, digits, `+`, `/` and `=` only; the same bytes for the same text."""
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode("ascii")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"
