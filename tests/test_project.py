"""What the repository promises about itself: one source of versions, one-way imports, clean notebooks, true words."""

from __future__ import annotations

import ast
import inspect
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml

import ghostkit

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ghostkit"
MODULES = sorted(PACKAGE.rglob("*.py"))
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))

each_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)


# Versions: pyproject.toml is where they are kept.


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def environment() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "environment.yml").read_text())


def test_the_conda_environment_is_the_project_with_its_dev_extra(project, environment):
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    pip = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert environment["name"] == project["name"] == "ghostkit"
    assert environment["channels"] == ["conda-forge"]
    assert conda == [f"python{project['requires-python']}", "pip"]
    assert pip == [["-e .[dev]"]]
    assert "dev" in project["optional-dependencies"]


def test_the_changelog_opens_with_the_version_of_the_package():
    versions = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert versions[0] == ghostkit.__version__


# The package: documented, small rooms, imports that run one way, nothing unpickled.

LAYERS = "nn growth tasks data views widgets trainer checkpoint runs notebooks cli".split()
MUST_NOT_IMPORT = {
    "errors": LAYERS,
    "files": LAYERS,
    "costs": LAYERS,
    "config": LAYERS,
    "nn": "growth tasks data trainer runs views widgets notebooks cli".split(),
    "growth": "tasks data trainer runs views widgets notebooks cli".split(),
    "tasks": "trainer runs views widgets notebooks cli".split(),
    "data": "nn growth trainer runs views widgets notebooks cli".split(),
    "views": "growth data tasks trainer widgets cli".split(),
    "widgets": "nn cli".split(),
}
PICKLES = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
UNPICKLING_CALLS = {"pd.read_pickle", "pandas.read_pickle", "torch.load", "torch.hub.load_state_dict_from_url"}
UNPICKLING_DATA = {"CIFAR10", "CIFAR100", "ImageNet", "load_meta_file", "parse_devkit_archive"}  # of torchvision


def imports_of(path: Path) -> Iterator[str]:
    """Yield the dotted name of all that a source file imports, wherever in the file it does."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *filter(None, [node.module])))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def layer_of(path: Path) -> str:
    """Return the part of the package that a source file belongs to: `nn`, `growth`, `cost`, ..."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def is_documented(name: str) -> bool:
    """Return whether a public name has words of its own; a dataclass without any is given its signature by Python."""
    thing = getattr(ghostkit, name)
    words = thing.__doc__ if inspect.isclass(thing) else inspect.getdoc(thing)
    return bool(words) and not words.startswith(f"{name}(")


def test_every_public_name_is_documented():
    names = [name for name in ghostkit.__all__ if name != "__version__"]
    assert names
    assert [name for name in names if not is_documented(name)] == []


@each_module
def test_a_module_reads_in_one_sitting(path):
    lines = len(path.read_text().splitlines())
    assert lines < 500


@each_module
def test_imports_run_one_way(path):
    names = [name.split(".") for name in imports_of(path)]
    parts = {name[1] if len(name) > 1 else "" for name in names if name[0] == "ghostkit"}
    if layer_of(path) in MUST_NOT_IMPORT:
        assert parts & set(MUST_NOT_IMPORT[layer_of(path)]) == set()
        # Names come from the module that owns them: the public front imports everything, so it would hide the way.
        assert parts <= {layer_of(module) for module in MODULES} - {"__init__"} | {"__version__"}


@each_module
def test_the_package_never_unpickles(path):
    tree = ast.parse(path.read_text())
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    keywords = {node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword)}
    assert PICKLES & {name.split(".")[0] for name in imports_of(path)} == set()
    assert UNPICKLING_CALLS & (calls | set(imports_of(path))) == set()
    assert "allow_pickle" not in keywords
    words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} | words
    assert UNPICKLING_DATA & (names | {name.split(".")[-1] for name in imports_of(path)}) == set()


# Notebooks: as a person would want to open them.


def test_the_first_notebook_is_there():
    assert "01_first_growth.ipynb" in [path.name for path in NOTEBOOKS]


@each_notebook
def test_a_notebook_is_valid_and_carries_nothing_from_a_run(path):
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert notebook.metadata.keys() <= {"kernelspec", "language_info"}
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
        assert cell.metadata.keys().isdisjoint({"execution", "papermill", "widgets"})


@each_notebook
def test_a_notebook_has_one_parameters_cell_of_plain_literals(path):
    cells = nbformat.read(path, as_version=4).cells
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    statements = ast.parse(tagged[0].source).body
    assert statements
    for statement in statements:
        assert isinstance(statement, ast.Assign | ast.AnnAssign), ast.unparse(statement)
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        assert all(isinstance(target, ast.Name) for target in targets), ast.unparse(statement)
        ast.literal_eval(statement.value)


# The README: what it tells people to type exists.


def readme_commands(program: str) -> list[str]:
    """Return the words that follow ``program`` at the start of the commands in the README's bash blocks."""
    blocks = re.findall(r"^```bash\n(.*?)^```", (ROOT / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    commands = [part.strip() for block in blocks for line in block.splitlines() for part in re.split("&&|;|#", line)]
    return [words[1] for words in map(str.split, commands) if words[:1] == [program] and len(words) > 1]


def test_every_make_target_in_the_readme_is_in_the_makefile():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(readme_commands("make"))
    assert {"demo", "test"} <= named <= targets


def test_every_ghostkit_command_in_the_readme_is_in_the_cli():
    from typer.main import get_command

    from ghostkit.cli import app

    named = {word for word in readme_commands("ghostkit") if not word.startswith("-")}
    assert {"run"} <= named <= get_command(app).commands.keys()
