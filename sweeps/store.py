"""The artifact store: a folder tree in which an artifact is there as a whole or not at all.

`<root>/<kind>/<name>-<key>/` holds a stage's files, `stage.json` (identity, input keys, versions,
times), `metrics.jsonl` (the curve, where there is one) and `manifest.json` (sizes and checksums):
no manifest, no artifact. A root without a scheme is a folder of this machine or of a shared file
system, and a commit is one rename. A root with a scheme (`s3://`, `gs://`, ...) is reached through
fsspec: every attempt uploads to a folder of its own below the artifact's, then the manifest that
names this folder is written, and readers work on a verified local copy.

Files are checked against the manifest before they are handed out, and nothing is ever unpickled.
"""

import contextlib
import logging
import uuid
from collections.abc import Generator
from pathlib import Path

from sweeps.artifacts import ArtifactReader, Place, join, place_of
from sweeps.events import StageRecord
from sweeps.files import SCRATCH_FOLDER, LocalFiles
from sweeps.manifest import (
    MANIFEST_FILE,
    BrokenFiles,
    Manifest,
    Verified,
    describe_folder,
    foreign_files,
    scan,
)
from sweeps.partials import Partials
from sweeps.records import write_record
from w2s.errors import StoreError
from w2s.stages.base import Stage

log = logging.getLogger(__name__)

BROKEN_FOLDER = ".broken"


