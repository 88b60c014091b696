"""An optimizer whose lesson is over, for tests of what it does with its map."""

from evomerge.optimizers.kinds import make_optimizer, optimizer_settings


def taught(kind, genes, objectives, *, population, seed, initial, schedule, ground, slope, options):
    """One with a learned map: `slope` answers what its lesson asks for."""
    found = make_optimizer(
        kind,
        genes,
        objectives,
        population=population,
        seed=seed,
        initial=initial,
        settings=optimizer_settings(kind, options),
        schedule=schedule,
    )
    found.begin(ground)
    while requests := found.slopes():
        found.tell_slopes([slope(request) for request in requests])
    assert found.lesson.has_taken_steps
    return found
