"""The prompt as a model gets it, rendered by the template in its file. Asks nothing."""

from collections.abc import Sequence

from factory.api.models import ServedModel
from factory.chat.template import render_template
from factory.errors import BaseModelError
from factory.rows import Message


def rendered(model: ServedModel, turns: Sequence[dict[str, str]], system: str) -> str:
    """Return the text that is turned into tokens for a conversation, or why it is not known here."""
    if model.engine is None:
        return "An endpoint renders its prompt itself; it gets the messages as they are."
    template = model.vocabulary.template if model.vocabulary else ""
    if not template:
        return "The file carries no chat template."
    text = system or model.system
    head = [Message(role="system", content=text)] if text else []
    messages = [Message.model_validate({"role": turn["role"], "content": turn["content"]}) for turn in turns]
    try:
        return render_template(template, [*head, *messages], model.vocabulary.bos if model.vocabulary else "")
    except BaseModelError as error:
        return str(error)
