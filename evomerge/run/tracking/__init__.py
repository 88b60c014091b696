"""Tracking: a campaign shown as it goes on in the experiment trackers that people of the field use.

In comes a history after each event; out go records of numbers, to W&B, MLflow or TensorBoard. A tracker
runs in a thread of its own behind a bounded queue and can neither block nor fail a campaign: one that
hangs or breaks is dropped with a word, and `evomerge sync` sends later what it lacks.

Read `record` first (what is sent), then `feed` (the thread and its queue), `display` (a run shown in
trackers), `open` (the trackers by name) and the file of each: `wandb_run`, `mlflow_run`,
`tensorboard_files`.
"""
