"""Why a reply may not become training data."""

from __future__ import annotations

REASONS: dict[str, str] = {
    "unparsable": "the reply is not in the form that was asked for",
    "truncated": "the teacher stopped before the end of its reply",
    "not finished": "the endpoint ended the reply for another reason than that it was whole",
    "unclosed thought": "it holds a thought that never ends in an answer",
    "special token": "it holds a model's own marks, which are no text",
    "thinking aloud": "it thinks about the request instead of answering it",
    "gibberish": "it is no language, or repeats itself without end",
    "foreign language": "it is in another language than the request",
    "no answer": "the reply is empty, or an apology instead of an answer",
    "not declined": "it answers a request that it was asked to write a polite refusal of",
    "source leak": "it tells that the picture was read and not seen",
    "given away": "a question of reasoning tells what is to be seen",
    "absent object": "it names an object that neither boxes nor captions hold",
    "denied object": "it says that an object is absent which boxes or captions hold",
    "wrong count": "it tells a number that boxes and captions rule out",
    "wrong position": "it tells a place or relation that the boxes rule out",
    "wrong colour": "it gives a thing a colour that captions contradict",
    "near-duplicate": "an earlier reply says almost the same",
}
"""Reason to what it means; the keys are `Finding.reason`."""
