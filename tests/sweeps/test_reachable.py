"""Before any compute: what can never be logged to is refused, what may work later is not."""

import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from sweeps.reachable import check_reachable, unreachable
from w2s.errors import UserError


@contextmanager
def nobody() -> Iterator[str]:
    """A URI at which nobody answers."""
    with socket.socket() as placeholder:
        placeholder.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{placeholder.getsockname()[1]}"


@contextmanager
def answering(code: int) -> Iterator[str]:
    """A server that answers one request."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            found.append(self.path)
            self.send_response(code)
            self.end_headers()

        def log_message(self, format, *args):
            pass

    found: list[str] = []
    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    thread.join()
    server.server_close()
    assert found == ["/health"]


def test_a_file_that_can_be_made_or_is_a_database_is_fine(tmp_path: Path):
    assert unreachable(f"sqlite:///{tmp_path}/new.db") == ""
    sqlite3.connect(tmp_path / "good.db").execute("create table t (x)").connection.close()
    assert unreachable(f"sqlite:///{tmp_path}/good.db") == ""


def test_a_database_that_is_locked_is_only_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sweeps.reachable.CONNECT_TIMEOUT_S", 0.05)
    holder = sqlite3.connect(tmp_path / "good.db", isolation_level=None)
    holder.execute("create table t (x)")
    holder.execute("begin exclusive")
    assert "is in use (database is locked)" in unreachable(f"sqlite:///{tmp_path}/good.db")
    holder.close()


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("sqlite:///{folder}/none/mlflow.db", "no folder"),
        ("sqlite:///{folder}/text.db", "no SQLite database"),
        ("./mlruns", "is a folder"),
        ("file:///tmp/mlruns", "is a folder"),
        ("htpp://host:5000", "has the scheme 'htpp'; allowed are sqlite, http, https"),
        ("http://:5000", "names no host"),
        ("http://no.such.host.invalid:5000", "no host 'no.such.host.invalid'|cannot be looked up"),
        ("http://127.0.0.1:99999", "(?i)port"),
    ],
)
def test_what_can_never_work_is_refused(tmp_path: Path, uri: str, message: str):
    (tmp_path / "text.db").write_text("this is not a database, however long it may be" * 50)
    with pytest.raises(UserError, match=message):
        check_reachable(uri.format(folder=tmp_path))


def test_a_server_that_does_not_answer_may_do_so_later():
    with nobody() as uri:
        assert "does not answer in 5 s ([Errno 111] Connection refused)" in unreachable(uri)
        with pytest.raises(UserError, match="does not answer in 5 s"):
            check_reachable(uri)


@pytest.mark.parametrize("code", [200, 401])
def test_a_server_that_answers_is_fine(code: int):
    with answering(code) as uri:
        assert unreachable(uri) == ""


def test_a_server_in_trouble_may_answer_later():
    with answering(503) as uri:
        assert "answers with HTTP 503" in unreachable(uri)


def test_another_server_is_refused():
    with answering(404) as uri, pytest.raises(UserError, match=r"with HTTP 404 .* no MLflow"):
        unreachable(uri)


def test_what_speaks_no_http_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            connection, _ = server.accept()
            connection.sendall(b"220 mail ESMTP\r\n")
            connection.close()

        thread = threading.Thread(target=greet)
        thread.start()
        uri = f"http://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UserError, match="no web server"):
            unreachable(uri)
        thread.join()


def test_a_password_is_not_shown():
    with nobody() as uri:
        assert "pa55" not in unreachable(uri.replace("http://", "http://ann:pa55@"))
