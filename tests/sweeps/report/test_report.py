"""The report as files: whole, self-contained, and the same for the same numbers."""

import csv
import html.parser
import io
import subprocess
import sys
from pathlib import Path

import pytest

from sweeps import report
from sweeps.report import Report
from sweeps.results import SweepResults
from tests.sweeps import synthetic


@pytest.fixture(scope="module")
def results() -> SweepResults:
    return synthetic.results(num_rows=60)


@pytest.fixture(scope="module")
def made(results: SweepResults) -> Report:
    return report.of_results(results)


class Links(html.parser.HTMLParser):
    """Collects what a page would load, and whether its tags close."""

    VOID = ("meta", "link", "img", "br", "hr", "input")

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            loads = name in ("src", "href", "xlink:href") and tag != "a"
            if loads and not (value or "").startswith("#"):
                self.loaded.append(value or "")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_loads_nothing_and_closes_its_tags(made: Report):
    page = Links()
    page.feed(made.html)
    assert [link for link in page.loaded if not link.startswith("data:")] == []
    assert page.open == []
    assert "@import" not in made.html
    assert made.html.count("</figure>") == len(made.figures)


def test_the_same_results_give_the_same_bytes(results: SweepResults, made: Report):
    assert report.of_results(results) == made


def test_text_from_outside_is_escaped(made: Report):
    assert "Tola lies in region &lt;0&gt;" in made.html
    assert "&lt;3 attempts&gt;" in made.html
    assert "<3 attempts>" not in made.html


def test_a_failed_trial_is_a_row_with_its_cause(made: Report):
    for text in (made.html, made.markdown):
        assert "Failed trials" in text
        assert "the endpoint did not answer within 120 s" in text
    rows = list(csv.DictReader(io.StringIO(made.csv)))
    failed = [row for row in rows if row["status"] == "failed"]
    assert {row["method"] for row in failed} == {"debate(strong, permuted)"}
    assert all("ServingError" in row["cause"] and row["pgr"] == "" for row in failed)


def test_the_csv_has_each_cell_over_all_tasks_and_by_task(made: Report):
    rows = list(csv.DictReader(io.StringIO(made.csv)))
    pair = [
        row for row in rows if (row["block"], row["weak"], row["strong"]) == ("pairs", "xs", "l")
    ]
    assert [row["task"] for row in pair] == ["all 2", "world 0", "world 1"]
    assert [row["num_rows"] for row in pair] == ["120", "60", "60"]
    whole, first, second = (float(row["student"]) for row in pair)
    assert whole == pytest.approx((first + second) / 2)
    assert float(pair[0]["pgr_low"]) <= float(pair[0]["pgr"]) <= float(pair[0]["pgr_high"])


def test_debates_notes_and_the_way_to_reproduce_are_there(made: Report):
    for text in (made.html, made.markdown):
        assert "R2 holds Mab , not Tola" in text
        assert "xs with this, seed 0: " in text
        assert "wrong, 30 % on the truth" in text
        assert "right, 60 % on the truth" in text
        assert "7 questions of test are in the train set" in text
        assert "w2s run examples/almanac.toml" in text
        assert "student.learning_rate" in text


def test_every_figure_of_the_markdown_is_written(made: Report, tmp_path: Path):
    page = made.write(tmp_path / "report")
    assert page.read_text(encoding="utf-8") == made.html
    for name in made.figures:
        assert f"(figures/{name})" in made.markdown
        assert (tmp_path / "report" / "figures" / name).read_text().startswith("<svg")
    assert set(made.figures) == {
        f"{name}.svg"
        for name in (
            *("accuracy_by_size", "accuracy_by_task", "agreement_by_size", "curves"),
            *("difficulty", "hyperparameters", "methods", "misfit", "overfitting"),
            *("oversight_lengths", "oversight_ratings", "oversight_reliability"),
            *("oversight_wins", "pgr_by_task", "pgr_map"),
        )
    }


def test_a_sweep_in_which_everything_failed_still_has_a_report(results: SweepResults):
    failed = tuple(trial for trial in results.trials if trial.status == "failed")
    nothing = SweepResults(results.summary, failed, results.rows.iloc[:0])
    made = report.of_results(nothing)
    assert made.headline == ("No trial finished, so there is nothing to compare.",)
    assert made.figures == {}
    assert "ServingError" in made.html


def test_a_report_loads_no_torch_ray_or_vllm(results: SweepResults, tmp_path: Path):
    results.save(tmp_path)
    program = (
        "import sys, pathlib; from sweeps import report; from sweeps.results import SweepResults; "
        f"report.of_results(SweepResults.load(pathlib.Path({str(tmp_path)!r}))); "
        "sys.exit(str([m for m in ('torch', 'ray', 'vllm', 'mlflow') if m in sys.modules] or ''))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert ended.stderr.strip() == ""


def test_tables_of_single_tasks_are_folded_behind_their_number_of_lines(made: Report):
    head, _, tail = made.html.partition("<h2>Results by task</h2>")
    assert "<details><summary>pairs: 12 lines</summary>" in tail
    assert "<details><summary>More metrics: 19 lines</summary>" in head


def test_many_tasks_are_counted_not_named(results: SweepResults):
    names = tuple(f"set {i}" for i in range(6))
    many = SweepResults(synthetic.summary(names, 50), (), results.rows.iloc[:0])
    made = report.of_results(many)
    assert "Tasks: 6; test rows: 300 (50 a task)" in made.markdown
    assert "<details><summary>6 tasks</summary>" in made.html


def test_ranking_arms_and_stopping_are_told_in_both_forms(made: Report):
    for text in (made.html, made.markdown):
        assert "Methods ranked" in text
        assert "p (Holm)" in text
        assert "step 2" in text
        assert "accuracy, best on weak validation" in text
        assert "The oracle is a diagnostic: no result rests on it" in text
        assert "inverse scaling" in text
        assert "PGR on AUROC" in text


def test_the_csv_has_every_metric_of_each_cell(made: Report):
    rows = list(csv.DictReader(io.StringIO(made.csv)))
    done = [row for row in rows if row["status"] == "done"]
    assert len(done) > 50
    for name in (
        *("auroc_student", "pgr_auroc", "agreement_where_wrong_low", "balanced_accuracy"),
        *("brier", "calibration_error", "misfit_squared", "misfit_divergence", "stopped_oracle"),
        "detectable_gain",
    ):
        filled = [row[name] for row in done if row[name]]
        assert len(filled) > 40, name
        assert all(abs(float(value)) < 10 for value in filled), name
    medians = {row["task"] for row in done if row["pgr_median"]}
    assert medians == {"all 2"}
