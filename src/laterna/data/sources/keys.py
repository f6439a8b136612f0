"""What the keys of other people's rows mean to us: one table for each place where a key stands.

A key that changes what a row teaches is honoured, or the row is refused by the reason that stands
here; keys that are in no table are another program's own, and pass. The names are those that
LLaVA, LLaMA-Factory, TRL, ms-swift, axolotl, Unsloth, Qwen-VL and nanoVLM document.
"""

from __future__ import annotations

from laterna.records import Role

IMAGE, SYSTEM, HISTORY, TEXT = "image", "system", "history", "text"
NAME, ID = "an image's name, where no other key has one", "an image's id"
LOSS, NO_LOSS = "learned where it is true", "learned where it is not true"
"""How a key is honoured; every other value in these tables is a reason to refuse the row."""

_VIDEO, _AUDIO = "asks about a video", "asks about a sound"
_TOOLS, _THOUGHT = "uses tools", "has a thought beside its answer"
_PREFERENCE = "compares answers, to learn a preference"
_BESIDE = "has a part that we do not read beside its text"
_UNCLEAR = "says in a way that can be read both ways what of a turn is learned"

_WEIGHTS: dict[str, str] = {
    **dict.fromkeys(("train", "trainable", "loss", "loss_weight"), LOSS),
    **dict.fromkeys(("no_loss", "no_train", "masked", "ignore", "ignored"), NO_LOSS),
}
_IMAGES: dict[str, str] = {
    **dict.fromkeys(("image", "images", "image_path", "image_paths", "img", "imgs"), IMAGE),
    **dict.fromkeys(("img_path", "img_paths", "image_url", "img_url", "image_urls"), IMAGE),
    **dict.fromkeys(("file_name", "filename", "image_file", "image_files", "img_file"), NAME),
    **dict.fromkeys(("image_name", "image_filename", "image_file_name", "img_name"), NAME),
    **dict.fromkeys(("file_path", "filepath", "photo", "picture", "pic"), NAME),
    **dict.fromkeys(("image_id", "image_ids", "img_id", "imageId", "imgid"), ID),
}
ROW_KEYS: dict[str, str] = {
    **_IMAGES,
    **_WEIGHTS,
    **dict.fromkeys(("system", "system_prompt"), SYSTEM),
    "history": HISTORY,
    "weight": LOSS,
    **dict.fromkeys(("loss_mask", "label_mask"), _UNCLEAR),
    **dict.fromkeys(("video", "videos", "video_path", "video_paths"), _VIDEO),
    **dict.fromkeys(("audio", "audios", "audio_path", "audio_paths"), _AUDIO),
    **dict.fromkeys(("tools", "functions"), _TOOLS),
    **dict.fromkeys(("chosen", "rejected", "rejected_response", "kto_tag"), _PREFERENCE),
    **dict.fromkeys(("rejected_images", "rejected_messages"), _PREFERENCE),
}
"""Keys of a row of any form but ours."""

QUESTION_KEYS: dict[str, str] = ROW_KEYS | dict.fromkeys(
    ("choices", "options", "context", "hint", "passage"), _BESIDE
)
"""Keys of a row that is a question and its answer."""

TURN_KEYS: dict[str, str] = {
    **_IMAGES,
    **_WEIGHTS,
    **dict.fromkeys(("weight", "label"), LOSS),
    **dict.fromkeys(("mask", "loss_mask", "labels", "label_mask"), _UNCLEAR),
    **dict.fromkeys(("train_detail", "training_detail", "loss_scale"), "learns parts of a turn"),
    **dict.fromkeys(("tool_calls", "function_call", "tool_call_id"), _TOOLS),
    **dict.fromkeys(("reasoning_content", "reasoning", "thinking"), _THOUGHT),
    **dict.fromkeys(("video", "videos"), _VIDEO),
    **dict.fromkeys(("audio", "audios"), _AUDIO),
}
"""Keys of a turn, beside those of its speaker and its words."""

PARTS: dict[str, str] = {
    **dict.fromkeys(("text", "input_text", "output_text"), TEXT),
    **dict.fromkeys(("image", "image_url", "input_image"), IMAGE),
    **dict.fromkeys(("video", "video_url", "input_video"), _VIDEO),
    **dict.fromkeys(("audio", "audio_url", "input_audio"), _AUDIO),
    **dict.fromkeys(("tool_use", "tool_result"), _TOOLS),
    **dict.fromkeys(("thinking", "reasoning"), _THOUGHT),
}
"""Types of a part of a turn."""

PART_IMAGES = ("image", "path", "url", "image_url")
"""Keys of a part that name its image."""

MARKS: dict[str, str] = {
    "<video>": _VIDEO,
    "<audio>": _AUDIO,
    "<ref-object>": _BESIDE,
    "<bbox>": _BESIDE,
}
"""What stands in the user's words for something that is no image."""

SPEAKERS: dict[str, Role] = {
    "human": "user",
    "gpt": "assistant",
    "system": "system",
    "user": "user",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "developer": "system",
}
"""The names of who speaks, in small letters."""

ASKED, ANSWERED = ("user", "human"), ("assistant", "gpt", "bot")
"""Keys of a turn that is a whole exchange."""
