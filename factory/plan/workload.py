"""How much there is to do: counted in the dataset where it is made, else guessed from the sources. Runs nothing."""

from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from factory import store
from factory.pipeline import Run
from factory.rows import Example, read_rows

SAMPLED_ROWS = 500
TURN_TOKENS = 5  # what ChatML puts around a turn: <|im_start|>, role, newline, <|im_end|>, newline
GUESSED_TOKENS = 32.0  # mean row of the sample company
LONG_ROWS = 32  # of the most characters, one of which has the most tokens
# Source bytes a fact, in the sample company: plain text, and what carries more than its text.
PLAIN_SUFFIXES = frozenset({".csv", ".eml", ".json", ".jsonl", ".md", ".py", ".rst", ".tsv", ".txt"})
BYTES_A_FACT, PACKED_BYTES_A_FACT = 55, 800
GENERAL_QUESTIONS = 200  # lines of factory/tasks/general.jsonl


@dataclass(frozen=True)
class Rows:
    """A dataset's rows: how many an epoch takes (one a fact or passage), and the tokens of all, the mean, the longest.

    `longest` leaves out rows that training leaves out.
    """

    an_epoch: int
    total: float
    mean: float
    longest: int


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
    questions = recipe.curate.test_questions + GENERAL_QUESTIONS * recipe.evaluate.general
    if own := recipe.evaluate.questions:
        questions += own.read_text(encoding="utf-8").count("\n") if own.is_file() else 0
    rows, limit = run.out / "dataset" / "train.jsonl", recipe.train.max_tokens
    if rows.is_file():
        return Workload(len(found), read_dataset(rows, run.base.folder, limit), questions)
    facts = sum(path.stat().st_size / _bytes_a_fact(path) for path in found[:10_000])
    an_epoch = max(50, min(int(facts), 20_000))
    wordings = min(recipe.train.epochs, recipe.train.wordings)
    guessed = Rows(an_epoch, an_epoch * wordings * GUESSED_TOKENS, GUESSED_TOKENS, limit)
    return Workload(len(found), guessed, questions)


def _bytes_a_fact(path: Path) -> int:
    return BYTES_A_FACT if path.suffix.lower() in PLAIN_SUFFIXES else PACKED_BYTES_A_FACT


def read_dataset(rows: Path, base: Path, max_tokens: int) -> Rows:
    """Return what a file of training rows holds; the mean is of an even sample."""
    examples = list(read_rows(rows, Example))
    if not examples:
        return Rows(0, 0.0, 0.0, max_tokens)
    groups = {row.group for row in examples}
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    sampled = _count(tokenizer, examples[:: -(-len(examples) // SAMPLED_ROWS)])
    by_length = sorted(examples, key=lambda row: -sum(len(message.content) for message in row.messages))
    fitting = [count for count in _count(tokenizer, by_length[:LONG_ROWS]) if count <= max_tokens]
    mean = sum(sampled) / len(sampled)
    return Rows(len(groups), mean * len(examples), mean, max(fitting, default=max_tokens))


def _count(tokenizer: Tokenizer, rows: list[Example]) -> list[int]:
    """Return the tokens of each row."""
    return [
        sum(len(code.ids) + TURN_TOKENS for code in tokenizer.encode_batch(texts, add_special_tokens=False))
        for texts in ([message.content for message in row.messages] for row in rows)
    ]
