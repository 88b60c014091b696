"""Studies: one campaign file run with several sets of changes and seeds, and what comes out side by side.

In come a campaign file, arms (named sets of changes) and seeds; out go a folder with a campaign for each arm
and seed, and a table of means with intervals over the seeds.

Read `plan` (which campaigns there are, and the folder), `campaigns` (running them on one pool) and `table`.
"""
