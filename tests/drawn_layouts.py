"""A small dataset in every layout, drawn so that its instances can be counted by hand."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.io
from click.testing import Result
from conftest import run_imptool
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

Ids = NDArray[np.integer]


class Region(NamedTuple):
    """An instance or a segment."""

    category: int
    area: int
    box: tuple[int, int, int, int]  # x, y, width, height
    crowd: int = 0


@dataclass(frozen=True)
class Drawn:
    """A dataset, and what it should become. Stems are as in the results."""

    write: Callable[[Path], None]  # to a folder `set`
    description: str  # the dataset YAML beside it
    photograph: str  # the path of an image in the set; "{}" is its stem
    splits: Mapping[str, list[str]]
    maps: Mapping[str, Ids]
    instances: Mapping[str, list[Region]]
    segments: Mapping[str, list[Region]]

    @property
    def file_names(self) -> dict[str, str]:
        return {stem: self.photograph.format(stem) for stem in self.maps}


def grid(text: str) -> Ids:
    """Ids [H, W] uint8 from rows with blanks between them: 0..9, a..z for 10..35, "." for 0, "#" for 255."""
    rows = [[0 if sign == "." else 255 if sign == "#" else int(sign, 36) for sign in row] for row in text.split()]
    return np.array(rows, np.uint8)


def recoded(text: str, codes: Mapping[str, int]) -> Ids:
    """Numbers [H, W] int32 from rows of signs; "." for 0."""
    return np.array([[codes.get(sign, 0) for sign in row] for row in text.split()], np.int32)


def save(path: Path, pixels: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def save_photograph(path: Path, size: tuple[int, ...]) -> None:
    save(path, np.full((*size[:2], 3), 128, np.uint8))


def save_codes(path: Path, codes: Ids) -> None:
    """A PNG whose colours are R + 256 G + 65536 B."""
    save(path, np.stack([codes & 255, codes >> 8 & 255, codes >> 16], axis=2).astype(np.uint8))


def save_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_dataset(drawn: Drawn, *, name: str = "set") -> Path:
    """Write a dataset to the current folder; gives its YAML."""
    drawn.write(Path(name))
    description = Path(f"{name}.yaml")
    description.write_text(drawn.description)
    return description


# --- Pascal VOC: two coats that touch, one of them in two parts; hats with a border and of no object; a map without objects ---

VOC_MAPS = {
    "a": grid(".......... .1111..22. .1111..22. .1111..##. .......... 2......1.."),
    "b": grid(".2. 2.. ..#"),
}
VOC_OBJECTS = {"a": grid(".......... .1122..33. .1122..33. .1122..##. .......... #......1..")}


def write_voc(root: Path) -> None:
    for stem, ids in VOC_MAPS.items():
        save_photograph(root / "JPEGImages" / f"{stem}.jpg", ids.shape)
        save(root / "SegmentationClass" / f"{stem}.png", ids)
    save_photograph(root / "JPEGImages" / "without_labels.jpg", (3, 3))
    save(root / "SegmentationObject" / "a.png", VOC_OBJECTS["a"])
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for name, stems in (("train", "a\n"), ("val", "b\nnot_published\n"), ("trainval", "a\nb\n")):
        (lists / f"{name}.txt").write_text(stems)


VOC_THINGS = [
    Region(1, 7, (1, 1, 7, 5)),
    Region(1, 6, (3, 1, 2, 3)),
    Region(2, 4, (7, 1, 2, 2)),
    Region(2, 1, (0, 5, 1, 1), crowd=1),
]
VOC = Drawn(
    write_voc,
    "layout: voc\nroot: ./set\nclasses: [{id: 0, name: background}, {id: 1, name: coat}, {id: 2, name: hat}]\n",
    "JPEGImages/{}.jpg",
    {"train": ["a"], "val": ["b"]},
    VOC_MAPS,
    {
        "a": VOC_THINGS,
        "b": [Region(2, 2, (0, 0, 2, 2))],
    },
    {
        "a": [Region(0, 40, (0, 0, 10, 6)), *VOC_THINGS],
        "b": [Region(0, 6, (0, 0, 3, 3)), Region(2, 2, (0, 0, 2, 2))],
    },
)


# --- Cityscapes: two persons that touch, a group that nobody told apart, sky in two parts; a map without instanceIds ---

STREET, CAR = "train/town/town_000000_000019", "val/city/city_000001_000001"
STREET_MAPS = {STREET: grid("aaaaaaaa bbbb00bb bbbb00bb 0000#000 0000#0aa"), CAR: grid("dd0 dd0")}
STREET_NUMBERS = recoded(
    "ssssssss ppqq__gg ppqq__gg ____.___ ____._ss", {"s": 23, "p": 24000, "q": 24001, "_": 7, "g": 24}
).astype(np.uint16)


def write_cityscapes(root: Path) -> None:
    for stem, ids in STREET_MAPS.items():
        save_photograph(root / "leftImg8bit" / f"{stem}_leftImg8bit.png", ids.shape)
        save(root / "gtFine" / f"{stem}_gtFine_labelTrainIds.png", ids)
    save(root / "gtFine" / f"{STREET}_gtFine_instanceIds.png", STREET_NUMBERS)


PERSONS = [Region(11, 4, (0, 1, 2, 2)), Region(11, 4, (2, 1, 2, 2)), Region(11, 4, (6, 1, 2, 2), crowd=1)]
CITYSCAPES = Drawn(
    write_cityscapes,
    "layout: cityscapes\nroot: ./set\nbackground: null\nsplits: {train: train/, val: val/}\nclasses:\n"
    "- {id: 0, name: road, thing: false}\n- {id: 10, name: sky, thing: false}\n"
    "- {id: 11, name: person}\n- {id: 13, name: car}\n",
    "leftImg8bit/{}_leftImg8bit.png",
    {"train": [STREET], "val": [CAR]},
    STREET_MAPS,
    {
        STREET: [Region(0, 16, (0, 1, 8, 4)), Region(10, 8, (0, 0, 8, 1)), Region(10, 2, (6, 4, 2, 1)), *PERSONS],
        CAR: [Region(0, 2, (2, 0, 1, 2)), Region(13, 4, (0, 0, 2, 2))],
    },
    {
        STREET: [Region(0, 16, (0, 1, 8, 4)), Region(10, 10, (0, 0, 8, 5)), *PERSONS],
        CAR: [Region(0, 2, (2, 0, 1, 2)), Region(13, 4, (0, 0, 2, 2))],
    },
)


# --- COCO: ids from 0, so that the background becomes 2; a hat upon a coat, two of equal area that overlap ---

COCO_MAPS = {
    "p": grid("22222222 20000777 20110777 20110222 20000222 22222222"),
    "q": grid("1002 1002 2222"),  # of equal areas the lower id is drawn first, wherever it stands
    "nothing": grid("22 22"),
}


def compressed(mask: str) -> dict[str, Any]:
    rle = coco_mask.encode(np.asfortranarray(grid(mask)))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def coco_document() -> dict[str, Any]:
    """As little as a COCO file may hold: no info, no licenses, hardly a bbox, area or iscrowd."""
    return {
        "images": [
            {"id": number, "file_name": f"{stem}.jpg", "height": ids.shape[0], "width": ids.shape[1]}
            for number, (stem, ids) in zip((0, 5, 9), COCO_MAPS.items(), strict=True)
        ],
        "annotations": [
            {"id": 0, "image_id": 0, "category_id": 0, "segmentation": [[1, 1, 5, 1, 5, 5, 1, 5]]},
            {"id": 1, "image_id": 0, "category_id": 1, "segmentation": {"size": [6, 8], "counts": [14, 2, 4, 2, 26]}},
            {
                "id": 2,
                "image_id": 0,
                "category_id": 7,
                "segmentation": compressed("........ .....111 .....111 ........ ........ ........"),
                "iscrowd": 1,
                "area": 6,
                "bbox": [5, 1, 3, 2],
            },
            {"id": 12, "image_id": 5, "category_id": 0, "segmentation": [[1, 0, 3, 0, 3, 2, 1, 2]]},
            {"id": 11, "image_id": 5, "category_id": 1, "segmentation": [[0, 0, 2, 0, 2, 2, 0, 2]]},
        ],
        "categories": [{"id": 0, "name": "coat"}, {"id": 1, "name": "hat", "supercategory": "head"}, {"id": 7, "name": "bag"}],
    }


def write_coco(root: Path) -> None:
    save_json(root / "all.json", coco_document())
    for stem, ids in COCO_MAPS.items():
        save_photograph(root / "images" / f"{stem}.jpg", ids.shape)


COCO_INSTANCES = Drawn(
    write_coco,
    "layout: coco\nroot: ./set\nannotations: {all: all.json}\n",
    "images/{}.jpg",
    {"all": ["p", "q", "nothing"]},
    COCO_MAPS,
    {
        "p": [Region(0, 16, (1, 1, 4, 4)), Region(1, 4, (2, 2, 2, 2)), Region(7, 6, (5, 1, 3, 2), crowd=1)],
        "q": [Region(0, 4, (1, 0, 2, 2)), Region(1, 4, (0, 0, 2, 2))],
        "nothing": [],
    },
    {
        "p": [
            Region(2, 26, (0, 0, 8, 6)),
            Region(0, 12, (1, 1, 4, 4)),
            Region(1, 4, (2, 2, 2, 2)),
            Region(7, 6, (5, 1, 3, 2), crowd=1),
        ],
        "q": [Region(2, 6, (0, 0, 4, 3)), Region(0, 4, (1, 0, 2, 2)), Region(1, 2, (0, 0, 1, 2))],
        "nothing": [Region(2, 4, (0, 0, 2, 2))],
    },
)


# --- COCO panoptic: a person in two parts, one that touches it, a crowd of cars, grass in two parts, void ---

PANOPTIC_CODES = {"A": 70000, "B": 300, "C": 5, "D": 16777215}
PANOPTIC = {"r": recoded("AABBCC AABBCC ....DD C.A.DD", PANOPTIC_CODES), "s": recoded("CC CC", PANOPTIC_CODES)}


def panoptic_document() -> dict[str, Any]:
    of_category = {"A": 1, "B": 1, "C": 3, "D": 2}
    rows = {stem: [sign for sign, code in PANOPTIC_CODES.items() if (codes == code).any()] for stem, codes in PANOPTIC.items()}
    return {
        "images": [
            {"id": number, "file_name": f"{stem}.jpg", "height": codes.shape[0], "width": codes.shape[1]}
            for number, (stem, codes) in enumerate(PANOPTIC.items())
        ],
        "annotations": [
            {
                "image_id": number,
                "file_name": f"{stem}.png",
                "segments_info": [
                    {"id": PANOPTIC_CODES[sign], "category_id": of_category[sign], "iscrowd": int(sign == "D")}
                    for sign in signs
                ],
            }
            for number, (stem, signs) in enumerate(rows.items())
        ],
        "categories": [
            {"id": 1, "name": "person", "isthing": 1},
            {"id": 2, "name": "car", "isthing": 1},
            {"id": 3, "name": "grass", "isthing": 0},
        ],
    }


def write_panoptic(root: Path) -> None:
    save_json(root / "annotations" / "val.json", panoptic_document())
    for stem, codes in PANOPTIC.items():
        save_codes(root / "annotations" / "val" / f"{stem}.png", codes)
        save_photograph(root / "images" / f"{stem}.jpg", codes.shape)


COCO_PANOPTIC = Drawn(
    write_panoptic,
    "layout: coco-panoptic\nroot: ./set\n",
    "images/{}.jpg",
    {"val": ["r", "s"]},
    {"r": grid("111133 111133 ####22 3#1#22"), "s": grid("33 33")},
    {
        "r": [
            Region(1, 5, (0, 0, 3, 4)),
            Region(1, 4, (2, 0, 2, 2)),
            Region(2, 4, (4, 2, 2, 2), crowd=1),
            Region(3, 5, (0, 0, 6, 4)),
        ],
        "s": [Region(3, 4, (0, 0, 2, 2))],
    },
    {
        "r": [
            Region(1, 5, (0, 0, 3, 4)),
            Region(1, 4, (2, 0, 2, 2)),
            Region(2, 4, (4, 2, 2, 2), crowd=1),
            Region(3, 5, (0, 0, 6, 4)),
        ],
        "s": [Region(3, 4, (0, 0, 2, 2))],
    },
)


# --- folders: endings and lists of stems, grey with alpha and 16 bit; colours in place of ids; Clothing Co-Parsing's .mat ---

FOLDER_MAPS = {"a": grid(".11. 1..1 ...#"), "sub/b": grid("1. .1").astype(np.uint16) * 300}


def write_suffixes(root: Path) -> None:
    for stem, ids in FOLDER_MAPS.items():
        save_photograph(root / "shots" / f"{stem}_img.jpg", ids.shape)
    save(root / "masks" / "a_gt.png", np.stack([FOLDER_MAPS["a"], np.full((3, 4), 200, np.uint8)], axis=2))
    save(root / "masks" / "sub" / "b_gt.png", FOLDER_MAPS["sub/b"])
    save_photograph(root / "shots" / "no_photograph_of_the_set.jpg", (2, 2))
    (root / "train.txt").write_text("a\n")
    (root / "val.txt").write_text("sub/b.jpg\n")


SUFFIXES = Drawn(
    write_suffixes,
    "layout: folder\nroot: ./set\nphotographs: shots\nlabels: masks\nsuffixes: [_img.jpg, _gt.png]\n"
    "splits: {train: train.txt, val: val.txt}\n"
    "classes: [{id: 0, name: background}, {id: 1, name: coat}, {id: 300, name: hat}]\n",
    "shots/{}_img.jpg",
    {"train": ["a"], "val": ["sub/b"]},
    FOLDER_MAPS,
    {"a": [Region(1, 4, (0, 0, 4, 2))], "sub/b": [Region(300, 2, (0, 0, 2, 2))]},
    {
        "a": [Region(0, 7, (0, 0, 4, 3)), Region(1, 4, (0, 0, 4, 2))],
        "sub/b": [Region(0, 2, (0, 0, 2, 2)), Region(300, 2, (0, 0, 2, 2))],
    },
)

COLOURS = {0: (0, 0, 0), 1: (255, 0, 0), 2: (0, 0, 255)}
COLOUR_MAPS = {"rgb": grid(".12 .12"), "rgba": grid("1.1"), "palette": grid("22 .2")}


def write_colours(root: Path) -> None:
    for stem, ids in COLOUR_MAPS.items():
        save_photograph(root / "images" / f"{stem}.png", ids.shape)
        pixels = np.array([COLOURS[class_id] for class_id in range(3)], np.uint8)[ids]
        image = Image.fromarray(pixels)
        (root / "labels").mkdir(exist_ok=True)
        kinds = {"rgb": image, "rgba": image.convert("RGBA"), "palette": image.convert("P", palette=Image.Palette.ADAPTIVE)}
        kinds[stem].save(root / "labels" / f"{stem}.png")


FOLDER_OF_COLOURS = Drawn(
    write_colours,
    "layout: folder\nroot: ./set\ncolours: {0: [0, 0, 0], 1: [255, 0, 0], 2: [0, 0, 255]}\n"
    "classes: [{id: 0, name: background}, {id: 1, name: coat}, {id: 2, name: hat}]\n",
    "images/{}.png",
    {"all": ["palette", "rgb", "rgba"]},
    COLOUR_MAPS,
    {
        "rgb": [Region(1, 2, (1, 0, 1, 2)), Region(2, 2, (2, 0, 1, 2))],
        "rgba": [Region(1, 1, (0, 0, 1, 1)), Region(1, 1, (2, 0, 1, 1))],
        "palette": [Region(2, 3, (0, 0, 2, 2))],
    },
    {
        "rgb": [Region(0, 2, (0, 0, 1, 2)), Region(1, 2, (1, 0, 1, 2)), Region(2, 2, (2, 0, 1, 2))],
        "rgba": [Region(0, 1, (1, 0, 1, 1)), Region(1, 1, (0, 0, 1, 1)), Region(1, 1, (2, 0, 1, 1))],
        "palette": [Region(0, 1, (0, 1, 1, 1)), Region(2, 3, (0, 0, 2, 2))],
    },
)

CCP_MAPS = {"0001": grid(".1 .1"), "0003": grid("2.2")}


def write_ccp(root: Path) -> None:
    for stem in ("0001", "0002", "0003"):
        ids = CCP_MAPS.get(stem, np.zeros((1, 1)))
        save_photograph(root / "photos" / f"{stem}.jpg", ids.shape)
        path = root / "annotations" / ("pixel-level" if stem in CCP_MAPS else "image-level") / f"{stem}.mat"
        path.parent.mkdir(parents=True, exist_ok=True)
        scipy.io.savemat(path, {"groundtruth": ids.astype(np.float64)})  # MATLAB's own type


CCP = Drawn(
    write_ccp,
    "layout: ccp\nroot: ./set\nclasses: [{id: 0, name: background}, {id: 1, name: coat}, {id: 2, name: hat}]\n",
    "photos/{}.jpg",
    {"all": ["0001", "0003"]},
    CCP_MAPS,
    {"0001": [Region(1, 2, (1, 0, 1, 2))], "0003": [Region(2, 1, (0, 0, 1, 1)), Region(2, 1, (2, 0, 1, 1))]},
    {
        "0001": [Region(0, 2, (0, 0, 1, 2)), Region(1, 2, (1, 0, 1, 2))],
        "0003": [Region(0, 1, (1, 0, 1, 1)), Region(2, 1, (0, 0, 1, 1)), Region(2, 1, (2, 0, 1, 1))],
    },
)

LAYOUTS = {
    "voc": VOC,
    "cityscapes": CITYSCAPES,
    "coco": COCO_INSTANCES,
    "coco-panoptic": COCO_PANOPTIC,
    "folder with suffixes": SUFFIXES,
    "folder of colours": FOLDER_OF_COLOURS,
    "ccp": CCP,
}


# --- converting, and what comes of it ---

MADE = Path("made")


def convert(*arguments: object, out: Path = MADE, code: int = 0) -> Result:
    result = run_imptool("convert-instances", *arguments, "--out", out)
    assert result.exit_code == code, result.output
    return result


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def ids_of(path: Path) -> Ids:
    with Image.open(path) as image:
        return np.asarray(image)


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


if __name__ == "__main__":  # python tests/drawn_layouts.py FOLDER: a sample of every layout, FOLDER/<layout>/set.yaml
    for layout, drawn in LAYOUTS.items():
        folder = Path(sys.argv[1], layout.replace(" ", "-"))
        drawn.write(folder / "set")
        (folder / "set.yaml").write_text(drawn.description)
