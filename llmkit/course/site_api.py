"""API pages from the docstrings, read by `ast`: nothing is imported, and a docstring stays as its author wrote it."""

import ast
import re
from pathlib import Path

from llmkit.course.badges import ROOT, repository
from llmkit.course.site_map import gained
from llmkit.course.site_pages import built_lessons
from llmkit.course.where import exercises_of

# As the README lists them; each folder is a page.
FOLDERS = ("data", "tokenizers", "layers", "models", "checkpoints", "generation", "training", "finetuning",
           "alignment", "evaluation", "results", "viz")  # fmt: skip


def api_pages() -> dict[str, str]:
    """{page name: Markdown} of every folder of the package, llmkit itself and llmkit.chat on the first."""
    pages = {"llmkit": page("llmkit", sorted((ROOT / "llmkit").glob("*.py")))}
    for name in FOLDERS:
        pages[name] = page(f"llmkit.{name}", sorted((ROOT / "llmkit" / name).rglob("*.py")))
    return pages


def page(title: str, paths: list[Path]) -> str:
    """One page: each module that has something public, under a heading."""
    modules = [module_text(path) for path in paths if path.name != "__main__.py"]
    return "\n\n".join([f"# {title}", *filter(None, modules)]) + "\n"


def module_text(path: Path) -> str:
    """The module's docstring, the lessons that build it, its public functions and classes; "" of an empty module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    relative = path.relative_to(ROOT)
    name = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
    public = [node for node in tree.body if is_public(node)]
    doc = ast.get_docstring(tree)
    if path.name == "__init__.py" and not public:
        return prose(doc) if doc else ""
    source = f"{repository()['url']}/blob/{repository()['branch']}/{relative.as_posix()}"
    builders = [one for one in gained().get(relative.as_posix(), ()) if one in built_lessons()]
    lessons = [f"[lesson {one.number:02d}](../lessons/{one.name}.ipynb)" for one in builders]
    built = f" Built in {' and '.join(lessons)}." if lessons else ""
    parts = [f"## {name.removeprefix('llmkit.')}", f"```{{py:module}} {name}\n```", prose(doc or "")]
    parts.append(f"[{relative.as_posix()}]({source}){built}")
    return "\n\n".join([*parts, *(definition_text(name, node) for node in public)])


def is_public(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")


def definition_text(module: str, node: ast.FunctionDef | ast.ClassDef) -> str:
    """A function, or a class with its public methods that say what they do."""
    kind = "function" if isinstance(node, ast.FunctionDef) else "class"
    parts = [prose(ast.get_docstring(node) or "")]
    parts += [f"Exercise {e.number} of lesson {e.lesson}." for e in exercises_of((f"{module}:{node.name}",))]
    if kind == "class":
        for method in filter(is_public, node.body):
            if ast.get_docstring(method) and not is_property(method):
                parts.append(
                    directive("method", f"{method.name}{signature(method)}", [prose(ast.get_docstring(method))])
                )
    options = f":module: {module}\n"
    if (ROOT / f"{module}.{node.name}".replace(".", "/")).with_suffix(".py").exists():
        options += ":no-index:\n"  # a module has the same full name, and a name can be linked once
    return directive(kind, f"{node.name}{signature(node)}", parts, options, fence="`````")


def directive(kind: str, head: str, parts: list[str], options: str = "", fence: str = "````") -> str:
    body = "\n\n".join(filter(None, parts))
    return f"{fence}{{py:{kind}}} {head}\n{options}\n{body}\n{fence}"


def is_property(node: ast.FunctionDef) -> bool:
    return any(getattr(d, "id", "").endswith("property") for d in node.decorator_list)


def signature(node: ast.FunctionDef | ast.ClassDef) -> str:
    """(a: int, b: str = "x") -> float; of a class its __init__'s, or the fields of a dataclass."""
    if isinstance(node, ast.FunctionDef):
        arguments = ast.unparse(node.args)
        arguments = re.sub(r"^(self|cls)(, |$)", "", arguments)
        return f"({arguments})" + (f" -> {ast.unparse(node.returns)}" if node.returns else "")
    for inner in node.body:
        if isinstance(inner, ast.FunctionDef) and inner.name == "__init__":
            return signature(inner).removesuffix(" -> None")
    fields = [inner for inner in node.body if isinstance(inner, ast.AnnAssign)]
    return "(" + ", ".join(ast.unparse(one) for one in fields) + ")" if fields else ""


def prose(doc: str) -> str:
    """A docstring as Markdown: examples become code, tables of names stay as they are aligned.

    >>> prose("Half of x_1.\\n\\n>>> half(2)\\n1")
    'Half of x\\\\_1.\\n\\n```pycon\\n>>> half(2)\\n1\\n```'
    """
    blocks = []
    for block in re.split(r"\n\s*\n", doc.strip("\n")):
        text, mark, example = block.partition(">>>")
        if text.strip():
            blocks.append(f"```text\n{text.rstrip()}\n```" if is_table(text) else escaped(text.strip()))
        if mark:
            blocks.append(f"```pycon\n{mark}{example.rstrip()}\n```")
    return "\n\n".join(blocks)


def is_table(text: str) -> bool:
    """Whether a paragraph is aligned by hand: indented lines, or two blanks and more between columns."""
    return any(re.match(r"\s+\S", line) or re.search(r"\S {2,}\S", line) for line in text.splitlines())


def escaped(text: str) -> str:
    """Prose without Markdown's signs, `code` kept."""
    pieces = re.split(r"(`[^`\n]+`)", text)
    return "".join(p if n % 2 else re.sub(r"([\\*_$<>\[\]#|`{}~])", r"\\\1", p) for n, p in enumerate(pieces))
