"""`python -m api` is `threadfold`."""

from api.cli import main

main(prog_name="threadfold")
