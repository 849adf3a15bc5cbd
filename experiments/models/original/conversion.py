"""From an original checkpoint to a model: in memory, or a folder that ``--model`` takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from attngraph.errors import UserError
from experiments.files import write_json
from experiments.models.family import ModelFamily
from experiments.models.messages import quiet_transformers
from experiments.models.original.layout import Arrangement, Layout
from experiments.models.original.layouts import LAYOUTS
from experiments.models.original.reading import read_tensors
from experiments.models.original.rules import Account, account_of
from experiments.models.original.shapes import Shapes
from experiments.models.original.vocabulary import FILES, in_folder, read_vocabulary
from experiments.progress import note

ACCOUNT = "conversion.json"


@dataclass(frozen=True, eq=False)
class Original:
    """A checkpoint that has been read, and what is to be made of it.

    Args:
        file: the checkpoint.
        tensors: its weights by name.
        layout, arrangement: what it is, and what is made of it.
        config, tokenizer: of the model.
        account: what becomes of each tensor.
    """

    file: Path
    tensors: dict[str, Tensor]
    layout: Layout
    arrangement: Arrangement
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    account: Account

    def family(self, side: int | None = None) -> ModelFamily:
        """The model with what makes its inputs, in float32 and evaluation mode.

        Args:
            side: of the pictures that it is to see, in pixels; None as the checkpoint says.

        Raises:
            UserError: the tensors are not those of the model, a number is not finite, or it can't see
                pictures of that side.
        """
        for name in (*self.account.taken, *self.account.cut):
            tensor = self.tensors[name]
            if tensor.layout == torch.strided and not tensor.float().isfinite().all():
                raise UserError(f"{self.file}: {name} holds numbers that are not finite: download it again")
        self.account.check(
            self.file, f"{self.layout.name} checkpoint for the arrangement {self.arrangement.name}"
        )
        parts = {new: self.tensors[name] for name, new in self.account.taken.items()}
        for name, news in self.account.cut.items():
            parts |= zip(news, self.tensors[name].chunk(len(news)), strict=True)
        state = {new: part.detach().to(torch.float32, copy=True).contiguous() for new, part in parts.items()}
        with quiet_transformers():
            model = self.arrangement.model.from_pretrained(
                None, config=self.config, state_dict=state, dtype=torch.float32, attn_implementation="eager"
            )
        model.config.architectures = [self.arrangement.model.__name__]
        model.name_or_path = model.config.name_or_path = (
            ""  # else "None", which PEFT takes for a name on the hub
        )
        family = self.arrangement.family(model.eval(), self.tokenizer)
        if side is not None and side != family.image_side:
            family.resize(side)
        return family

    def described(self, side: int | None) -> dict[str, Any]:
        """The account of every tensor as JSON holds it.

        Args:
            side: of the pictures that the model sees.
        """
        account = self.account
        fate: dict[str, dict[str, Any]] = {name: {"used as": new} for name, new in account.taken.items()}
        fate |= {name: {"cut into": list(news)} for name, news in account.cut.items()}
        fate |= {name: {"equal to": of} for name, of in account.twins.items()}
        fate |= {name: {"left out": why} for name, why in account.left.items()}
        return {
            "file": self.file.name,
            "layout": self.layout.name,
            "arrangement": self.arrangement.name,
            "about": self.arrangement.about,
            "side": side,
            "tensors": {
                name: {"shape": list(tensor.shape), **fate[name]} for name, tensor in self.tensors.items()
            },
        }


def read_original(
    file: Path, vocabulary: Path, layout: str | None = None, arrangement: str | None = None
) -> Original:
    """Reads a checkpoint; whether its tensors are complete is told by its account.

    Args:
        file: as the authors published it.
        vocabulary: BERT's, see :func:`experiments.models.original.vocabulary.find_vocabulary`.
        layout: one of :data:`experiments.models.original.layouts.LAYOUTS`; None for the one that fits.
        arrangement: one of the layout's; None for what the tensors say.

    Raises:
        UserError: it is no checkpoint of the layout, or none that the arrangement can be made of.
    """
    tensors = read_tensors(file)
    known = _layout_of(tensors, file, layout)
    if arrangement is not None and arrangement not in known.arrangements:
        raise UserError(
            f"--as {arrangement}: no arrangement of {known.name}: give {' or '.join(known.arrangements)}"
        )
    chosen = known.choose(tensors, arrangement, file)
    tokenizer = known.tokenizer(read_vocabulary(vocabulary), tensors, file, vocabulary)
    config = known.config(tensors, tokenizer, file)
    with torch.device("meta"):
        model = chosen.model(config)
    shared = model._tied_weights_keys or {}
    wanted = {name: weight.shape for name, weight in model.state_dict().items() if name not in shared}
    account = account_of(tensors, chosen.rules, wanted)
    for line in _unusual_depths(tensors, known, file, (*account.taken, *account.cut)):
        note(line)
    return Original(file, tensors, known, chosen, config, tokenizer, account)


def _unusual_depths(
    tensors: Mapping[str, Tensor], layout: Layout, file: Path, used: Sequence[str]
) -> list[str]:
    """What to tell where a part that is used has more or fewer layers than in its authors' checkpoints:
    nothing else shows that the last ones are missing."""
    lines = []
    for prefix, usual in layout.depths.items():
        if any(name.startswith(prefix) for name in used):
            found = Shapes(tensors, file, layout.title).count(prefix)
            if found not in usual:
                due = " or ".join(map(str, usual))
                or_else = ", the last ones are missing" if found < max(usual) else ", it is not theirs"
                lines.append(
                    f"{file}: layers {prefix}*: {found}, where the authors' checkpoints have {due}: unless "
                    f"the model is of another size{or_else}"
                )
    return lines


def _layout_of(tensors: Mapping[str, Tensor], file: Path, asked: str | None = None) -> Layout:
    """The layout of a checkpoint.

    Raises:
        UserError: it is not the one that was asked for, or none that is known.
    """
    for name, layout in LAYOUTS.items():
        if asked in (None, name) and layout.accepts(tensors):
            return layout
    raise UserError(
        f"{file}: its tensors ({next(iter(tensors))}, ...) are those of no checkpoint known here "
        f"({asked or ', '.join(LAYOUTS)}): give one of these"
    )


def layout_of(file: Path) -> Layout:
    """Whose checkpoint a file is; its weights are not read.

    Raises:
        UserError: it is none that is known.
    """
    return _layout_of(read_tensors(file), file)


def load_original(file: Path) -> ModelFamily:
    """The model of a checkpoint whose vocabulary lies next to it.

    Raises:
        UserError: the vocabulary is not there, or the checkpoint is none.
    """
    vocabulary = in_folder(file.parent)
    if vocabulary is None:
        layout = layout_of(file)  # what is no checkpoint needs no vocabulary
        raise UserError(
            f"--model {file}: there is no vocabulary next to it: put BERT's {FILES[0]} there, or make a "
            f"folder once with `attngraph convert {layout.name} {file} --out FOLDER --download`"
        )
    return read_original(file, vocabulary).family()


def save_converted(family: ModelFamily, original: Original, folder: Path) -> None:
    """Writes all that ``--model`` needs, and the account, into an empty folder.

    Args:
        family: made of the checkpoint.
        original: the checkpoint.
        folder: to write into.
    """
    with quiet_transformers():
        family.model.save_pretrained(str(folder))
    original.tokenizer.save_pretrained(str(folder))
    side = family.image_side
    original.layout.image_processor(side).save_pretrained(str(folder))
    write_json(folder / ACCOUNT, original.described(side))
