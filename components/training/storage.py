"""The folder of a training run's checkpoints: on this machine, on a mounted file system, or in an object store."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pyarrow import ArrowException
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem, copy_files

from components.foundation.errors import InputError, reason

_PROBE: Final = ".probe"
_WORDS: Final = b"written by the check before a training"


@dataclass(frozen=True, slots=True)
class Storage:
    """A folder on one of pyarrow's file systems."""

    filesystem: FileSystem
    path: str  # within the file system, without its scheme
    scheme: str  # of the URI; empty for a path

    @classmethod
    def at(cls, place: str, name: str) -> "Storage":
        """Return the folder `name` in a place: a path, or a URI of S3 (`s3://bucket/path`), GCS or Azure.

        `fsspec+PROTOCOL://` is a URI of fsspec. Raise InputError if no file system has this kind of URI.
        """
        scheme, separator, _ = place.partition("://")
        if not separator:
            return cls(LocalFileSystem(), str(Path(place).expanduser().resolve() / name), "")
        try:
            filesystem, path = FileSystem.from_uri(place)
        except (OSError, ValueError, ImportError, ArrowException) as error:
            shown = f"{scheme}://..."  # the rest may hold a password
            raise InputError(
                f"the storage {shown} cannot be used ({reason(error).replace(place, shown)}); use a path or a URI such "
                "as s3://bucket/path"
            ) from None
        return cls(filesystem, f"{path.rstrip('/')}/{name}", scheme)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.path.lstrip('/')}" if self.scheme else self.path  # no key or password

    @property
    def folder(self) -> Path | None:
        """The path of the folder if it is on this machine or mounted, else None."""
        return Path(self.path) if isinstance(self.filesystem, LocalFileSystem) else None

    def check(self) -> None:
        """Create the folder, and write and read a file in it. Raise InputError if this fails."""
        with self.reached():
            self.filesystem.create_dir(self.path)
            probe = f"{self.path}/{_PROBE}"
            with self.filesystem.open_output_stream(probe) as file:
                file.write(_WORDS)
            with self.filesystem.open_input_stream(probe) as file:
                file.read()
            self.filesystem.delete_file(probe)

    def names(self, prefix: str) -> list[str]:
        """Return the sorted names of the folders in this one that consist of the prefix and a number."""
        with self.reached():
            found = self.filesystem.get_file_info(FileSelector(self.path, allow_not_found=True))
        folders = [Path(info.path).name for info in found if info.type == FileType.Directory]
        return sorted(name for name in folders if name.startswith(prefix) and name[len(prefix) :][:1].isdigit())

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """Yield the path of a folder in this one; a copy that exists during the block if it is in an object store."""
        if self.folder is not None:
            yield self.folder / name
            return
        with tempfile.TemporaryDirectory(prefix="checkpoint-") as copy:
            with self.reached():
                copy_files(f"{self.path}/{name}", copy, source_filesystem=self.filesystem)
            yield Path(copy)

    def upload(self, folder: Path, name: str) -> None:
        """Copy a folder of this machine into this one. Raise InputError if this fails."""
        with self.reached():
            self.filesystem.create_dir(f"{self.path}/{name}")
            copy_files(  # threads of pyarrow can block each other in uploads to S3 (Arrow 32372)
                str(folder), f"{self.path}/{name}", destination_filesystem=self.filesystem, use_threads=False
            )

    def remove(self) -> None:
        """Delete the folder with its content. Raise InputError if this fails."""
        with self.reached():
            if self.filesystem.get_file_info(self.path).type != FileType.NotFound:
                self.filesystem.delete_dir(self.path)

    @contextmanager
    def reached(self) -> Iterator[None]:
        """Convert an error of the file system in this block to an InputError that names the folder."""
        try:
            yield
        except OSError as error:
            raise InputError(self.problem(error)) from None

    def problem(self, error: Exception) -> str:
        """Return a sentence that says what failed in this folder, and what to do."""
        remedy = "check the address, its credentials and the connection"
        if self.folder is not None:
            remedy = "free space or grant write access"
        return (
            f"the checkpoints in {self} cannot be read or written ({reason(error)}); {remedy}; the same command "
            "resumes from the last checkpoint there"
        )
