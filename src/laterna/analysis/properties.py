"""What a question asks about: the visual properties, told from its words.

The rule: a question has every property that one of its rules finds, with two exceptions. A
question for the whole picture ("Describe the image in detail") is a `description` and nothing
else, and one whose answer lies beyond the picture ("Why might he wave?") is `background` and
nothing else. A what, which or who question that asks for none of the others asks which thing is
there: `existence`. What no rule finds is `other`; nothing is guessed.
"""

from __future__ import annotations

import re
from typing import Literal

from laterna.analysis.mentions import WORDS
from laterna.records import PICTURE_MARK
from laterna.scenes.vocabulary import COLOURS

Property = Literal[
    "existence",
    "count",
    "colour",
    "place",
    "relation",
    "action",
    "text",
    "texture",
    "lighting",
    "emotion",
    "background",
    "description",
    "other",
]

PROPERTIES: dict[Property, str] = {
    "existence": "which things are there, and of what kind",
    "count": "how many there are",
    "colour": "colours of things or of the picture",
    "place": "where a thing is, or what place is shown",
    "relation": "where things are to each other, and how they compare",
    "action": "what someone or something does",
    "text": "written words, numbers and names",
    "texture": "texture, pattern and material",
    "lighting": "light, time of day and weather",
    "emotion": "feelings, expressions and mood",
    "background": "reasons, guesses and knowledge beyond the picture",
    "description": "the picture as a whole",
    "other": "what no rule finds",
}
"""Every property and what its questions ask for, in the order of the tables."""

_ANSWER_FORM = re.compile(
    r"\banswer\b[^.?!]*\b(?:words?|phrases?|letters?|option|yes|no|briefly)\b[^.?!]*[.?!]?"
)
"""An order about the answer's form, whose words are none of the question's."""
_POLITE = re.compile(
    r"^(?:please |kindly |so |and |now )*"
    r"(?:(?:can|could|would|will) you (?:please |kindly )?"
    r"(?:(?:tell|show) (?:me|us) (?:about )?|say (?:that )?|help me )?(?!see\b)|tell (?:me|us) )?"
)

_PICTURE = r"(?:image|picture|photo|photograph|scene|snapshot|view)"
_DESCRIBING = WORDS["describing"]
_GENERAL = _DESCRIBING | WORDS["general"]

_BACKGROUND = re.compile(
    r"^(?:why|if)\b|\b(?:might|may|could|would|should|possibly|possible|potential|potentially|"
    r"likely|probably)\b|"
    r"\b(?:infer(?:red)?|inference|deduced?|conclude[ds]?|conclusions?|suggest(?:ed|s)?|impl(?:y|ies|"
    r"ied)|implications?|indicates?|tell us|speculate|assume)\b|"
    r"\b(?:reasons?|purposes?|challenges?|benefits?|advantages?|disadvantages?|consequences?|"
    r"precautions?|measures|factors|significance|importance|meaning|impact|symboli[sz]es?|"
    r"historical|history|origin|popular for|known for|famous for|used for|meant for|needs?|"
    r"ha(?:s|d|ve) to|typically|usually|generally|commonly|in general|advice|tips|recipes?|"
    r"ingredients|invented|founded|authors?|directed|capital of)\b|"
    r"^how (?:can|does|do|did|is|are)\b(?!.*\b(?:look|positioned|arranged|placed|situated|dressed|"
    r"weather|oriented|many|feel|feeling|lit)\b)|\b(?:unique|interesting|unusual|special)\b"
)

_SOME_COLOUR = "|".join([*sorted(COLOURS - {"orange"}), "(?<!an )(?<!the )orange"])
_END = r"(?=\s*(?:[?.,]|$|\bor\b|\band\b|\bin colou?r\b))"
"""Where a describing word is what is asked, and not a mark of the thing asked about."""
_IS = r"^(?:is|are|was|were|does|do|has|have)\b"

_NOT_VERBS = (
    r"(?:build|ceil|w|r|k|str|th|someth|anyth|noth|everyth|morn|even|cloth|sibl|dur|spr|wedd|pudd|"
    r"din|park|be|paint|light|draw|sw|rail|fenc|ear|text|sett|miss|surround|includ|remain|hous|"
    r"plumb|bedd|wear|feel|smil|frown|shin|glow|list)ing"
)
"""Words in -ing that name no action, or one that another property asks for."""
_HELD = r"(?:hold|carry|wear|rid|eat|us|driv|pull|push|drink|serv|tow)ing"
"""What stands before the thing that a `what` question asks for."""

