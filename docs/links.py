"""Links of a built site: each leads to a page, a picture or an anchor that is there."""

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The anchors of a page, and where it leads."""

    def __init__(self, file: Path):
        super().__init__()
        self.anchors: set[str] = set()
        self.leads: list[str] = []
        self.feed(file.read_text("utf-8"))

    def handle_starttag(self, tag, attributes) -> None:
        """Takes note of ids, of links and of what is shown."""
        found = dict(attributes)
        self.anchors.update(found[key] for key in ("id", "name") if found.get(key))
        for key in ("href", "src"):
            if found.get(key):
                self.leads.append(found[key])


def target(page: Path, link: str, site: Path) -> tuple[Path, str] | None:
    """Returns the file and the anchor that a link names; None for one to another site."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return None
    path = unquote(parts.path)
    file = site / path.lstrip("/") if path.startswith("/") else page.parent / path
    file = page if not path else file.resolve()
    return (file / "index.html" if file.is_dir() else file), unquote(parts.fragment)


def faults(site: Path, pages: dict[Path, Page]) -> Iterator[str]:
    """Gives every link that leads nowhere, and every page to which nothing leads."""
    reached = {site / "index.html", site / "404.html"}
    for file, page in pages.items():
        for link in page.leads:
            found = target(file, link, site)
            if found is None:
                continue
            there, anchor = found
            name = file.relative_to(site)
            if not there.exists():
                yield f"{name}: {link} leads nowhere"
            elif anchor and there in pages and anchor not in pages[there].anchors:
                yield f"{name}: {link} names no anchor of {there.relative_to(site)}"
            if there != file:
                reached.add(there)
    for file in sorted(pages.keys() - reached):
        yield f"{file.relative_to(site)}: no page leads there"


def dead(site: Path) -> list[str]:
    """Returns what is wrong with the links of a site."""
    site = site.resolve()
    pages = {file: Page(file) for file in site.rglob("*.html")}
    return list(dict.fromkeys(faults(site, pages)))
