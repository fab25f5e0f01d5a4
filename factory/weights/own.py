"""The weights of a model as its file holds them. Knows names; no types and no files."""

from typing import Any

import torch
import transformers
from transformers.core_model_loading import revert_weight_conversion


def own_tensors(model: transformers.PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return each weight once and by the name it is published under.

    An output layer that is the embedding itself is left out, and experts, which transformers computes as one tensor a
    layer, have a weight each.
    """
    layer: Any = model.get_input_embeddings()
    embedding = layer.weight
    own = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not (name == "lm_head.weight" and tensor.data_ptr() == embedding.data_ptr())
    }
    return dict(revert_weight_conversion(model, own))
