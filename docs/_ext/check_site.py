"""Checks the links of a built site: every page, file and anchor that a page leads to must exist.

python docs/_ext/check_site.py build/docs
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LINKS = {"a": "href", "link": "href", "img": "src", "script": "src", "source": "src"}
WITHOUT_ANCHORS = {"search.html"}  # filled in by a script
SOURCES = "_modules"  # pages of source code: they lead back by names that other modules export


class Page(HTMLParser):
    """The anchors and links of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.anchors.update(value for name in ("id", "name") if (value := values.get(name)))
        link = values.get(LINKS.get(tag, ""))
        if link:
            self.links.append(link)


def broken(site: Path) -> list[str]:
    """One line for each link of a site that leads nowhere; links to other sites are not looked at."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    lines = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                lines.append(f"{path.relative_to(site)}: {link}: no such file")
                continue
            anchor = unquote(parts.fragment)
            has_anchors = target in pages and target.name not in WITHOUT_ANCHORS
            has_anchors = has_anchors and path.relative_to(site).parts[0] != SOURCES
            if anchor and has_anchors and anchor not in pages[target].anchors:
                lines.append(f"{path.relative_to(site)}: {link}: no such anchor")
    return lines


def main(argv: list[str]) -> int:
    site = Path(argv[0]).resolve()
    pages = len(list(site.rglob("*.html")))
    if not pages:
        print(f"{site} has no pages", file=sys.stderr)
        return 1
    lines = broken(site)
    print("\n".join(lines) if lines else f"{pages} pages in {site}: every link leads somewhere")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
