"""The prompt as a model gets it, rendered by the template in its file. Asks nothing."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from factory.api.models import ServedModel
from factory.chat.template import render_template
from factory.errors import BaseModelError
from factory.rows import Message


def rendered(model: ServedModel | None, sent: Sequence[Mapping[str, Any]]) -> str:
    """Return the text that is turned into tokens for the messages that were sent to a model.

    Where that is not known here, which for a model that is gone is None, return why and the messages.
    """
    if not sent:
        return "Nothing was sent for this answer, or it was not kept what."
    if model is None:
        return _unrendered("The model that answered is not served any more", sent)
    if model.engine is None:
        return _unrendered("An endpoint renders its prompt itself", sent)
    if model.vocabulary is None or not model.vocabulary.template:
        return _unrendered("The file carries no chat template", sent)
    messages = [Message(role=message["role"], content=message["content"]) for message in sent]
    try:
        return render_template(
            model.vocabulary.template, messages, model.vocabulary.bos, model.vocabulary.eos
        )
    except BaseModelError as error:
        return str(error)


def _unrendered(why: str, sent: Sequence[Mapping[str, Any]]) -> str:
    messages = json.dumps(list(sent), ensure_ascii=False, indent=1)
    return f"{why}; these are the messages it got:\n{messages}"
