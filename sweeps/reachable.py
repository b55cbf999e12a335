"""Whether runs can be written to a tracking URI, before any compute and without importing MLflow.

What can never work is the user's to mend and is refused: a folder, an unknown scheme, a host that
does not exist, something else on that port, a file that is no database. What may work later is not:
a server that does not answer now, a locked database. The log waits for it.
"""

import os
import socket
import sqlite3
import urllib.error
import urllib.parse
import urllib.request

from sweeps.writer import sqlite_path
from w2s.errors import UserError
from w2s.redaction import redacted

CONNECT_TIMEOUT_S = 5.0
DATABASES = ("postgresql", "mysql", "mssql")
"""Other databases that MLflow writes to by itself."""
MEND = "correct runtime.tracking_uri, or use a file: sqlite:///mlflow.db"


def unreachable(uri: str) -> str:
    """Why runs cannot be written right now; empty if they can.

    Args:
        uri: `sqlite:///path` or `http(s)://host:port`; what other databases answer is found out
            later.

    Raises:
        UserError: they could never be written.
    """
    parts = urllib.parse.urlsplit(uri)
    if parts.scheme == "sqlite":
        return _sqlite(uri)
    if parts.scheme in ("http", "https"):
        return _server(uri, parts)
    if parts.scheme in ("", "file"):
        raise UserError(
            f"tracking URI {uri!r} is a folder, which MLflow no longer writes to; "
            "use sqlite:///mlflow.db or the URL of a tracking server"
        )
    if parts.scheme.partition("+")[0] not in DATABASES:
        raise UserError(
            f"tracking URI {redacted(uri)!r} has the scheme {parts.scheme!r}; allowed are sqlite, "
            f"http, https, {', '.join(DATABASES)}; {MEND}"
        )
    return ""


def check_reachable(uri: str) -> None:
    """Make sure that MLflow answers now, for who reads from it.

    Raises:
        UserError: it does not.
    """
    if problem := unreachable(uri):
        raise UserError(f"{problem}; start it, or {MEND}")


def _sqlite(uri: str) -> str:
    path = sqlite_path(uri)
    folder = path.parent
    if not folder.is_dir():
        raise UserError(f"tracking database {path}: no folder {folder}; make it, or name another")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise UserError(
            f"tracking database {path} cannot be written; change its permissions, or name another "
            "with tracking_uri (--set runtime.tracking_uri=sqlite:///PATH)"
        )
    if not path.exists() or not path.stat().st_size:
        return ""
    name = f"file:{urllib.parse.quote(str(path))}?mode=ro"
    try:
        with sqlite3.connect(name, uri=True, timeout=CONNECT_TIMEOUT_S) as database:
            database.execute("select name from sqlite_master limit 1")
    except sqlite3.OperationalError as error:
        return f"tracking database {path} is in use ({error})"
    except sqlite3.DatabaseError as error:
        raise UserError(
            f"tracking database {path} is no SQLite database ({error}); name another file"
        ) from error
    return ""


def _server(uri: str, parts: urllib.parse.SplitResult) -> str:
    shown = redacted(uri)
    if not parts.hostname:
        raise UserError(f"tracking server {shown!r} names no host; {MEND}")
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.getaddrinfo(parts.hostname, port)
    except socket.gaierror as error:
        if error.errno == socket.EAI_AGAIN:
            return f"tracking server {shown}: its name cannot be looked up now ({error.strerror})"
        raise UserError(
            f"tracking server {shown}: there is no host {parts.hostname!r} ({error.strerror}); "
            f"{MEND}"
        ) from error
    except ValueError as error:
        raise UserError(f"tracking server {shown!r}: {error}; {MEND}") from error
    # User and password go in a header, which MLflow's client brings; /health needs none.
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    health = f"{parts.scheme}://{host}:{port}{parts.path.rstrip('/')}/health"
    try:
        with urllib.request.urlopen(health, timeout=CONNECT_TIMEOUT_S):
            return ""
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):  # It answers; MLflow's client brings the credentials.
            return ""
        if error.code >= 500 or error.code == 429:
            return f"tracking server {shown} answers with HTTP {error.code}"
        raise UserError(
            f"tracking server {shown} answers with HTTP {error.code} to {health}: no MLflow; {MEND}"
        ) from error
    except OSError as error:
        reason = getattr(error, "reason", error)
        return f"tracking server {shown} does not answer in {CONNECT_TIMEOUT_S:.0f} s ({reason})"
    except Exception as error:  # Something that does not speak HTTP.
        raise UserError(
            f"tracking server {shown}: what answers there is no web server "
            f"({type(error).__name__}); {MEND}"
        ) from error
