"""Annotations as people brought them (../shared/cases): what becomes of each, by numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from laterna.errors import LaternaError
from laterna.scenes.annotations import read_annotations

CROWD = {"crowd region": 1}
BASE = (6, 63, 30, CROWD)
"""COCO's six images: 63 boxes and a crowd, 30 captions."""

READ: dict[str, tuple[int, int, int, dict[str, int]]] = {
    "01_base": BASE,
    "01b_coco_layout": BASE,
    "02_no_size": BASE,  # the captions file has the sizes
    "02b_no_size_both": (6, 0, 30, {"image without a size": 63} | CROWD),
    "03b_bbox_null": (6, 63, 30, {"box taken from its outline": 3} | CROWD),
    "03c_bbox_strings": (6, 63, 30, {"box whose numbers are text": 3} | CROWD),
    "03e_bbox_nan": BASE,  # NaN is elsewhere than in the boxes
    "03f_bbox_neg": (6, 63, 30, {"box cut at the image's edge": 3} | CROWD),
    "03h_bbox_normalised": BASE,
    "03i_segmentation_only": (6, 63, 30, {"box taken from its outline": 63} | CROWD),
    "05_mixed_ids": BASE,
    "05b_id_padded_captions": BASE,
    "06b_rle_string": BASE,
    "07_dup_categories": BASE,  # " Person " and "person" are one
    "07c_unknown_category_id": (6, 60, 30, {"unknown category": 3} | CROWD),
    "07d_category_colon_newline": BASE,
    "08_captions_only": (6, 0, 30, {}),
    "09_instances_only": (6, 63, 0, {"no captions found: read without": 1} | CROWD),
    "10b_lvis_plus_captions": BASE,
    "11_openimages_csv": (1, 1, 0, {}),
    "13_voc": (1, 1, 0, {}),
    "14_vg_objects": (1, 1, 0, {}),
    "16_cvat_xml": (1, 1, 0, {}),
    "17_roboflow": (
        6,
        63,
        0,
        {"no captions found: read without": 1, "read the part train alone": 1} | CROWD,
    ),
    "18_cvat_coco_zip_layout": (6, 63, 0, {"no captions found: read without": 1} | CROWD),
    "18b_cvat_coco_with_captions": BASE,
    "21_bom": BASE,
    "21b_utf16": BASE,
    "23b_subdir": BASE,
    "24_caption_null": (6, 63, 27, {"caption that is no text": 3} | CROWD),
    "25_flickr_token": (1, 0, 1, {}),
    "25b_flickr_csv": (1, 0, 1, {}),
    "27_panoptic": (6, 1, 30, {}),
    "28_keypoints": BASE,
    "30_images_no_file_name": BASE,
    "30b_images_no_file_name_both": BASE,
    "32_ann_before_images": BASE,
    "33_width_zero": BASE,  # the captions file has the size
    "35_annotations_null": (6, 0, 30, {}),
    "36_list_top": BASE,
    "38_vizwiz": (1, 0, 1, {}),
    "39_nocaps": (1, 0, 1, {}),
    "bug_all_ids_zero": (2, 3, 2, {"annotation id given twice": 2}),
    "bug_ann_no_id": (2, 3, 2, {}),
    "bug_cat_int_name": (2, 1, 2, {"category without a name": 3}),
    "bug_empty_bbox": (2, 3, 2, {"annotation without a box": 1}),
    "bug_list_image_id": (2, 3, 2, {"annotation without an image entry": 1}),
    "bug_nan_area": (2, 4, 2, {}),
    "bug_neg_bbox": (2, 3, 2, {"box of zero area": 1}),
    "bug_no_bbox": (2, 3, 2, {"annotation without a box": 1}),
    "bug_null_bbox": (2, 3, 2, {"annotation without a box": 1}),
    "bug_null_caption": (2, 3, 2, {"caption that is no text": 1}),
    "bug_null_crowd": (2, 4, 2, {}),  # no flag is none
    "bug_null_info": (2, 3, 2, {}),
    "bug_resized": (1, 2, 1, {}),
    "bug_swapped_exif": (1, 2, 1, {}),
    "bug_text_bbox": (2, 4, 2, {"box whose numbers are text": 1}),
    "bug_zero_size": (2, 0, 2, {"image without a size": 3}),
    "contexts.jsonl": (1, 2, 1, {}),
    "contexts_bom.jsonl": (1, 2, 1, {}),
    "contexts_crlf.jsonl": (2, 4, 2, {}),
    "contexts_null_caps.jsonl": (1, 2, 1, {"caption that is no text": 1}),
    "contexts_xywh_pixels.jsonl": (1, 0, 1, {"box not in 0..1": 1}),
}
"""Case to its images, boxes and captions, and to what is counted by reason."""

REFUSED = {
    "22b_empty": r"instances\.json: the file is empty$",
    "22c_emptydir": r"22c_emptydir: a folder without annotations \(it holds 0 images and 1 other",
    "24c_caption_blank": r"no usable image in it \(caption without words, .*--captionless keeps",
    "bug_results_list": r"instances\.json: looks like a COCO results list \(detections\), which",
    "contexts_latin1.jsonl": r"no usable image in it \(line that is no UTF-8\)$",
}
"""Case to the sentence that it ends in."""


def path_of(case: str, shared_input: Callable[[str], Path]) -> Path:
    folder = "contexts" if case.startswith("contexts") else "annotations"
    return shared_input(f"cases/{folder}/{case}")


@pytest.mark.parametrize("case", READ)
def test_a_case_is_read(case: str, shared_input: Callable[[str], Path]) -> None:
    found = read_annotations(path_of(case, shared_input))
    boxes = sum(len(scene.boxes) for scene in found.scenes)
    captions = sum(len(scene.captions) for scene in found.scenes)
    counted = dict(Counter(problem.reason for problem in found.problems))
    assert (len(found.scenes), boxes, captions, counted) == READ[case]


@pytest.mark.parametrize("case", REFUSED)
def test_a_case_is_refused_in_a_sentence(case: str, shared_input: Callable[[str], Path]) -> None:
    with pytest.raises(LaternaError, match=REFUSED[case]) as raised:
        read_annotations(path_of(case, shared_input))
    assert "\n" not in str(raised.value)


def test_every_case_that_is_there_is_in_the_table(shared_input: Callable[[str], Path]) -> None:
    there = {path.name for path in shared_input("cases/annotations").iterdir()}
    there |= {path.name for path in shared_input("cases/contexts").iterdir()}
    assert {name for name in there if not name.startswith("out_")} == READ.keys() | REFUSED.keys()


def test_category_names_are_folded_and_one(shared_input: Callable[[str], Path]) -> None:
    found = read_annotations(path_of("07_dup_categories", shared_input))
    names = {box.category for scene in found.scenes for box in scene.boxes}
    assert "person" in names and " Person " not in names
    found = read_annotations(path_of("07d_category_colon_newline", shared_input))
    assert "a 0.1, 0.2 b" in {box.category for scene in found.scenes for box in scene.boxes}
