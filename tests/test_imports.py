"""What is loaded when, and who may import whom beyond what import-linter says."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "ray", "vllm", "mlflow", "transformers"}
VERBS = ("plan", "run", "status", "explain", "report", "serve", "debate", "ui", "sync", "list")
SIBLINGS = (
    "w2s/losses",
    "w2s/tasks",
    "w2s/methods",
    "w2s/corpora",
    "w2s/combiners",
    "w2s/weightings",
    "serving/backends",
    "serving/debate/protocols",
)


def loaded_by(code: str) -> set[str]:
    """Heavy modules that a fresh process has loaded after some code."""
    report = f"\nimport json, sys; print(json.dumps(sorted(set(sys.modules) & {HEAVY!r})))"
    process = subprocess.run(
        [sys.executable, "-c", code + report], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(json.loads(process.stdout.splitlines()[-1]))


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_loads_nothing_heavy(verb: str) -> None:
    code = f"""
from sweeps.cli import main
try:
    main({[*verb.split(), "--help"]})
except SystemExit as end:
    assert not end.code
"""
    assert loaded_by(code) == set()


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("w2s.spec", HEAVY),
        ("w2s.types", HEAVY),
        ("serving.client", HEAVY),
        ("serving.debate.run", HEAVY),
        ("sweeps.config", {"ray", "vllm", "mlflow"}),
        ("sweeps.report", {"torch", "ray", "vllm"}),
        ("sweeps.plan", {"ray", "vllm", "mlflow"}),
    ],
)
def test_a_module_loads_only_what_its_job_needs(module: str, forbidden: set[str]) -> None:
    assert loaded_by(f"import {module}") & forbidden == set()


def imported_modules(file: Path) -> set[str]:
    """Full names of what a file imports, at any depth."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("folder", SIBLINGS)
def test_variants_of_a_kind_do_not_import_each_other(folder: str) -> None:
    package = folder.replace("/", ".")
    files = {
        file.stem: file
        for file in (ROOT / folder).glob("*.py")
        if file.stem != "base" and not file.stem.startswith("_")
    }
    assert files
    for kind, file in files.items():
        imported = imported_modules(file)
        crossed = [other for other in files if other != kind and f"{package}.{other}" in imported]
        assert not crossed, f"{folder}/{kind}.py imports its siblings {crossed}"
