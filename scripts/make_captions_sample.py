"""Write common/captions-sample.zip: drawings of the Open Clip Art Library with the titles, descriptions and keywords of their authors.

    apt-get download openclipart-svg openclipart-png        # Debian 12, 1:0.18+dfsg-19
    for package in openclipart-*.deb; do dpkg-deb -x "$package" FOLDER; done
    python scripts/make_captions_sample.py FOLDER

All of them are dedicated to the public domain: a drawing is taken only where its own metadata say so. Left out are themes of
icons, shapes and maps, and titles that say nothing: those of more than three drawings, and numbered figures; also huge pictures. A tenth of the
titles, each with its first drawing, are for tests. Images are JPEG files of 64 x 64 pixels on white.
"""

import collections
import gzip
import html
import io
import os
import re
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops, ImageOps

TARGET = Path(__file__).resolve().parent.parent / "common" / "captions-sample.zip"
SIDE_PX, QUALITY, MAX_PIXELS = 64, 75, 2**24
PUBLIC_DOMAIN = "http://web.resource.org/cc/PublicDomain"
SUBJECTS = (
    "animals", "buildings", "containers", "decorations", "education", "electronics", "food", "geography", "office", "people",
    "plants", "recreation", "science", "signs_and_symbols", "tools", "transportation", "unsorted",
)  # fmt: skip
SAYING_NOTHING = re.compile("semaphore|stickmen|historic|/led/|signalflag|alphabet|numbers")  # in the path of a drawing
KEYWORDS_SAYING_NOTHING = re.compile(
    "hash|0x|unsorted|externally|signs and symbols|united nations|clip ?art", re.IGNORECASE
)
NOT_FOR_ALL = re.compile("sex|nude|naked|nazi|cannabis", re.IGNORECASE)
README = f"""Drawings of the Open Clip Art Library, release 0.18, in {SIDE_PX} x {SIDE_PX} pixels, with the titles, descriptions and
keywords that their authors gave them. Each of them is dedicated to the public domain, as its own metadata say
({PUBLIC_DOMAIN}). From Debian's packages openclipart-svg and openclipart-png, 1:0.18+dfsg-19.
"""


class Drawing(NamedTuple):
    """One file, and its texts, of which the first is the title."""

    path: Path  # of the picture
    texts: tuple[str, ...]


def main(root: Path) -> None:
    drawings = find(root)
    counts = collections.Counter(drawing.texts[0].lower() for drawing in drawings)
    by_title = collections.defaultdict(list)
    for drawing in drawings:
        if counts[drawing.texts[0].lower()] <= 3:
            by_title[drawing.texts[0].lower()].append(drawing)
    titles = sorted(by_title)
    held_out = {*np.random.default_rng(0).permutation(titles)[: len(titles) // 10]}
    splits = {
        "train": [drawing for title in titles if title not in held_out for drawing in by_title[title]],
        "test": [by_title[title][0] for title in titles if title in held_out],
    }
    with zipfile.ZipFile(TARGET, "w", zipfile.ZIP_STORED) as archive:
        write(archive, "README.txt", README.encode())
        for split, own in splits.items():
            for number, drawing in enumerate(own):
                write(archive, f"{split}/{number:04d}.jpg", encoded(drawing.path))
            rows = ("\t".join([f"{number:04d}.jpg", *drawing.texts]) for number, drawing in enumerate(own))
            write(archive, f"{split}/captions.tsv", "".join(f"{row}\n" for row in rows).encode(), zipfile.ZIP_DEFLATED)
    print({split: len(own) for split, own in splits.items()}, f"{TARGET.stat().st_size:,} bytes")


def write(archive: zipfile.ZipFile, name: str, data: bytes, kind: int = zipfile.ZIP_STORED) -> None:
    archive.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), data, kind)


def find(root: Path) -> list[Drawing]:
    """The drawings of the chosen subjects that are in the public domain and have a title in English."""
    place, found = root / "usr/share/openclipart", []
    for subject in SUBJECTS:
        for folder, _, files in sorted(os.walk(place / "svg" / subject)):
            for file in sorted(files):
                path = Path(folder, file)
                picture = place / "png" / path.relative_to(place / "svg").with_suffix(".png")
                if path.is_symlink() or not picture.is_file() or SAYING_NOTHING.search(str(path)):
                    continue
                texts = texts_of(path)
                if texts and is_small(picture):
                    found.append(Drawing(picture, texts))
    return found


def is_small(path: Path) -> bool:
    """Whether a picture is decoded in a moment."""
    Image.MAX_IMAGE_PIXELS = None  # it is looked at here
    with Image.open(path) as image:
        return image.width * image.height <= MAX_PIXELS


def texts_of(path: Path) -> tuple[str, ...]:
    """Title, description and keywords of an SVG file; none where it has no title, or may not be shipped."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode(errors="replace")
    metadata = (re.findall("<metadata.*?</metadata>", text, re.DOTALL) or [""])[0]
    licences = re.findall(r'<cc:license\s+rdf:resource="([^"]*)', metadata)
    if licences != [PUBLIC_DOMAIN] or (element(metadata, "dc:language") or [""])[0].lower() not in (
        "en",
        "eng",
        "english",
    ):
        return ()
    title, description = (cleaned((element(metadata, f"dc:{name}") or [""])[0]) for name in ("title", "description"))
    title = re.sub(r"[ -]*\d+$", "", title)
    bag = (re.findall("<dc:subject>.*?</dc:subject>", metadata, re.DOTALL) or [""])[0]
    keywords = [cleaned(keyword) for keyword in element(bag, "rdf:li")]
    keywords = [keyword for keyword in keywords if keyword and not KEYWORDS_SAYING_NOTHING.search(keyword)]
    if not re.search("[a-zA-Z]{3}", title) or "#" in title or re.search("@|http", title):
        return ()
    if NOT_FOR_ALL.search(" ".join([title, description, *keywords])):
        return ()
    texts = [title]
    if len(description) < 200 and not re.search("@|http", description):
        texts.append(description)
    if len(keywords) > 1:
        texts.append(", ".join(keywords[:8]))
    return tuple({text.lower(): text for text in texts if text}.values())


def element(text: str, tag: str) -> list[str]:
    """The contents of all elements with this tag that hold text alone."""
    return re.findall(rf"<{tag}>\s*([^<]*?)\s*</{tag}>", text)


def cleaned(text: str) -> str:
    """A text on one line, without an author's name before it and without what a program has left in it."""
    text = html.unescape(text).replace("_", " ")
    text = re.sub(r"^clip ?art by .*? - |HASH\(0x\w+\)|openclipart|[\x00-\x1f]+", " ", text, flags=re.IGNORECASE)
    return re.sub(r"\s+", " ", text).strip(" .-\"'")


def encoded(path: Path) -> bytes:
    """A JPEG of a drawing, without the empty space around it, in the middle of a white square."""
    with Image.open(path) as image:
        drawing = image.convert("RGBA")
    white = Image.new("RGBA", drawing.size, "white")
    drawing = Image.alpha_composite(white, drawing).convert("RGB")
    ink = ImageChops.difference(drawing, white.convert("RGB")).convert("L").point(lambda level: 255 * (level > 8))
    drawing = drawing.crop(ink.getbbox())
    drawing = ImageOps.contain(drawing, (SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
    square = Image.new("RGB", (SIDE_PX, SIDE_PX), "white")
    square.paste(drawing, ((SIDE_PX - drawing.width) // 2, (SIDE_PX - drawing.height) // 2))
    buffer = io.BytesIO()
    square.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return buffer.getvalue()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
