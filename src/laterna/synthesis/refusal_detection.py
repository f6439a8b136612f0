"""Whether an answer declines: a request refused, or a question that it says cannot be told.

To decline is neither to know nor to guess, so whether a proxy held the answer is not asked of
it. That a thing is not there ("A dog cannot be seen") is an answer, and declines nothing; nor
does a caution that is followed by an answer ("It is hard to tell, but it looks like noon").
"""

from __future__ import annotations

import re

_CANNOT = r"(?:can ?not|can't|could not|couldn't)"
_ADVERBS = r"(?:\w+ly |really |simply |just |even )*"
_TELL = (
    r"(?:tell|say|determine|know|identify|judge|name|read|answer|assess|confirm|verify|promise|"
    r"vouch|diagnose|provide|give|help|assist|share|make|reveal|recognise|recognize|estimate|"
    r"guess|infer|ascertain|comment|offer|certify|guarantee|disclose|discern|make out)"
)
_TOLD = (
    r"(?:told|said|determined|known|identified|judged|named|read|answered|assessed|confirmed|"
    r"verified|estimated|inferred|ascertained|established|discerned|seen (?:from|in) (?:the|this) "
    r"(?:picture|image|photo|photograph|scene) (?:what|who|which|how|why|where|when|whether|if)|"
    r"made out)"
)
_ASKED = r"(?:what|who|whom|whose|which|how|why|where|when|whether|if)"
_DECLINES = re.compile(
    # who answers will not or cannot: "I am sorry, but I cannot name anyone"
    rf"\b(?:i|we|one|you) {_ADVERBS}{_CANNOT} {_ADVERBS}(?:{_TELL}|see {_ASKED})\b|"
    rf"\b(?:i|we) {_ADVERBS}(?:will not|won't|should not|shouldn't|would not|wouldn't) "
    rf"{_ADVERBS}{_TELL}\b|"
    r"\bi(?: am not|'m not| do not feel| don't feel) comfortable \w+ing\b|"
    rf"\b(?:i|we)(?: am|'m| are|'re)? {_ADVERBS}(?:unable to|not able to) {_ADVERBS}{_TELL}\b|"
    r"\b(?:i|we) (?:have to|must|would rather|will have to|need to) (?:politely |respectfully )?"
    r"(?:decline|refuse|pass)\b|"
    r"\bi(?: would|'d) (?:prefer|rather) not\b|\bi (?:decline|refuse) to\b|"
    rf"\bi (?:do not|don't) {_ADVERBS}know\b|"
    rf"\b(?:there is|there's) no (?:\w+ )?(?:way|means) (?:of|to|for) (?:\w+ing|{_TELL}|know)\b|"
    # the picture cannot tell: "It is not possible to tell", "cannot be determined"
    rf"\b(?:not|im)(?: |)possible (?:for \w+ )?to {_ADVERBS}{_TELL}\b|"
    rf"\b(?:hard|difficult) to {_ADVERBS}{_TELL}\b|"
    rf"\b{_CANNOT} be {_ADVERBS}{_TOLD}\b|"
    rf"\b(?:is|are|remains?|'s) not (?:visible|shown) {_ASKED}\b|"
    rf"\b(?:is|are|remains?|'s) (?:not (?:clear|certain|known|specified|legible|readable)|"
    rf"unclear|unknown|uncertain|illegible|unreadable)(?= {_ASKED}\b|[.,;!]|$| from | in "
    r"(?:the|this) )|"
    r"\b(?:picture|image|photo|photograph|scene) (?:alone )?(?:does not|doesn't|cannot|can't) "
    rf"{_ADVERBS}(?:tell|say|reveal|specify|provide|give|indicate|show {_ASKED}|"
    rf"let \w+ (?:tell|see|know))\b"
)
_ANSWERS_AFTER_ALL = re.compile(
    r"\b(?<!business )(?:but|however|although|though|nevertheless)\b,? "
    r"(?!(?:i|we) (?:can|could|am|would|will|may)\b|i'(?:ll|d|m)\b|i cannot\b|i can't\b)"
)
"""A turn to an answer, unless it offers something else ("but I can describe what he wears")."""
_CONCEDES = re.compile(r"(?:while|although|though|even (?:if|though))\b")
_APOLOGY = re.compile(
    r"^(?:(?:i am|i'm) (?:very |really |so )?(?:sorry|afraid)|sorry|my apologies|i apologi[sz]e|"
    r"unfortunately|i would like to help|i'd (?:like|love) to help)\b,?(?: but\b)?,? ?(?:that )?"
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+")


def declines(answer: str) -> bool:
    """Say whether an answer declines to tell what was asked, by its first sentence."""
    text = " ".join(answer.replace("\u2019", "'").lower().split())
    text = _APOLOGY.sub("", text)
    first, *others = _SENTENCE.split(text, maxsplit=1)
    found = _DECLINES.search(first)
    if found is None or _CONCEDES.match(first):
        return False
    rest = " ".join((first[found.end() :], *others))
    return _ANSWERS_AFTER_ALL.search(rest) is None
