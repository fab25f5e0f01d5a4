import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.flops import Shape, step_flops
from factory.lora import adapter, attach
from factory.lora.batches import EncodedRow
from factory.lora.fused import FusedModel
from factory.lora.layout import lay_out
from factory.lora.step import answer_loss
from tests.tiny import ALL_LINEAR, make_tiny_base

RANK, LENGTH, PREFIX = 4, 24, 8


def test_the_count_is_what_the_engine_multiplies_but_for_hidden_places_and_the_zeros_beside_each_b(tmp_path):
    model = attach.load_model(make_tiny_base(tmp_path / "base"), torch.float32, "cpu")
    model = adapter.new_adapter(model, adapter.AdapterSettings(RANK, 8.0, ALL_LINEAR))
    shape = Shape.of(model.config, RANK)
    fused = FusedModel(model, 0, torch.float32)
    rows = [
        EncodedRow((1,) * PREFIX + (2 + n,) * (LENGTH - PREFIX), (-100,) * 20 + (5,) * 4, "")
        for n in range(4)
    ]
    layout = lay_out(rows)
    with FlopCounterMode(display=False) as counter:
        answer_loss(fused.upper(fused.lower(layout), layout), fused.head, layout.targets).backward()
    tokens = PREFIX + 4 * (LENGTH - PREFIX)
    queries, keys = shape.num_heads * shape.head_size, shape.num_key_heads * shape.head_size
    zeros = 2 * (queries + 2 * keys) * RANK + 2 * shape.inner * RANK  # each B beside its group's others
    width = LENGTH - PREFIX  # the shared row is padded to the longest, each sees the shared places as well
    places = 5 * width * (PREFIX + width) - (
        4 * (PREFIX * width + width * (width + 1) // 2) + PREFIX * (PREFIX + 1) // 2
    )
    more = shape.num_layers * (tokens * 4 * zeros + 12 * queries * places)
    counted = step_flops(shape, [LENGTH] * 4, PREFIX, 4 * 4)
    assert layout.prefix == PREFIX
    assert counter.get_total_flops() == counted + more
