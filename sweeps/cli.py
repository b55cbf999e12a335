"""The `w2s` command: parses the command line and hands over to one module of `sweeps.commands`.

Nothing heavy is imported here: `w2s --help` answers at once. A `UserError` (or an error of the
    store or the serving layer that the user can mend) becomes one message on stderr and exit code
    2; Ctrl-C ends with 130.
"""

import argparse
import gc
import importlib
import logging
import os
import sys
from collections.abc import Callable, Sequence

_DESCRIPTION = """\
Weak-to-strong generalization sweeps: plan them, run them on Ray, compare them in MLflow.

A sweep file (TOML, or Python with a function `sweep()`) names a task, a ladder of models, and
blocks of pairs, methods and losses. Every finetune, label set, debate and evaluation that it needs
is a stage, run once and kept."""

_EXAMPLES = """\
examples:
  w2s plan examples/almanac.toml        what would run, and how much sharing saves
  w2s run examples/almanac.toml         run it; run it again: everything is cached
  w2s report almanac                    tables, figures and debates as HTML, Markdown and CSV
  w2s ui                                compare runs in the MLflow UI
  w2s list methods                      what can be named in a sweep file
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="w2s",
        description=_DESCRIPTION,
        epilog=_EXAMPLES + "\n`w2s VERB --help` explains a verb.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs")

    def verb(name: str, help_text: str, description: str, examples: str) -> argparse.ArgumentParser:
        return verbs.add_parser(
            name,
            help=help_text,
            description=description,
            epilog="examples:\n" + examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    plan = verb(
        "plan",
        "validate a sweep file and show what would run",
        "Validate a sweep file and print its splits, its stages by kind, how many trainings\n"
        "sharing saves, and an estimate of the cost. Runs nothing and starts no cluster.",
        "  w2s plan examples/almanac.toml\n"
        "  w2s plan examples/almanac.toml --set 'seeds=[0,1,2,3,4]'\n"
        "  w2s plan examples/almanac.toml --keys      every stage, its key, whether it is cached\n"
        "  w2s plan examples/qwen_ladder.toml --cluster gpus=64,gpu=h100\n",
    )
    _file(plan)
    plan.add_argument(
        "--cluster",
        metavar="gpus=N,...",
        help="play the whole sweep on this cluster, on paper: time, GPU-hours, critical path; "
        "keys: gpus, gpus_per_node, gpu, mfu, size.RUNG and more",
    )
    plan.add_argument(
        "--json", action="store_true", help="with --cluster: one JSON object and nothing else"
    )
    plan.add_argument("--notes", action="store_true", help="show every note of the tasks' loaders")
    plan.add_argument("--keys", action="store_true", help="list every stage: state, key, name")

    run = verb(
        "run",
        "run a sweep on Ray and log it to MLflow",
        "Run a sweep. What is in the store is not run again, so the same command goes on after an\n"
        "interruption. Ends with the report. Exit code 0: all points done; 1: some failed; 3: a\n"
        "budget is spent, nothing else failed; 2: bad input, nothing was run.",
        "  w2s run examples/almanac.toml\n"
        "  w2s run examples/almanac.toml --set 'seeds=[0]' --set blocks.0.pairs=largest\n"
        "  w2s run examples/almanac.toml --address auto       join the cluster on this machine\n"
        "  ray job submit --address http://HEAD:8265 --working-dir . -- \\\n"
        "      w2s run examples/almanac.toml\n",
    )
    _file(run)
    run.add_argument(
        "--address", help="Ray cluster to join (default: RAY_ADDRESS, else a local one is started)"
    )
    run.add_argument("--plain", action="store_true", help="plain lines instead of the live view")

    status = verb(
        "status",
        "how a sweep stands, or what is in the store",
        "While a sweep runs, on whatever machine: show what runs, what waits for what, trials;\n"
        "an estimate of the time left. The run leaves this in .progress/NAME.json of the store.\n"
        "Else: show how much of the sweep the store has, and what its last run failed at and why.\n"
        "Without a file: what the store holds, by kind.",
        "  w2s status                            stages in ./w2s_store by kind\n"
        "  w2s status examples/almanac.toml      this sweep as it runs, or what is cached of it\n"
        "  w2s status examples/almanac.toml --watch      follow it until it ends\n",
    )
    status.add_argument("file", nargs="?", help="sweep file (default: the whole store)")
    _set(status)
    status.add_argument("--watch", action="store_true", help="follow a sweep that runs")
    status.add_argument(
        "--store", help="artifact store (default: that of the file, else w2s_store)"
    )

    explain = verb(
        "explain",
        "a stage's spec, or what differs between two",
        "Print the spec of a stage in the store; with two keys, the fields in which they differ.\n"
        "A key may be cut to as many digits as make it unique.",
        "  w2s explain 9f3a61c07b2e4d18\n  w2s explain 9f3a 77b0\n",
    )
    explain.add_argument("key", help="key of a stage (16 hex digits or the first few)")
    explain.add_argument("key2", nargs="?", help="another one, to compare")
    explain.add_argument(
        "--store", default="w2s_store", help="artifact store (default: %(default)s)"
    )

    report = verb(
        "report",
        "write the report of a sweep from MLflow",
        "Write report.html (one self-contained file), report.md and results.csv of a sweep, from\n"
        "what is logged in MLflow. Needs neither the store nor a cluster.",
        "  w2s report almanac\n  w2s report almanac --out /tmp/almanac --tracking-uri http://mlflow:5000\n",
    )
    report.add_argument("sweep", help="name of the sweep (its MLflow experiment)")
    report.add_argument("--out", help="folder to write to (default: reports/SWEEP)")
    report.add_argument(
        "--tracking-uri",
        default="sqlite:///mlflow.db",
        help="MLflow to read from (default: %(default)s)",
    )

    serve = verb(
        "serve",
        "bring a sweep's models up as OpenAI-compatible endpoints",
        "Serve models of a sweep file with vLLM behind Ray Serve as a sweep does, print how to\n"
        "call them, and stay up until Ctrl-C. A model that writes has the OpenAI routes\n"
        "(/v1/completions, /v1/chat/completions); a finetuned teacher has /classify: texts in,\n"
        "class probabilities out. Teachers finetuned with low-rank adapters share the replicas of\n"
        "their base. [runtime.serve] says how many replicas there are, on which part of a GPU,\n"
        "and whether engines count for Prometheus (metrics = true: /metrics); \n"
        "[runtime.serve_models.NAME] says so for one model. Models that the sweep pretrains must\n"
        "be in the store (`w2s run` puts them there).",
        "  w2s serve examples/almanac.toml\n"
        "  w2s serve examples/almanac.toml --models s l --port 8010\n"
        "  w2s serve examples/almanac.toml --teachers --set runtime.serve.metrics=true\n"
        "  w2s serve FILE --host 0.0.0.0 --api-key-env W2S_API_KEY\n"
        "  w2s serve FILE --set runtime.serve.num_gpus=0.5 --set runtime.serve.max_replicas=4\n"
        "  w2s serve FILE --set runtime.serve_models.l.tensor_parallel=2\n",
    )
    _file(serve)
    serve.add_argument(
        "--models",
        nargs="+",
        metavar="NAME",
        help="rungs and speakers to serve (default, without --teachers: all that argue, judge or "
        "teach)",
    )
    serve.add_argument(
        "--teachers",
        action="store_true",
        help="serve the finetuned supervisors of the first block at the first seed; those whose "
        "weights were not kept are finetuned first",
    )
    serve.add_argument("--address", help="Ray cluster to join")
    serve.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: %(default)s); any other than loopback needs an API "
        "key",
    )
    serve.add_argument(
        "--port", type=int, default=8000, help="HTTP port, 0: a free one (default: %(default)s)"
    )
    serve.add_argument(
        "--api-key-env",
        metavar="NAME",
        help="environment variable with the API key that every request must bring",
    )

    debate = verb(
        "debate",
        "a debate, live, in the terminal",
        "Let models argue about a row of a task, or about a question that you type, and see what\n"
        "a judge makes of it. Without --row and --question it asks for questions, one after\n"
        "another, while the models stay up.\n\n"
        "A model is named `weak` (the first of the ladder), `strong` (the last), or by the name\n"
        "of its rung or speaker. The judge is asked before and after the debate how likely the\n"
        "proposed answer is correct. Models that the sweep pretrains must be in the store\n"
        "(`w2s run` puts them there); speakers behind a URL need no cluster.",
        "  w2s debate examples/almanac.toml --row 12\n"
        "  w2s debate examples/almanac.toml --row 3 --split val --debater m --judge s --seed 3\n"
        "  w2s debate examples/almanac.toml                      asks for questions\n"
        "  w2s debate FILE --question 'Q: Is glass a liquid? A: yes'\n"
        "  w2s debate FILE --row 0 --protocol consultancy        `w2s list protocols` has all\n"
        "  w2s debate FILE --row 0 --thinking --save debate.html \\\n"
        "      --protocol '{ kind = \"simultaneous\", num_rounds = 2, thinking = true }'\n",
    )
    _file(debate)
    what = debate.add_mutually_exclusive_group()
    what.add_argument("--row", type=int, metavar="NUMBER", help="row of the split, from 0")
    what.add_argument(
        "--question", metavar="TEXT", help="a question with the answer that is proposed"
    )
    debate.add_argument(
        "--split",
        choices=("weak_train", "strong_train", "val", "test"),
        default="test",
        help="split of the row (default: %(default)s)",
    )
    debate.add_argument("--task", help="task of the sweep (default: the first)")
    debate.add_argument(
        "--protocol",
        metavar="KIND",
        help="how it goes: a kind, or a TOML table in braces (default: as the sweep says)",
    )
    debate.add_argument(
        "--debater", metavar="NAME", default="strong", help="who argues (default: %(default)s)"
    )
    debate.add_argument(
        "--opponent", metavar="NAME", help="who speaks for side B (default: the debater, too)"
    )
    debate.add_argument(
        "--judge",
        metavar="NAME",
        default="weak",
        help="who asks, chooses and decides; `none`: nobody (default: %(default)s)",
    )
    debate.add_argument(
        "--seed", type=int, default=0, help="seed of sides and arguments (default: %(default)s)"
    )
    debate.add_argument(
        "--thinking", action="store_true", help="show what speakers think in private"
    )
    debate.add_argument("--save", metavar="FILE.html", help="write the debate as a page, too")
    debate.add_argument("--address", help="Ray cluster to join")

    ui = verb(
        "ui",
        "open the MLflow UI on loopback",
        "Start the MLflow UI on 127.0.0.1 and stay up until Ctrl-C.",
        "  w2s ui\n  w2s ui --port 5001 --tracking-uri sqlite:///other.db\n",
    )
    ui.add_argument(
        "--port", type=int, default=5000, help="port on loopback (default: %(default)s)"
    )
    ui.add_argument(
        "--tracking-uri",
        default="sqlite:///mlflow.db",
        help="MLflow database (default: %(default)s)",
    )

    sync = verb(
        "sync",
        "write to MLflow what it is missing",
        "Runs do not wait for MLflow: what it did not take is kept beside the store. Without a\n"
        "file, write all of that. With a sweep file, write everything that the store has of this\n"
        "sweep as well: runs of the sweep, its trials and its stages, results and report. So a\n"
        "new tracking server gets the whole log. What is there already stays; run it as often as\n"
        "you like. Exit code 0: nothing is missing any more; 1: something is.",
        "  w2s sync\n"
        "  w2s sync --store /shared/w2s_store\n"
        "  w2s sync examples/almanac.toml --tracking-uri http://mlflow:5000\n",
    )
    sync.add_argument("file", nargs="?", help="sweep file (default: all journals of the store)")
    _set(sync)
    sync.add_argument("--store", help="artifact store (default: that of the file, else w2s_store)")
    sync.add_argument(
        "--tracking-uri", help="MLflow to write to (default: where the log was meant to go)"
    )

    _store(verb)

    list_kinds = verb(
        "list",
        "what can be named in a sweep file",
        "List the tasks, losses, methods, models, combiners and weightings of ensembles, and\n"
        "protocols of debates that a sweep file can name; with a name, its fields and defaults.\n"
        "`models` has the corpora that a sweep can pretrain on.",
        "  w2s list losses\n  w2s list losses confidence\n  w2s list models architecture\n",
    )
    list_kinds.add_argument(
        "what",
        choices=(
            "tasks",
            "losses",
            "methods",
            "models",
            "combiners",
            "weightings",
            "protocols",
        ),
        help="which kind of thing",
    )
    list_kinds.add_argument("name", nargs="?", help="one of them: fields, defaults, what they mean")
    return parser


def _store(verb: Callable[..., argparse.ArgumentParser]) -> None:
    store = verb(
        "store",
        "check, clean, export and import the artifact store",
        "Keep an artifact store in order. Every artifact has a manifest with the checksums of its\n"
        "files; a sweep checks them before it reads, sets what is damaged aside and makes it\n"
        "again. These verbs do the rest; each takes --store FOLDER or s3://bucket/prefix.",
        "  w2s store verify                      compare every file with its checksum\n"
        "  w2s store gc                          what no sweep refers to, with sizes\n"
        "  w2s store gc --delete                 remove it\n"
        "  w2s store export almanac              all artifacts of a sweep as almanac.tar\n"
        "  w2s store import almanac.tar --store s3://bucket/w2s\n",
    )
    verbs = store.add_subparsers(dest="store_verb", metavar="VERB", title="verbs", required=True)

    def store_verb(name: str, help_text: str, description: str) -> argparse.ArgumentParser:
        parser = verbs.add_parser(
            name,
            help=help_text,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument(
            "--store", default="w2s_store", help="artifact store (default: %(default)s)"
        )
        return parser

    verify = store_verb(
        "verify",
        "compare every file with its checksum",
        "Compare the files of artifacts with their manifests: names, sizes and checksums. Exit\n"
        "code 0: all are whole; 1: some are damaged, and each is named with what is wrong.",
    )
    verify.add_argument(
        "keys", nargs="*", metavar="KEY", help="keys or their beginnings (default: all artifacts)"
    )
    verify.add_argument(
        "--quick", action="store_true", help="names and sizes alone; no file is read"
    )
    verify.add_argument(
        "--set-aside",
        action="store_true",
        help="move damaged artifacts to .broken in the store, so that the next run makes them",
    )

    collect = store_verb(
        "gc",
        "remove what no sweep refers to",
        "List what may go, with sizes: artifacts that no sweep refers to, and what killed\n"
        "attempts, damage and finished stages have left. Nothing is removed without --delete.\n\n"
        "A sweep refers to all stages of its last complete run and of every run begun since. What\n"
        "was written in the last hours stays (--older-than), because a run may be about to use it.",
    )
    collect.add_argument("--delete", action="store_true", help="remove what is listed")
    collect.add_argument("--list", action="store_true", help="one line for each place")
    collect.add_argument(
        "--older-than",
        type=float,
        default=24.0,
        metavar="HOURS",
        help="what was written later than this many hours ago stays (default: %(default)s)",
    )
    collect.add_argument(
        "--forget",
        action="append",
        default=[],
        metavar="SWEEP",
        help="count a sweep as one that refers to nothing; may be repeated",
    )

    export = store_verb(
        "export",
        "write the artifacts of a sweep to one file",
        "Write every artifact that a sweep refers to, checked, to a tar file that `w2s store\n"
        "import` takes into another store. Report and search come from `w2s run` there, which\n"
        "finds the stages cached.",
    )
    export.add_argument("sweep", help="name of a sweep that has run in this store")
    export.add_argument("--out", metavar="FILE.tar", help="file to write (default: SWEEP.tar)")

    take_in = store_verb(
        "import",
        "take in the artifacts of an exported sweep",
        "Check a file that `w2s store export` has written and take its artifacts in, each as a\n"
        "whole or not at all. Every checksum is compared; links, paths that leave the store and\n"
        "files that could run code are refused; what the store has already stays as it is. A key\n"
        "says what was to be computed, not who did: import from people you trust.",
    )
    take_in.add_argument("archive", metavar="FILE.tar", help="the exported file")


def _file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="sweep file (.toml or .py)")
    _set(parser)


def _set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="a.b=VALUE",
        help="change a field of the file; VALUE in TOML, list items by index; may be repeated",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.version:
        from importlib.metadata import version

        print(version("w2s"))
        return 0
    if arguments.verb is None:
        parser.print_help()
        return 0
    # Before any of the libraries is imported: none of them phones home, and idle OpenMP threads
    # sleep.
    for name, value in QUIET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from w2s.redaction import RedactingHandler, redacted

    logging.basicConfig(
        level=logging.WARNING,
        format="%(levelname)s %(message)s",
        handlers=[RedactingHandler()],
    )
    from serving.errors import ServingInputError
    from w2s.errors import StoreError, UserError

    module = importlib.import_module(
        f"sweeps.commands.{_MODULES.get(arguments.verb, arguments.verb)}"
    )
    try:
        return module.run(arguments)
    except (UserError, StoreError, ServingInputError) as error:
        print(f"w2s {arguments.verb}: {redacted(str(error))}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Whoever read the output has seen enough (`w2s list tasks | head`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print(
            "interrupted; what was finished is kept, the same command goes on from there",
            file=sys.stderr,
        )
        return 130


_MODULES = {"list": "list_kinds"}
QUIET_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
GC_THRESHOLDS = (100_000, 20, 100)
"""When Python looks for garbage that refers to itself; its own are for small programs."""


def command() -> int:
    """What the shell calls: `main`, in a process of which it is all."""
    # Large libraries are imported, with few objects that ever go away again: looking for those
    # takes a fifth of the imports' time, and seconds at the end.
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        return main()
    finally:
        gc.freeze()


if __name__ == "__main__":
    sys.exit(command())
