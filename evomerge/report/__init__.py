"""Report: a campaign as one HTML page that asks for nothing beyond itself.

In comes a campaign folder, also one in which a run goes on; out goes a file. Everything is read from the
ledger and the per-item results, but for signs of task vectors (`signs`), sampled from the experts' files.

Read `content` first (all that a report says, as words for the template and data for the scripts), then where
these come from: `tables` and `sentences` (words), `models`, `coefficients`, `progress` and `experts` (data);
`page` (the template, the scripts in `assets/` and the security policy made one file), `write`, and
`serve` (on loopback, while a campaign runs).
"""
