"""Weekly department sales forecasts with DeepAR, as a Dagster asset graph."""

__version__ = "0.1.0"
