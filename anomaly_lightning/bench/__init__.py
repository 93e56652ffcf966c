"""What the benchmark command measures: stages of a prediction, parts of a training run, a service under load, quality.

Seconds say little about another machine, so each stands beside a ratio to something that was measured in the same run,
in turn with it.
"""
