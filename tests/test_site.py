"""The site of docs/ builds without a warning, fetches nothing, and every link inside it leads somewhere."""

import pathlib
import re
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest
from test_cli import environment

ROOT = pathlib.Path(__file__).resolve().parent.parent
ASSETS = {"link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src", "object": "data"}


class Page(HTMLParser):
    """What a page loads, where it leads, and the places in it that can be led to."""

    def __init__(self, path):
        super().__init__()
        self.assets, self.links, self.places, self.lang, self.details = [], [], set(), "", 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.places.add(found.get("id"))
        self.lang = found.get("lang") if tag == "html" else self.lang
        self.details += tag == "details"
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        elif found.get(ASSETS.get(tag, "")):
            if tag != "link" or found.get("rel") not in ("index", "search", "next", "prev", "canonical"):
                self.assets.append(found[ASSETS[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site. Outcomes of the clinic are computed on the way."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", str(folder / "doctrees")]
    run = subprocess.run(
        [*command, str(ROOT / "docs"), str(folder / "html")], capture_output=True, text=True, env=environment()
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return folder / "html"


@pytest.mark.slow
def test_the_site_needs_no_network_and_no_link_is_broken(site):
    pages = {path: Page(path) for path in site.rglob("*.html")}
    assert len(pages) > 30
    for path, page in pages.items():
        for asset in page.assets:
            url = urlsplit(asset)
            assert not url.scheme or url.scheme == "data", f"{path.name} loads {asset}"
            assert not url.netloc, f"{path.name} loads {asset}"
            if url.path and not url.scheme:
                assert (path.parent / unquote(url.path)).resolve().is_relative_to(site), asset
                assert (path.parent / unquote(url.path)).is_file(), f"{path.name} loads {asset}, which is not there"
        for link in page.links:
            url = urlsplit(link)
            if url.scheme or url.netloc:
                assert url.scheme in ("https", "mailto"), link
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            assert target in pages or target.is_file(), f"{path.name} leads to {link}, which is not there"
            if url.fragment and target in pages:
                assert unquote(url.fragment) in pages[target].places, f"{path.name}: no such place: {link}"
    for style in [*site.rglob("*.css"), *site.rglob("*.html")]:
        fetched = re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//[^\"')]*", style.read_text(encoding="utf-8"))
        assert not fetched, f"{style.name} fetches {fetched}"


@pytest.mark.slow
def test_the_site_shows_what_it_should(site):
    for language, tag in (("en", "en"), ("zh", "zh-CN")):
        chapters = sorted((site / "tour" / language).glob("[0-9]*.html"))
        assert len(chapters) == 12
        for path in chapters:
            page = Page(path)
            assert page.lang == tag
            assert page.details >= 6, "three exercises, each with its check and an answer"
    walk = (site / "tour" / "zh" / "02_walk_back.html").read_text(encoding="utf-8")
    assert "while ready:" in re.sub(r"<[^>]+>", "", walk), "the engine's own source"
    text = re.sub(r"<[^>]+>", "", (site / "clinic" / "README.html").read_text(encoding="utf-8"))
    for path in (ROOT / "docs" / "clinic").glob("s*_*.py"):
        document, number = path.stem.split("_")[:2]
        assert f"{document.upper()}-{int(number)}: " in text
    assert "broken: " in text
    assert "fixed: " in text
    for name in ("quantization", "gpu", "mission"):
        assert (site / f"{name}.html").is_file()
