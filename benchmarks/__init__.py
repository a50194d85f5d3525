"""Benchmarks: DeepAR as this project ships it, side by side with its peers, by one protocol in one run.

`make bench` builds the peers' environment and runs `python -m benchmarks`, which writes benchmarks/results/*.json and
docs/benchmarks.md. Every model runs in a process of its own with one thread, so that CPU seconds and memory are its
own. Modules: `protocol` (data, scores, fev-bench's task), `measure` (what a model's process reports; no dependencies
of ours), `ours`, `peers` (one script each, run in the peers' environment), `report`.
"""
