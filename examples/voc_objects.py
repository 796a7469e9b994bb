"""Cut the objects of PASCAL VOC 2012 out of its images: 20 classes, 13,609 of its train split and 13,841 of val.

    python examples/voc_objects.py VOCdevkit/VOC2012 data/voc12

Each bounding box becomes OUT/train/CLASS/IMAGE-N.jpg or OUT/test/CLASS/IMAGE-N.jpg; truncated ones too, but none that
is marked difficult, as VOC2012's development kit counts only the others (its table 1). That they are as many as above
was not counted, as the images are not here; nor is it known whether those who published the numbers cut exactly so.
"""

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from PIL import Image

SPLITS = {"train": "train", "val": "test"}


def main(voc: Path, out: Path) -> None:
    """Cut out all objects of both splits."""
    for split, name in SPLITS.items():
        count = 0
        for image in (voc / "ImageSets" / "Main" / f"{split}.txt").read_text("ascii").split():
            count += cut_out(voc, image, out / name)
        print(f"{out / name}: {count:,} objects")


def cut_out(voc: Path, image: str, out: Path) -> int:
    """Write the objects of an image that are not difficult, and return how many there are."""
    objects = ElementTree.parse(voc / "Annotations" / f"{image}.xml").getroot().findall("object")
    boxes = [each for each in objects if each.findtext("difficult", "0") != "1"]
    with Image.open(voc / "JPEGImages" / f"{image}.jpg") as picture:
        for number, box in enumerate(boxes):
            left, top, right, bottom = (
                round(float(box.findtext(f"bndbox/{side}", ""))) for side in ("xmin", "ymin", "xmax", "ymax")
            )
            folder = out / box.findtext("name", "")
            folder.mkdir(parents=True, exist_ok=True)
            corners = (left - 1, top - 1, right, bottom)  # VOC counts pixels from 1, and the last one is in the box
            picture.crop(corners).save(folder / f"{image}-{number}.jpg", quality=95)
    return len(boxes)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("python examples/voc_objects.py VOCdevkit/VOC2012 OUT")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
