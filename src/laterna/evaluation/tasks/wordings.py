"""The words in which assistants are examined, whoever taught them and in whatever words.

The lists are the examiner's own: no change to a teacher's wordings changes an examination.

Fields of the wordings: {a_thing} "a dog", {thing} "dog", {things} "dogs", {colour} "red",
{place} "at the top left", {relation} "to the left of", {other} "cup".
"""

from __future__ import annotations

EXISTENCE_QUESTIONS = (
    "Is there {a_thing} in the picture?",
    "Can you see {a_thing}?",
    "Does the picture show {a_thing}?",
    "Is {a_thing} visible here?",
)
COUNT_QUESTIONS = (
    "How many {things} are there?",
    "How many {things} can you see?",
    "What is the number of {things} in the picture?",
    "Count the {things}. How many are there?",
)
COLOUR_QUESTIONS = (
    "What colour is the {thing}?",
    "What is the colour of the {thing}?",
    "Which colour does the {thing} have?",
)
PLACE_QUESTIONS = (
    "Where is the {thing}?",
    "Where in the picture is the {thing}?",
    "In which part of the picture can the {thing} be found?",
)
KIND_AT_PLACE_QUESTIONS = (
    "What is {place}?",
    "What can be seen {place}?",
    "Which object is {place}?",
)
KIND_OF_COLOUR_QUESTIONS = (
    "What is the {colour} object?",
    "Which object is {colour}?",
    "What kind of thing is the {colour} one?",
)
RELATION_QUESTIONS = (
    "Is the {thing} {relation} the {other}?",
    "Does the {thing} stand {relation} the {other}?",
)
DESCRIPTION = "Describe everything in the picture in detail."
WHICH_OBJECT_QUESTIONS = (
    "Which of the two pictures shows {a_thing}?",
    "Which of the two pictures has {a_thing}?",
)
WHICH_COLOUR_QUESTIONS = (
    "Which of the two pictures has the {colour} {thing}?",
    "Which of the two pictures shows the {colour} {thing}?",
)
BOTH_QUESTIONS = (
    "Is there {a_thing} in both pictures?",
    "Do both pictures show {a_thing}?",
)
