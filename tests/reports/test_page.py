"""The page: nothing from data is markup, nothing is loaded, every section is there or says why not."""

import dataclasses
import html.parser
import json
import re
import shutil
import subprocess

import pytest
import torch

from anyjepa.core.positions import grid
from anyjepa.domains.images import Images
from anyjepa.reports.page import SampleViews, render
from anyjepa.reports.ranked import heat_colours, ranked, region_colours

EVIL = "<script>alert(1)</script>"
ABSENT = ("scores", "curves", "spectrum", "masks", "neighbours", "patches", "map")
SECTIONS = (
    "scores",
    "next",
    "curves",
    "health",
    "spectrum",
    "masks",
    "neighbours",
    "patches",
    "map",
    "settings",
    "skipped",
)


class Reader(html.parser.HTMLParser):
    """What a browser would make elements of, and the text outside scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)


def test_text_from_data_is_never_markup(full):
    page = render(full)
    elements = Reader(page).elements
    assert [tag for tag, _ in elements].count("script") == 2  # the page's own
    assert not [name for _, attributes in elements for name in attributes if name.startswith("on")]
    assert EVIL not in page
    # every place that shows it: a class, a file, a setting, a command
    assert "".join(Reader(page).words).count(EVIL) > 10


def test_json_in_the_script_holds_the_text_unbroken(full):
    text = re.search(r'<script type="application/json" id="known">(.*?)</script>', render(full), re.DOTALL)
    assert text is not None
    known = json.loads(text.group(1))
    assert known["map"]["captions"][0] == f"{EVIL}\n{EVIL}/0.png"
    assert known["charts"]["Loss"]["names"] == [EVIL]
    assert known["map"]["columns"] * known["map"]["cell"] == known["map"]["width"]


def test_nothing_is_loaded(full, bare):
    for page in (render(full), render(bare)):
        plain = re.sub(r"base64,[^\"]*", "", page).replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//[a-z]|@import|url\((?![\"']?data:)", plain)
        for tag, attributes in Reader(page).elements:
            assert (attributes.get("src") or "data:").startswith("data:")
            assert tag in ("link",) or "href" not in attributes
        assert "default-src 'none'" in page


def test_every_section_is_there(full):
    page = render(full)
    ids = [attributes.get("id") for tag, attributes in Reader(page).elements if tag == "section"]
    assert tuple(ids) == SECTIONS
    assert 'class="absent"' not in page
    assert "23 damaged samples were left out; the first 1:" in page
    assert all(attributes.get("alt") for tag, attributes in Reader(page).elements if tag == "img")
    assert all(
        attributes.get("aria-label") or attributes.get("aria-hidden")
        for tag, attributes in Reader(page).elements if tag == "svg"
    )  # fmt: skip


def test_an_absent_section_is_its_sentence(bare):
    page = render(bare)
    for name in ABSENT:
        assert f'<p class="absent">No {name}, for the data is gone.</p>' in page
    assert "No sample was skipped." in page
    assert "<img" not in page


def test_one_absent_section_leaves_the_others(full):
    page = render(dataclasses.replace(full, masks="No masks here."))
    assert "No masks here." in page
    assert page.count('class="absent"') == 1


@pytest.mark.parametrize(("content", "width"), [("full", 500), ("bare", 1280)])
def test_a_browser_runs_it_without_a_complaint(content, width, request, tmp_path):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("needs a browser: neither chromium nor google-chrome is installed")
    page = tmp_path / "report.html"
    # what is wider than the window makes a phone scroll sideways; the page's own policy lets this script run
    root = "document.documentElement"
    probe = f"<script>{root}.dataset.wide={root}.scrollWidth>innerWidth</script>"
    page.write_text(render(request.getfixturevalue(content)).replace("</body>", probe + "</body>"))
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900",
         "--enable-logging=stderr", "--v=0", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert 'data-ready="yes"' in done.stdout
    assert 'data-wide="false"' in done.stdout
    assert "CONSOLE" not in done.stderr


def test_views_take_the_place_of_masks_and_their_names_are_text(full):
    picture = full.masks.samples[0].whole
    named = dataclasses.replace(picture, caption=EVIL, alt=EVIL)
    page = render(dataclasses.replace(full, masks=SampleViews([(picture, [named, named])], 2.0)))
    assert "What it had to see as one" in page
    assert "2 times as bright" in page
    assert EVIL not in page
    assert "target 1" not in page


def test_ranked_regions_take_the_place_of_masks_and_their_names_are_text(full):
    batch = {"image": torch.full((1, 3, 16, 16), 200, dtype=torch.uint8)}
    ranks = torch.tensor([[0, 0, 2, 2] * 2 + [2, 1, 1, 2] * 2])
    regions = ranked(Images(), {}, batch, ranks, ranks / 2, grid(4, 4), [EVIL], 2.0)
    page = render(dataclasses.replace(full, masks=regions))
    assert "1\n    is only ever seen" in page
    assert "2 times as bright" in page
    assert EVIL not in page
    assert "target 1" not in page
    (sample,) = regions.samples
    assert sample.targets.caption == "2 regions and the background"
    numbers = re.findall(r'x="([0-9.]+)" y="([0-9.]+)"[^>]*>(\d)</text>', sample.targets.drawing)
    assert [number for _, _, number in numbers] == ["1", "2", "3"]
    side = sample.targets.width
    cells = [(int(4 * float(x) / side), int(4 * float(y) / side)) for x, y, _ in numbers]
    assert all(ranks[0].view(4, 4)[y, x] == rank for rank, (x, y) in enumerate(cells))


def test_the_lighter_a_patch_the_more_it_stands_out():
    colours = heat_colours(torch.linspace(0, 1, 50))
    light = colours @ torch.tensor([0.2126, 0.7152, 0.0722])
    assert (light.diff() > 0).all()
    assert region_colours(torch.tensor([0, 1, 2])).isnan().all(1).tolist() == [False, False, True]
