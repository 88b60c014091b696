"""`launch`: job files for clusters."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from evomerge.cli.campaigns import CampaignFile, RunFolder
from evomerge.cli.output import Json, print_json
from evomerge.errors import Problem, UsageError


def launch(
    kind: Annotated[str, typer.Argument(metavar="slurm|rayjob|job", show_default=False)],
    file: CampaignFile,
    directory: RunFolder,
    nodes: Annotated[int, typer.Option(metavar="N", help="Machines with workers.")] = 1,
    image: Annotated[str, typer.Option(help="rayjob: container image with evomerge.")] = "evomerge",
    claim: Annotated[
        str, typer.Option(help="rayjob: volume claim of the campaign's folder.")
    ] = "campaign",
    as_json: Json = False,
) -> None:
    """Print the job file that runs a campaign on a cluster.

    slurm: a script for sbatch. rayjob: a KubeRay manifest. job: a `ray job submit` command.
    """
    from evomerge.campaign.campaign import load_campaign
    from evomerge.campaign.launch import KINDS, rayjob, slurm_script, submit_command, to_yaml

    if kind not in KINDS:
        raise UsageError(
            Problem("E500", f"no job file of kind `{kind}`", "", f"give {', '.join(KINDS)}")
        )
    campaign = load_campaign(file)
    if kind == "slurm":
        text = slurm_script(campaign, directory, nodes=nodes)
    elif kind == "job":
        text = submit_command(campaign, directory)
    else:
        text = to_yaml(rayjob(campaign, directory, nodes=nodes, image=image, claim=claim))
    if as_json:
        print_json({"kind": kind, "text": text})
    else:
        sys.stdout.write(text)
