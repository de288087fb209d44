"""What a package's source imports, parsed and never run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

THIRD_PARTY_MODULES = frozenset({"safetensors.torch"})
"""Modules of others that the rules tell from the package they are in."""


@dataclass(frozen=True)
class Import:
    """One name that one module imports."""

    line: int
    name: str
    """Dotted, absolute: the deepest module that is meant."""
    deferred: bool
    """Inside a function."""
    typing_only: bool
    """Under `if TYPE_CHECKING:`."""


@dataclass(frozen=True)
class Module:
    """One source file."""

    name: str
    """As in the level table: `stitch`, `exporters/geojson`; a package by its `name/`."""
    tree: ast.Module
    imports: tuple[Import, ...]


def read_package(folder: Path) -> dict[str, Module]:
    """Parse every module of a package, by name."""
    paths = sorted(folder.rglob("*.py"))
    names = {path: _table_name(path.relative_to(folder)) for path in paths}
    dotted = {_dotted(folder.name, name) for name in names.values()}
    modules = {}
    for path, name in names.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        package = ".".join([folder.name, *path.relative_to(folder).parts[:-1]])
        found = tuple(_imports(tree, package, dotted, deferred=False, typing_only=False))
        modules[name] = Module(name, tree, found)
    return modules


def _table_name(path: Path) -> str:
    if path.name == "__init__.py" and len(path.parts) > 1:
        return path.parent.as_posix() + "/"
    return path.with_suffix("").as_posix()


def _dotted(package: str, name: str) -> str:
    return package if name == "__init__" else f"{package}.{name.rstrip('/').replace('/', '.')}"


def _imports(
    node: ast.AST, package: str, modules: set[str], deferred: bool, typing_only: bool
) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(child.lineno, alias.name, deferred, typing_only)
        elif isinstance(child, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - child.level]
            source = ".".join([*(above if child.level else []), *filter(None, [child.module])])
            for alias in child.names:
                inner = f"{source}.{alias.name}"
                # `from package import module` means the module; any other name its source.
                is_module = inner in modules or inner in THIRD_PARTY_MODULES
                yield Import(child.lineno, inner if is_module else source, deferred, typing_only)
        elif isinstance(child, ast.Call) and called(child) in ("import_module", "__import__"):
            for argument in child.args[:1]:
                yield Import(child.lineno, _text_of(argument), deferred=True, typing_only=False)
            yield from _imports(child, package, modules, deferred, typing_only)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            guarded = ast.Module(child.body, [])
            otherwise = ast.Module(child.orelse, [])
            yield from _imports(guarded, package, modules, deferred, typing_only=True)
            yield from _imports(otherwise, package, modules, deferred, typing_only)
        else:
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports(child, package, modules, deferred or inside, typing_only)


def called(call: ast.Call) -> str:
    function = call.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _text_of(argument: ast.expr) -> str:
    """Return a constant name, or the constant beginning of a computed one."""
    if isinstance(argument, ast.JoinedStr):
        argument = argument.values[0]
    if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
        return argument.value
    return "?"


def our_edges(modules: dict[str, Module], package: str) -> Iterator[tuple[str, str, Import]]:
    """Yield (importing module, imported module, import) within the package."""
    by_dotted = {_dotted(package, name): name for name in modules}
    for module in modules.values():
        for found in module.imports:
            if found.name in by_dotted:
                yield module.name, by_dotted[found.name], found
