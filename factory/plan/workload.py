"""How much there is to do: counted in the dataset where it is made, else guessed from the sources. Runs nothing."""

import operator
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from factory import store
from factory.chat.context import split_turn
from factory.lora.config import TrainConfig, choose_epochs
from factory.lora.memory import Below
from factory.pipeline import Run
from factory.recipe import Recipe
from factory.rows import Example, read_rows

SAMPLED_ROWS = 500
TURN_TOKENS = 5  # what ChatML puts around a turn: <|im_start|>, role, newline, <|im_end|>, newline
GUESSED_TOKENS = 32.0  # mean row of the sample company
LONG_ROWS = 32  # of the most characters, one of which has the most tokens
# Source bytes a fact, in the sample company and a public handbook (144 in its Markdown files): rows of values, plain
# text, and what carries more than its text.
VALUE_SUFFIXES = frozenset({".csv", ".json", ".jsonl", ".tsv"})
PLAIN_SUFFIXES = frozenset({".eml", ".md", ".py", ".rst", ".txt"})
BYTES_A_VALUE, BYTES_A_FACT, PACKED_BYTES_A_FACT = 30, 120, 800
PRACTICE_QUESTIONS, PRACTICE_PASSAGES, PRACTICE_TOKENS = 8251, 620, 132  # tokens of a passage, on average
TOKENS_A_FACT = 14  # of the text that it stands in: plain text has about four bytes a token


@dataclass(frozen=True)
class Rows:
    """A dataset's rows: how many an epoch takes, and the tokens of all, of an epoch's mean row and of the longest.

    `longest` leaves out rows that training leaves out. `repeated` are the tokens of an epoch's rows that stand above
    other questions as well: the fast engine computes them once. `facts` is how many facts the rows ask for. `below`
    is told of a dataset with passages.
    """

    an_epoch: int
    total: float
    mean: float
    longest: int
    repeated: float = 0.0
    facts: int = 0
    below: Below | None = None

    def epochs(self, train: TrainConfig) -> int:
        """Return how many epochs there will be."""
        return choose_epochs(train, self.an_epoch * self.mean - self.repeated)


@dataclass(frozen=True)
class Workload:
    """Source files, training rows, and questions to ask."""

    files: int
    rows: Rows
    questions: int


def find_workload(run: Run) -> Workload:
    """Return how much there is to do: from the dataset, else guessed from the sources."""
    recipe = run.recipe
    found = store.walk_files(recipe.ingest.source)
    questions = recipe.curate.test_questions + recipe.evaluate.general_questions
    if own := recipe.evaluate.questions:
        questions += own.read_text(encoding="utf-8").count("\n") if own.is_file() else 0
    rows, limit = run.out / "dataset" / "train.jsonl", recipe.train.max_tokens
    if rows.is_file():
        return Workload(len(found), read_dataset(rows, run.base.folder, limit), questions)
    facts = sum(path.stat().st_size / _bytes_a_fact(path) for path in found[:10_000])
    return Workload(len(found), guess_rows(recipe, max(50, min(int(facts), 20_000))), questions)


def guess_rows(recipe: Recipe, facts: int) -> Rows:
    """Return the rows that so many facts become: one each, and below the share of passages that an epoch shows one."""
    share, tokens = recipe.curate.open_book, recipe.curate.open_book_tokens
    below = round(share * facts)
    an_epoch, of_an_epoch = facts + below, facts * GUESSED_TOKENS + below * tokens
    contexts = min(below, facts * TOKENS_A_FACT / tokens)
    repeated = (below - contexts) * (tokens - GUESSED_TOKENS)
    if share:
        practised = min(recipe.curate.open_book_practice * facts, PRACTICE_QUESTIONS)
        an_epoch += round(practised)
        of_an_epoch += practised * (GUESSED_TOKENS + PRACTICE_TOKENS)
        repeated += practised * PRACTICE_TOKENS * (1 - PRACTICE_PASSAGES / PRACTICE_QUESTIONS)
    wordings = min(choose_epochs(recipe.train, of_an_epoch - repeated), recipe.train.wordings)
    mean = of_an_epoch / an_epoch
    return Rows(an_epoch, of_an_epoch * wordings, mean, recipe.train.max_tokens, repeated, facts)


