"""Every format's own small source: the same dog on the same image, and what may go wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from laterna.errors import LaternaError
from laterna.records import Box
from laterna.scenes.annotations import Annotations, read_annotations, read_scenes
from laterna.scenes.readers import READERS
from laterna.scenes.readers.base import Found, RawScene, Reader, Source

DOG = (0.25, 0.1, 0.75, 0.6)


def corners(box: Box) -> tuple[float, ...]:
    return tuple(round(value, 6) for value in (box.x1, box.y1, box.x2, box.y2))


def reasons(found: Annotations) -> list[str]:
    return [problem.reason for problem in found.problems]


def edit(file: Path, *changes: tuple[str, str]) -> None:
    """Replace texts of a file; each must be there."""
    text = file.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("forced", [False, True], ids=["auto", "forced"])
def test_every_format_is_read(samples: dict[str, Path], name: str, forced: bool) -> None:
    found = read_annotations(samples[name], format=name if forced else "auto")
    first = found.scenes[0]
    image = "VG_100K_2/1.jpg" if name == "visual-genome" else "7.jpg"
    assert first.image == image
    if name == "captions":
        assert first.captions == ("A dog.", "Someone's dog.")
        assert first.boxes == ()
    else:
        assert first.boxes[0].category == "dog"
        assert corners(first.boxes[0]) == DOG
    assert list(read_scenes(samples[name])) == list(found.scenes)


def test_an_unknown_format_is_named_with_the_known() -> None:
    with pytest.raises(LaternaError, match="unknown format 'coko'; known are: auto, contexts"):
        read_annotations(Path(), format="coko")


def test_another_reader_is_one_file_and_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(source: Source) -> Found:
        names = source.path.read_text().split()
        scenes = (RawScene(name, f"{name}.jpg", name, captions=[f"A {name}."]) for name in names)
        return Found(source.path, scenes, captioned=True)

    mine = Reader("mine", lambda path: path.suffix == ".mine", read)
    monkeypatch.setitem(READERS, "mine", mine)
    (tmp_path / "a.mine").write_text("dog cat dog")
    for name in ("auto", "mine"):
        found = read_annotations(tmp_path / "a.mine", format=name)
        assert [scene.captions for scene in found.scenes] == [("A dog.",), ("A cat.",)]
        assert reasons(found) == ["image id given twice"]


def test_captions_of_a_second_file_go_with_coco_alone(samples: dict[str, Path]) -> None:
    words = samples["coco"] / "annotations" / "captions_val2017.json"
    with pytest.raises(LaternaError, match=r"goes with COCO's form; .* is Pascal VOC"):
        read_annotations(samples["voc"], words)


def test_a_forced_format_says_what_it_misses(samples: dict[str, Path], tmp_path: Path) -> None:
    for name in ("voc", "yolo", "open-images", "coco"):
        with pytest.raises(LaternaError, match=str(tmp_path)):
            read_annotations(tmp_path / "samples", format=name)


def test_a_folder_of_several_sources_asks_for_one(samples: dict[str, Path]) -> None:
    folder = samples["contexts"].parent
    (folder / "more.jsonl").write_text(samples["contexts"].read_text())
    with pytest.raises(LaternaError, match=r"several files .*name one: contexts.jsonl, more.jsonl"):
        read_annotations(folder)


# --- Pascal VOC -----------------------------------------------------------------------------


def test_voc_faults_are_counted(samples: dict[str, Path]) -> None:
    eight = samples["voc"] / "Annotations" / "8.xml"
    edit(eight, ("<filename>7.jpg", "<filename>photos\\8.jpg"), ("<xmin>51", "<xmin>left"))
    (eight.with_name("9.xml")).write_text("<annotation><filename>9.jpg")
    found = read_annotations(samples["voc"])
    assert [(scene.id, scene.image, scene.width) for scene in found.scenes] == [("7", "7.jpg", 200)]
    assert reasons(found) == [
        "box that is no four numbers",
        "image without usable boxes",
        "file that is no XML",
    ]
    assert found.problems[0].where == f"{samples['voc']}: 8.xml, object 1"


def test_a_document_type_is_refused_before_its_entities_expand(samples: dict[str, Path]) -> None:
    bomb = '<!DOCTYPE a [<!ENTITY a "dog"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>\n'
    edit(samples["cvat"], ("<annotations>", f"{bomb}<annotations>"), ('label="dog"', 'label="&b;"'))
    with pytest.raises(LaternaError, match=r"annotations\.xml: defines a document type"):
        read_annotations(samples["cvat"])


def test_xml_in_the_encoding_that_it_declares(samples: dict[str, Path]) -> None:
    text = samples["cvat"].read_text().replace("utf-8", "iso-8859-1").replace('"dog"', '"Köter"')
    samples["cvat"].write_bytes(text.encode("latin-1"))
    assert read_annotations(samples["cvat"]).scenes[0].boxes[0].category == "köter"


# --- CVAT -----------------------------------------------------------------------------------


def test_cvat_outlines_turned_boxes_and_tracks(samples: dict[str, Path]) -> None:
    found = read_annotations(samples["cvat"])
    assert [(box.category, corners(box)) for box in found.scenes[0].boxes] == [
        ("dog", DOG),
        ("cat", (0.0525, 0.1, 0.1, 0.3)),
    ]
    assert reasons(found) == ["box taken from its outline"]
    edit(samples["cvat"], ('occluded="0"', 'rotation="30.0"'), ("10.5,10;", "x,10;"))
    with pytest.raises(LaternaError, match=r"no usable image .*box that is turned, .*outline"):
        read_annotations(samples["cvat"])
    edit(samples["cvat"], ("<image ", '<track id="0"/><image '))
    with pytest.raises(LaternaError, match="tracks through a video; export"):
        read_annotations(samples["cvat"])


# --- YOLO -----------------------------------------------------------------------------------


def test_yolo_layouts(samples: dict[str, Path], tmp_path: Path) -> None:
    """labels/ beside images/, labels/train beside images/train, train/labels, and one folder."""
    labels = (samples["yolo"] / "labels" / "7.txt").read_text()
    names = ("data.yaml", "names: {0: dog, 1: cat}\n")
    layouts = {
        "a": ("labels/7.txt", "images/7.png", *names),
        "b": ("labels/train/7.txt", "images/train/7.png", *names),
        "c": ("train/labels/7.txt", "train/images/7.png", *names),
        "d": ("7.txt", "7.png", "classes.txt", "dog\ncat\n"),
    }
    for layout, (label, image, name, content) in layouts.items():
        folder = tmp_path / layout
        for path, text in ((label, labels), (image, ""), (name, content)):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        found = read_annotations(folder)
        assert reasons(found) == [], layout
        (scene,) = found.scenes
        assert (scene.id, scene.image) == ("7", "7.png")
        assert [(box.category, corners(box)) for box in scene.boxes] == [
            ("dog", DOG),
            ("cat", (0.1, 0.1, 0.2, 0.3)),
        ]
    assert read_annotations(tmp_path / "c" / "data.yaml").scenes == (scene,)


def test_yolo_faults_are_counted(samples: dict[str, Path]) -> None:
    labels = samples["yolo"] / "labels" / "7.txt"
    lines = ["5 0.5 0.5 0.1 0.1", "0 0.5", "x 1 2 3 4", "0 200 300 50 50", "0 0.5 0.5 0.2 0.2 0.9"]
    labels.write_text(labels.read_text() + "\n".join(lines))
    found = read_annotations(samples["yolo"])
    assert [box.category for box in found.scenes[0].boxes] == ["dog", "cat", "dog"]
    assert reasons(found) == [
        "image not found, taken to be a .jpg",
        "unknown category",
        "box that is no four numbers",
        "unknown category",
        "box not in 0..1",
    ]
    assert found.problems[1].where == f"{labels.parent}: 7.txt, line 3"
    (samples["yolo"] / "data.yaml").write_text("names: [")
    with pytest.raises(LaternaError, match=r"data\.yaml: not YAML"):
        read_annotations(samples["yolo"])
    (samples["yolo"] / "data.yaml").unlink()
    with pytest.raises(LaternaError, match="the names of the classes"):
        read_annotations(samples["yolo"])


# --- Open Images, Visual Genome, Label Studio, captions -------------------------------------


def test_open_images_groups_and_codes(samples: dict[str, Path]) -> None:
    found = read_annotations(samples["open-images"])
    assert (len(found.scenes[0].boxes), reasons(found)) == (1, ["crowd region"])
    names = samples["open-images"] / "class-descriptions-boxable.csv"
    names.write_text("/m/01yrx,Cat\n")
    with pytest.raises(LaternaError, match=r"no usable image in it .*unknown category"):
        read_annotations(samples["open-images"])
    names.unlink()
    with pytest.raises(LaternaError, match=r"no names of the classes; put .*boxable\.csv"):
        read_annotations(samples["open-images"])


def test_visual_genome_without_sizes(samples: dict[str, Path]) -> None:
    (samples["visual-genome"] / "image_data.json").unlink()
    with pytest.raises(LaternaError, match="image without a size, image without usable"):
        read_annotations(samples["visual-genome"])


def test_label_studio_in_both_forms(samples: dict[str, Path]) -> None:
    found = read_annotations(samples["label-studio"])
    assert found.scenes[0].captions == ("A dog.",)
    assert (found.scenes[0].width, found.scenes[0].height) == (200, 100)
    (task,) = json.loads(samples["label-studio"].read_text())
    box = task["annotations"][0]["result"][0]
    short = {**box["value"], "original_width": 200, "original_height": 100}
    turned = {**short, "rotation": 12.5}
    image = "/data/local-files/?d=photos/7.jpg"
    rows = [{"id": 7, "image": image, "label": [short, turned]}, None]
    samples["label-studio"].write_text(json.dumps(rows))
    found = read_annotations(samples["label-studio"])
    assert [(scene.image, len(scene.boxes)) for scene in found.scenes] == [("7.jpg", 1)]
    assert reasons(found) == ["entry that is no object", "box that is turned"]


@pytest.mark.parametrize(
    "content",
    [
        "image,caption\n7.jpg,A dog.\n7.jpg,Someone's dog.\n",
        'image,caption_number,caption\n7.jpg,0,"A dog."\n7.jpg,1,Someone\'s dog.\n',
        "image_name| comment_number| comment\n7.jpg| 0| A dog.\n7.jpg| 1| Someone's dog.\n",
    ],
    ids=["kaggle", "quoted", "flickr30k"],
)
def test_tables_of_captions(tmp_path: Path, content: str) -> None:
    (tmp_path / "captions.txt").write_text(content + "8.jpg\n")
    found = read_annotations(tmp_path / "captions.txt")
    assert [caption.strip() for caption in found.scenes[0].captions] == ["A dog.", "Someone's dog."]
    assert reasons(found) == ["line that is no caption"]


# --- COCO's folders -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("boxes", "words"),
    [
        ("instances.json", "captions.json"),
        ("annotations/instances_train2017.json", "annotations/captions_train2017.json"),
        ("annotations/instances_default.json", "annotations/captions_default.json"),
        ("lvis_v1_val.json", "captions_val2017.json"),
        ("annotations/person_keypoints_val2017.json", "annotations/captions_val2017.json"),
    ],
)
def test_folders_by_published_names(
    samples: dict[str, Path], tmp_path: Path, boxes: str, words: str
) -> None:
    folder = tmp_path / "folder"
    (folder / boxes).parent.mkdir(parents=True)
    written = samples["coco"] / "annotations"
    (written / "instances_val2017.json").rename(folder / boxes)
    (written / "captions_val2017.json").rename(folder / words)
    found = read_annotations(folder)
    assert [(len(scene.boxes), scene.captions) for scene in found.scenes] == [
        (1, ("A dog.",)),
        (1, ("A dog, cut off.",)),
    ]
    assert reasons(found) == ["box cut at the image's edge"]


def test_of_several_parts_the_training_part_is_read(samples: dict[str, Path]) -> None:
    folder = samples["coco"] / "annotations"
    for name in ("instances", "captions"):
        text = (folder / f"{name}_val2017.json").read_text()
        (folder / f"{name}_train2017.json").write_text(text.replace("7.jpg", "seven.jpg"))
    found = read_annotations(samples["coco"])
    assert found.scenes[0].image == "seven.jpg"
    assert reasons(found)[0] == "read the part train2017 alone"
    for name in ("instances", "captions"):
        (folder / f"{name}_train2017.json").rename(folder / f"{name}_test.json")
    with pytest.raises(LaternaError, match=r"holds several parts; name one of .*instances_test"):
        read_annotations(samples["coco"])


def test_boxes_and_captions_in_one_file(samples: dict[str, Path], tmp_path: Path) -> None:
    folder = samples["coco"] / "annotations"
    one = json.loads((folder / "instances_val2017.json").read_text())
    words = json.loads((folder / "captions_val2017.json").read_text())["annotations"]
    one["annotations"] += [word | {"id": word["id"] + 100} for word in words]
    (tmp_path / "all.json").write_text(json.dumps(one))
    found = read_annotations(tmp_path / "all.json")
    assert [(len(scene.boxes), len(scene.captions)) for scene in found.scenes] == [(1, 1), (1, 1)]


def test_panoptic_stuff_is_left(samples: dict[str, Path], tmp_path: Path) -> None:
    one = json.loads((samples["coco"] / "annotations" / "instances_val2017.json").read_text())
    parts = [{"id": 1, "category_id": 1, "bbox": [50, 10, 100, 50], "iscrowd": 0}]
    parts.append(parts[0] | {"id": 2, "category_id": 2})
    one["annotations"] = [{"image_id": 7, "file_name": "7.png", "segments_info": parts}]
    one["categories"].append({"id": 2, "name": "sky-other", "isthing": 0})
    (tmp_path / "panoptic_val2017.json").write_text(json.dumps(one))
    found = read_annotations(tmp_path / "panoptic_val2017.json")
    assert [corners(box) for box in found.scenes[0].boxes] == [DOG]
    assert "stuff region" in reasons(found)


def test_vizwiz_by_folder_without_what_it_rejects(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"id": n, "image_id": n, "caption": "A can.", "is_rejected": False, "is_precanned": False}
        for n in range(3)
    ]
    rows[1]["is_rejected"] = rows[2]["is_precanned"] = True
    images = [{"id": n, "file_name": f"VizWiz_val_{n:08}.jpg"} for n in range(3)]
    for part in ("train", "val"):
        (tmp_path / f"{part}.json").write_text(json.dumps({"images": images, "annotations": rows}))
    found = read_annotations(tmp_path)
    assert [scene.id for scene in found.scenes] == ["0"]
    assert reasons(found) == [
        "read the part train alone",
        "caption that its dataset rejects",
        "caption that its dataset rejects",
        "image without captions",
        "image without captions",
    ]
    contexts = '{"id": 1, "image": "1.jpg", "captions": ["A dog."], "instances": []}'
    (tmp_path / "train.json").write_text(contexts)
    (tmp_path / "val.json").unlink()
    assert [scene.captions for scene in read_annotations(tmp_path).scenes] == [("A dog.",)]


# --- what none of them is -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'[{"image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "score": 0.9}]', "a COCO res"),
        (b'[{"image_id": 1, "caption": "A dog."}]', "a list of captions without images' names"),
        (b'[{"id": "a", "image": "a.jpg", "conversations": []}]', "instruction records; give them"),
        (b'{"version": "5", "shapes": [], "imagePath": "a.jpg"}', "a labelme file; export it as"),
        (b'{"a.jpg": {"regions": [{"shape_attributes": {}, "x": 1}]}}', "VIA's JSON; export it"),
        (b'[{"image": "a.jpg", "annotations": [{"label": "dog"}]}]', "CreateML's JSON; export"),
        (b'[{"name": "a.jpg", "labels": [{"box2d": {}}]}]', "BDD100K's or Scalabel's JSON"),
        (b'{"images": [{"filename": "a.jpg", "sentences": [{}]}]}', "Karpathy's splits; write"),
        (b'{"objects": [{"classTitle": "dog", "points": {}}]}', "Supervisely's JSON; export it"),
        (b"filename,file_size,region_shape_attributes\n", "VIA's CSV; export it as COCO"),
        (b"filename,width,height,class,xmin,ymin,xmax,ymax\n", "a table of boxes"),
        (b"PK\x03\x04aaaa", "a zip archive; unpack it and name the folder"),
        (b"PAR1aaaa", "a Parquet table"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "a pointer of Git LFS"),
        (b"<!DOCTYPE html><html></html>", "a web page; fetch the file itself again"),
    ],
)
def test_other_forms_are_told_with_a_way_out(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(LaternaError, match=f"file: looks like {said}"):
        read_annotations(tmp_path / "file")
    with pytest.raises(LaternaError, match=f"; file in it looks like {said}"):
        read_annotations(tmp_path)  # a folder is what such tools write
    (tmp_path / "below").mkdir()
    (tmp_path / "file").rename(tmp_path / "below" / "file")
    with pytest.raises(LaternaError, match=f"; below/file in it looks like {said}"):
        read_annotations(tmp_path)


def test_an_unknown_form_is_shown_with_what_is_known(tmp_path: Path) -> None:
    (tmp_path / "file").write_text('{"a": 1, "b": 2}')
    with pytest.raises(LaternaError, match=r"in no known form \(an object with a, b\); known are"):
        read_annotations(tmp_path / "file")
