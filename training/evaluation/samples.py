"""What a model writes after a few openings of ours, for a person to judge.

The openings have the forms the reference model was trained on: a story, instructions, dialogues and
prose. None of them stands in any text. Knows what is written, not where it goes.
"""

from dataclasses import dataclass

from training.evaluation.reading import Reader
from training.evaluation.writing import GREEDY, SAMPLED

OPENINGS = (
    "Once upon a time there was a miller who had a lazy donkey and a clever daughter.",
    "### Instruction:\nName three things you would take on a walk in the mountains.\n\n"
    "### Response:\n",
    "### Instruction:\nExplain to a child why the sky is dark at night.\n\n### Response:\n",
    "User: Hello, I am looking for a table for two this evening.\nAssistant:",
    "User: Can you find me a bus to the airport on Friday morning?\nAssistant:",
    "The river rises in the hills to the north of the town, and",
)
LONGEST = 80


@dataclass(frozen=True, slots=True)
class Sample:
    """An opening, what follows it greedily, and what follows it drawn."""

    opening: str
    greedy: str
    drawn: str


def write_samples(reader: Reader) -> list[Sample]:
    """A sample for each opening that fits into half of what the model can read, of at most
    `LONGEST` tokens each way: a function of the weights alone.
    """
    room = reader.max_positions // 2
    openings = [opening for opening in OPENINGS if len(reader.ids(opening)) <= room]
    asked = [reader.ids(opening) for opening in openings]
    made = [
        [
            str(reader.tokenizer.decode(ids, skip_special_tokens=True))
            for ids in reader.continuations(asked, min(LONGEST, room), parameters)
        ]
        for parameters in (GREEDY, SAMPLED)
    ]
    return [Sample(*parts) for parts in zip(openings, *made, strict=True)]