def _bytes_a_fact(path: Path) -> int:
    kind = path.suffix.lower()
    if kind in VALUE_SUFFIXES:
        return BYTES_A_VALUE
    return BYTES_A_FACT if kind in PLAIN_SUFFIXES else PACKED_BYTES_A_FACT


def read_dataset(rows: Path, base: Path, max_tokens: int) -> Rows:
    """Return what a file of training rows holds; the mean is an epoch's, of an even sample."""
    examples = list(read_rows(rows, Example))
    if not examples:
        return Rows(0, 0.0, 0.0, max_tokens)
    wordings = Counter(row.group for row in examples)
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    sample = examples[:: -(-len(examples) // SAMPLED_ROWS)]
    sampled = _count(tokenizer, sample)
    turns = [1 / row.every / wordings[row.group] for row in sample]
    longest = _longest(tokenizer, examples, max_tokens)
    total = sum(sampled) / len(sampled) * len(examples)
    mean = sum(map(operator.mul, turns, sampled)) / sum(turns)
    an_epoch = round(sum(1 / row.every / wordings[row.group] for row in examples))
    facts = {fact for row in examples for fact in row.facts}
    below = _below(tokenizer, examples, max_tokens)
    return Rows(an_epoch, total, mean, longest, _repeated(tokenizer, examples), len(facts), below)


def _longest(tokenizer: Tokenizer, rows: list[Example], max_tokens: int) -> int:
    """Return the tokens of the longest row that training does not leave out."""
    by_length = sorted(rows, key=lambda row: -sum(len(message.content) for message in row.messages))
    fitting = [count for count in _count(tokenizer, by_length[:LONG_ROWS]) if count <= max_tokens]
    return max(fitting, default=max_tokens)


def _below(tokenizer: Tokenizer, rows: list[Example], max_tokens: int) -> Below | None:
    """Return the most tokens above questions, the most of a question below them and its answer, and of a row alone."""
    alone: list[Example] = []
    above, own = set(), set()
    for row in rows:
        *before, asked, answer = row.messages
        if context := split_turn(asked.content)[0]:
            above.add(" ".join([*(message.content for message in before), context]))
            own.add(f"{asked.content.removeprefix(context)} {answer.content}")
        else:
            alone.append(row)
    if not above:
        return None
    shared, most = (
        max(len(code.ids) for code in tokenizer.encode_batch(texts, add_special_tokens=False))
        for texts in (sorted(found, key=len)[-LONG_ROWS:] for found in (above, own))
    )
    return Below(
        min(shared + 2 * TURN_TOKENS, max_tokens),
        most + 2 * TURN_TOKENS,
        _longest(tokenizer, alone, max_tokens) if alone else 0,
    )


def _repeated(tokenizer: Tokenizer, rows: list[Example]) -> float:
    """Return the tokens of an epoch's rows that stand above the question of another row of it as well."""
    groups = {(split_turn(row.messages[-2].content)[0], row.every, row.group) for row in rows}
    asked = Counter((context, every) for context, every, _ in groups if context)
    codes = tokenizer.encode_batch([context for context, _ in asked], add_special_tokens=False)
    return sum(
        (times - 1) * len(code.ids) / every
        for ((_, every), times), code in zip(asked.items(), codes, strict=True)
    )


def _count(tokenizer: Tokenizer, rows: list[Example]) -> list[int]:
    """Return the tokens of each row."""
    return [
        sum(len(code.ids) + TURN_TOKENS for code in tokenizer.encode_batch(texts, add_special_tokens=False))
        for texts in ([message.content for message in row.messages] for row in rows)
    ]
