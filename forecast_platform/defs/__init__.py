"""The Dagster layer: thin assets over plain Python, one file per stage."""

import warnings

import dagster as dg

# What is marked beta or preview (backfill policies, partition offsets, loading a folder, checks with partitions) is
# pinned with the version, so a reminder at every load is noise.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)
# The weekly job mixes cheap assets with ones that take a run a week, so its backfill takes a run a week: as meant.
warnings.filterwarnings("ignore", message="(?s)Asset job weekly_forecast materializes.*multiple backfill policies")
# A freshness policy, which Dagster names instead, does not know of weeks: see freshness.py.
warnings.filterwarnings(
    "ignore", message="(?s).*build_time_partition_freshness_checks.*", category=dg.SupersessionWarning
)
