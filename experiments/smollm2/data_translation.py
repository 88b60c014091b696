"""English to French word items from the FreeDict dictionary of a Debian package.

The dictionary is under the GPL: it is fetched when the data is made and never kept here.
"""

from __future__ import annotations

import gzip
import io
import random
import re
import shutil
import string
import subprocess
import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from base_model import FetchError, sha256_of
from data_common import SEED, Item, make_item, split_of

PACKAGE = "dict-freedict-eng-fra"
PACKAGE_SHA256 = "b8db6774b640ae8a372bee119b4304d88e6fd471a283d1326d7ec0abcc8b930e"
PACKAGE_VERSION = "2022.04.21-1"
_DIGITS = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
_ENGLISH = re.compile(r"[a-z]{3,14}")
_FRENCH = re.compile(r"[a-zàâäçéèêëîïôöùûüœ' -]{3,24}")
_PRONUNCIATION = re.compile(r"\s*/[^/]*/\s*")


def fetch_pairs(package: Path | None = None) -> list[tuple[str, list[str]]]:
    """Return English words with their French translations.

    Args:
        package: A copy of the Debian package; without it `apt-get download` gets one.

    Raises:
        FetchError: If there is no copy to be had, or it is another version.
    """
    with tempfile.TemporaryDirectory(prefix="freedict-") as scratch:
        found = package or download(Path(scratch))
        digest = sha256_of(found)
        if digest != PACKAGE_SHA256:
            raise FetchError(
                f"{found.name} has sha256 {digest}; expected version {PACKAGE_VERSION} with "
                f"{PACKAGE_SHA256}. Get that version from a Debian mirror or snapshot archive "
                f"(pool/main/f/freedict) and pass it with --dictionary FILE"
            )
        return list(parse(*unpack(found)))


def download(folder: Path) -> Path:
    """Get the Debian package with apt; nothing is installed."""
    advice = (
        f"Get {PACKAGE}_{PACKAGE_VERSION}_all.deb (0.2 MB) from a Debian mirror "
        f"(pool/main/f/freedict) and pass it with --dictionary FILE"
    )
    if not (apt := shutil.which("apt-get")):
        raise FetchError(f"apt-get is not available on this system. {advice}")
    command = [apt, "download", f"{PACKAGE}={PACKAGE_VERSION}"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    packages = list(folder.glob("*.deb"))
    if result.returncode != 0 or not packages:
        raise FetchError(
            f"apt-get could not download {PACKAGE}: {result.stderr.strip()}\n"
            f"Run `apt-get update` as root first if apt knows no such package. {advice}"
        )
    return packages[0]


def unpack(package: Path) -> tuple[str, bytes]:
    """Return index and text of the dictionary in a Debian package.

    A Debian package is an `ar` archive with a tar archive in it: reading it here needs no dpkg.
    """
    data = package.read_bytes()
    offset = len(b"!<arch>\n")
    while offset < len(data):
        name = data[offset : offset + 16].decode().strip()
        size = int(data[offset + 48 : offset + 58])
        if name.startswith("data.tar"):
            content = io.BytesIO(data[offset + 60 : offset + 60 + size])
            with tarfile.open(fileobj=content) as archive:
                names = {Path(name).name: name for name in archive.getnames()}
                index = read_member(archive, names["freedict-eng-fra.index"])
                text = read_member(archive, names["freedict-eng-fra.dict.dz"])
            return index.decode(), gzip.decompress(text)
        offset += 60 + size + size % 2
    raise FetchError(f"{package.name} holds no data archive; is it a Debian package?")


def read_member(archive: tarfile.TarFile, name: str) -> bytes:
    """Return the content of a file in an archive."""
    stream = archive.extractfile(name)
    if stream is None:
        raise FetchError(f"{name} in the Debian package is not a file")
    return stream.read()


def parse(index: str, text: bytes) -> Iterator[tuple[str, list[str]]]:
    """Yield headwords and translations of a dictd dictionary.

    An index line is headword, offset and length, the numbers in base 64.
    """
    seen: set[str] = set()
    for line in index.splitlines():
        headword, offset, length = line.split("\t")
        if not _ENGLISH.fullmatch(headword) or headword in seen:
            continue
        start = _number(offset)
        entry = text[start : start + _number(length)].decode()
        title, *lines = entry.splitlines()
        if _PRONUNCIATION.sub("", title) != headword:
            continue
        words = [
            word.strip().replace("\u2010", "-")
            for line in lines
            for word in re.sub(r"^\d+\.\s*", "", line).split(",")
        ]
        words = [word for word in words if _FRENCH.fullmatch(word)]
        if words:
            seen.add(headword)
            yield headword, words


def _number(digits: str) -> int:
    value = 0
    for digit in digits:
        value = value * 64 + _DIGITS.index(digit)
    return value


def generate(split: str, pairs: list[tuple[str, list[str]]]) -> Iterator[Item]:
    """Yield the items of one split.

    Distractors are French words, one of which begins like the right one. In every second item
    another is the English word itself: what a model prefers that copies its input.
    """
    rng = random.Random(f"{SEED}-translation-{split}")
    by_start: dict[str, set[str]] = defaultdict(set)
    for _, words in pairs:
        for word in words:
            by_start[word[:2]].add(word)
    french = sorted({words[0] for _, words in pairs})
    # The right answers differ between the splits too: a word is in the split of its translation.
    mine = [(english, words) for english, words in pairs if split_of(words[0]) == split]
    rng.shuffle(mine)
    for english, words in mine:
        if english in words:
            continue
        similar = sorted(by_start[words[0][:2]] - set(words) - {english})
        if len(similar) < 4:
            continue
        right = {english, *words}
        wrong = [rng.choice(similar)]
        while len(wrong) < 3:
            word = rng.choice(french)
            if word not in right and word not in wrong:
                wrong.append(word)
        if rng.random() < 0.5:
            wrong[-1] = english
        yield make_item(f"translation-{split}-{english}", english, words[0], wrong, rng)
