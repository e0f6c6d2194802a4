"""A few rows of our own in the columns of the papers' public data sets, and how each is asked.

Columns of SuperGLUE, WinoGrande and DROP are as catalogues of `datasets` list them, those of SST-2 and SQuAD from
memory.
"""

from typing import Any

Asked = tuple[str, str, list[str], int | None]  # aligned prompt, bare prompt, answers, the right one

ROWS: dict[str, dict[str, Any]] = {
    "sst2": {"sentence": "a warm and clever little film", "label": 1, "idx": 0},
    "rte": {"premise": "Anna sold her boat.", "hypothesis": "Anna had a boat.", "label": 0, "idx": 0},
    "cb": {"premise": "Did he say it rained?", "hypothesis": "it rained", "label": 2, "idx": 0},
    "boolq": {"question": "is ice lighter than water", "passage": "Ice floats.", "idx": 0, "label": 1},
    "wsc": {
        "text": "Tom thanked Ben because he had helped.", "span1_index": 2, "span2_index": 4, "span1_text": "Ben",
        "span2_text": "he", "idx": 0, "label": 1,
    },
    "wic": {
        "word": "bank", "sentence1": "We sat on the bank.", "sentence2": "The bank was shut.", "start1": 14, "end1": 18,
        "start2": 4, "end2": 8, "idx": 0, "label": 0,
    },
    "copa": {
        "premise": "The glass broke.", "choice1": "I dropped it.", "choice2": "It was full.", "question": "cause",
        "label": 0, "idx": 0,
    },
    "multirc": {
        "paragraph": "The ship left at noon.", "question": "When did it leave?", "answer": "6", "label": 0,
        "idx": {"paragraph": 0, "question": 0, "answer": 0},
    },
    "record": {
        "passage": "Mary Poe met Al in Rome.\n@highlight\nPoe is a singer", "query": "Then @placeholder sang.",
        "entities": ["Poe", "Mary Poe", "Al", "Rome", "Al"], "answers": ["Mary Poe", "Poe"],
        "entity_spans": {"text": [], "start": [], "end": []}, "idx": {"passage": 0, "query": 0},
    },
    "winogrande": {
        "sentence": "The cup did not fit the box because the _ was too big.", "option1": "cup", "option2": "box",
        "answer": "1",
    },
    "squad": {
        "id": "0", "title": "The_Moon", "context": "The Moon is grey.", "question": "What colour is it? ",
        "answers": {"text": ["grey", "grey", "a grey"], "answer_start": [12, 12, 12]},
    },
    "drop": {
        "section_id": "0", "query_id": "0", "passage": "They won 3 games and lost 2.", "question": "How many games?",
        "answers_spans": {"spans": ["5"], "types": ["number"]},
    },
}  # fmt: skip

ASKED: dict[str, Asked] = {
    "sst2": (
        "a warm and clever little film\nAll in all, the film was", "a warm and clever little film",
        ["terrible", "great"], 1,
    ),
    "rte": (
        'Anna sold her boat.\nGoing by this text, is it true that "Anna had a boat."? Yes or no:',
        "Anna sold her boat. Anna had a boat.", ["Yes", "No"], 0,
    ),
    "cb": (
        'Did he say it rained?\nDoes the author hold that "it rained"? Yes, no or maybe:',
        "Did he say it rained? it rained", ["Yes", "No", "Maybe"], 2,
    ),
    "boolq": (
        "Ice floats.\nThe question is: is ice lighter than water?\nThe passage says yes or no:",
        "Ice floats. is ice lighter than water", ["No", "Yes"], 1,
    ),
    "wsc": (
        'Tom thanked Ben because he had helped.\nHere "he" means "Ben". Yes or no:',
        "Tom thanked Ben because he had helped. he Ben", ["No", "Yes"], 1,
    ),
    "wic": (
        'We sat on the bank.\nThe bank was shut.\nIn both lines "bank" has one and the same sense. Yes or no:',
        "We sat on the bank. The bank was shut. bank", ["No", "Yes"], 0,
    ),
    "copa": ("The glass broke because", "The glass broke.", ["I dropped it.", "it was full."], 0),
    "multirc": (
        "The ship left at noon.\nQuestion: When did it leave?\nA reader answers: 6\nIs the reader right? Yes or no:",
        "The ship left at noon. When did it leave? 6", ["No", "Yes"], 0,
    ),
    "record": (
        "Mary Poe met Al in Rome.\nPoe is a singer\n\nThen ____ sang.\nThe name that belongs in ____ is",
        "Mary Poe met Al in Rome.\nPoe is a singer Then ____ sang.", ["Mary Poe", "Al", "Rome"], 0,
    ),
    "winogrande": (
        "The cup did not fit the box because the", "The cup did not fit the box because the ____ was too big.",
        ["cup was too big.", "box was too big."], 0,
    ),
    "squad": (
        'The Moon\nThe Moon is grey.\nWhat the passage says about "What colour is it?" in a few words:',
        "The Moon is grey. What colour is it?", ["grey", "a grey"], None,
    ),
    "drop": (
        "They won 3 games and lost 2.\nFrom this passage, How many games?\nIn a word or a number:",
        "They won 3 games and lost 2. How many games?", ["5"], None,
    ),
}  # fmt: skip
