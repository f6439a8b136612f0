"""What happens without the mask?

LLaVA learns the assistant's words alone. The arms learn everything, everything but the system
prompt, or the answers without their end of turn. The lecture's claim is about behaviour: a model
that learned the users' words writes them too. The literature says that accuracy need not fall
(Instruction Modelling, arXiv 2405.14394), so both are measured.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch

from laterna.data.chat import render_prompt
from laterna.data.images.opening import load_image
from laterna.data.masking import tokenize_text
from laterna.evaluation.tasks import find_task
from laterna.evaluation.tasks.base import IMAGE_FOLDER, read_questions
from laterna.inference.assistant import Assistant
from laterna.lab.bench import Bench, Plan, score_value
from laterna.lab.drawing import draw_rows
from laterna.lab.experiment import Answer, Arm, Measures, Results, change, verdict
from laterna.lab.measures.text import prompt_of, said, token_losses
from laterna.records import DEFAULT_IMAGE_TOKEN, Question, Turn

ANSWERS, ALL, CHAT, NO_END, BEFORE = (
    "answers", "everything", "but the system prompt", "answers without end", "before stage 2",
)  # fmt: skip
MASKS = {ANSWERS: "answers", ALL: "all", CHAT: "chat", NO_END: "answers-no-end"}
TEMPLATE = "vicuna_v1"
"""It has a system prompt, so that the arms differ."""
ASKED = 120
ROOM = 48
"""Tokens that an answer may have: a short question is answered in a few."""
RUN_ON, LENGTH = "runs on", "tokens of an answer"
ROLE = "probability of the user's role"
USER_LOSS, COMPLETED = "loss of the user's words", "completes a half-asked question"


def plan() -> Plan:
    """Return how the experiment is carried out."""
    return Plan(
        done=(
            "Stage 2 learns with four masks, from the same stage 1, in the template of Vicuna, "
            f"which has a system prompt. Each arm answers {ASKED} questions with room for {ROOM} "
            "tokens, and runs on where its answer comes to no end or holds the user's role. After "
            "a right answer and its end of turn, the probability is measured that the user's role "
            "follows: an assistant that nobody stops there would write the user's next turn. The "
            "first half of a question is given as the user's turn without its end, "
            "and counts as completed where the next word is the question's own. `before stage 2` "
            "is the assistant after stage 1."
        ),
        arms=arms,
        measure=measure,
        table=("accuracy", "blank image", ROLE, RUN_ON, LENGTH, COMPLETED, USER_LOSS),
        draw=draw,
        conclude=conclude,
        published=(
            "Unmasked loss need not lower accuracy. Instruction Modelling (arXiv 2405.14394) finds "
            "gains from it where prompts are long, answers short and records few, and WIT (arXiv "
            "2507.07817) finds a low weight of the prompt best. The lecture's claim is about "
            "behaviour."
        ),
    )


def arms(bench: Bench) -> list[Arm]:
    """Return one arm a mask, and stage 1 alone."""
    shared = change(
        bench.recipe,
        {
            "language.template": TEMPLATE,
            "instruct.template": TEMPLATE,
            "instruct.shared_prefix": False,
        },
    )
    masked = [
        Arm(name=name, recipe=change(shared, {"instruct.loss_on": mask}))
        for name, mask in MASKS.items()
    ]
    return [*masked, Arm(name=BEFORE, recipe=shared, stages=("align",))]


def measure(bench: Bench, arm: Arm) -> Measures:
    """Train, ask, and look at what comes after the answers and at the users' words."""
    checkpoint = bench.train(arm, arm.stages[-1])
    assistant = bench.load(checkpoint)
    task = find_task("world")
    asked = read_questions(task, bench.validation, limit=ASKED, seed=bench.seed).questions
    return bench.examine(checkpoint) | behaviour(assistant, [*asked], bench.validation)


def behaviour(assistant: Assistant, questions: list[Question], dataset: Path) -> Measures:
    """Measure how answers end, and how well the users' words are known."""
    folder = dataset / IMAGE_FOLDER
    answers = said(assistant, (prompt_of(one, folder) for one in questions), ROOM)
    role = _user_role(assistant)
    halves = [_half(assistant, question, dataset) for question in questions]
    return {
        RUN_ON: score_value([float(role in one.text or not one.ended) for one in answers]),
        LENGTH: score_value([float(one.tokens) for one in answers]),
        COMPLETED: score_value([completed for completed, _ in halves]),
        USER_LOSS: score_value([loss for _, loss in halves]),
        ROLE: score_value([_role_after(assistant, one, folder, role) for one in questions]),
    }


