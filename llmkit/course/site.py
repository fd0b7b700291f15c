"""`make site`: the static site in site/, from the built notebooks, the docstrings, docs/ and the index.

Pages are written to build/site/source as Markdown and notebooks; Sphinx with myst-nb and the theme Furo makes HTML of
them. No notebook is run: the stored figures are shown. What comes out is checked before it is put in place.
"""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

from llmkit.course.badges import ROOT
from llmkit.course.lessons import LESSONS, Lesson
from llmkit.course.site_api import api_pages
from llmkit.course.site_check import check_site
from llmkit.course.site_index import glossary, papers, transformers_names
from llmkit.course.site_map import learning_path
from llmkit.course.site_pages import write_lessons
from llmkit.course.site_results import render

SOURCE, BUILT, SITE = ROOT / "build" / "site" / "source", ROOT / "build" / "site" / "html", ROOT / "site"


def prepare(source: Path) -> None:
    """Everything that Sphinx reads, into an empty folder."""
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(ROOT / "docs", source)
    lessons = write_lessons(source, source / "_extra")
    index = source / "index.md"
    text = index.read_text(encoding="utf-8")
    api = api_pages()
    trees = contents(lessons, list(api))
    index.write_text(text.replace("<!-- map -->", raw(learning_path())) + trees, encoding="utf-8")
    pages = {"glossary": glossary(), "papers": papers(), "transformers": transformers_names(), "results": render()}
    (source / "api").mkdir()
    for name, page in (pages | {f"api/{name}": page for name, page in api.items()}).items():
        (source / f"{name}.md").write_text(page, encoding="utf-8")


def raw(html: str) -> str:
    return f"```{{raw}} html\n{html}\n```"


def contents(lessons: list[Lesson], api: list[str]) -> str:
    """The tables of contents of the sidebar: a caption for each part of the course, then package and index."""
    trees = {part: [f"lessons/{one.name}" for one in lessons if one.part == part]
             for part in dict.fromkeys(one.part for one in LESSONS)}  # fmt: skip
    trees["The package"] = [f"api/{name}" for name in api]
    trees["Index"] = ["glossary", "papers", "transformers", "results"]
    return "".join(
        f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(names) + "\n```\n"
        for caption, names in trees.items()
        if names
    )


def build(source: Path, built: Path) -> int:
    """Sphinx over a prepared folder; a warning is an error. What it needs for itself stays beside `built`."""
    shutil.rmtree(built, ignore_errors=True)
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
    return subprocess.call([*command, "-d", str(built.parent / "doctrees"), str(source), str(built)], cwd=ROOT)


def put_in_place(built: Path, site: Path) -> None:
    """Rename the old site aside, then the new one in: there is never half a site, and none inside another."""
    old = built.with_name("old")
    if old.exists():  # of a run that was stopped here
        shutil.rmtree(old)
    if site.exists():
        site.rename(old)
    built.rename(site)
    shutil.rmtree(old, ignore_errors=True)


def main() -> int:
    """Build the site and check it; 1 where something is wrong, and then site/ stays as it was."""
    if importlib.util.find_spec("myst_nb") is None:
        print("The site needs Sphinx: run `make site`, or pip install -r requirements-site.txt", file=sys.stderr)
        return 1
    prepare(SOURCE)
    if build(SOURCE, BUILT):
        return 1
    problems = check_site(BUILT)
    if problems:
        print("\n".join(problems), file=sys.stderr)
        return 1
    put_in_place(BUILT, SITE)
    print(f"{len(list(SITE.rglob('*.html')))} pages in site/; open site/index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
