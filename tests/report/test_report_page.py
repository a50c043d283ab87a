"""The page: it needs nothing else, it is well formed, everything in it has a name, and a browser shows it."""

import html.parser
import itertools
import json
import re
import shutil
import subprocess

import browser
import pytest
import results_folder

from ntkgen import report

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
VOID = {"meta", "link", "img", "br", "hr", "input", "wbr"}


class Page(html.parser.HTMLParser):
    """The elements of a page; opening and closing tags must agree."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.words = [], [], {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), tuple(self.open)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), tuple(self.open)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.words[self.open[-1]] = self.words.get(self.open[-1], "") + data

    def all(self, *tags):
        return [(tag, attrs, within) for tag, attrs, within in self.elements if tag in tags]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    root = results_folder.write_results(tmp_path_factory.mktemp("page") / "results")
    return report.html(report.collect(root), root / "report.html")


@pytest.fixture(scope="module")
def page(path):
    return Page(path.read_text())


def test_nothing_is_loaded_from_elsewhere(path, page):
    for tag, attrs, _ in page.elements:
        for name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            assert attrs.get(name, "#").startswith(("#", "data:")), (tag, attrs)
    text = path.read_text()
    assert not re.search(r"@import|url\(\s*['\"]?(?!#)", text)
    assert "default-src 'none'" in text
    assert len(page.all("script")) == 1


def test_every_id_is_unique_and_every_link_leads_to_one(page):
    ids = [attrs["id"] for _, attrs, _ in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids)) and all(ids) and not [each for each in ids if re.search(r"\s", each)]
    for tag, attrs, _ in page.elements:
        for name in ("href", "aria-labelledby"):
            for target in attrs.get(name, "").split() if name != "href" or attrs.get(name, "").startswith("#") else ():
                assert target.removeprefix("#") in ids, (tag, attrs)
        for target in re.findall(r"url\(#([^)]+)\)", " ".join(filter(None, attrs.values()))):
            assert target in ids


def test_every_picture_says_what_it_shows(page):
    images = page.all("img")
    assert images and all(
        attrs["alt"].startswith(("Double descent", "Loss landscape", "My own")) for _, attrs, _ in images
    )
    drawings = [attrs for _, attrs, within in page.all("svg") if "svg" not in within]
    assert drawings and all(
        attrs["role"] == "img" and {"aria-labelledby", "aria-label"} & set(attrs) for attrs in drawings
    )
    titles = [within for _, _, within in page.all("title")]
    assert sum("svg" in within for within in titles) == 1
    assert "Double descent on mnist, model wise: double_descent <σ & α>, 3 seeds" in page.words["title"]


def test_tables_can_be_read_aloud(page):
    assert len(page.all("caption")) == len(page.all("table")) > 5
    assert all(attrs.get("scope") in ("col", "row") for _, attrs, _ in page.all("th"))
    boxes = [attrs for _, attrs, _ in page.all("div") if attrs.get("class") == "scroll"]
    assert len(boxes) == len(page.all("table")) and all(attrs["tabindex"] == "0" for attrs in boxes)


def test_headings_descend_by_one(page):
    levels = [int(tag[1]) for tag, *_ in page.all("h1", "h2", "h3", "h4")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))


def test_the_first_link_skips_to_the_verdicts(page):
    _, attrs, _ = page.all("a")[0]
    assert attrs == {"class": "skip", "href": "#main"}
    assert page.all("html")[0][1]["lang"] == "en"


def test_verdicts_come_first_and_in_words(path):
    text = path.read_text()
    places = [text.index(f'id="{name}"') for name in ("verdicts", "published", "study-double_descent", "missing")]
    assert places == sorted(places)
    for words in ("1.65 [1.52, 1.78] points", "equal updates instead of equal epochs", "p = 1.00e-05"):
        assert words in text
    assert "Flat minima &lt;generalize&gt; better" in text and "<generalize>" not in text
    for words in ("seen", "not seen", "undecided", "within", "not comparable"):
        assert re.search(rf'aria-hidden="true">.</span> {words}</span>', text), words


def test_gaps_are_said(tmp_path):
    root = results_folder.write_results(tmp_path / "results", reproduce=False)
    text = report.html(report.collect(root), tmp_path / "report.html").read_text()
    assert "No run of <code>reproduce</code> is here" in text
    assert "This run is not finished" in text and "No run of lottery tickets" in text
    assert "Mixed versions" not in text
    results_folder.write_run(root, "study", "digits-z", versions={**results_folder.VERSIONS, "jax": "0.11.0"})
    text = report.html(report.collect(root), tmp_path / "report.html").read_text()
    assert "Mixed versions" in text and "jax: 0.10.2 (4 runs), 0.11.0 (1 run)" in text


def test_long_tables_are_cut_and_named(path, page):
    text = path.read_text()
    assert "of 5000 rows." in text and "double_descent/mnist-a/runs.csv" in text
    assert len(page.all("tr")) < 500 and len(text) < 2e6


def test_what_is_behind_more_is_not_cut(tmp_path):
    words = "words " * 40 + "of 0.123456789 and the end"
    run = results_folder.write_run(tmp_path, "study", "digits-a", verdict={"a": {"decision": "seen", "note": words}})
    text = report.html(report.collect(run.parents[1]), tmp_path / "report.html").read_text()
    assert f"<dd>{'words ' * 40}of 0.1235 and the end</dd>" in text


def test_many_runs_make_no_large_page(tmp_path):
    wide = [{f"measure_{column}": row * column / 7 for column in range(30)} for row in range(200)]
    for index in range(12):
        tables = {name: wide for name in ("runs", "tests", "summary", "effects", "levels")}
        run = results_folder.write_run(tmp_path, "study", f"digits-{index}", tables=tables, age=index)
        for copy in range(6):
            shutil.copy(run / "model_wise.png", run / f"copy_{copy}.png")
    text = report.html(report.collect(tmp_path), tmp_path / "report.html").read_text()
    assert 1e6 < len(text) < 2e6
    assert text.index("copy 5") < text.index("Left out.")  # the newest run's are there


def test_the_same_folder_gives_the_same_page(path):
    again = report.html(report.collect(path.parent), path.parent / "again.html")
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    "bad",
    [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1" onload="alert(1)"><script>alert(1)</script>'
        '<image href="http://elsewhere/a.png"/><a href="http://elsewhere"/><style>*{color:red}</style>'
        '<rect style="fill:url(http://elsewhere)"/><g onclick="alert(1)" id="a"><use href="#a"/></g></svg>',
        '<!DOCTYPE svg [<!ENTITY a "b">]><svg viewBox="0 0 1 1">&a;</svg>',
        "<svg",
    ],
)
def test_a_foreign_svg_does_no_harm(tmp_path, bad):
    run = results_folder.write_run(tmp_path, "study", "digits-a")
    (run / "model_wise.svg").write_text(bad)
    path = report.html(report.collect(tmp_path), tmp_path / "report.html")
    page, text = Page(path.read_text()), path.read_text()
    test_nothing_is_loaded_from_elsewhere(path, page)
    test_every_id_is_unique_and_every_link_leads_to_one(page)
    assert "alert(1)" not in text and "elsewhere" not in text and "color:red" not in text


def test_a_picture_that_cannot_be_read_is_named(tmp_path):
    run = results_folder.write_run(tmp_path, "study", "digits-a")
    (run / "model_wise.png").write_bytes(b"no picture")
    text = report.html(report.collect(tmp_path), tmp_path / "report.html").read_text()
    assert "Left out." in text and "study/digits-a/model_wise.png" in text


PROBE = """<script>
addEventListener("load", () => {
  document.querySelectorAll("details").forEach((each) => { each.open = true; });
  const table = [...document.querySelectorAll("table")].find((each) => each.textContent.includes("width 8"));
  table.querySelectorAll("thead button")[2].click();
  table.querySelectorAll("thead button")[2].click();
  const found = {
    wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    width: innerWidth,
    loaded: performance.getEntriesByType("resource").filter((each) => !each.name.startsWith("data:")).length,
    first: table.tBodies[0].rows[0].cells[0].textContent,
    paper: getComputedStyle(document.body).backgroundColor,
    drawn: [...document.images].every((each) => each.naturalWidth > 0),
  };
  parent.postMessage(JSON.stringify(found), "*");
});
</script></body>"""
# A window is at least 500 wide; a frame may be narrower.
FRAME = """<!DOCTYPE html><pre id="probe"></pre>
<script>addEventListener("message", (event) => { document.getElementById("probe").textContent = event.data; });</script>
<iframe src="page.html" style="border: 0; width: %dpx; height: 900px"></iframe>"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed")
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (768, False), (360, False), (1280, True)])
def test_a_browser_shows_it(path, tmp_path, width, dark):
    (tmp_path / "page.html").write_text(path.read_text().replace("</body>", PROBE))
    (tmp_path / "frame.html").write_text(FRAME % width)
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--window-size=1400,1000", f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--dump-dom"]
    done = subprocess.run([*command, tmp_path / "frame.html"], capture_output=True, text=True, timeout=180)
    found = json.loads(re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)[1])
    assert found["loaded"] == 0 and found["drawn"] and found["width"] == width
    assert found["wide"] <= 0, found  # what is wide scrolls in its own box
    assert found["first"] == "double_descent mlp, width 8"
    assert found["paper"] == ("rgb(20, 23, 26)" if dark else "rgb(253, 253, 252)")


