"""What `docs/security.md` promises, statement by statement, as far as no other test tries it."""

import ast
import logging
import os
import pickle
import shlex
from pathlib import Path
from typing import Any

import psutil
import pytest
from transformers import AutoModelForCausalLM, LlamaConfig

from sweeps import report
from sweeps.commands import ui
from sweeps.load import load
from sweeps.runs import RunEntry, sweep_entry
from sweeps.store import ArtifactStore
from sweeps.tracking import Tracker
from sweeps.worker import run_stage
from tests.sweeps import synthetic
from w2s import tables
from w2s.errors import UserError
from w2s.models.classifier import load_backbone
from w2s.models.language_model import load_language_model
from w2s.models.source import PretrainedModel, resolve
from w2s.redaction import RedactingHandler, redacted
from w2s.stages.base import Stage, StageContext

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "almanac.toml"
SECRET = "wq8fTz2LmPn6"
VARIABLE = "MY_LAB_API_KEY"
RUN_WHAT_THEY_READ = {
    "eval",
    "exec",
    "pickle.load",
    "pickle.loads",
    "cloudpickle.load",
    "cloudpickle.loads",
    "dill.load",
    "joblib.load",
    "marshal.loads",
    "shelve.open",
    "torch.load",
    "np.load",
    "numpy.load",
    "pd.read_pickle",
    "yaml.load",
}


class Asking(Stage):
    """A stage whose server does not take the key."""

    @property
    def name(self) -> str:
        return "asking"

    def run(self, context: StageContext) -> None:
        raise ConnectionError(f"401 for https://ann:pa55@host/v1 with {os.environ[VARIABLE]}")


class Payload:
    """Leaves a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.trace),)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small model with pickles beside its weights."""
    folder = tmp_path / "model"
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        tie_word_embeddings=False,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "tokenizer.pkl"):
        (folder / name).write_bytes(pickle.dumps(Payload(tmp_path / "it_ran")))
    return folder


@pytest.mark.parametrize("package", ["sweeps", "w2s", "serving"])
def test_no_module_loads_what_runs_when_it_is_loaded(package: str):
    sources = list((ROOT / package).rglob("*.py"))
    assert len(sources) > 10
    for node in (node for path in sources for node in ast.walk(ast.parse(path.read_text()))):
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in RUN_WHAT_THEY_READ, ast.unparse(node)
            names = {keyword.arg for keyword in node.keywords}
            if ast.unparse(node.func).endswith(".from_pretrained"):
                # None: the keywords are unpacked from a table.
                assert names & {"trust_remote_code", None}, ast.unparse(node)
            trust = [k.value for k in node.keywords if k.arg == "trust_remote_code"]
            assert not any(isinstance(v, ast.Constant) and v.value for v in trust)


def test_pickles_beside_the_weights_are_not_opened(model: Path, tmp_path: Path):
    pickle.loads(pickle.dumps(Payload(tmp_path / "trap")))
    assert (tmp_path / "trap").is_dir()
    resolve(PretrainedModel(path=str(model)))
    load_backbone(model)
    load_language_model(model)
    assert not (tmp_path / "it_ran").exists()


@pytest.mark.parametrize("load_model", [load_backbone, load_language_model])
def test_a_pickle_that_is_called_safetensors_does_not_run(
    model: Path, tmp_path: Path, load_model: Any
):
    (model / "pytorch_model.bin").rename(model / "model.safetensors")
    with pytest.raises(Exception, match=r"(?i)header|safetensor"):
        load_model(model)
    assert not (tmp_path / "it_ran").exists()


@pytest.mark.parametrize("name", ["train.py", "train.pkl", "train.pickle", "data.py"])
def test_a_data_set_is_no_program(tmp_path: Path, name: str):
    folder = tmp_path / "data"
    folder.mkdir()
    code = f"import os; os.mkdir({str(tmp_path / 'it_ran')!r})"
    (folder / name).write_bytes(
        code.encode() if name.endswith(".py") else pickle.dumps(Payload(tmp_path / "it_ran"))
    )
    with pytest.raises(UserError):
        tables.read(str(folder), "train", ["text"])
    assert not (tmp_path / "it_ran").exists()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://ann:pa55@host/x", "https://***@host/x"),
        ("postgresql://ann@host/db", "postgresql://***@host/db"),
        ("s3://AKIA0123456789ABCDEF:s@bucket", "s3://***@bucket"),
        ("w2s run f --set=a.api_key=abcdef123", "w2s run f --set=a.api_key=***"),
        (
            "Wrong API key: sk-abcdefghijklmnopqrst.",
            "Wrong API key: ***.",
        ),
        ("Authorization: Bearer abcdefghijkl", "Authorization: Bearer ***"),
        ('{"password": "hunter22"}', '{"password": "***"}'),
        ("GET /x?token=abcdefg&y=1", "GET /x?token=***&y=1"),
        (f"the key {SECRET} is wrong", "the key *** is wrong"),
        # Nothing of this is a secret.
        ("api_key_variable=OPENAI_API_KEY max_tokens=4096", ""),
        ("ann@host.org says: the secret: treasure", ""),
        ("risk-assessment-of-something-long", ""),
        ("http://127.0.0.1:5000/#/experiments/1", ""),
    ],
)
def test_secrets_are_told_from_other_words(text: str, shown: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, SECRET)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "parallel")  # No token, in spite of its name.
    assert redacted(text) == (shown or text)
    assert redacted("in parallel") == "in parallel"


