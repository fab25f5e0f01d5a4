"""One measurement of TRL's SFTTrainer with peft, in its own environment: `python bench/peer_trl.py JOB`.

JOB is what `bench/train.py` writes, as JSON; the result is one line of JSON. Rows come as token ids and labels, so
that the trainer sees the very ids that the project trains on, in the same order.
"""

import json
import sys
import tempfile
import time
from typing import Any

import torch
from datasets import Dataset
from measure import batches, memory, read_rows, say, summarize, versions
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainerCallback
from trl import SFTConfig, SFTTrainer

PACKS = 4  # sequences a step; what hides one row from another grows with the square of a sequence's length


class Timed(SFTTrainer):
    """Keeps the loss of each step; `model_loss` takes the model's own loss instead of the trainer's fused one."""

    model_loss = False

    def compute_loss(self, model: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
        """Return the loss, by the way that was chosen."""
        if self.model_loss:
            inputs["use_cache"] = False
            return Trainer.compute_loss(self, model, inputs, *arguments, **options)
        return super().compute_loss(model, inputs, *arguments, **options)

    def training_step(self, *arguments: Any, **options: Any) -> torch.Tensor:
        """Train on one batch and keep its share of the step's loss."""
        loss = super().training_step(*arguments, **options)
        self.parts.append(float(loss))
        return loss


class Clock(TrainerCallback):
    """Notes when each step ended and what its loss was."""

    def __init__(self) -> None:
        """Start with nothing noted."""
        self.parts: list[float] = []
        self.ends: list[float] = []
        self.losses: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note one step."""
        self.losses.append(sum(self.parts))
        self.parts.clear()
        self.ends.append(time.perf_counter())


def settings(job: dict[str, Any], folder: str) -> SFTConfig:
    """Return the trainer's settings: those of the project, and the fastest known ones for a CPU."""
    batch = max(1, job["batch_size"] // PACKS) if job["mode"] == "packing" else job["batch_size"]
    return SFTConfig(
        output_dir=folder,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=job["batch_size"] // batch,
        num_train_epochs=job["epochs"],
        learning_rate=job["learning_rate"],
        lr_scheduler_type="constant",
        warmup_steps=0,
        weight_decay=0.0,
        max_grad_norm=job["max_gradient_norm"],
        optim="adamw_torch_fused",
        train_sampling_strategy="sequential",
        seed=job["seed"],
        bf16=True,
        use_cpu=True,
        gradient_checkpointing=False,
        padding_free=job["mode"] in {"padding_free", "packing"},
        max_length=None,
        dataloader_pin_memory=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def open_trainer(job: dict[str, Any], rows: list[dict[str, list[int]]], folder: str) -> tuple[Timed, Clock]:
    """Return a trainer of the base with the adapter that both sides start from."""
    dtype = getattr(torch, job["weights"])
    model = AutoModelForCausalLM.from_pretrained(job["base"], dtype=dtype, attn_implementation="sdpa")
    clock = Clock()
    trainer = Timed(
        model=PeftModel.from_pretrained(model, job["adapter"], is_trainable=True),
        args=settings(job, folder),
        train_dataset=Dataset.from_list([{"input_ids": row["ids"], "labels": row["labels"]} for row in rows]),
        processing_class=AutoTokenizer.from_pretrained(job["base"]),
        callbacks=[clock],
    )
    trainer.model_loss, trainer.parts = job["mode"] == "model_loss", clock.parts
    return trainer, clock


def main(job: dict[str, Any]) -> dict[str, object]:
    """Return one measurement."""
    rows = read_rows(job["rows"], job["limit"])
    with tempfile.TemporaryDirectory() as folder:
        trainer, clock = open_trainer(job, rows, folder)
        trainer.train()
    steps = list(batches(rows, job["batch_size"], job["epochs"]))
    return (
        summarize(steps, clock.ends, clock.losses)
        | memory()
        | {"threads": torch.get_num_threads()}
        | {"versions": versions("torch", "transformers", "peft", "trl", "accelerate", "datasets")}
    )


if __name__ == "__main__":
    say(main(json.loads(sys.argv[1])))
