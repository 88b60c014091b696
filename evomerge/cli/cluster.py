"""`launch` and `bundle`: job files for clusters, and a campaign as one folder that goes there."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from evomerge.cli.campaigns import (
    AllowBenchmarkTest,
    CampaignFile,
    RunFolder,
    Seed,
    Settings,
    changes_of,
)
from evomerge.cli.output import (
    AllowTaskCode,
    Json,
    print_json,
    print_warning,
    say,
    show_log,
    table_console,
)
from evomerge.errors import Problem, UsageError


def launch(
    kind: Annotated[
        Literal["slurm", "rayjob", "job"],
        typer.Argument(metavar="slurm|rayjob|job", show_default=False),
    ],
    file: CampaignFile,
    directory: RunFolder,
    options: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[-- OPTION]",
            help="Options of sbatch, or of `ray job submit`, each as one word: -- --time=8:00:00",
            show_default=False,
        ),
    ] = None,
    nodes: Annotated[int, typer.Option(metavar="N", help="Machines with workers.")] = 1,
    memory: Annotated[
        int | None, typer.Option(metavar="GIB", help="Memory of a machine, instead of an estimate.")
    ] = None,
    image: Annotated[
        str | None, typer.Option(help="For rayjob: a container image with evomerge.")
    ] = None,
    mount: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CLAIM:FOLDER", help="For rayjob: a volume claim and its folder; give several."
        ),
    ] = None,
    values: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="For rayjob: image, mounts, tolerations and so on, as YAML."),
    ] = None,
    seed: Seed = None,
    settings: Settings = None,
    no_check: Annotated[
        bool, typer.Option("--no-check", help="Models and data are only on the cluster.")
    ] = False,
    allow_task_code: AllowTaskCode = False,
    allow_benchmark_test: AllowBenchmarkTest = False,
    as_json: Json = False,
) -> None:
    """Check a campaign, and print the job file for a cluster.

    slurm: a script for sbatch. rayjob: a KubeRay manifest. job: a `ray job submit` command.
    """
    from evomerge.campaign.campaign import load_campaign
    from evomerge.campaign.check import check_campaign, grants_of
    from evomerge.campaign.launch import slurm_script, submit_command
    from evomerge.campaign.placement import check_pool, place
    from evomerge.campaign.rayjob import rayjob, read_values, to_yaml
    from evomerge.run.check_starts import check_starts

    show_log()
    if options and kind == "rayjob":
        todo = "give --values FILE"
        raise UsageError(Problem("E500", "a manifest takes no options after `--`", "", todo))
    if kind != "rayjob" and (image or mount or values):
        wrong = "--image, --mount and --values are those of a rayjob"
        raise UsageError(Problem("E500", wrong, f"found {kind}"))
    changes = changes_of(seed, settings)
    campaign = load_campaign(file, changes)
    check_pool(campaign)
    grants = grants_of(allow_task_code, allow_benchmark_test)
    report = None
    if not no_check:
        report = check_starts(campaign, check_campaign(campaign, grants, data=True), directory)
        for warning in [] if as_json else report.warnings:
            print_warning(warning)
        report.raise_problems()
    if kind == "job":
        text = submit_command(campaign, directory, options or (), grants, changes)
        shown = {}
    else:
        where = place(campaign, nodes, report, memory)
        shown = dataclasses.asdict(where)
        if not as_json:
            say(where.words)
        if kind == "slurm":
            text = slurm_script(campaign, directory, where, options or (), grants, changes)
        else:
            flags = {"image": image, "mounts": _mounts(mount or []), "memory_gib": memory}
            found = read_values(values, flags)
            text = to_yaml(rayjob(campaign, directory, where, found, grants, changes))
    if as_json:
        print_json({"kind": kind, "text": text, "placement": shown})
    else:
        sys.stdout.write(text)


def _mounts(given: list[str]) -> dict[str, str]:
    """Claim to absolute folder.

    Raises:
        UsageError: E500.
    """
    mounts: dict[str, str] = {}
    for text in given:
        claim, colon, folder = text.partition(":")
        if not claim or not colon or not folder:
            todo = "write --mount models:/data/models"
            raise UsageError(Problem("E500", "a mount is CLAIM:FOLDER", f"found `{text}`", todo))
        if claim in mounts:
            todo = "name a folder above both"
            raise UsageError(Problem("E500", f"claim `{claim}` is mounted twice", "", todo))
        mounts[claim] = str(Path(folder).resolve())
    return mounts


def bundle(
    file: CampaignFile,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to make.", show_default=False)],
    models: Annotated[
        Literal["copy", "link"],
        typer.Option(metavar="copy|link", help="Copy models, or link to where they lie."),
    ] = "copy",
    with_hub: Annotated[
        bool, typer.Option("--with-hub", help="Copy models of the hub too, instead of id and commit.")
    ] = False,
    allow_task_code: AllowTaskCode = False,
    allow_benchmark_test: AllowBenchmarkTest = False,
    as_json: Json = False,
) -> None:
    """Copy all that a campaign reads into one folder.

    It runs anywhere: paths in it are relative, and SHA256SUMS lists every file for `sha256sum --check`.
    """
    from evomerge.campaign.bundle import bundle as write_bundle
    from evomerge.campaign.campaign import load_campaign
    from evomerge.campaign.check import check_campaign, grants_of

    show_log()
    campaign = load_campaign(file)
    check_campaign(campaign, grants_of(allow_task_code, allow_benchmark_test)).raise_problems()
    made = write_bundle(campaign, out, models=models, hub=with_hub)
    if as_json:
        print_json({**dataclasses.asdict(made), "file": str(made.file)})
        return
    for need in made.needs:
        say(f"not in the bundle, and needed where it runs: {need}")
    table_console().print(
        f"{made.file}: {made.files} files, {made.size / 1e6:.1f} MB", markup=False, soft_wrap=True
    )
