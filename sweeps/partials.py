"""What unfinished stages keep for another attempt: checkpoints, on any file system.

`.partial/<key>/<number>-<id>/` is one of them. Like an artifact it is there once its manifest is,
and the one before stays until then. Numbers count up from what is there, so that no clock decides
which is the newest. Only safetensors and JSON are taken, and nothing else is handed out.
"""

import errno
import shutil
import uuid
from pathlib import Path

from sweeps.files import Files, LocalFiles
from sweeps.manifest import (
    MANIFEST_FILE,
    BrokenFiles,
    Manifest,
    Verified,
    check_folder,
    describe_folder,
    parse_manifest,
)

PARTIAL_FOLDER = ".partial"
SUFFIXES = (".safetensors", ".json")


class Partials:
    """Checkpoints by key of the stage."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def save(self, key: str, folder: Path, scratch: Path) -> None:
        """Keep the files of a folder, which is gone afterwards.

        Args:
            key: of the stage.
            folder: files that end in one of `SUFFIXES`.
            scratch: an empty folder on the file system of a local store.

        Raises:
            OSError: they cannot be written.
        """
        manifest = describe_folder(folder, key, "", Verified())
        assert not (wrong := _other_files(manifest)), f"no checkpoint has files like {wrong[0]}"
        older = self._attempts(key)
        number = int(older[0].partition("-")[0]) + 1 if older else 1
        new = f"{PARTIAL_FOLDER}/{key}/{number:08d}-{uuid.uuid4().hex[:8]}"
        if isinstance(self._files, LocalFiles):
            (folder / MANIFEST_FILE).write_bytes(manifest.dump())
            final = Path(self._files.path(new))
            final.parent.mkdir(parents=True, exist_ok=True)
            try:
                folder.rename(final)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                shutil.copytree(folder, scratch / "copy").rename(final)
        else:
            self._files.put(folder, manifest.files, new)
            self._files.write(f"{new}/{MANIFEST_FILE}", manifest.dump())
        shutil.rmtree(folder, ignore_errors=True)
        for name in older:
            self._files.remove_tree(f"{PARTIAL_FOLDER}/{key}/{name}")

    def load(self, key: str, target: Path) -> bool:
        """Copy the newest whole checkpoint to a folder; False: there is none.

        Args:
            key: of the stage.
            target: folder that is empty or not there.

        Raises:
            OSError: they cannot be read.
        """
        for name in self._attempts(key):
            source = f"{PARTIAL_FOLDER}/{key}/{name}"
            try:
                manifest = parse_manifest(self._files.read(f"{source}/{MANIFEST_FILE}"), key)
                if _other_files(manifest):
                    continue
                target.mkdir(parents=True, exist_ok=True)
                self._files.get(source, manifest.files, target)
                check_folder(target, manifest, Verified())
            except (BrokenFiles, FileNotFoundError):
                shutil.rmtree(target, ignore_errors=True)
                continue
            return True
        return False

    def drop(self, key: str) -> None:
        """Remove all checkpoints of a stage."""
        self._files.remove_tree(f"{PARTIAL_FOLDER}/{key}")

    def _attempts(self, key: str) -> list[str]:
        """The newest first."""
        names = self._files.names(f"{PARTIAL_FOLDER}/{key}")
        return sorted((name for name in names if name.partition("-")[0].isdigit()), reverse=True)


def _other_files(manifest: Manifest) -> list[str]:
    return [name for name in manifest.files if not name.endswith(SUFFIXES)]
