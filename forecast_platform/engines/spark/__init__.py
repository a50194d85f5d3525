"""Where the work runs on Spark."""
