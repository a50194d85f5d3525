"""The web dashboard: forecasts, their errors and their data, read from the lake and never written to it."""