@pytest.mark.parametrize(
    "override",
    [
        'speakers=[{name="x",model="m",base_url="https://ann:pa55@host/v1"}]',
        'description="sk-abcdefghijklmnopqrstuv"',
        "runtime.store=s3://key:pa55@bucket",
    ],
)
def test_a_sweep_file_with_a_secret_is_refused_and_the_secret_is_not_shown(override: str):
    with pytest.raises(UserError, match=r"holds a secret|a URL with credentials") as caught:
        load(EXAMPLE, [override])
    assert "pa55" not in redacted(str(caught.value))
    assert "sk-abc" not in str(caught.value)


@pytest.mark.parametrize("name", ["../elsewhere", "a/b", ".hidden", ""])
def test_the_name_of_a_sweep_is_no_path(name: str):
    with pytest.raises(UserError, match="name"):
        load(EXAMPLE, [f'name="{name}"'])


def test_the_cause_of_a_failure_has_no_secret_in_it(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv(VARIABLE, SECRET)
    outcome = run_stage(Asking(), store)
    assert "401 for https://***@host/v1 with ***" in outcome.cause
    for text in (outcome.cause, outcome.traceback, caplog.text):
        assert "pa55" not in text
        assert SECRET not in text
    assert "Traceback" in outcome.traceback


def test_lines_of_a_log_have_no_secret_in_them(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, SECRET)
    try:
        raise ValueError(SECRET)
    except ValueError as error:
        record = logging.LogRecord("x", 40, "f", 1, "at %s", ("http://a:b@c/",), None)
        record.exc_info = (type(error), error, error.__traceback__)
    line = RedactingHandler().format(record)
    assert "at http://***@c/" in line
    assert "ValueError: ***" in line
    assert SECRET not in line


def test_no_secret_reaches_mlflow_or_its_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, SECRET)
    command = shlex.join(["w2s", "run", "f.toml", f"--set=speakers.0.api_key={SECRET}"])
    summary = synthetic.summary(("world 0",), 10).model_copy(update={"command": command})
    entries = [
        sweep_entry(summary),
        RunEntry(
            experiment=summary.name,
            sweep_key=summary.sweep_key,
            identity="stage:x",
            name="x",
            params={"url": "https://ann:pa55@host"},
            tags={"w2s.cause": f"no {SECRET}"},
        ),
    ]
    with Tracker(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "journal") as tracker:
        for entry in entries:
            tracker.log(entry)
        kept = b"".join(path.read_bytes() for path in tmp_path.glob("journal/*.jsonl"))
        assert tracker.close() == []
    kept += b"".join(path.read_bytes() for path in tmp_path.glob("mlflow.db*"))
    assert b"https://***@host" in kept
    assert SECRET.encode() not in kept
    assert b"pa55" not in kept


def test_the_password_of_a_tracking_uri_is_nowhere_to_be_read(tmp_path: Path):
    uri = "http://ann:pa55@127.0.0.1:9"
    tracker = Tracker(uri, tmp_path / "journal")
    tracker.log(sweep_entry(synthetic.summary()))
    problems = tracker.close(timeout_s=60)
    files = list(tmp_path.glob("journal/*.jsonl"))
    assert "http://***@127.0.0.1:9" in problems[0]
    assert "pa55" not in " ".join([*problems, *(path.read_text() for path in files)])


def test_the_ui_listens_on_loopback_and_hides_the_uri_from_other_users(
    monkeypatch: pytest.MonkeyPatch,
):
    started: list[tuple[list[str], dict[str, str]]] = []

    class Process:
        def __init__(self, command: list[str], env: dict[str, str]) -> None:
            started.append((command, env))

        def wait(self) -> int:
            return 0

    monkeypatch.setattr("sweeps.reachable.check_reachable", lambda _: None)
    monkeypatch.setattr("sweeps.tracking.trial_pages", lambda *_: {})
    monkeypatch.setattr(ui.subprocess, "Popen", Process)
    uri = "postgresql://ann:pa55@host/mlflow"

    class Arguments:
        port = 5999
        tracking_uri = uri

    assert ui.run(Arguments()) == 0  # pyright: ignore[reportArgumentType]
    ((command, environment),) = started
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert "pa55" not in " ".join(command)
    assert environment["MLFLOW_BACKEND_STORE_URI"] == uri


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_local_cluster_listens_on_loopback_alone():
    family = psutil.Process().children(recursive=True)
    assert any("raylet" in process.name() for process in family)
    listening = [
        connection.laddr.ip
        for process in family
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert {address.removeprefix("::ffff:") for address in listening} <= {"127.0.0.1", "::1"}


def test_a_report_shows_what_models_and_tasks_say_as_text():
    results = synthetic.results(num_rows=10, tasks=("<script>alert(1)</script>",))
    built = report.of_results(results)
    assert "&lt;script&gt;alert(1)" in built.html
    assert "<script>alert(1)" not in built.html


def test_a_report_asks_nobody_for_anything():
    html = report.of_results(synthetic.results(num_rows=10, tasks=("world 0",))).html
    for attribute in (
        'src="http',
        "src='http",
        'src="//',
        "url(http",
        "@import",
        "<link",
        "<iframe",
    ):
        assert attribute not in html
