"""The site that `make site` builds, as people see it: on a desktop and on a phone, served from this machine."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from presence import missing

from llmkit.course.lessons import LESSONS, Lesson

SITE = Path(__file__).parents[2] / "site"
TWO_LESSONS = ("02_tokenizers", "04_attention")
# What stands out of the window to the right, but for what has a scroll bar of its own: wide code, wide tables.
TOO_WIDE = """() => [...document.querySelectorAll("article *")].filter(node => {
  const box = node.getBoundingClientRect();
  if (!box.width || box.right <= innerWidth + 1) return false;
  for (let up = node; up && up.tagName != "ARTICLE"; up = up.parentElement)
    if (["auto", "scroll"].includes(getComputedStyle(up).overflowX)) return false;
  return true;
}).map(node => node.outerHTML.slice(0, 100))"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """The address under which site/ is served."""
    if not (SITE / "index.html").exists():
        missing("there is no site/ to look at: run `make site` first")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=SITE)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def look(page, address: str) -> None:
    """Open a page, scroll through it, and check what no page may lack."""
    elsewhere: list[str] = []
    page.on(
        "request", lambda r: elsewhere.append(r.url) if not r.url.startswith(("data:", "http://127.0.0.1")) else None
    )
    missing: list[str] = []
    page.on("response", lambda r: missing.append(r.url) if r.status >= 400 else None)
    page.goto(address)
    for image in page.locator("main img, article img").all():
        image.scroll_into_view_if_needed()  # figures are loaded when they come into sight
        image.evaluate("image => image.decode()")
        assert image.get_attribute("alt"), f"{image.get_attribute('src')} has no alt text"
    page.evaluate("scrollTo(0, 0)")
    assert not missing and not elsewhere, (missing, elsewhere)
    assert not page.evaluate(TOO_WIDE), "the page must be scrolled sideways"


def test_the_landing_page_leads_to_the_lessons(site, sized, shot):
    look(sized, f"{site}/index.html")
    shot(sized, f"site-index-{sized.size}")
    ready = [one for one in LESSONS if one.exists and (SITE / "lessons" / f"{one.name}.html").exists()]
    assert len(ready) >= 18
    if sized.size == "phone":
        assert not sized.locator(".sidebar-tree").is_visible() or not _in_sight(sized, ".sidebar-tree")
        sized.locator("label.nav-overlay-icon").click()
        sized.wait_for_timeout(500)  # the drawer slides in
        shot(sized, "site-index-phone-menu")
    missing = [one.name for one in ready if not _link(sized, one).count()]
    assert not missing, f"no link in the sidebar: {missing}"
    _link(sized, ready[1]).click()
    sized.get_by_role("heading", level=1).filter(has_text=ready[1].title).wait_for()


def _link(page, lesson: Lesson):
    return page.locator(f".sidebar-tree a[href='lessons/{lesson.name}.html']")


def _in_sight(page, selector: str) -> bool:
    return page.locator(selector).evaluate("node => node.getBoundingClientRect().right > 0")


@pytest.mark.parametrize("name", TWO_LESSONS)
def test_a_lesson_reads_well_and_its_answers_unfold(site, sized, shot, name):
    look(sized, f"{site}/lessons/{name}.html")
    shot(sized, f"site-{name}-{sized.size}")
    answers = sized.locator("details").filter(has_text="Show the answer")
    assert answers.count() >= 4 and not sized.locator("details[open]").filter(has_text="the answer").count()
    first, code = answers.first, answers.first.locator("pre").first
    assert not code.is_visible(), "an answer is folded when the page opens"
    first.locator("summary").click()
    assert code.is_visible() and len(code.inner_text()) > 20
    first.scroll_into_view_if_needed()
    shot(sized, f"site-{name}-{sized.size}-answer")
    first.locator("summary").click()
    assert not code.is_visible()


def test_search_finds_rope(site, sized, shot):
    sized.goto(f"{site}/index.html")
    if sized.size == "phone":
        sized.locator("label.nav-overlay-icon").click()
    sized.get_by_label("Search").first.fill("RoPE")
    sized.keyboard.press("Enter")
    found = sized.locator("#search-results li a")
    found.first.wait_for()
    sized.wait_for_function(
        "document.querySelectorAll('#search-results li p.context, #search-results li .context').length"
    )
    shot(sized, f"site-search-{sized.size}")
    names = found.all_text_contents()
    assert any("Embeddings and positions" in name for name in names), names
    found.first.click()
    sized.wait_for_load_state()
    assert "rope" in sized.locator("article").inner_text().lower()
