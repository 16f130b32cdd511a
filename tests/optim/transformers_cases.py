"""A small run of transformers' Trainer, with a checkpoint in its middle."""

import torch
from client_cases import MAX_NORM, noted_steps

STEPS, SAVED = 7, 4  # 3 updates an epoch: the checkpoint and the end are both in the middle of one


def language_model():
    """A GPT-2 of two layers with dropout, of the same weights every time."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    size = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 8, "vocab_size": 32}
    return GPT2LMHeadModel(GPT2Config(**size, bos_token_id=0, eos_token_id=0, pad_token_id=0))


def sentences():
    """12 sequences of 8 tokens."""
    tokens = torch.randint(0, 32, (12, 8), generator=torch.Generator().manual_seed(5))
    return [{"input_ids": row, "labels": row} for row in tokens]


def settings(folder, **changes):
    """What every run does: micro-batches of 2, two of them per update, clipping, one checkpoint, no reports."""
    from transformers import TrainingArguments

    chosen = {"max_steps": STEPS, "save_steps": SAVED, "max_grad_norm": MAX_NORM, "weight_decay": 0.1, **changes}
    quiet = {"disable_tqdm": True, "report_to": [], "logging_strategy": "no", "use_cpu": True, "seed": 3}
    batches = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "warmup_steps": 2}
    return TrainingArguments(str(folder), **chosen, **quiet, **batches)


def trainer(model, chosen, **optimizer):
    """The trainer of this model."""
    from transformers import Trainer

    return Trainer(model, chosen, train_dataset=sentences(), **optimizer)


def run_to_the_end(running, resume):
    """Train from the start, or only what is missing after the checkpoint."""
    with noted_steps() as steps:
        running.train(resume_from_checkpoint=resume)
    assert running.state.global_step == STEPS
    assert len(steps) == STEPS - (SAVED if resume else 0)


def checkpoint(folder):
    """Where the run in this folder kept what it was after SAVED updates."""
    return str(folder / f"checkpoint-{SAVED}")
