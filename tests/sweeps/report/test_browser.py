"""The page of transcripts: whole, safe, and working in a browser."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from sweeps.report import browser
from sweeps.results import Transcripts
from tests.sweeps import synthetic

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
TRIAL = "0123456789abcdef"
RUN = "http://127.0.0.1:5000/#/experiments/1/runs/9f"


@pytest.fixture(scope="module")
def page() -> str:
    return browser.page("almanac", synthetic.transcripts(), {TRIAL: RUN, "another": "x"})


def test_the_page_holds_its_data_and_loads_nothing(page: str):
    encoded = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)
    assert encoded is not None
    data = json.loads(encoded[1])
    assert [example["row_id"] for example in data["examples"]] == [f"world 0-{i}" for i in range(3)]
    assert data["examples"][2]["turns"][3]["thinking"] == "Nobody reads </script><b>this</b>."
    assert data["runs"] == {TRIAL: RUN}
    assert not re.findall(r"(?:src|href)=[\"'](?!#)", page)
    assert "@import" not in page
    assert "{{" not in page


def test_nothing_that_was_said_can_end_the_script(page: str):
    assert page.count("</script>") == 2
    assert "<b>this</b>" not in page
    assert "innerHTML" not in page


def test_without_transcripts_there_is_no_page():
    assert browser.page("almanac", Transcripts(), {}) == ""


def test_a_title_is_escaped():
    made = browser.page("<almanac>", synthetic.transcripts(), {})
    assert "<almanac>" not in made
    assert "&lt;almanac&gt;: transcripts" in made


WATCH = "<script>window.onerror = (m) => document.body.setAttribute('data-error', m);</script>"


def rendered(page: str, folder: Path, program: str = "", fragment: str = "") -> str:
    """The page as a browser has it after its script and a program of the test."""
    file = folder / "page.html"
    head, body = page.split("<script type", 1)
    whole = f"{head}{WATCH}<script type{body}"
    file.write_text(whole.replace("</body>", f"<script>{program}</script></body>"))
    ended = subprocess.run(
        [
            *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
            *(f"--user-data-dir={folder / 'profile'}", f"{file.as_uri()}{fragment}"),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "data-error" not in ended.stdout.replace("setAttribute('data-error'", "")
    return re.sub(r"<script.*?</script>", "", ended.stdout, flags=re.DOTALL)


needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@needs_chromium
def test_a_transcript_is_shown_with_what_its_judge_made_of_it(page: str, tmp_path: Path):
    shown = rendered(page, tmp_path, fragment="#2")
    assert "3 of 3 shown; the judge is right on 2 of 3 (67 %)" in shown
    assert "3 of 3,000 transcripts of test rows, drawn at random" in shown
    reader = shown[shown.index("<article") :]
    assert "Tola lies in region &lt;2&gt;" in reader
    assert '<q class="verified" title="found in the passage">Mab in R1</q>' in reader
    assert '<q class="unverified" title="not found in the passage">so on</q>' in reader
    assert "Nobody reads &lt;/script&gt;&lt;b&gt;this&lt;/b&gt;." in reader
    assert "Judge asks" in reader
    assert "best of 2" in reader
    assert "INVALID" in reader
    assert f'<a href="{RUN}"' in reader


@needs_chromium
def test_filters_search_and_keys_choose_what_is_shown(page: str, tmp_path: Path):
    program = """
    const set = (node, value) => {
      node.value = value;
      node.dispatchEvent(new Event("input", { bubbles: true }));
    };
    const field = (name) => document.querySelector(`[data-field="${name}"] select`);
    const number = () => document.getElementById("number").textContent.split(" shown")[0];
    const said = [];
    set(field("judge"), "wrong"); said.push("wrong " + number());
    set(field("judge"), "");
    set(field("change"), "helped"); said.push("helped " + number());
    set(field("change"), "");
    set(field("winner"), "honest side"); said.push("honest " + number());
    set(field("winner"), "");
    set(document.getElementById("low"), "65"); said.push("sure " + number());
    set(document.getElementById("low"), "50");
    set(document.getElementById("search"), "IS THAT SO"); said.push("search " + number());
    said.push("marked " + document.querySelectorAll("#reader mark").length);
    set(document.getElementById("search"), "");
    set(document.getElementById("order"), "surest");
    said.push("first " + document.querySelector("#list .ask").textContent);
    document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "j", bubbles: true }));
    said.push("focus " + document.activeElement.querySelector(".ask").textContent);
    said.push("hidden " + field("verdict").closest("label").hidden);
    const told = document.createElement("pre");
    told.textContent = said.join("|");
    document.body.append(told);
    """
    shown = html.unescape(rendered(page, tmp_path, program))
    told = shown[shown.index("<pre>") + 5 : shown.index("</pre>")]
    assert told.split("|") == [
        "wrong 1 of 3",
        "helped 2 of 3",
        "honest 2 of 3",
        "sure 2 of 3",
        "search 1 of 3",
        "marked 1",
        "first Tola lies in region <2>. Is that right?",
        "focus Tola lies in region <0>. Is that right?",
        "hidden true",
    ]
