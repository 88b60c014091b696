"""What share of a campaign's forward passes would be saved by starting at the first layer that changed?

A candidate whose first layers are those of an earlier one shares its hidden states up to there. Read from the
ledger of a finished campaign: for each candidate of the search the longest run of layers, from the embedding
on, that it has in common with *any* candidate asked before it, as a share of all layers. That is the most a
restart could save, with the states of all earlier candidates kept.

    python -m benchmarks.prefixes runs/quickstart ...
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np

from evomerge.campaign.prepared import layout_of
from evomerge.front.folder import open_campaign_folder
from evomerge.ledger.history import History
from evomerge.recipe.recipe import CheckpointSource
from evomerge.search_space import SearchSpace, build_search_space
from evomerge.search_space.declaration import SearchSpaceDeclaration


def space_of(history: History) -> SearchSpace:
    """The search space a campaign recorded."""
    prepared, config = history.prepared, history.config
    assert prepared is not None
    sources = {name: CheckpointSource(name, digest) for name, digest in prepared.checkpoints.items()}
    return build_search_space(
        SearchSpaceDeclaration.model_validate(config["search_space"]), layout_of(prepared), sources,
        tuple(config["experts"]), prepared.storage, config["seed"], "the ledger", None,
        prepared.one_with_baselines,
    )  # fmt: skip


def first_layer(places: tuple[str, ...], layers: int) -> int:
    """The first layer that a gene changes; -1 of the embedding, `layers` of what comes after them."""
    numbers = [re.match(r"layers\.(\d+)", place) for place in places]
    found = [int(number[1]) if number else layers for number in numbers]
    return -1 if any(place.startswith("embed") for place in places) else min(found)


def shared_layers(history: History) -> list[int]:
    """For each candidate asked, how many first layers it shares with an earlier one."""
    assert history.prepared is not None
    layers = history.prepared.layout.layers
    first = np.array([first_layer(gene.places, layers) for gene in space_of(history).genes])
    genomes = [np.asarray(c.genome) for c in history.candidates.values() if c.genome is not None]
    found = []
    for number, genome in enumerate(genomes):
        starts = [first[genome != other].min(initial=layers) for other in genomes[:number]]
        found.append(max(0, *starts, 0))
    return found


def main() -> None:
    """Print a line for each campaign folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    for run in parser.parse_args().runs:
        history = open_campaign_folder(run).history
        shared = shared_layers(history)
        layers = history.prepared.layout.layers if history.prepared else 1
        some, half = sum(n > 0 for n in shared), sum(2 * n >= layers for n in shared)
        print(
            f"{run}: {history.config['optimizer']['kind']}, {len(shared)} candidates; share a layer {some}, "
            f"half of them {half}; saved at most {100 * sum(shared) / layers / max(1, len(shared)):.2f} %"
        )


if __name__ == "__main__":
    main()
