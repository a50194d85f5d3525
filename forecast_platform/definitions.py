"""What Dagster loads: every asset, check, job, sensor and schedule that lies in a file of `defs/`."""

import dagster as dg

from forecast_platform import defs as folder
from forecast_platform.defs.resources import build_resources


def _definitions() -> dg.Definitions:
    # Not load_from_defs_folder: it wants a pyproject.toml, which an installed package lacks, and imports the plugins of
    # every library.
    found = dg.load_definitions_from_package_module(folder)
    return dg.Definitions(
        assets=dg.with_source_code_references([*(found.assets or ())]),  # each asset's page links to its file
        asset_checks=found.asset_checks,
        jobs=found.jobs,
        sensors=found.sensors,
        schedules=found.schedules,
        resources=build_resources(),
        # One process for a run: starting processes and importing torch costs more than a stage's work does.
        executor=dg.in_process_executor,
    )


defs = _definitions()
