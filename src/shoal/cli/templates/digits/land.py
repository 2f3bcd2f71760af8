"""Drops handwritten digits into landing/, one PNG file each, and their labels as CSV.

    python land.py               # the first 1,500 of them, with labels
    python land.py --from 1500   # the others, without

The 1,797 images of 8 x 8 pixels come with scikit-learn (`load_digits`): a part of E. Alpaydin and
C. Kaynak's Optical Recognition of Handwritten Digits (UCI, 1998), by 13 writers.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

LABELLED = 1500


def land(folder: Path, first: int = 0, end: int | None = None) -> int:
    """Writes the images from ``first`` to ``end`` below ``folder``; returns how many."""
    digits = load_digits()
    end = min(end or (LABELLED if first < LABELLED else len(digits.images)), len(digits.images))
    images, labels = folder / "images", folder / "labels"
    for each in (images, labels):
        each.mkdir(parents=True, exist_ok=True)
    for number in range(first, end):
        pixels = np.rint(digits.images[number] * (255 / 16)).astype(np.uint8)
        # A name with a dot in front is nobody's input: readers never see half a file.
        draft = images / f".{number:04}.png"
        Image.fromarray(pixels).save(draft)
        draft.rename(images / f"{number:04}.png")
    known = [f"{n:04},{digits.target[n]}" for n in range(first, min(end, LABELLED))]
    if known:
        draft = labels / f".{first:04}.csv"
        draft.write_text("\n".join(["image,digit", *known]) + "\n")
        draft.rename(labels / f"{first:04}.csv")
    return end - first


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write images of digits into landing/.")
    parser.add_argument("--from", dest="first", type=int, default=0)
    parser.add_argument("--landing", type=Path, default=Path("landing"))
    given = parser.parse_args()
    print(f"{land(given.landing, given.first):,} images in {given.landing}/")
