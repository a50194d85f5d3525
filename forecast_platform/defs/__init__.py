"""The Dagster layer: thin assets over plain Python, one file per stage."""

import warnings

import dagster as dg

# Backfill policies and partition offsets are marked beta; the version is pinned, so a reminder at every load is noise.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
