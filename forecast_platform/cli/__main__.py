from forecast_platform.cli import main

main(prog_name="forecast")
