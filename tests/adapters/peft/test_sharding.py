"""Adapters train when FSDP shards the model (``fully_shard``): two processes, each with half of every weight
and half of the batch, are one process with all of both."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from peft import get_peft_model
from safetensors.torch import load_file
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy
from transformers import BlipTextConfig
from transformers.models.blip.modeling_blip_text import BlipTextLMHeadModel

from attngraph.adapters.peft import learned_scalars, optimizer_groups
from attngraph.adapters.scalar import Scalar
from attngraph.errors import UserError
from tests.adapters.peft.helpers import config
from tests.adapters.peft_models import FAMILIES
from tests.conftest import IMAGE_WIDTH, far_from_zero, text_config

STEPS = 3


def blip():
    decoder = far_from_zero(BlipTextLMHeadModel(BlipTextConfig(**text_config())), 0)
    return decoder, decoder.bert.encoder.layer, {"encoder_hidden_states": torch.randn(4, 5, IMAGE_WIDTH)}


def llama():
    decoder = FAMILIES["llama"].make()
    return decoder, decoder.model.layers, {}


MODELS = {"blip": blip, "llama": llama}


def train(name, folder, rank=0, processes=1):
    """Losses and learned numbers of three steps on four texts, two of them padded. Saves the adapters."""
    torch.manual_seed(0)
    base, layers, more = MODELS[name]()
    model = get_peft_model(base, config("pgnn", join="blend", learn_mu=True, steps=1)).train()
    ids, mask = torch.randint(3, 40, (4, 6)), torch.ones(4, 6, dtype=torch.long)
    mask[1::2, -2:] = 0
    batch = {"input_ids": ids, "attention_mask": mask, **more}
    batch = {key: x.chunk(processes)[rank] for key, x in batch.items()}
    if processes > 1:
        for part in [*layers, model]:
            fully_shard(part)
    optimizer = torch.optim.AdamW(optimizer_groups(model, 1e-2, 0.05))
    losses = []
    for _ in range(STEPS):
        logits, valid = model(**batch, use_cache=False).logits, batch["attention_mask"].bool()
        loss = cross_entropy(logits[valid], batch["input_ids"][valid])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    if rank == 0:
        model.save_pretrained(folder / name, state_dict=state)
    return torch.stack(losses), learned_scalars(model)


def work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    found = {name: train(name, folder, rank, 2) for name in MODELS}
    for losses, _ in found.values():
        dist.all_reduce(losses)
        losses /= 2
    if rank == 0:
        torch.save(found, folder / "found.pt")
    number = Scalar(0.3)
    fully_shard(nn.Sequential(number))
    with pytest.raises(UserError, match="apply fully_shard to whole layers"):
        number()
    with torch.no_grad():
        torch.testing.assert_close(number(), torch.tensor(0.3))
    dist.destroy_process_group()


@pytest.mark.slow  # two processes
def test_two_sharded_processes_train_as_one(tmp_path):
    """Catches numbers (p, μ, a share) and output projections that are read while they are sharded: half of a
    weight is another one, and a number's gradient would be that of one process."""
    mp.spawn(work, (tmp_path,), nprocs=2)
    found = torch.load(tmp_path / "found.pt")
    for name in MODELS:
        torch.testing.assert_close(found[name], train(name, tmp_path / "alone"), rtol=1e-5, atol=1e-5)
        saved = [folder / name / "adapter_model.safetensors" for folder in (tmp_path, tmp_path / "alone")]
        torch.testing.assert_close(*map(load_file, saved), rtol=1e-5, atol=1e-5)
