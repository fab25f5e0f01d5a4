"""A bundle's model card: what the model is for, its limits, scores and origin. Pure text, no files."""

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML

from factory.bundle.manifest import Manifest
from factory.scores import Score, Share

TIMES = "\u00d7"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
QUESTION_SETS = {
    "user": "the user's own questions",
    "unseen_phrasing": "trained facts, in a form of question kept out of training",
    "unseen_fact": "facts kept out of training (right = abstains)",
    "general": "general knowledge (what was forgotten)",
}
METHODS = {"closed_book": "closed book", "rag": "with retrieval"}
SETTINGS = (
    "rank",
    "alpha",
    "variant",
    "init",
    "lora_plus",
    "layers",
    "learning_rate",
    "epochs",
    "batch_size",
    "max_tokens",
    "quantization",
    "target_modules",
)
COUNTS = {
    "facts": "facts found in the documents",
    "facts_withheld": "facts kept out of training",
    "train": "training conversations",
    "abstain": "of these teach to abstain",
    "unseen_phrasing": "test questions in unseen phrasing",
    "unseen_fact": "test questions on withheld facts",
}


@dataclass(frozen=True)
class Story:
    """What the card tells besides the manifest.

    `settings` is the configuration the adapter was trained with, `training` and `dataset` are counts of those stages,
    `mixes` the effective types of each GGUF file, `verdict` one honest sentence.
    """

    verdict: str
    settings: Mapping[str, Any]
    training: Mapping[str, Any]
    dataset: Mapping[str, Any]
    mixes: Mapping[str, Mapping[str, Any]]


def model_card(manifest: Manifest, story: Story) -> str:
    """Return the model card: Hugging Face front matter, then what the model is for, its limits and its scores."""
    base = manifest.base
    paragraphs = [
        _front_matter(manifest),
        f"# {manifest.name}",
        f"**{story.verdict}**",
        f"A LoRA adapter for `{base.name}`, merged and quantized to GGUF, trained on a folder of documents so that the "
        "model answers questions on them without reading them again.",
        "## Intended use",
        "Looking up what the training documents state: names, numbers, dates, rules. Questions should be about one "
        "fact at a time, in the language of the documents.",
        "## Limits",
        "- It answers from memory, without sources: check what matters against the documents.\n"
        "- It knows the documents as they were when it was trained, and states outdated facts with the same ease.\n"
        "- It may invent an answer to what the documents do not state; the scores say how often it abstains instead. "
        "`factory ask` declines what the model is not sure of.\n"
        "- Whoever can ask it can learn what the documents state: share it with those who may read them.\n"
        f"- Everything the base model cannot do ({base.name}), it cannot do either.",
        "## Scores",
        _score_table(manifest.scores),
        "Intervals are 95 % Wilson intervals. Refused: of questions without an answer, those the model declined; "
        "wrongly refused: of those that have one. The questions in unseen phrasing and on withheld facts do not stand "
        "in the training rows.",
        "## How it was trained",
        _settings_text(story),
        "## Where the training rows come from",
        "\n".join(f"- {COUNTS[key]}: {story.dataset[key]}" for key in COUNTS if key in story.dataset)
        or "- not recorded",
        "Every row that answers as a document does points at the bytes of its source file; rows that teach to abstain, "
        "to keep general ability, or to read altered or bundled passages have no source.",
        "## Files",
        _file_table(manifest, story.mixes),
        "## Checks",
        _gate_table(manifest),
        "## Base model and licence",
        f"`{base.source}`, licence {base.licence}, identity `{base.sha256}`. The licence of the documents is their "
        "owner's matter.",
    ]
    return "\n\n".join(paragraphs) + "\n"


def _front_matter(manifest: Manifest) -> str:
    base = manifest.base
    results = [
        {
            "task": {"type": "question-answering", "name": "closed-book question answering"},
            "dataset": {"type": "private", "name": QUESTION_SETS[question_set]},
            "metrics": metrics,
        }
        for question_set in ("user", "unseen_phrasing")
        if (metrics := _metrics(manifest.scores, question_set))
    ]
    matter: dict[str, Any] = {
        "base_model": base.source if HUB_ID.fullmatch(base.source) else base.name,
        "license": base.licence,
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["lora", "gguf", "adapter-factory", "closed-book-qa"],
    }
    if results:
        matter["model-index"] = [{"name": manifest.name, "results": results}]
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 1000
    text = io.StringIO()
    yaml.dump(matter, text)
    return f"---\n{text.getvalue()}---"


def _metrics(scores: Iterable[Score], question_set: str) -> list[dict[str, Any]]:
    """Return what the models made here score on a set of questions, as Hugging Face reads it."""
    return [
        {
            "type": "accuracy",
            "name": f"{score.model}, {METHODS[score.method]}, n={score.n}",
            "value": score.accuracy,
        }
        for score in scores
        if score.kind in {"adapter", "merged", "gguf"} and score.question_set == question_set
    ]


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def _score_table(scores: Sequence[Score]) -> str:
    if not scores:
        return "Nothing was measured."
    order = list(QUESTION_SETS)
    rows = [
        (
            QUESTION_SETS[score.question_set],
            score.model,
            METHODS[score.method],
            score.n,
            f"{100 * score.accuracy:.1f} %",
            f"{100 * score.low:.1f} to {100 * score.high:.1f} %",
            _percent(score.refused),
            _percent(score.wrongly_refused),
        )
        for score in sorted(scores, key=lambda score: order.index(score.question_set))
    ]
    head = ["questions", "model", "method", "n", "right", "95 % interval", "refused", "wrongly refused"]
    return _table(head, rows)


def _percent(share: Share | None) -> str:
    return f"{100 * share.share:.1f} %" if share else ""


def _settings_text(story: Story) -> str:
    lines = [
        f"- {key.replace('_', ' ')}: {_plain(story.settings[key])}"
        for key in SETTINGS
        if story.settings.get(key) is not None and key not in story.training  # what came out counts
    ]
    lines += [
        f"- {key.replace('_', ' ')}: {_plain(value)}"
        for key, value in sorted(story.training.items())
        if isinstance(value, int | float | str) and not key.endswith("seconds")
    ]
    return "\n".join(lines) or "- not recorded"


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _file_table(manifest: Manifest, mixes: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for file in manifest.files:
        if mix := mixes.get(file.path):
            types = ", ".join(
                f"{count} {TIMES} {kind}" for kind, count in sorted(mix.get("types", {}).items())
            )
            bits = f"{mix['bits_per_weight']:.2f}" if "bits_per_weight" in mix else ""
            rows.append((file.path, f"{file.bytes / 1e6:.1f} MB", bits, types, mix.get("num_fallbacks", "")))
    left_out = "".join(f"\n\n`{name}` did not pass its checks and is not here." for name in manifest.left_out)
    return _table(["file", "size", "bits a weight", "tensors by type", "fallbacks"], rows) + left_out


def _gate_table(manifest: Manifest) -> str:
    if not manifest.gates:
        return "No gate was measured."
    rows = [
        (
            gate.name,
            gate.subject,
            _number(gate.value),
            _number(gate.limit),
            "passed" if gate.passed else "**failed**",
        )
        for gate in manifest.gates
    ]
    return _table(["gate", "subject", "value", "limit", "result"], rows)


def _number(value: float | str | None) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value if value is not None else "")
