"""The `ghostkit` command: words typed in a terminal, turned into calls of the package.

One function a command, and nothing in it but wiring: what a command does, the package does. Whatever is heavy is
imported by the command that needs it, so that help comes at once. What the user can mend ends with one red line and
exit status 2; anything else is a fault of ours, and shows its traceback.
"""

from __future__ import annotations

import re
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from typer.core import TyperCommand, TyperGroup

from ghostkit.errors import GhostkitError

__all__ = ["app"]


class _Commands(TyperGroup):
    """The group of all commands, which words a GhostkitError and a Ctrl-C instead of letting them through."""

    def invoke(self, ctx: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):  # which may know no sign but those of a code page
                stream.reconfigure(errors="replace")
        try:
            return super().invoke(ctx)
        except GhostkitError as error:
            typer.secho(f"ghostkit: {' '.join(str(error).split())}", fg="red", err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            typer.secho("ghostkit: stopped by hand; what was finished is kept", fg="red", err=True)
            raise typer.Exit(130) from None


class _WithPairs(TyperCommand):
    """A command whose `-p NAME VALUE` takes two words, as papermill's does; typer has no repeated pairs."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words, joined = iter(args), []
        for word in words:
            joined.append(word)
            if word == "--":
                break
            if word == "-p" and (name := next(words, None)) is not None:
                value = None if re.match(r"\w+=", name) else next(words, None)
                joined.append(name if value is None else f"{name}={value}")
        return super().parse_args(ctx, [*joined, *words])


app = typer.Typer(
    cls=_Commands,
    help="Grow vision networks interactively: ghost modules that widen and deepen while they train.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from ghostkit import __version__

        typer.echo(f"ghostkit {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of the command itself; its help is the application's."""


@app.command(cls=_WithPairs)
def run(
    notebook: Annotated[Path, typer.Argument(help="The notebook to execute; it is left as it is.")],
    parameters: Annotated[
        list[str] | None,
        typer.Option("-p", metavar="NAME VALUE", help="A parameter that the notebook declares; may be repeated."),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(help="The run folder, made if missing.", show_default="the first free runs/NOTEBOOK-N"),
    ] = None,
    timeout: Annotated[float | None, typer.Option(metavar="SECONDS", help="Give up after this time.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Execute a notebook without opening it, and say where its results are.

    The run folder gets the executed notebook, result.json, and the notebook as an HTML page that opens offline.

    Example: ghostkit run notebooks/01_first_growth.ipynb -p data fashion-mnist -p epochs 3
    """
    from ghostkit.notebooks import run_notebook
    from ghostkit.parameters import declared_parameters, parse_parameters

    values = parse_parameters(declared_parameters(notebook), map(_pair, parameters or []))
    done = run_notebook(notebook, folder, values, timeout=timeout, progress=not quiet)
    typer.echo(f"notebook  {_near(done.executed)}\nresult    {_near(done.record)}\nreport    {_near(done.report)}")
    if rows := done.result.get("table"):
        from ghostkit.views import closing_table, table_text

        typer.echo(f"\n{table_text(closing_table(rows))}")
    if summary := done.result.get("summary"):
        typer.echo(f"\n{summary}")


@app.command()
def data(
    name: Annotated[
        str | None, typer.Argument(help="A data set to look into, such as digits or folder:PATH.", show_default="all")
    ] = None,
    download: Annotated[bool, typer.Option("--download", help="Get the data set if it is not here.")] = False,
    root: Annotated[
        Path | None,
        typer.Option(help="The folder that holds, or receives, data sets.", show_default="GHOSTKIT_DATA or a cache"),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="classification, detection or segmentation.", show_default="the first that it offers"),
    ] = None,
) -> None:
    """List the data sets, whether they are here and how to get them, or look into one."""
    if name is None:
        if download:
            raise GhostkitError("--download without a name; say which data set, as in: ghostkit data mnist --download")
        from ghostkit.data import sources
        from ghostkit.views import table_text

        table = sources(root)
        table["here"] = table["where"].where(table["found"], "no")
        # What takes more than a command has no place in a table.
        ways = table["get"].where(table["get"].str.startswith("`"), "ghostkit data " + table["name"] + " tells")
        table["how to get it"] = ways.str.replace("`", "").mask(table["found"], "")
        typer.echo(table_text(table[["name", "task", "images", "here", "how to get it"]]))
        return

    from ghostkit.data import load
    from ghostkit.data.catalog import tasks_of

    found = load(name, root, task=cast("Any", task) or tasks_of(name)[0], download=download)
    shape = f"{found.channels} x {found.height} x {found.width}"
    classes = ", ".join(found.classes[:10]) + (", ..." if len(found.classes) > 10 else "")
    typer.echo(f"{found.name}: {len(found.train):,} + {len(found.test):,} images of {shape}, from {found.where}")
    typer.echo(f"{len(found.classes)} classes: {classes}")


@app.command(cls=_WithPairs)
def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML or JSON file, or a run's config.json.")],
    parameters: Annotated[
        list[str] | None,
        typer.Option("-p", metavar="NAME VALUE", help="A parameter that the file has otherwise; may be repeated."),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(help="The run folder; a run that is in it goes on.", show_default="runs/CONFIG-SEED"),
    ] = None,
    tracker: Annotated[
        list[str] | None,
        typer.Option(help="Tell tensorboard, csv or mlflow as well; may be repeated.", show_default="none"),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Train and grow without a notebook; a run that was cut short goes on by the same command.

    Several processes train one run together: torchrun --nproc-per-node 2 -m ghostkit train first.yaml

    The file holds parameters of RunConfig; those that it leaves out keep their defaults.

    Example: ghostkit train first.yaml -p data fashion-mnist -p epochs 3
    """
    from ghostkit.processes import is_first
    from ghostkit.tracking import make_logger
    from ghostkit.unattended import configured, folder_for, train_and_tell

    chosen = configured(config, map(_pair, parameters or []))
    place = folder or folder_for(config, chosen)
    loggers = [make_logger(name, place) for name in tracker or []] if is_first() else []
    try:
        done = train_and_tell(chosen, place, quiet=quiet, loggers=loggers)
    except KeyboardInterrupt:
        typer.secho(
            f"ghostkit: stopped by hand; the same command goes on from the last checkpoint in {place}",
            fg="red",
            err=True,
        )
        raise typer.Exit(130) from None
    if is_first():
        typer.echo(f"{done}\nrun       {_near(place)}")


@app.command()
def compare(
    places: Annotated[list[Path], typer.Argument(metavar="RUNS...", help="Run folders, or folders that hold runs.")],
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="The group, or a run in it, that others are measured against.", show_default="the best"
        ),
    ] = None,
    to: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write comparison.csv, .parquet and .html there.")
    ] = None,
) -> None:
    """Rank groups of runs that differ in their seed only, and say which differences can be told from chance.

    Runs that were judged on different data are ranked apart.

    Example: ghostkit compare runs --reference seedling --to comparison
    """
    from ghostkit.reporting import compare_all, comparison_text, export_comparisons
    from ghostkit.runs import find_runs

    comparisons = compare_all(find_runs(places), reference)
    typer.echo("\n\n".join(f"{what}\n\n{comparison_text(one)}" for what, one in comparisons.items()))
    if to is not None:
        written = (f"{path.suffix[1:].ljust(9)} {_near(path)}" for path in export_comparisons(comparisons, to))
        typer.echo("\n".join(["", *written]))


@app.command(cls=_WithPairs)
def evaluate(
    source: Annotated[
        Path, typer.Argument(metavar="RUN_OR_WEIGHTS", help="A run's or a checkpoint's folder, or a safetensors file.")
    ],
    parameters: Annotated[
        list[str] | None,
        typer.Option("-p", metavar="NAME VALUE", help="A parameter, such as data folder:PATH; may be repeated."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Evaluate a run, a checkpoint or published weights, and print the task's scores, loss and the number of images.

    Parameters: data, model, root, batch_size, image_size, resize, mean, std, interpolation, samples, device.

    Example: ghostkit evaluate ghostnet_100.safetensors -p data folder:imagenet/val
    """
    from ghostkit.evaluation import PARAMETERS
    from ghostkit.evaluation import evaluate as evaluated
    from ghostkit.parameters import parse_parameters

    pairs = [_pair(text) for text in parameters or []]
    for name, _ in pairs:
        if name not in PARAMETERS:
            raise GhostkitError(f"unknown parameter {name!r}; known are {', '.join(PARAMETERS)}")
    typer.echo(str(evaluated(source, **parse_parameters(PARAMETERS, pairs), progress=not quiet)))


@app.command()
def export(
    source: Annotated[Path, typer.Argument(metavar="RUN", help="A run's or a checkpoint's folder.")],
    to: Annotated[Path, typer.Option(help="The file to write: model.onnx, or model.pt2 for torch.export.load.")],
    image: Annotated[
        str | None,
        typer.Option(metavar="CxHxW", help="Shape of the images.", show_default="that which the network grew on"),
    ] = None,
    deployed: Annotated[
        bool,
        typer.Option(
            "--deployed/--as-trained", help="Fold BN into convolutions wherever that can be done, or keep all."
        ),
    ] = False,
) -> None:
    """Write a grown network for other runtimes, in batches of any size, and check what was written.

    Example: ghostkit export runs/first --to first.onnx
    """
    import torch

    from ghostkit.deploying import deploy
    from ghostkit.exporting import export as exported
    from ghostkit.exporting import image_shape_of, read_network

    model = read_network(source)
    shape = image_shape_of(model) if image is None else _shape(image)
    if deployed:
        model = deploy(model, torch.rand(2, *shape))
    difference = exported(model, to, shape)
    typer.echo(f"{_near(to)}: images of {' x '.join(map(str, shape))}, any number of them")
    typer.echo(f"largest difference to the network, relative to the largest output: {difference:.1e}")


@app.command("app")
def explore(
    places: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RUNS...", help="Run folders, or folders that hold runs.", show_default="runs"),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="A port of this machine; 0 takes a free one.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser, or not.")] = True,
) -> None:
    """Serve a page on this machine that explores runs, behind a token; Ctrl-C ends it.

    Example: ghostkit app runs/first runs/second
    """
    from ghostkit.serving import serve_runs

    def tell(address: str) -> None:
        typer.echo(f"the explorer is at {address}\nCtrl-C ends it")

    serve_runs(places or [Path("runs")], port, browser, tell)


@app.command()
def doctor() -> None:
    """Print versions, hardware, data and browser found here, and the commands that get what is missing.

    The exit status is 1 if something is missing without which ghostkit does not work.
    """
    from ghostkit.doctor import report

    checks = report()
    width = max(len(check.name) for check in checks)
    for check in checks:
        mark, colour = ("✓", "green") if check.ok else ("✗", "red") if check.needed else ("-", "yellow")
        fix = f"  ->  {check.fix}" if check.fix else ""
        typer.echo(f"{typer.style(mark, fg=colour)} {check.name.ljust(width)}  {check.value}{fix}")
    if any(check.needed and not check.ok for check in checks):
        raise typer.Exit(1)


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(metavar="SWEEP.yaml", help="The notebook to run, and the values to try.")],
    folder: Annotated[
        Path | None,
        typer.Option(help="The sweep's folder; what is done there stays done.", show_default="runs/SWEEP"),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Runs at a time.", show_default="as the file says, else one a core, one with a GPU"),
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Run on the workers of a Dask scheduler, tcp://HOST:8786.")
    ] = None,
    dask_local: Annotated[
        int | None, typer.Option(metavar="N", help="Run on a Dask cluster of N processes of this machine.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and an estimate; run nothing.")] = False,
    redo: Annotated[bool, typer.Option("--redo", help="Redo runs whose notebook's code has changed since.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Run a notebook with many values, and gather the results in one table and one page of links.

    Given again, the command runs what is missing or has failed. The exit status is 1 if some runs failed, 2 if nothing
    was run because something in the file cannot be used.

    Example: ghostkit sweep notebooks/sweep.yaml --dry-run
    """
    from ghostkit.sweeps import estimate, plan_sweep, plan_table, run_sweep

    if dry_run:
        said, state = plan_sweep(file, folder)
        typer.echo(
            f"{plan_table(state).to_string(index=False)}\n\n{estimate(state, workers or dask_local or said.workers)}"
        )
        return

    from ghostkit.sweeps.terminal import TerminalProgress

    with TerminalProgress(not quiet) as progress:
        ended = run_sweep(
            file,
            folder,
            workers=workers,
            scheduler=scheduler,
            processes=dask_local,
            redo=redo,
            on_event=progress,
        )
    typer.echo(f"table     {_near(ended.folder / 'results.parquet')}\nindex     {_near(ended.folder / 'index.html')}")
    typer.echo(f"{(ended.table['status'] == 'done').sum()} of {len(ended.table)} runs are done")
    if not ended.complete:
        for run in ended.table[ended.table["status"] != "done"].itertuples():
            typer.secho(f"ghostkit: {run.run}: {run.status}: {run.error}", fg="red", err=True)
        advice = ended.unwritten or "each record.json has its traceback; the same command runs again what is not done"
        typer.secho(f"ghostkit: {advice}", fg="red", err=True)
        raise typer.Exit(1)


def _pair(text: str) -> tuple[str, str]:
    """Return the name and the value in ``name=value``."""
    name, equals, value = text.partition("=")
    if not equals:
        raise GhostkitError(f"parameter {name!r} has no value; expected -p {name} VALUE")
    return name, value


def _shape(text: str) -> tuple[int, ...]:
    """Return the channels, height and width in ``3x224x224``."""
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){2}", text):
        raise GhostkitError(f"--image is {text!r}, expected channels, height and width, as in 3x224x224")
    return tuple(map(int, text.split("x")))


def _near(path: Path) -> Path:
    """Return ``path`` as seen from the current folder, if it lies in it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
