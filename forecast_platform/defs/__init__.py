"""The Dagster layer: thin assets over plain Python, one file per stage."""

import warnings

import dagster as dg

# Backfill policies and partition offsets are marked beta; the version is pinned, so a reminder at every load is noise.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
# The weekly job mixes cheap assets with ones that take a run a week, so its backfill takes a run a week: as meant.
warnings.filterwarnings("ignore", message="(?s)Asset job weekly_forecast materializes.*multiple backfill policies")
