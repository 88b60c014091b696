"""Classification of pictures: arrays of one NumPy file, or a folder with a folder for each class.

The folder is that of `datasets`' image folder without its metadata: `CLASS/FILE.png`. A model sees a picture
as its own image processor gives it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from evomerge.errors import ConfigError, Problem
from evomerge.evaluators.classification import Classification, ClassificationDeclaration
from evomerge.evaluators.item_files import SplitFiles
from evomerge.evaluators.items import Item

if TYPE_CHECKING:
    from evomerge.evaluators.evaluator import Subject

ARRAYS = ".npz"
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
KEPT_BYTES = 1 << 30
"""Up to here the pictures of an evaluator are kept as the model sees them; beyond, they are read again."""


class ImageClassificationDeclaration(ClassificationDeclaration):
    """Accuracy of an image classifier.

    Attributes:
        images: an `.npz` with `images` (uint8 [n, height, width] or [n, height, width, 3]) and `labels` [n]
            (names or numbers), or a folder with a folder for each class, dealt out by content; or one of
            these for each split.
    """

    source: ClassVar[str] = "images"

    kind: Literal["image_classification"]
    images: str | SplitFiles

    def problems(self, *, allow_code: bool = False) -> list[Problem]:
        """As of other items, and E410 without Pillow."""
        if importlib.util.find_spec("PIL") is None:
            todo = 'pip install "evomerge[vision]"'
            return [
                self.fault("kind", "E410", "pictures need a library that is not here", "Pillow", todo)
            ]
        return super().problems(allow_code=allow_code)

    def exists(self, path: Path) -> bool:
        """A file or a folder."""
        return path.is_file() or path.is_dir()

    def read(self, path: Path) -> list[Item]:
        """A picture's item has the hash of its content, its label, and where it lies (`idx`)."""
        if path.is_dir():
            return _folder_items(path)
        images, labels = picture_arrays(path)
        return [
            {
                "idx": (str(path), index), "label": str(label),
                "image": hashlib.sha256(f"{image.shape}".encode() + image.tobytes()).hexdigest(),
            }
            for index, (image, label) in enumerate(zip(images, labels, strict=True))
        ]  # fmt: skip

    def content_digest(self, path: Path) -> str:
        """SHA-256 (hex) of a file, or of all pictures in a folder with their classes."""
        if path.is_file():
            return super().content_digest(path)
        listed = "".join(f"{item['label']} {item['image']}\n" for item in _folder_items(path))
        return hashlib.sha256(listed.encode()).hexdigest()

    def size(self) -> tuple[int, int]:
        """Search items; pictures have no tokens."""
        return len(self.splits()["search"].items), 0


def _folder_items(path: Path) -> list[Item]:
    found: list[Item] = []
    for folder in sorted(entry for entry in path.iterdir() if entry.is_dir()):
        for file in sorted(f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES):
            image = hashlib.sha256(file.read_bytes()).hexdigest()
            found.append({"idx": (str(file), 0), "label": folder.name, "image": image})
    if not found:
        raise ValueError(f"{path.name}: no pictures in folders of classes ({', '.join(SUFFIXES)})")
    return found


def picture_arrays(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """`images` and `labels` of a NumPy file.

    Raises:
        ValueError: if they are not there, or not of the shapes they must have.
    """
    if path.suffix != ARRAYS:
        raise ValueError(f"{path.name}: pictures lie in an {ARRAYS} file or in folders of classes")
    if not zipfile.is_zipfile(path):  # what NumPy says of it depends on its first bytes
        raise ValueError(f"{path.name}: a damaged {ARRAYS} file, or none")
    with np.load(path, allow_pickle=False) as file:
        if not {"images", "labels"} <= set(file.files):
            raise ValueError(
                f"{path.name}: needs arrays `images` and `labels`, has {', '.join(file.files)}"
            )
        images, labels = file["images"], file["labels"]
    shaped = images.ndim == 3 or (images.ndim == 4 and images.shape[-1] == 3)
    if images.dtype != np.uint8 or not shaped or labels.shape != images.shape[:1]:
        found = f"images {images.dtype} {list(images.shape)}, labels {list(labels.shape)}"
        raise ValueError(
            f"{path.name}: images are uint8 [n, height, width] or [n, height, width, 3]: {found}"
        )
    return images, labels


class ImageClassification(Classification):
    """Scores pictures as the model's own image processor gives them."""

    def __init__(self, declaration: ImageClassificationDeclaration) -> None:
        super().__init__(declaration)
        self._files: dict[str, np.ndarray] = {}
        self._processors: dict[Path, Any] = {}
        self._seen: dict[tuple[Path, str], Any] = {}
        self._bytes = 0

    def inputs(self, subject: Subject, items: Sequence[Item]) -> Mapping[str, Any]:
        """Pixel values in the model's dtype: [items, channels, height, width]."""
        import torch

        if subject.folder is None:
            raise ValueError("pictures need the folder of the model's image processor")
        folder = subject.folder
        fresh = self._fresh(folder, items)
        for image, pixels in fresh.items():
            if self._bytes + pixels.nbytes <= KEPT_BYTES:
                self._seen[folder, image] = pixels
                self._bytes += pixels.nbytes
        names = [str(item["image"]) for item in items]
        rows = [fresh[name] if name in fresh else self._seen[folder, name] for name in names]
        return {"pixel_values": torch.stack(rows).to(subject.device, subject.model.dtype)}

    def _fresh(self, folder: Path, items: Sequence[Item]) -> dict[str, Any]:
        """Pixel values of those pictures that are not kept, float32 [channels, height, width] by content."""
        new = [item for item in items if (folder, str(item["image"])) not in self._seen]
        if not new:
            return {}
        given = self._processor(folder)([self._picture(item) for item in new], return_tensors="pt")
        names = [str(item["image"]) for item in new]
        return dict(zip(names, given["pixel_values"], strict=True))

    def _picture(self, item: Item) -> Any:
        from PIL import Image

        path, index = item["idx"]
        if not path.endswith(ARRAYS):
            with Image.open(path) as file:
                return file.convert("RGB")
        if path not in self._files:
            self._files[path] = picture_arrays(Path(path))[0]
        return Image.fromarray(self._files[path][index]).convert("RGB")

    def _processor(self, folder: Path) -> Any:
        """The image processor of a model folder.

        Raises:
            ConfigError: E128, if it has none.
        """
        from transformers import AutoImageProcessor

        automatic: Any = AutoImageProcessor
        if folder not in self._processors:
            try:
                self._processors[folder] = automatic.from_pretrained(
                    folder, local_files_only=True, trust_remote_code=False
                )
            except (OSError, ValueError) as error:
                wrong, found = "the model has no image processor", str(error).splitlines()[0]
                todo = f"put its preprocessor_config.json into {folder}"
                raise ConfigError(self.declaration.fault("kind", "E128", wrong, found, todo)) from error
        return self._processors[folder]
