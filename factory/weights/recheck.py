"""Whether a bundle's GGUF files still behave like the adapter beside them, without the run that made them.

The files answer general questions; on those very tokens their log-probabilities must be near the adapter's. Template
and token ids must be equal.
"""

from pathlib import Path

import numpy as np

from factory.chat.template import conversation, encode_prompt
from factory.weights import parity
from factory.weights.base import open_base
from factory.weights.conversations import load_tokenizer
from factory.weights.gguf_model import GgufModel
from factory.weights.merged import load_adapted

MAX_DIVERGENCE_8BIT, MAX_DIVERGENCE_4BIT = 0.02, 0.1  # nats: the limits of the gates
EIGHT_BIT = "Q8_0"
ANSWER_TOKENS = 16


def recheck(
    bundle: Path, base_name: str, base_sha256: str, files: list[str], questions: list[str], system: str
) -> list[str]:
    """Return one sentence for each file that does not behave like the bundle's adapter.

    Args:
        bundle: the bundle folder, with the PEFT adapter in `adapter/`.
        base_name: the base the adapter was trained on.
        base_sha256: its identity, which tells it from others of its name.
        files: the names of the GGUF model files.
        questions: what the files are asked.
        system: the system text of the bundle.
    """
    base = open_base(base_name, base_sha256).folder
    tokenizer = load_tokenizer(base)
    prompts = [encode_prompt(tokenizer, conversation(question, system=system)) for question in questions]
    reference = load_adapted(base, bundle / "adapter")
    problems = []
    for name in files:
        with GgufModel(bundle / name) as model:
            if model.chat_template != tokenizer.chat_template:
                problems.append(f"{name}: its chat template is not the base's")
            unequal = parity.unequal_tokens(tokenizer, model, parity.hard_texts(tokenizer, system))
            if unequal:
                problems.append(
                    f"{name}: {len(unequal)} texts have other token ids than the base's tokenizer gives"
                )
            divergence = _divergence(reference, model, prompts)
            limit = MAX_DIVERGENCE_8BIT if EIGHT_BIT in name else MAX_DIVERGENCE_4BIT
            if divergence > limit:
                problems.append(
                    f"{name}: it diverges from the adapter by {divergence:.3f} nats a token, limit {limit}"
                )
    return problems


def _divergence(reference: object, model: GgufModel, prompts: list[list[int]]) -> float:
    """Return the mean Kullback-Leibler divergence from the adapter in nats, over the file's own answers."""
    found = []
    for prompt in prompts:
        ids = [*prompt, *model.generate_greedy(prompt, ANSWER_TOKENS)]
        expected = parity.torch_logprobs(reference, ids, len(prompt) - 1)  # type: ignore[arg-type]
        found.append(parity.kl_divergences(expected, model.logprobs(ids, len(prompt) - 1)))
    return float(np.concatenate(found).mean())
