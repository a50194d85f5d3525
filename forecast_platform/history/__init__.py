"""What is known at a week. It knows no model, no Dagster and no cloud."""