STOPS = """
document.querySelectorAll("details").forEach((each) => { each.open = true; });
window.stops = [...document.querySelectorAll('a[href], button, summary, [tabindex="0"]')].filter(
  (each) => each.checkVisibility());
stops.map((each) => each.tagName);
"""
FOCUSED = """(() => {
  const each = document.activeElement, style = getComputedStyle(each), box = each.getBoundingClientRect();
  const shown = box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth;
  return [stops.indexOf(each), style.outlineStyle, parseFloat(style.outlineWidth), shown];
})()"""
OUT_OF_REACH = """[...document.querySelectorAll("body *")].filter((each) => {
  const style = getComputedStyle(each), scrolls = (value) => value === "auto" || value === "scroll";
  return scrolls(style.overflowX) && each.scrollWidth > each.clientWidth && each.tabIndex < 0
    || scrolls(style.overflowY) && each.scrollHeight > each.clientHeight && each.tabIndex < 0;
}).map((each) => each.outerHTML.slice(0, 100))"""
SORTED = """(() => {
  const head = document.activeElement.closest("th"), rows = [...head.closest("table").tBodies[0].rows];
  return [head.getAttribute("aria-sort"), ...rows.map((row) => row.cells[head.cellIndex].textContent)];
})()"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed")
def test_the_keyboard_alone_is_enough(path, tmp_path):
    with browser.opened(BROWSER, path, tmp_path) as page:
        kinds = page.do(STOPS)
        assert set(kinds) == {"A", "BUTTON", "SUMMARY", "DIV", "PRE"}
        assert page.do(OUT_OF_REACH) == []
        found = []
        for _ in kinds:
            page.press("Tab")
            found.append(page.do(FOCUSED))
        assert [place for place, *_ in found] == list(range(len(kinds)))  # everything, in the order of reading
        assert all(style == "solid" and width >= 2 and shown for _, style, width, shown in found)

        page.do("stops[0].focus()")
        page.press("Enter")
        assert page.do("document.activeElement.id") == "main"
        page.press("Tab")
        assert page.do("document.activeElement === stops.find((each) => each.closest('main'))")

        page.do("stops.find((each) => each.tagName === 'SUMMARY').focus()")
        for is_open in (False, True):
            page.press("Enter")
            assert page.do("document.activeElement.parentElement.open") is is_open

        page.do("[...document.querySelectorAll('th button')].find((each) => each.textContent === 'published').focus()")
        page.press("Enter")
        up, *cells = page.do(SORTED)
        page.press(" ")
        down, *turned = page.do(SORTED)
        numbers = [float(cell) for cell in cells if cell != "–"]
        assert (up, down) == ("ascending", "descending") and len(numbers) > 1
        assert numbers == sorted(numbers) and [float(cell) for cell in turned if cell != "–"] == numbers[::-1]

        page.do("document.activeElement.closest('.scroll').style.width = '9rem'")
        page.do("document.activeElement.closest('.scroll').focus()")
        page.press("ArrowRight")
        page.do("new Promise((done) => document.activeElement.addEventListener('scrollend', () => done()))")
        assert page.do("document.activeElement.scrollLeft") > 0
