"""Find definitions in llmkit's source and make stubs of them, by `ast`, without importing them."""

import ast
import re
import symtable
from dataclasses import dataclass
from importlib.util import find_spec, resolve_name
from pathlib import Path


class SourceError(Exception):
    """A definition that cannot be shown; the builder adds the lesson's file and line."""


@dataclass(frozen=True)
class Definition:
    """A top-level function, class or assignment of a module, with the module's imports by bound name."""

    name: str
    module: str
    node: ast.stmt
    lines: tuple[str, ...]
    imports: dict[str, str]

    @property
    def source(self) -> str:
        """The text, with decorators and the comment lines right above it."""
        first = min([self.node.lineno, *(d.lineno for d in getattr(self.node, "decorator_list", []))]) - 1
        while first and self.lines[first - 1].startswith("#"):
            first -= 1
        return "\n".join(self.lines[first : self.node.end_lineno])

    def stub(self, message: str) -> str:
        """Signature and docstring with the body replaced by `raise NotImplementedError(message)`.

        Of a class, __init__ is kept whole and every other method is emptied.
        """
        if isinstance(self.node, ast.FunctionDef):
            return self._text([(self.node, message)])
        if isinstance(self.node, ast.ClassDef):
            methods = [n for n in self.node.body if isinstance(n, ast.FunctionDef) and n.name != "__init__"]
            if methods:
                return self._text([(method, message) for method in methods])
        raise SourceError(f"{self.name} is no function and no class with methods, so it cannot be an exercise")

    def _text(self, emptied: list[tuple[ast.FunctionDef, str]]) -> str:
        """The source with these functions' bodies emptied, last first so that line numbers stay true."""
        lines = list(self.lines)
        for function, message in reversed(emptied):
            kept = 1 if ast.get_docstring(function) is not None else 0
            first = function.body[kept].lineno - 1 if kept < len(function.body) else function.end_lineno
            while kept and lines[first - 1].lstrip().startswith("#"):
                first -= 1  # a comment above the first statement is part of the answer
            indent = " " * function.body[0].col_offset
            lines[first : function.end_lineno] = [f'{indent}raise NotImplementedError("{message}")']
        removed = len(self.lines) - len(lines)
        first = min([self.node.lineno, *(d.lineno for d in self.node.decorator_list)]) - 1
        return "\n".join(lines[first : self.node.end_lineno - removed])

    def with_body_of(self, other: "Definition") -> str:
        """This function's signature and docstring over another's body: what the learner is given to mend."""
        parameters = [[argument.arg for argument in d.node.args.args] for d in (self, other)]
        if parameters[0] != parameters[1]:
            raise SourceError(f"{other.name} must have the parameters of {self.name}")
        if ast.get_docstring(self.node) is None:
            raise SourceError(f"{self.name} needs a docstring that says what to match")
        head = self.lines[self.node.lineno - 1 : self.node.body[0].end_lineno]
        first = other.node.body[1 if ast.get_docstring(other.node) is not None else 0]
        return "\n".join([*head, *other.lines[first.lineno - 1 : other.node.end_lineno]])


def find_definition(module: str, name: str) -> Definition:
    """The definition of `name`, followed through re-exports such as `from llmkit.a.b import name`."""
    spec = find_spec(module)
    if spec is None or not spec.origin:
        raise SourceError(f"there is no module {module}")
    text = Path(spec.origin).read_text(encoding="utf-8")
    package = module if spec.submodule_search_locations else module.rpartition(".")[0]
    tree, imports = ast.parse(text), {}
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports |= _bindings(node, package)
    for node in tree.body:
        if name in bound_by(node) and not isinstance(node, ast.Import | ast.ImportFrom):
            return Definition(name, module, node, tuple(text.splitlines()), imports)
    if name in imports:
        source, original = re.fullmatch(r"from (\S+) import (\w+)(?: as \w+)?", imports[name]).groups()
        return find_definition(source, original)
    raise SourceError(f"{module} defines no {name}")


def _bindings(node: ast.Import | ast.ImportFrom, package: str) -> dict[str, str]:
    """{"np": "import numpy as np", …}, relative imports made absolute."""
    prefix = ""
    if isinstance(node, ast.ImportFrom):
        module = resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module
        prefix = f"from {module} "
    bindings = {}
    for alias in node.names:
        bound = alias.asname or (alias.name if prefix else alias.name.split(".")[0])
        bindings[bound] = f"{prefix}import {alias.name}" + (f" as {alias.asname}" if alias.asname else "")
    return bindings


def bound_by(node: ast.stmt) -> set[str]:
    """The names that a top-level statement binds."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def names(code: str) -> tuple[set[str], set[str]]:
    """The global names that a piece of code (binds, uses), nested functions and comprehensions included."""
    bound, used = set(), set()

    def visit(table: symtable.SymbolTable, top: bool) -> None:
        for symbol in table.get_symbols():
            is_global = top or symbol.is_global()
            if is_global and (symbol.is_assigned() or symbol.is_imported()):
                bound.add(symbol.get_name())
            if is_global and symbol.is_referenced():
                used.add(symbol.get_name())
        for child in table.get_children():
            visit(child, False)

    visit(symtable.symtable(code, "cell", "exec"), True)
    inner = _only_in_comprehensions(ast.parse(code))
    return bound - inner, used - inner


def _only_in_comprehensions(tree: ast.Module) -> set[str]:
    """Variables of comprehensions: since Python 3.12 symtable counts them among the names around (PEP 709)."""
    loops = [node.target for node in ast.walk(tree) if isinstance(node, ast.comprehension)]
    inside = {id(name): name.id for loop in loops for name in ast.walk(loop) if isinstance(name, ast.Name)}
    stored = [n for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    return set(inside.values()) - {name.id for name in stored if id(name) not in inside}
