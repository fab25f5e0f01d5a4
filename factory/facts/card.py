"""The dataset card: what a dataset holds and what was done to it, as Markdown with YAML front matter."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from factory.rows import Fact


def dataset_card(counts: dict[str, Any], facts: Iterable[Fact], config: dict[str, Any]) -> str:
    """Return the card of a dataset from its counts, its facts and the configuration it was made with."""
    by_document = Counter(fact.evidence.document for fact in facts)
    hygiene = counts["hygiene"] or {"nothing found": 0}
    unsaid = [
        f"| of these below {kind} passages | {counts[key]} | reading; they say what no document says |"
        for key, kind in (("altered", "altered"), ("practice", "bundled"))
        if counts.get(key)
    ]
    lines = [
        "---",
        "language: en",
        "task_categories: [question-answering]",
        "pretty_name: Facts of a document folder",
        "---",
        "# Dataset card",
        "",
        f"{counts['train']} training conversations on {counts['facts'] - counts['facts_withheld']} facts; "
        f"{counts['facts_withheld']} further facts are withheld to measure abstention.",
        "",
        "| split | rows | what it shows |",
        "| --- | --- | --- |",
        f"| train | {counts['train']} | {counts['abstain']} of them teach to abstain |",
        *unsaid,
        f"| valid | {counts['valid']} | recall during training, unseen phrasing |",
        f"| calibration | {counts['calibration']} | how sure is sure enough |",
        f"| test, unseen phrasing | {counts['unseen_phrasing']} | recall |",
        f"| test, unseen fact | {counts['unseen_fact']} | abstention |",
        "",
        "Splits are by fact and by form of question: no held-out question stands in the training rows "
        f"({counts['leaks']} leaks found). {counts['near_duplicates']} near-duplicate rows were removed.",
        "",
        "## Personal data and secrets",
        "",
        *[f"- {name}: {number}" for name, number in sorted(hygiene.items())],
        "",
        "## Facts by document",
        "",
        "| document | facts |",
        "| --- | --- |",
        *[f"| {path} | {number} |" for path, number in sorted(by_document.items())],
        "",
        "## Configuration",
        "",
        *[f"- `{key}`: {value}" for key, value in sorted(config.items())],
        "",
    ]
    return "\n".join(lines)
