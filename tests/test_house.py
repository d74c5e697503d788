"""The rules of the house, checked: what ships, what is documented, what may be named how."""

import ast
import os
import re
import subprocess
import sys
import sysconfig
import time
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "anyjepa"
SOURCES = sorted(PACKAGE.rglob("*.py"))
FORBIDDEN_NAMES = {"util", "utils", "helper", "helpers", "misc", "common", "manager"}
HEAVY = ("torch", "sklearn", "lightning_fabric", "datasets", "transformers")


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def public_definitions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Public functions and classes of a module, and the public methods of its public classes.

    A method of a class with bases may be documented by the base, so those are left to the base.
    """
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name[0] == "_":
            continue
        yield node
        if isinstance(node, ast.ClassDef) and not node.bases:
            for member in node.body:
                if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef) and member.name[0] != "_":
                    yield member


def documented_arguments(docstring: str) -> set[str]:
    """Names in the `Args:` section, where `start, end: ...` describes two at once."""
    _, _, rest = docstring.partition("\nArgs:\n")
    section = re.split(r"\n(?=\S)", rest)[0]
    return {
        name
        for names in re.findall(r"^    (\w+(?:, \w+)*):", section, re.MULTILINE)
        for name in names.split(", ")
    }


def accepted_arguments(node: ast.AST) -> set[str]:
    """Names that a function, a class's `__init__` or a dataclass's fields accept."""
    if isinstance(node, ast.ClassDef):
        starts = [member for member in node.body if getattr(member, "name", None) == "__init__"]
        if not starts:
            return {ast.unparse(member.target) for member in node.body if isinstance(member, ast.AnnAssign)}
        node = starts[0]
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    arguments = node.args
    named = [
        *arguments.posonlyargs,
        *arguments.args,
        *arguments.kwonlyargs,
        arguments.vararg,
        arguments.kwarg,
    ]
    return {argument.arg for argument in named if argument}


def command(*arguments: str, where: Path) -> subprocess.CompletedProcess[str]:
    # Away from the repository, so that what is found is what is installed.
    return subprocess.run(
        [sys.executable, *arguments], cwd=where, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_public_names_are_documented(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    undocumented = [
        f"{node.name}:{node.lineno}" for node in public_definitions(tree) if not ast.get_docstring(node)
    ]
    assert not undocumented
    assert ast.get_docstring(tree), "the module says nothing about itself"


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_documented_arguments_exist(path):
    stale = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            unknown = documented_arguments(ast.get_docstring(node) or "") - accepted_arguments(node)
            stale |= {f"{node.name}:{node.lineno}": unknown} if unknown else {}
    assert not stale


def test_reading_of_documented_arguments():
    arguments = "Args:\n    start, end: where;\n        note: not a name.\n    width: of it."
    docstring = f"Text.\n\n{arguments}\n\nReturns:\n    x: y."
    assert documented_arguments(docstring) == {"start", "end", "width"}
    assert documented_arguments("No arguments.") == set()


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_files_are_readable_in_one_sitting(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_file_names_say_what_is_inside(path):
    words = {word for part in path.relative_to(PACKAGE).with_suffix("").parts for word in part.split("_")}
    assert not words & FORBIDDEN_NAMES


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_nothing_is_unpickled_or_evaluated(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    called = {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not imported & {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
    assert not called & {"eval", "exec"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            flags = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert flags.get("weights_only") == "True", (
                f"line {node.lineno}: torch.load without weights_only=True"
            )


def test_package_and_changelog_name_the_version_that_is_built():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == version
    assert f'\n__version__ = "{version}"\n' in (PACKAGE / "__init__.py").read_text(encoding="utf-8")


def test_constraints_pin_what_the_package_needs():
    """Each core dependency is pinned, exactly, and no CUDA build or local version is."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [
        line
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    pins = {name.lower().replace("_", "-"): version for name, version in (line.split("==") for line in lines)}
    assert {re.split(r"[<>=\[]", need)[0] for need in project["dependencies"]} <= pins.keys()
    assert not [name for name in pins if name.startswith(("nvidia", "cuda", "triton", "torchvision"))]
    assert not [version for version in pins.values() if "+" in version]


def test_wheel_holds_the_package_and_nothing_else(tmp_path):
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path))
    build = command("-m", "pip", "wheel", *options, str(ROOT), where=tmp_path)
    assert build.returncode == 0, build.stderr
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert {name.split("/")[0] for name in names} == {"anyjepa", f"anyjepa-{version}.dist-info"}
    files = {
        relative(path) for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }
    assert "anyjepa/py.typed" in files
    assert files <= set(names)
    assert not [name for name in names if "test" in name or "__pycache__" in name]


def test_import_brings_no_heavy_library(tmp_path):
    done = command(
        "-c",
        f"import sys, anyjepa; print([name for name in {HEAVY} if name in sys.modules])",
        where=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_help_answers_quickly_and_without_torch(tmp_path):
    # -X importtime lists each module as it is imported: nothing can be hidden by a lazy module.
    program = "import sys; sys.argv = ['anyjepa', '--help']; from anyjepa.cli import main; sys.exit(main())"
    durations = []
    for _ in range(3):
        start = time.perf_counter()
        done = command("-X", "importtime", "-c", program, where=tmp_path)
        durations.append(time.perf_counter() - start)
    assert done.returncode == 0, done.stderr
    assert "train" in done.stdout
    imported = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert not imported & set(HEAVY)
    assert min(durations) < 2.0, "half a second is the promise, on a machine with nothing else to do"


def test_script_is_installed(tmp_path):
    script = Path(sysconfig.get_path("scripts")) / ("anyjepa.exe" if os.name == "nt" else "anyjepa")
    done = subprocess.run(
        [script, "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
