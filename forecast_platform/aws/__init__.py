"""The platform on AWS. Knows boto3 and SageMaker's contracts, not Dagster."""