def _role_after(assistant: Assistant, question: Question, folder: Path, role: str) -> float:
    """Return the probability of the user's role after a right answer and its end of turn."""
    model = assistant.model
    turns, images = prompt_of(question, folder)
    answer = Turn(role="assistant", text=question.references[0], loss=True)
    chat = [*turns, answer, Turn(role="user", text="9")]
    text = render_prompt(chat, model.tokenizer, model.template)
    start = text.rindex(role)
    begun = text[: start + len(role)]
    before, whole = (len(tokenize_text(one, model.tokenizer)) for one in (text[:start], begun))
    return math.exp(-sum(token_losses(model, begun, images)[before - whole :]))


def _user_role(assistant: Assistant) -> str:
    """Return what the template writes before a second user's words: `USER:` of Vicuna's."""
    model = assistant.model
    turns = [Turn(role="user", text="7"), Turn(role="assistant", text="8", loss=True)]
    chat = render_prompt([*turns, Turn(role="user", text="9")], model.tokenizer, model.template)
    return (
        chat[chat.index("8") + 1 : chat.index("9")]
        .replace(model.tokenizer.eos_token or "", "")
        .strip()
    )


@torch.no_grad()
def _half(assistant: Assistant, question: Question, dataset: Path) -> tuple[float, float]:
    """Return whether half a question is gone on with as it was, and the loss of its other half."""
    model = assistant.model
    words = question.text.split(" ")
    half = max(2, len(words) // 2)
    before, after = " ".join(words[:half]), " " + " ".join(words[half:])
    turn = Turn(role="user", text=f"{DEFAULT_IMAGE_TOKEN}\n{question.text}")
    whole = render_prompt([turn], model.tokenizer, model.template)
    begun = whole[: whole.index(before) + len(before)]
    images = [load_image(dataset / IMAGE_FOLDER / name) for name in question.images]
    losses = token_losses(model, begun + after, images)
    own = losses[-_count(assistant, before, after) :]
    likeliest = model.logits(images, begun)[-1].argmax()
    first = model.tokenizer(before + after, add_special_tokens=False)["input_ids"]
    shown = model.tokenizer(before, add_special_tokens=False)["input_ids"]
    return float(int(likeliest) == first[len(shown)]), sum(own) / len(own)


def _count(assistant: Assistant, before: str, after: str) -> int:
    tokenizer = assistant.model.tokenizer
    lengths = [
        len(tokenizer(text, add_special_tokens=False)["input_ids"])
        for text in (before + after, before)
    ]
    return lengths[0] - lengths[1]


def draw(results: Results) -> str:
    """Draw what each mask leads to, measure by measure."""
    columns = ("accuracy", ROLE, COMPLETED, RUN_ON)
    return draw_rows(
        "loss-mask",
        [*results.arms],
        {name: [results.spread(arm, name) for arm in results.arms] for name in columns},
        level={"accuracy": ("blank image", results.spread(ANSWERS, "blank image").mean)},
    )


def conclude(results: Results) -> Answer:
    """Say what learning everything does to behaviour and to accuracy."""
    more = {name: results.difference(ALL, ANSWERS, name) for name in (ROLE, COMPLETED)}
    role, completes, loss, right = (
        results.beside(ALL, ANSWERS, name) for name in (ROLE, COMPLETED, USER_LOSS, "accuracy")
    )
    return Answer(
        sentence=(
            "Everything learned against answers alone: the user's role follows an ended answer "
            f"with a probability of {role}; a half-asked question is completed in a share of "
            f"{completes}; the loss of the user's words is {loss} nats a token; the share of right "
            f"answers is {right}. Answers learned without their end of turn against those with it "
            f"run on in a share of {results.beside(NO_END, ANSWERS, RUN_ON)}."
        ),
        foretold=" ".join(
            [
                verdict(
                    "who learns the user's words is likelier to write on as the user",
                    more[ROLE].sign == 1,
                ),
                verdict("it completes half-asked questions more often", more[COMPLETED].sign == 1),
                verdict(
                    "who never learns the end of turn runs on",
                    results.difference(NO_END, ANSWERS, RUN_ON).sign == 1,
                ),
            ]
        ),
        limits=(
            "The questions here are short and of few forms, so the user's words are easily "
            "learned. An assistant of 3 million weights does not tell how often a large one writes "
            "on."
        ),
    )  # fmt: skip