class ArtifactStore(ArtifactReader):
    """Artifacts by stage. It pickles: a worker opens the same store from the same root."""

    def __init__(self, root: str, cache: str | None = None) -> None:
        """See `ArtifactReader`."""
        super().__init__(root, cache)
        self._partials = Partials(self.files)

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        """Pickle as root and cache; file systems hold connections."""
        return (ArtifactStore, (self.root, str(self.copies.parent)))

    def check_writable(self) -> None:
        """Write and remove a small file.

        Raises:
            StoreError: it cannot be written; says where, why and what to do.
        """
        probe = f"{SCRATCH_FOLDER}/probe-{uuid.uuid4().hex[:8]}"
        try:
            self.files.write(probe, b"w2s")
            self.files.remove(probe)
        except OSError as error:
            raise StoreError(
                f"cannot write the store {self.root!r}: {type(error).__name__}: {error}; "
                "name a folder or bucket that you can write"
            ) from error

    # Writing

    @contextlib.contextmanager
    def workspace(self, stage: Stage, resume: bool = False) -> Generator[Path]:
        """A local folder for a stage's files, gone afterwards unless committed.

        Args:
            stage: the stage that writes there.
            resume: keep the folder when the block fails, and hand it out again with what it holds
                to the next attempt at the same stage; a folder that another process works in is not
                shared.
        """
        folder = self._scratch.kept(stage.key) if resume else self._scratch.folder(stage.key)
        with folder as path:
            yield path

    def scratch(self, label: str) -> contextlib.AbstractContextManager[Path]:
        """A new local folder, gone after the block, or after `clear_scratch` if that is killed."""
        return self._scratch.folder(label)

    def clear_scratch(self) -> None:
        """Remove what killed processes of this machine left in the scratch folder."""
        self._scratch.clear()

    def commit(self, stage: Stage, folder: Path, record: StageRecord) -> None:
        """Make a stage's files its artifact; when another run was faster, that one stays.

        Args:
            stage: the stage that wrote the files.
            folder: a `workspace` of this stage; its files belong to the store from here on.
            record: times and curve; `identity` and `location` are filled in here.

        Raises:
            StoreError: the store cannot be written, or the stage left a link.
        """
        place = place_of(stage)
        try:
            if self.files.exists(place.manifest):
                return
            write_record(stage, record, folder)
            attempt = "" if self.is_local else uuid.uuid4().hex[:12]
            manifest = describe_folder(folder, stage.key, attempt, self._verified)
            self.adopt(place, folder, manifest)
        except (OSError, BrokenFiles) as error:
            raise StoreError(
                f"cannot commit {stage.name} ({stage.key}) to {self.location(stage)}: {error}"
            ) from error
        self._note(place)

    def adopt(self, place: Place, folder: Path, manifest: Manifest) -> bool:
        """Make the files of a local folder the artifact of a place; False: there is one already.

        Args:
            place: where.
            folder: on the file system of `scratch`; it is the store's from here on.
            manifest: what is in it; of a remote store's artifact with a new attempt's name.
        """
        data = manifest.dump()
        if isinstance(self.files, LocalFiles):
            (folder / MANIFEST_FILE).write_bytes(data)
            return self._rename(place, folder, self.files)
        target = join(place.path, manifest.attempt)
        self.files.put(folder, manifest.files, target)
        # Where the file system has no such thing as a first writer, the last manifest stays.
        won = self.files.create(place.manifest, data)
        if not won:
            # A request that was repeated by itself finds its own file.
            won = self.files.read(place.manifest) == data
        if not won:
            with contextlib.suppress(OSError):
                self.files.remove_tree(target)
            return False
        self._manifests[place] = manifest
        self._keep_copy(folder, self.copy_of(place, manifest))
        return True

    def _rename(self, place: Place, folder: Path, files: LocalFiles) -> bool:
        """One rename, so a reader sees no artifact or a whole one.

        It fails on a folder with files: another run's commit, or a leftover without manifest.
        """
        final = Path(files.path(place.path))
        while True:
            try:
                folder.rename(final)
                return True
            except FileNotFoundError:
                if final.parent.exists():
                    raise
                final.parent.mkdir(parents=True, exist_ok=True)
            except OSError:
                if files.exists(place.manifest):
                    return False
                if not final.exists():
                    raise
                log.warning("stage=%s key=%s has files without a manifest", place.name, place.key)
                moved = self._move_to_broken(final)
                if (moved / MANIFEST_FILE).exists():  # it was committed just now
                    with contextlib.suppress(OSError):
                        moved.rename(final)
                    return False

    def discard(self, place: Place) -> None:
        """Remove an artifact; it is none from the first moment on.

        Raises:
            OSError: the store cannot be written.
        """
        if isinstance(self.files, LocalFiles):
            with self.scratch("discarded") as folder:
                Path(self.files.path(place.path)).rename(folder / "artifact")
        else:
            with contextlib.suppress(BrokenFiles):
                self._forget_copy(self.copy_of(place, self.manifest_at(place)))
            self.files.remove(place.manifest)
            self.files.remove_tree(place.path)
        self._forget(place)

    # What went wrong

    def set_aside(self, key: str) -> bool:
        """Move the damaged artifact of a key to `.broken/`, so that it is made again.

        All is checked once more, checksums included: what is whole stays, and where the only damage
        is a file that does not belong to it, this file alone is moved.

        Returns:
            Whether an artifact was moved.

        Raises:
            StoreError: the store cannot be written.
        """
        moved = False
        try:
            for kind in self.kinds():
                folder = self._index(kind, anew=True).get(key)
                if folder is not None:
                    moved |= self._set_aside(Place(kind, folder))
        except OSError as error:
            raise StoreError(f"cannot set {key} aside in {self.root}: {error}") from error
        return moved

    def _set_aside(self, place: Place) -> bool:
        self._forget(place)
        if isinstance(self.files, LocalFiles):
            self._move_foreign(place, self.files)
        self._verified = Verified()
        try:
            self.check(place)
        except BrokenFiles as problem:
            log.warning("stage=%s key=%s is damaged: %s", place.name, place.key, problem)
        else:
            return False
        if isinstance(self.files, LocalFiles):
            self._move_to_broken(Path(self.files.path(place.path)))
        else:
            # Without its manifest it is no artifact; `w2s store gc` removes the files later.
            with contextlib.suppress(FileNotFoundError):
                target = f"{BROKEN_FOLDER}/{place.folder}-{uuid.uuid4().hex[:8]}/{MANIFEST_FILE}"
                self.files.write(target, self.files.read(place.manifest))
            self.files.remove(place.manifest)
        self._forget(place)
        return True

    def _move_foreign(self, place: Place, files: LocalFiles) -> None:
        folder = Path(files.path(place.path))
        try:
            manifest = self.manifest_at(place)
            found = scan(folder)
        except BrokenFiles:
            return
        found.pop(MANIFEST_FILE, None)
        for name in foreign_files(found, manifest) if not manifest.attempt else ():
            log.warning("stage=%s key=%s: %s is not its file", place.name, place.key, name)
            self._move_to_broken(folder / name)

    def _move_to_broken(self, path: Path) -> Path:
        target = Path(self.root) / BROKEN_FOLDER / f"{path.name}-{uuid.uuid4().hex[:8]}"
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            path.rename(target)
        return target

    # Checkpoints of stages that run

    def save_partial(self, stage: Stage, folder: Path) -> None:
        """Keep the files of an unfinished stage for another attempt, on whichever machine.

        The newest whole one stays until a newer one is whole.

        Args:
            stage: the stage that runs.
            folder: `.safetensors` and `.json` files; it is the store's from here on.

        Raises:
            StoreError: the store cannot be written.
        """
        try:
            with self.scratch(f"checkpoint-{stage.key}") as scratch:
                self._partials.save(stage.key, folder, scratch)
        except OSError as error:
            raise StoreError(
                f"cannot keep a checkpoint of {stage.name} ({stage.key}) in {self.root}: {error}"
            ) from error

    def load_partial(self, stage: Stage, target: Path) -> bool:
        """Copy the newest whole files of `save_partial` to a folder; False: there are none.

        Args:
            stage: the stage that runs.
            target: folder, made if it is not there.

        Raises:
            StoreError: the store cannot be read.
        """
        with self._reading():
            return self._partials.load(stage.key, target)

    def drop_partial(self, stage: Stage) -> None:
        """Remove what `save_partial` kept, if anything."""
        with contextlib.suppress(OSError):  # `w2s store gc` removes it later
            self._partials.drop(stage.key)
