"""The weekly forecast without a server: S3, Lambda and Batch Transform, by the functions that the assets use.

| file | what it does |
|---|---|
| pipeline.py | the two steps, and a training |
| lambda_function.py | what Lambda calls |
| package.py | the zips that Lambda takes |
| __main__.py | a training by hand: `python -m forecast_platform.serverless` |

When to use it instead of Dagster, and how to deploy it: docs/aws/serverless.md.
"""
