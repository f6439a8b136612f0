from __future__ import annotations

import pytest

from laterna.records import InstructionRecord, Provenance, Turn


@pytest.fixture
def records() -> list[InstructionRecord]:
    """One record a case: full provenance, none at all, no image, several images, few turns."""
    question = Turn(role="user", text='<image>\nWas ist "das"?')
    answer = Turn(role="assistant", text="Ein Hörnchen.\nBraun.", loss=True)
    return [
        InstructionRecord(
            id="5-detail",
            images=("5.jpg",),
            turns=(
                Turn(role="system", text="Be brief."),
                question,
                answer,
                Turn(role="user", text="Sure?"),
                Turn(role="assistant", text="Yes.", loss=True),
            ),
            kind="detail",
            provenance=Provenance(
                teacher="gpt-4",
                proxy_digest="ab12",
                channels=("caption", "", "box"),
                ledger_key="cd34",
            ),
        ),
        InstructionRecord(id="6", images=("train2017/6.jpg",), turns=(question, answer)),
        InstructionRecord(
            id="7",
            images=(),
            turns=(Turn(role="user", text="Hello"), answer),
            kind="refusal",
            provenance=Provenance(teacher="scribe", proxy_digest="ef"),
        ),
        InstructionRecord(
            id="8",
            images=("a.jpg", "b.jpg"),
            turns=(Turn(role="user", text="Which is older?\n<image>\n<image>"), answer),
            kind="conversation",
        ),
    ]
