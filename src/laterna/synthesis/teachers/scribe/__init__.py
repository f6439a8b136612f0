"""Scribe: the offline teacher, which composes instruction data from the proxy text by grammar.

It reads the same words an LLM teacher would be sent and nothing else, says only what follows
from them, and never pretends to be an LLM. The same text, kind and seed give the same reply.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from laterna.records import Kind, Message, Reply
from laterna.scenes.facts import Facts, gather_facts
from laterna.scenes.kinds import deniable, is_closed
from laterna.scenes.survey import Survey
from laterna.scenes.vocabulary import CATEGORIES, ObjectWords
from laterna.synthesis.parsing import Exchange, write_reply
from laterna.synthesis.proxy import proxy_digest, read_proxy
from laterna.synthesis.teachers.scribe.conversation import compose_conversation
from laterna.synthesis.teachers.scribe.detail import compose_detail
from laterna.synthesis.teachers.scribe.negative import compose_negative
from laterna.synthesis.teachers.scribe.photograph import likely_absent
from laterna.synthesis.teachers.scribe.reasoning import compose_reasoning
from laterna.synthesis.teachers.scribe.refusal import compose_refusal
from laterna.synthesis.teachers.scribe.story import Story, counted_things, read_story


class Scribe:
    """The teacher for one kind of record of a dataset, of which a `survey` tells.

    What is not among its categories can never be said to be absent. COCO's words are understood
    besides. Where captions tell more than which things there are, that is told and asked too.
    """

    def __init__(self, kind: Kind, survey: Survey, seed: int) -> None:
        self._kind = kind
        self._survey = survey
        self._deniable = deniable(sorted(set(survey.categories)))
        self._words = ObjectWords(dict.fromkeys((*CATEGORIES, *survey.categories)))
        self._seed = seed

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the reply to the last message's proxy text; an empty one if nothing follows."""
        text = messages[-1].content
        captions, boxes = read_proxy(text)
        facts = gather_facts(captions, boxes, self._words, self._deniable)
        digest = int(proxy_digest(text)[:16], 16)
        rng = np.random.default_rng([self._seed, _COMPOSER_NUMBER[self._kind], digest])
        story = read_story(captions, self._survey.slips, rng)
        closed = is_closed(self._survey.categories)
        if story or not closed:
            absent = likely_absent(facts, self._survey, rng)
            facts = facts._replace(absent=absent or (facts.absent if closed else ()))
            facts = counted_things(facts)
        made = _COMPOSERS[self._kind](facts, rng, story)
        reply = made if isinstance(made, str) else write_reply(made)
        return Reply(text=reply, finish_reason="stop")


_Composer = Callable[[Facts, np.random.Generator, Story | None], str | list[Exchange]]
_COMPOSERS: dict[Kind, _Composer] = {
    "conversation": compose_conversation,
    "detail": compose_detail,
    "reasoning": compose_reasoning,
    "negative": compose_negative,
    "refusal": compose_refusal,
}
_COMPOSER_NUMBER = {kind: number for number, kind in enumerate(_COMPOSERS)}
