"""Annotations of this package's functions and classes, read from their source.

Importing a module to inspect it imports torch and Lightning, which takes seconds.  Reading its
source takes milliseconds, so that a wrong option is reported at once.
"""

import ast
import builtins
import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACKAGE_DIR = Path(__file__).parent
ANY_ARGUMENT = {"**": Any}


class _Names(dict[str, Any]):
    """Values of the names in a module, evaluated on first use.

    A name from a module that is already imported has its value, and one from another module of this
    package is read there.  All others, and classes, are Any.  Functions, which validate values,
    accept every value.
    """

    def __init__(self, module: str):
        path = PACKAGE_DIR.parent.joinpath(*module.split(".")).with_suffix(".py")
        self.definitions: dict[str, ast.stmt | ast.expr | tuple[str, str]] = {}
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom):
                names = {each.asname or each.name: each.name for each in node.names}
                self.definitions |= {k: (str(node.module), name) for k, name in names.items()}
            elif isinstance(node, ast.ClassDef | ast.FunctionDef):
                self.definitions[node.name] = node
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self.definitions[node.targets[0].id] = node.value

    def __missing__(self, name: str) -> Any:
        defined = self.definitions.get(name)
        value: Any = Any
        if isinstance(defined, tuple):
            module, original = defined
            if module in sys.modules:
                value = getattr(sys.modules[module], original, Any)
            elif module.startswith(f"{PACKAGE_DIR.name}."):
                value = _names_of(module)[original]
        elif isinstance(defined, ast.FunctionDef):
            value = _accept
        elif isinstance(defined, ast.expr):
            value = self.evaluate(defined)
        elif defined is None:
            value = getattr(builtins, name, Any)
        self[name] = value
        return value

    def evaluate(self, annotation: ast.expr | None) -> Any:
        if annotation is None or isinstance(annotation, ast.Constant):
            return Any
        try:
            return eval(compile(ast.Expression(annotation), "annotation", "eval"), {}, self)
        except Exception:  # of a name that is Any
            return Any

    def find(self, name: str) -> "tuple[_Names, ast.stmt] | None":
        """Return the class or function `name`, and the names of the module that defines it."""
        defined = self.definitions.get(name)
        if isinstance(defined, tuple) and defined[0].startswith(f"{PACKAGE_DIR.name}."):
            return _names_of(defined[0]).find(defined[1])
        return (self, defined) if isinstance(defined, ast.stmt) else None


_names_of = functools.cache(_Names)


def _accept(value: Any) -> Any:
    return value


def read_annotations(target: str) -> dict[str, Any]:
    """Return the annotations of a target's arguments by name; "**" if it may take any name.

    Args:
        target: The full name of a class or function, as in `_target_`. If it is not in this
            package, or cannot be read, it may take any name.
    """
    module, _, name = target.rpartition(".")
    if not module.startswith(f"{PACKAGE_DIR.name}."):
        return ANY_ARGUMENT
    try:
        found = _names_of(module).find(name)
    except (OSError, SyntaxError):
        return ANY_ARGUMENT
    if found is None:
        return ANY_ARGUMENT
    names, node = found
    if isinstance(node, ast.FunctionDef):
        return _arguments(names, node)
    classes = list(_with_bases(names, node))
    for names, each in classes:
        for line in each.body:
            if isinstance(line, ast.FunctionDef) and line.name == "__init__":
                types = _arguments(names, line)
                del types["self"]
                return _with_settings(types, classes)
    bases = [names.find(ast.unparse(base)) for names, each in classes for base in each.bases]
    return ANY_ARGUMENT if None in bases else _fields(classes)


def _arguments(names: _Names, function: ast.FunctionDef) -> dict[str, Any]:
    arguments = function.args
    listed = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    types = {each.arg: names.evaluate(each.annotation) for each in listed}
    return types | (ANY_ARGUMENT if arguments.kwarg else {})


def _with_bases(names: _Names, node: ast.stmt) -> Iterator[tuple[_Names, ast.ClassDef]]:
    """Yield a class and its bases in this package, each with the names of its module."""
    if not isinstance(node, ast.ClassDef):
        return
    yield names, node
    for base in node.bases:
        if isinstance(base, ast.Name) and (found := names.find(base.id)):
            yield from _with_bases(*found)


def _fields(classes: list[tuple[_Names, ast.ClassDef]]) -> dict[str, Any]:
    """Return the annotations of the fields of a dataclass, which has a decorator, and its bases."""
    return {
        ast.unparse(line.target): names.evaluate(line.annotation)
        for names, node in reversed(classes)
        for line in (node.body if node.decorator_list else [])
        if isinstance(line, ast.AnnAssign)
    }


def _with_settings(
    types: dict[str, Any], classes: list[tuple[_Names, ast.ClassDef]]
) -> dict[str, Any]:
    """Add the fields of the class that is the first attribute `Settings`, if there is one."""
    for names, node in classes:
        for line in node.body:
            if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "Settings":
                found = names.find(ast.unparse(line.value))
                if found is None:
                    return types | ANY_ARGUMENT
                types = {key: value for key, value in types.items() if key != "**"}
                return types | _fields(list(_with_bases(*found)))
    return types
