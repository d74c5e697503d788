"""Pages that MkDocs makes from the package: one a recipe, one a module, none of them listed by hand."""

from __future__ import annotations

import ast
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import anyjepa
from anyjepa.recipes import Recipe, flag, recipes
from anyjepa.recipes.fields import fields_of

PACKAGE = Path(next(iter(anyjepa.__path__)))


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the made pages into the navigation, after those written by hand."""
    pages = [{name: f"recipes/{name}.md"} for name in recipes()]
    parts: dict[str, list[Any]] = {}
    for module in modules():
        parts.setdefault(module.split(".")[1] if "." in module else "", []).append({module: address(module)})
    config.nav = [
        *(config.nav or []),
        {"Recipes": ["recipes/index.md", *pages]},
        {"API": ["api/index.md", *({part: links} if part else links[0] for part, links in parts.items())]},
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the made pages to the site."""
    pages = {"recipes/index.md": recipe_index(), "api/index.md": module_index()}
    pages |= {f"recipes/{name}.md": recipe_page(kind) for name, kind in recipes().items()}
    pages |= {address(module): f"# {module}\n\n::: {module}\n" for module in modules()}
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def modules(folder: Path = PACKAGE, prefix: str = anyjepa.__name__) -> Iterator[str]:
    """Dotted names of the package and all its public modules, found without importing any."""
    yield prefix
    for entry in pkgutil.iter_modules([str(folder)]):
        name = f"{prefix}.{entry.name}"
        if entry.name.startswith("_"):
            continue
        if entry.ispkg:
            yield from modules(folder / entry.name, name)
        else:
            yield name


def address(module: str) -> str:
    """Where a module's page lies."""
    return f"api/{module}.md"


def module_index() -> str:
    """The list of modules, each with the first paragraph of its docstring."""
    lines = ["# API", "", "| module | holds |", "|---|---|"]
    for module in modules():
        path = PACKAGE.parent.joinpath(*module.split("."))
        source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        lines.append(f"| [`{module}`]({module}.md) | {cell(summary(docstring(source)))} |")
    return "\n".join(lines) + "\n"


def docstring(source: Path) -> str:
    """A file's docstring, read without running it; empty for a package without an ``__init__.py``."""
    return ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or "" if source.exists() else ""


def summary(text: str) -> str:
    """The first paragraph in one line."""
    return " ".join(text.split("\n\n")[0].split())


def cell(text: str) -> str:
    """Text that may stand in a table."""
    return text.replace("|", "\\|")


def recipe_index() -> str:
    """The table of recipes."""
    lines = ["# Recipes", "", "| recipe | data | paper | presets |", "|---|---|---|---|"]
    for name, kind in recipes().items():
        presets = ", ".join(f"`{preset}`" for preset in kind.presets)
        lines.append(f"| [`{name}`]({name}.md) | {kind.domain} | {paper(kind.paper)} | {presets} |")
    return "\n".join(lines) + "\n"


def paper(reference: str) -> str:
    """A reference, linked where it is an arXiv number."""
    number = reference.removeprefix("arXiv:")
    return f"[{reference}](https://arxiv.org/abs/{number})" if number != reference else reference


def recipe_page(kind: type[Recipe]) -> str:
    """A recipe in full: its docstring, what each preset changes, and every field with its meaning."""
    lines = [
        f"# {kind.name}",
        "",
        f"Paper: {paper(kind.paper)}. Reads: {kind.domain}. To try it: `{kind.example_data}`. "
        f"Python: [`{kind.__name__}`][{kind.__module__}.{kind.__name__}].",
        "",
        inspect.getdoc(kind) or "",
        "",
        "## Presets",
        "",
        "| preset | is the same as |",
        "|---|---|",
    ]
    for preset, values in kind.presets.items():
        changes = " ".join(f"{flag(name)} {typed(value)}" for name, value in values.items())
        lines.append(f"| `{preset}` | " + (f"`{changes}`" if changes else "the defaults") + " |")
    lines += ["", "## Fields", "", "| flag | default | meaning | takes |", "|---|---|---|---|"]
    for field in fields_of(kind):
        # a | between backticks ends no cell
        row = [f"`{field.flag}`", f"`{typed(field.default)}`", cell(field.meaning), f"`{field.shape}`"]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def typed(value: object) -> str:
    """A value as one types it after a flag."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return " ".join(typed(part) for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
