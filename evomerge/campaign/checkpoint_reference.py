"""Base and experts as a campaign file names them: where each lies, and what an expert may be called."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator

from evomerge.recipe.recipe import MERGED, UNION

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
RESERVED_NAMES = ("base", "uniform", "single", "ensemble", "knee", MERGED, UNION)


def _expert_name(name: str) -> str:
    if not NAME.fullmatch(name) or "." in name:
        raise ValueError("E136", f"expert name `{name}`: letters, digits, `_` and `-` only")
    if name in RESERVED_NAMES or name.startswith("single-"):
        raise ValueError("E136", f"`{name}` is a reserved name; call the expert otherwise")
    if re.fullmatch(r"c\d+", name):
        raise ValueError("E136", f"`{name}` looks like a candidate's id; call the expert otherwise")
    return name


ExpertName = Annotated[str, AfterValidator(_expert_name)]


class CheckpointReference(BaseModel):
    """A model folder or adapter folder by path, or a hub model by id and commit (local cache only).

    Attributes:
        path: a folder, relative to the campaign file; either this or `hub`.
        hub: id of a model in the local hub cache, `org/name`; nothing is downloaded.
        revision: the 40 hex digits of its commit; goes with `hub`.
        allow: in what it may differ from the base, whose setting merges have: `rope`, the rotary positions.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    path: str | None = None
    hub: str | None = None
    revision: str | None = None
    allow: list[Literal["rope"]] | None = None

    @model_validator(mode="before")
    @classmethod
    def _not_bare(cls, value: Any) -> Any:
        if isinstance(value, str):
            folder, hub = f"{{path: {value}}}", "{hub: org/name, revision: COMMIT}"
            raise ValueError("E103", f"write `{folder}`, or `{hub}` for a model of the hub")
        return value

    @model_validator(mode="after")
    def _one_place(self) -> CheckpointReference:
        if (self.path is None) == (self.hub is None):
            raise ValueError("E103", "give either `path` or `hub` with `revision`")
        if self.hub is not None and not re.fullmatch(r"[0-9a-f]{40}", self.revision or ""):
            raise ValueError(
                "E237",
                "a hub model needs `revision`, the 40 hex digits of a commit and no branch; "
                f"`hf models info {self.hub}` prints that of its main branch as `sha`",
            )
        if self.hub is not None and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", self.hub):
            raise ValueError("E201", f"`{self.hub}` is no hub id (org/name)")
        return self
