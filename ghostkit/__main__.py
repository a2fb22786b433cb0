"""`python -m ghostkit`: the same command where no script is on the path."""

from ghostkit.cli import app

app(prog_name="ghostkit")
