"""Small wrong versions of a function, made by changing one place of its syntax tree at a time."""

import ast
import copy
import importlib
import inspect
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

SWAPS = {
    ast.Add: [ast.Sub], ast.Sub: [ast.Add], ast.Mult: [ast.Div], ast.Div: [ast.Mult], ast.Mod: [ast.FloorDiv],
    ast.FloorDiv: [ast.Mod], ast.Pow: [ast.Mult], ast.MatMult: [ast.Mult], ast.BitOr: [ast.BitAnd],
    ast.BitAnd: [ast.BitOr], ast.LShift: [ast.RShift], ast.RShift: [ast.LShift], ast.BitXor: [ast.BitAnd],
    ast.Lt: [ast.LtE, ast.Gt], ast.LtE: [ast.Lt, ast.GtE], ast.Gt: [ast.GtE, ast.Lt],
    ast.GtE: [ast.Gt, ast.LtE], ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq], ast.In: [ast.NotIn], ast.NotIn: [ast.In], ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is], ast.And: [ast.Or], ast.Or: [ast.And],
}  # fmt: skip
RENAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "argmax": "argmin", "sum": "max"}


@dataclass
class Mutant:
    """One wrong version; `change` says what was changed, the same on every run."""

    change: str
    function: Callable


def mutants(reference: str) -> Iterator[Mutant]:
    """Every mutant of "package.module:function" that compiles."""
    module_name, name = reference.split(":")
    module = importlib.import_module(module_name)
    function = inspect.unwrap(getattr(module, name))
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    seen: dict[str, int] = {}
    for change, mutated in _changes(tree):
        seen[change] = seen.get(change, 0) + 1
        if seen[change] > 1:
            change = f"{change} (#{seen[change]})"
        namespace = dict(vars(module))
        try:
            exec(compile(ast.fix_missing_locations(mutated), "<mutant>", "exec"), namespace)
        except SyntaxError:
            continue
        yield Mutant(change, namespace[name])
    if "Tensor" in str(inspect.signature(function).return_annotation):
        yield Mutant("result in another precision", _in_another_precision(function))


def _in_another_precision(function: Callable) -> Callable:
    other = {torch.float32: torch.float64, torch.float64: torch.float32, torch.int64: torch.int32}

    def converted(*arguments):
        value = function(*arguments)
        return value.to(other.get(value.dtype, value.dtype)) if isinstance(value, torch.Tensor) else value

    return converted


def _changes(tree: ast.Module) -> Iterator[tuple[str, ast.Module]]:
    nodes = list(ast.walk(tree))
    skip = {id(inner) for node in nodes for inner in _not_mutated(node)}
    for index, node in enumerate(nodes):
        if id(node) in skip:
            continue
        for text, change in _node_changes(node):
            mutated = copy.deepcopy(tree)
            target = list(ast.walk(mutated))[index]
            change(target)
            yield text, mutated


def _not_mutated(node: ast.AST) -> Iterator[ast.AST]:
    """Docstrings, annotations and the words of error messages do not change what a function computes."""
    if isinstance(node, ast.FunctionDef):
        if ast.get_docstring(node) is not None:
            yield from ast.walk(node.body[0])
        for annotation in [node.returns, *(a.annotation for a in node.args.args)]:
            if annotation is not None:
                yield from ast.walk(annotation)
    if isinstance(node, ast.AnnAssign):
        yield from ast.walk(node.annotation)
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        for argument in node.exc.args:
            yield from ast.walk(argument)


def _node_changes(node: ast.AST) -> Iterator[tuple[str, Callable[[ast.AST], None]]]:
    def replace(field, value):
        return lambda target: setattr(target, field, value)

    def text(after):
        return f"{ast.unparse(node)}  ->  {after}"

    if isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign):
        for other in SWAPS.get(type(node.op), []):
            yield text(other.__name__), replace("op", other())
    if isinstance(node, ast.Compare):
        for other in SWAPS.get(type(node.ops[0]), []):
            yield text(other.__name__), replace("ops", [other(), *node.ops[1:]])
    if isinstance(node, ast.UnaryOp):
        yield (
            text("without " + type(node.op).__name__),
            replace("op", ast.UAdd())
            if isinstance(node.op, ast.USub)
            else lambda target: setattr(target, "op", ast.UAdd()),
        )
    if isinstance(node, ast.Constant):
        for value in _other_constants(node.value):
            yield text(repr(value)), replace("value", value)
    if isinstance(node, ast.Call):
        yield from _call_changes(node, text)
    if isinstance(node, ast.Slice):
        for side in ("lower", "upper", "step"):
            if getattr(node, side) is not None:
                yield text(f"without {side}"), replace(side, None)
    if isinstance(node, ast.comprehension):
        for i in range(len(node.ifs)):
            kept = node.ifs[:i] + node.ifs[i + 1 :]
            yield text(f"without condition {i}"), lambda target, kept=kept: setattr(target, "ifs", kept)
    if isinstance(node, ast.IfExp):
        yield (
            text("swapped"),
            lambda t: (lambda a, b: (setattr(t, "body", b), setattr(t, "orelse", a)))(t.body, t.orelse),
        )
    if isinstance(node, ast.Return) and node.value is not None:
        yield text("None"), replace("value", ast.Constant(None))
    for field in ("body", "orelse") if not isinstance(node, ast.Module) else ():
        yield from _dropped_statements(node, field)


def _call_changes(node: ast.Call, text: Callable) -> Iterator:
    for i in range(len(node.args) - 1):
        swapped = [*node.args[:i], node.args[i + 1], node.args[i], *node.args[i + 2 :]]
        yield text(f"arguments {i} and {i + 1} swapped"), lambda target, s=swapped: setattr(target, "args", s)
    for i, keyword in enumerate(node.keywords):
        if keyword.arg == "strict":
            continue  # strict=False is zip's default
        if keyword.arg == "dim":
            zero = ast.keyword("dim", ast.Constant(0))
            yield text("dim=0"), lambda target, i=i, k=zero: target.keywords.__setitem__(i, k)
        else:
            yield text(f"without {keyword.arg}"), lambda target, i=i: target.keywords.pop(i)
    function = node.func
    name = getattr(function, "attr", None) or getattr(function, "id", None)
    if name in RENAMES:
        field = "attr" if isinstance(function, ast.Attribute) else "id"
        yield text(RENAMES[name]), lambda target, f=field: setattr(target.func, f, RENAMES[name])


def _dropped_statements(node: ast.AST, field: str) -> Iterator:
    statements = getattr(node, field, None)
    if not isinstance(statements, list):
        return
    for i, statement in enumerate(statements):
        is_docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        if isinstance(statement, ast.Pass) or is_docstring:
            continue
        first_line = ast.unparse(statement).splitlines()[0]
        yield (
            f"dropped: {first_line}",
            lambda target, i=i: getattr(target, field).__setitem__(i, ast.Pass()),
        )
        if isinstance(statement, ast.Break):
            yield (
                "break  ->  continue",
                lambda target, i=i: getattr(target, field).__setitem__(i, ast.Continue()),
            )


def _other_constants(value) -> list:
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1]
    if isinstance(value, float):
        return [value + 1.0, value * 1.5 + 0.1]
    if isinstance(value, str):
        return [value + "x"]
    return []
