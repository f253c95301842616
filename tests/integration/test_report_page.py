"""The page of the report in a real browser, with contents of any kind."""

from pathlib import Path

from tests.integration.browser import CONTRASTS, need, wait_for
from tests.unit.test_report import LargeContent
from trove_steps.reporting.page import render


def write_page(folder: Path, content: dict) -> Path:
    page = folder / "report.html"
    page.write_text(render(content), encoding="utf-8")
    return page


def test_paper_shows_what_is_closed_on_the_screen(browser, tmp_path):
    need("pdftotext")
    content = LargeContent(models=2, datasets=2).content()
    browser.open(write_page(tmp_path, content))
    wait_for(lambda: len(browser.all_of(".chart svg")) >= 9)
    # The second data set has not been looked at: nothing of it is on the page yet.
    assert browser.run("return document.querySelector('#dataset-set-1').open") is False
    assert len(browser.all_of("#dataset-set-1 .chart")) == 0
    words = " ".join(browser.printed(tmp_path).split())
    assert words.count("Metrics by cut-off") == 2
    assert words.count("weakest positive's score") == 2  # the title of an axis
    assert words.count("share of its kind") == 4
    for dataset in content["datasets"]:
        for query in dataset["cells"]["model-0"]["worst"]:
            assert f"query {query['id']}" in words
        for cell in dataset["cells"].values():
            assert cell["provenance"]["keys"]["search"] in words
    assert browser.run("return document.querySelector('#dataset-set-1').open") is False
    assert browser.complaints_and_requests() == ([], [])


def test_more_models_than_colours_and_awkward_names(browser, tmp_path):
    """Columns and looks are told apart, whatever the names; numbers in names sort as numbers."""
    large = LargeContent(models=13, datasets=2)
    content = large.content()
    for dataset, name in zip(content["datasets"], ("average", "model"), strict=True):
        dataset["name"] = name
    browser.open(write_page(tmp_path, content))
    headings = browser.all_of(".leaderboard th button")
    assert [heading.text for heading in headings] == ["model", "average", "average", "model"]
    looks = browser.run(
        "return [...document.querySelectorAll('.dataset .keys')][0].innerText.trim().split(/\\s+/)"
    )
    colours = browser.run(
        "return [...document.querySelectorAll('.dataset .keys')[0].querySelectorAll('b')]"
        ".map(b => getComputedStyle(b).color)"
    )
    assert len(set(zip(colours, looks[::2], strict=True))) == 13

    def models():
        return browser.texts(".leaderboard tbody td:first-child")

    for column, dataset in zip((2, 3), content["datasets"], strict=True):
        browser.all_of(".leaderboard th button")[column].click()
        values = {m: cell["metrics"]["ndcg_cut_10"] for m, cell in dataset["cells"].items()}
        assert models() == sorted(values, key=values.get, reverse=True)
    browser.all_of(".leaderboard th button")[0].click()
    assert models() == [f"model-{n}" for n in range(13)]
    assert browser.complaints_and_requests() == ([], [])


def test_negatives_to_read_take_no_more_than_the_width(browser, tmp_path):
    """Names of functions and addresses are longer than a column."""
    content = LargeContent(models=1, datasets=1).content()
    (dataset,) = content["datasets"]
    long = "xml.etree.ElementTree.ElementTree.parse." * 3
    dataset["texts"] = {number: [long, long] for number in dataset["texts"]}
    browser.open(write_page(tmp_path, content))
    wait_for(lambda: browser.all_of("td.text"))
    widths = browser.run(
        "return [...document.querySelectorAll('.wide')].filter(e => e.querySelector('td.text'))"
        ".map(e => [e.scrollWidth, e.clientWidth])"
    )
    assert widths
    assert [pair for pair in widths if pair[0] > pair[1]] == []


def test_words_can_be_read_in_every_light(browser, tmp_path):
    browser.open(write_page(tmp_path, LargeContent(models=3, datasets=1).content()))
    wait_for(lambda: len(browser.all_of(".chart svg")) >= 9)
    for looks in ({"theme": "light"}, {"theme": "dark"}, {"media": "print"}):
        browser.look_as(**looks)
        found = browser.run(CONTRASTS)
        assert len(found) > 300
        assert {tag for _, tag, _ in found} >= {"svg", "TD", "TH", "SUMMARY", "LI", "P"}
        assert [one for one in found if one[0] < 4.5] == [], looks
    browser.look_as()