_RULES: dict[Property, re.Pattern[str]] = {
    "count": re.compile(
        r"\b(?:how many|(?:number|amount|quantity) of (?!(?:the|this|his|her)\b)|count|"
        r"more than (?:one|two|\d)|multiple|only one|just one|a single|how much)\b"
    ),
    "colour": re.compile(
        rf"\b(?:colou?r(?:s|ed|ful)?|shades? of|hues?)\b|{_IS}.*\b(?:{_SOME_COLOUR}){_END}"
    ),
    "place": re.compile(
        r"\b(?:where|located|locations?|positions?|positioned|situated|whereabouts|setting|"
        r"indoors?|outdoors?|inside or|surroundings|environment|habitat|room is|what room|"
        r"which (?:side|part|corner|half|room|city|country)|what (?:side|part|corner|city|country|"
        r"kind of (?:place|room|area)|type of (?:place|room|area)))\b|"
        r"\b(?:at|on|in) the (?:far )?(?:top|bottom|left|right|middle|cent(?:er|re)|background|"
        rf"foreground|corner)\b(?!(?: side)? of (?!the {_PICTURE}))"
    ),
    "relation": re.compile(
        rf"\b(?:(?:left|right) (?:side )?of (?!the {_PICTURE})|next to|"
        r"besides?|behind|in front of|between|above|below|under|underneath|beneath|nearest|"
        r"closest|closer|further|farther|farthest|furthest|on top of|adjacent|opposite|touching|"
        r"near|relati(?:on|ve|onship)\w*|compared?|comparison|distance|"
        r"(?:bigg|small|larg|tall|short|high|low|wid|thick|long)er|tallest|biggest|largest|"
        r"smallest|same (?:size|height)|surround(?:s|ing|ed)? the)\b"
    ),
    "action": re.compile(
        r"\b(?:doing|does .{1,40} do|happening|going on|activit(?:y|ies)|actions?|engaged|"
        r"taking place|gestures?|poses?|posing|pos(?:e|ture)|playing|interact\w*|looking at|"
        r"participating|event)\b|"
        rf"^(?:is|are|was|were) (?!there\b)(?!.*\bor (?!\w+ing\b))"
        rf".*\b(?!{_NOT_VERBS}\b)\w{{2,}}ing\b|"
        rf"^who (?:is|are) (?!{_NOT_VERBS}\b)\w{{2,}}ing\b"
    ),
    "text": re.compile(
        r"\b(?:texts?|written|writing|words?|letters?|says?|reads?|logos?|brands?|spelled|"
        r"licen[cs]e plate|labels?|labelled|labeled|printed|inscription|slogan|titled?|"
        r"(?:names?|numbers?) (?:on|of the (?:street|store|shop|restaurant|hotel|company|airline|"
        r"bus|train|team|player))|(?:bus|train|jersey|route|flight) number|time (?:is it|does|on)|"
        r"what time is|the time (?:shown|displayed)|(?:which|what) (?:company|airline))\b"
    ),
    "texture": re.compile(
        r"\b(?:textures?|textured|materials?|made (?:out |up )?(?:of|from)|surface|patterns?|"
        rf"patterned|fabric)\b|{_IS}.*\b(?:smooth|rough|shiny|striped|wooden|metal|metallic|"
        rf"plastic|furry|fluffy|soft|hard|glossy|plaid|leather|spotted|brick|stone){_END}"
    ),
    "lighting": re.compile(
        r"\b(?:lighting|lit|illuminat\w*|brightness|shadows?|sunlight|sunny|cloudy|overcast|rainy|"
        r"raining|snowing|weather|time of (?:the )?(?:day|year)|day ?time|night ?time|sunset|"
        r"sunrise|dusk|dawn|seasons?|"
        rf"(?:at|during the) (?:night|day))\b|{_IS}.*\b(?:bright|dark|dim|day or night|foggy){_END}"
    ),
    "emotion": re.compile(
        r"\b(?:emotions?|emotional|feel(?:ing|ings|s)?|moods?|happy|sad|angry|excited|scared|"
        r"bored|tired|relaxed|calm|worried|surprised|smiling|frowning|facial|"
        r"expressions?|atmosphere|enjoy(?:ing|s)?|vibe)\b"
    ),
    "existence": re.compile(
        r"^(?:is|are|was|were) there\b|^(?:(?:can|do|could) you )?(?:see|find|spot|notice)\b|"
        rf"^do(?:es)? (?:the|this) {_PICTURE} (?:show|contain|have|include|feature)|"
        rf"{_IS}.*\b(?:visible|present|shown|seen|wearing|in (?:the|this) {_PICTURE})\b|"
        r"^(?:is|are|was|were) (?!there\b).*ing\b.*\bor (?!\w+ing\b)|"
        rf"^(?:what|which)(?: \w+)? (?:is|are)\b.*\b{_HELD}\b|"
        r"^(?:what|which) (?:other |else |main )?(?:objects?|items?|things|animals?)\b|"
        r"^what else\b|"
        r"^(?:name|list|identify)\b"
    ),
}
_ASKS_FOR_A_THING = re.compile(r"^(?:(?:in|on|at|of|from|to) )?(?:what|which|who|whose)\b")
_WORDS = re.compile(r"[a-z]+")


def properties_of(question: str) -> tuple[Property, ...]:
    """Return what a question asks about, in the order of `PROPERTIES`; never nothing."""
    text = bare_question(question)
    words = set(_WORDS.findall(text))
    if words & _DESCRIBING and words <= _GENERAL:
        return ("description",)
    if _BACKGROUND.search(text):
        return ("background",)
    found: set[Property] = {name for name, rule in _RULES.items() if rule.search(text)}
    if not found:
        found = {"existence" if _ASKS_FOR_A_THING.match(text) else "other"}
    return tuple(name for name in PROPERTIES if name in found)


def bare_question(question: str) -> str:
    """Return the question's own words in lower case: no picture, no politeness, no answer form."""
    text = " ".join(question.replace(PICTURE_MARK, " ").lower().split())
    return _POLITE.sub("", _ANSWER_FORM.sub("", text).strip())
