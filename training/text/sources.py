"""Where the reference model's text comes from and under which licence: what its card must name.

One row per source of the reference mixture, and of the held-out text. Plain facts, no code.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Source:
    """A body of text: what it is and the licence it is given under."""

    origin: str
    licence: str


TRAINING = {
    "sgd": Source("Schema-Guided Dialogue (DSTC8), training part", "CC BY-SA 4.0"),
    "fairyqa": Source("FairytaleQA, questions on passages, train and val", "Apache-2.0"),
    "fairytaleqa": Source("FairytaleQA, stories, train and val", "Apache-2.0"),
    "spc": Source("Synthetic-Persona-Chat", "CC BY 4.0"),
    "tm4": Source("Taskmaster, TM-4", "CC BY 4.0"),
    "self_dialogue": Source("Self-dialogue corpus", "BSD-3-Clause"),
    "topical": Source("Topical-Chat", "CDLA-Sharing-1.0"),
    "dolly": Source("Dolly, a subset of 3,000 less 200 held out", "CC BY-SA 3.0"),
    "gpteacher": Source("GPTeacher, role play", "MIT"),
    "alpaca_libre": Source("alpaca-libre", "CC0 / MIT"),
    "gsm8k_train": Source("Grade School Math, training part", "MIT"),
    "asp_pb": Source("African Storybook and Pratham Books, English", "CC BY 4.0"),
    "onestop": Source("OneStopEnglish", "CC BY-SA 4.0"),
    "gitenberg": Source("GITenberg: fairy tales, Oz, McGuffey readers", "public domain"),
    "chilit": Source("Children's books of the 19th century", "public domain"),
    "books_simple": Source("Classic books in plain prose", "public domain"),
}

HELD_OUT = {
    "dolly_heldout": Source("Dolly, the 200 held out", "CC BY-SA 3.0"),
    "fairytale_stories_test": Source("FairytaleQA, test stories", "Apache-2.0"),
    "fairytaleqa_test": Source("FairytaleQA, test questions", "Apache-2.0"),
    "self_instruct_user": Source("Self-Instruct, user-oriented instructions", "Apache-2.0"),
    "sgd_dev": Source("Schema-Guided Dialogue (DSTC8), dev part", "CC BY-SA 4.0"),
    "wikitext2_valid": Source("WikiText-2, validation", "CC BY-SA 3.0"),
}
