"""What must hold of every built page: links lead somewhere, nothing comes from another host, figures have alt text,
headings are in order."""

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

RELATIONS = {"stylesheet", "icon", "apple-touch-icon", "preload", "preconnect", "prefetch", "modulepreload", "manifest"}
STYLE_URL = re.compile(r"(?:@import\s+(?:url\()?|url\()\s*['\"]?([^'\")\s;]+)")
SRCSET_URL = re.compile(r"\s*([^\s,]\S*?)(?:,(?=\s|$)|\s+[^,]*(?:,|$)|$)")  # "a.png 1x,b.png 2x"; names may hold commas
OTHER_HOST = re.compile(r"^(?:https?:)?//", re.IGNORECASE)


@dataclass
class Page(HTMLParser):
    """One page, read: the ids it has, where its links lead, what it loads, its headings."""

    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    headings: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.in_style = False

    def handle_starttag(self, tag: str, pairs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in pairs}
        self.ids |= {
            attributes[name] for name in ("id", "name") if attributes.get(name) and (name == "id" or tag == "a")
        }
        if tag == "a" and "href" in attributes:
            self.links.append(attributes["href"])
        if tag == "link" and RELATIONS & set(attributes.get("rel", "").lower().split()):
            self.loads.append(attributes.get("href", ""))
        if tag == "img" and not attributes.get("alt", "").strip():
            self.problems.append(f"the picture {attributes.get('src', '')[:60]} has no alt text")
        loaded = [attributes.get("src"), attributes.get("poster"), attributes.get("data") if tag == "object" else None]
        self.loads += [url.strip() for url in loaded if url]
        self.loads += SRCSET_URL.findall(attributes.get("srcset", ""))
        self.in_style = tag == "style"
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_data(self, data: str) -> None:
        if self.in_style:
            self.loads += STYLE_URL.findall(data)

    def handle_endtag(self, tag: str) -> None:
        self.in_style = False


def heading_problems(levels: list[int]) -> list[str]:
    """One h1, first; no level is skipped on the way down.

    >>> heading_problems([1, 2, 4])
    ['a heading of level 4 follows one of level 2']
    """
    problems = (
        [] if levels.count(1) == 1 and levels[0] == 1 else [f"{levels.count(1)} headings of level 1, not one, first"]
    )
    steps = zip(levels, levels[1:], strict=False)
    return problems + [f"a heading of level {b} follows one of level {a}" for a, b in steps if b > a + 1]


def check_site(folder: Path) -> list[str]:
    """All problems of the pages under `folder`, each with its page; empty where there are none."""
    folder = folder.resolve()
    pages: dict[Path, Page] = {}
    for path in sorted(folder.rglob("*.html")):
        pages[path] = Page()
        text = path.read_text(encoding="utf-8")
        pages[path].feed(text)
        unknown = dict.fromkeys(re.findall(r"<m[a-z]+[^>]*>(\\[^<]*)<", text))
        pages[path].problems += [f"a formula has {command}, which is not known" for command in unknown]
    if not pages:
        return [f"{folder} has no page"]
    problems = []
    for path, page in pages.items():
        found = page.problems + heading_problems(page.headings)
        found += [f"loads {url} from another host" for url in page.loads if OTHER_HOST.match(url)]
        inside = [url for url in page.links + page.loads if not re.match(r"^(?:[a-z]+:|//)", url)]
        found += filter(None, (dead(url, path, pages, folder) for url in dict.fromkeys(inside)))
        problems += [f"{path.relative_to(folder)}: {problem}" for problem in found]
    for path in sorted(folder.rglob("*.css")):
        for url in STYLE_URL.findall(path.read_text(encoding="utf-8")):
            if OTHER_HOST.match(url):
                problems.append(f"{path.relative_to(folder)}: loads {url} from another host")
            elif not re.match(r"^(?:data:|#)", url) and dead(re.split("[?#]", url)[0], path, pages, folder):
                problems.append(f"{path.relative_to(folder)}: loads {url}, which is not there")
    return problems


def dead(url: str, path: Path, pages: dict[Path, Page], folder: Path) -> str:
    """Why a link inside the site leads nowhere, or "". Paths are whole ones, of files in `folder`."""
    name, anchor = urldefrag(url)
    name = unquote(name.split("?")[0])
    target = (path.parent / name).resolve() if name else path
    if not target.is_relative_to(folder):
        return f"the link {url} leads out of the site"
    target = target / "index.html" if target.is_dir() else target
    if not target.is_file():
        return f"the link {url} leads nowhere"
    if anchor and target in pages and unquote(anchor) not in pages[target].ids:
        return f"the link {url} names a place that its page does not have"
    return ""
