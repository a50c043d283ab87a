"""Published data sets in a folder of the user, in whichever of their formats they are there."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ntkgen.data._cifar import CIFAR, LAYOUTS
from ntkgen.data._idx import FOLDERS, IDX, NPZ
from ntkgen.data._raw import DataError, Format, Kind, Raw
from ntkgen.data._tfds import TFDS

MOST_FOLDERS = 200  # that are looked into for a better --data_dir


@dataclass(frozen=True)
class InFolder(Kind):
    """Reader of a published data set: `InFolder(...)(data_dir)` returns (Raw, version).

    Attributes:
      formats: those that are looked for, in this order.
    """

    formats: tuple[Format, ...] = ()

    def __call__(self, data_dir: Any) -> tuple[Raw, str]:
        """Return the decoded data set and its version: that of TFDS, or "idx", "npz", "python", "binary".

        Raises:
          DataError: it is not there, or its files are not as they should be.
        """
        candidates = {
            "data_dir": data_dir,
            "$NTKGEN_DATA_DIR": os.environ.get("NTKGEN_DATA_DIR"),
            "$TFDS_DATA_DIR": os.environ.get("TFDS_DATA_DIR"),
            "the default TFDS folder": "~/tensorflow_datasets",
        }
        origin, given = next((origin, given) for origin, given in candidates.items() if given)
        root = Path(os.path.expanduser(given))
        found = self._find(root)
        if found is None:
            raise DataError(f"{self.name}: {self._missing(root, origin)}")
        form, path = found
        return form.read(self, path)

    def _find(self, root: Path) -> tuple[Format, Path] | None:
        """Return the first format of which there are files, and where."""
        for form in self.formats:
            path = form.find(self, root)
            if path is not None:
                return form, path
        return None

    def _missing(self, root: Path, origin: str) -> str:
        """Say in one line that there is nothing, and what would be."""
        if not os.path.exists(root):
            what = f"there is no folder {root}"
        elif not os.path.isdir(root):
            what = f"{root} is no folder"
        else:
            what = f"found no {self.name} in {root}"
        if near := self._nearby(root):
            return f"{what} ({origin}); did you mean --data_dir={near}?"
        return (
            f"{what} ({origin}); put one of these there, or name their folder by --data_dir: {self._files()}; "
            "--dataset=digits needs no files"
        )

    def _nearby(self, root: Path) -> Path | None:
        """Return a folder one or two levels up, or one down, that has the data set."""
        try:
            below = sorted(path for path in root.iterdir() if path.is_dir())[:MOST_FOLDERS]
        except OSError:
            below = []
        for folder in (*list(root.absolute().parents)[:2], *below):
            try:
                if self._find(folder):
                    return folder
            except DataError:  # it cannot be read
                continue
        return None

    def _files(self) -> str:
        """Name the files that are read, by format."""
        words = [f"{self.name}/<version> (TFDS, array_record)"]
        if self.name in FOLDERS:
            torchvision = FOLDERS[self.name][1]
            words.append(
                "train-images-idx3-ubyte, train-labels-idx1-ubyte and the same of t10k (.gz or not; in "
                f"{self.name}/ or torchvision's {torchvision}/raw too)"
            )
            words.append(f"{self.name}.npz (Keras)")
        for layout in LAYOUTS.get(self.name, ()):
            words.append(f"{layout.folder} or {layout.archive}")
        return f"{', '.join(words[:-1])}, or {words[-1]}"


MNIST_FORMATS, CIFAR_FORMATS = (TFDS, IDX, NPZ), (TFDS, CIFAR)
