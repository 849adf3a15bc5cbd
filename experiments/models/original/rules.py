"""How the tensors of an original checkpoint get transformers' names, with an account of every one of them.

A name is a path with dots. In a pattern ``*`` stands for one part, ``**`` for the rest of the path; they
stand for the same in the new name, one after the other::

    Take("visual_encoder.blocks.*.norm1.*", "vision_model.encoder.layers.*.layer_norm1.*")
    Leave("itm_head.*", "matches pictures and texts, which writes nothing")
    Twin("text_decoder.cls.predictions.decoder.weight", "text_decoder.bert.embeddings.word_embeddings.weight")
    Cut("resblocks.*.attn.in_proj_*", ("layers.*.q_proj.*", "layers.*.k_proj.*", "layers.*.v_proj.*"))

Of several rules that fit a name the first counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from attngraph.errors import UserError

SPARSE = "a sparse tensor"
SHOWN = 6  # names in a message of one line; the command lists all


@dataclass(frozen=True)
class Take:
    """A tensor that is used under another name.

    Args:
        pattern: of its names.
        name: the pattern of the new ones, with the same stars.
    """

    pattern: str
    name: str


@dataclass(frozen=True)
class Leave:
    """A tensor that the model does not need.

    Args:
        pattern: of its names.
        why: as a phrase.
    """

    pattern: str
    why: str


@dataclass(frozen=True)
class Twin:
    """A tensor that the model shares with another one of the file, to which it must be equal.

    Args:
        pattern: its name.
        of: the other's name.
    """

    pattern: str
    of: str


@dataclass(frozen=True)
class Cut:
    """A tensor that is used in equal parts, cut along its first axis.

    Args:
        pattern: of its names.
        names: the patterns of the parts' new ones, each with the same stars.
    """

    pattern: str
    names: tuple[str, ...]


Rule = Take | Leave | Twin | Cut


@dataclass
class Account:
    """What became of every tensor of a file. Names are the file's own.

    Attributes:
        taken: name → the new one.
        cut: name → the new ones of its parts.
        twins: name → the tensor that it equals.
        left: name → why it is not used.
        unexpected: those that no rule knows.
        missing: those that the model needs and the file lacks.
        unlike: name → in what it is not as the model needs it.
    """

    taken: dict[str, str] = field(default_factory=dict)
    cut: dict[str, tuple[str, ...]] = field(default_factory=dict)
    twins: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    unexpected: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unlike: dict[str, str] = field(default_factory=dict)

    def check(self, file: Path, what: str) -> None:
        """Raises :class:`~attngraph.errors.UserError` where a tensor is missing, unexpected or unlike.

        Args:
            file: that was read.
            what: it was read as.
        """
        faults = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "of another shape or value": [f"{name} ({how})" for name, how in self.unlike.items()],
        }
        if any(faults.values()):
            told = "; ".join(f"{len(names)} {how}: {_shown(names)}" for how, names in faults.items() if names)
            raise UserError(f"{file} is no {what}: tensors {told}")

    def lines(self) -> list[str]:
        """The account in words, layers and their parts told together; faults name by name."""
        lines = [f"{len(self.taken)} used"]
        lines += [f"{len(self.cut)} used in parts"] if self.cut else []
        lines += [f"{len(self.twins)} equal to others, which the model shares"] if self.twins else []
        reasons = dict.fromkeys(self.left.values())
        for why in reasons:
            names = [name for name, reason in self.left.items() if reason == why]
            shown = names if len(names) <= SHOWN else _families(names)
            lines.append(f"{len(names)} left out, {why}: {', '.join(shown)}")
        lines += [f"missing: {name}" for name in self.missing]
        lines += [f"unexpected: {name}" for name in self.unexpected]
        lines += [f"not as the model needs it: {name}, {how}" for name, how in self.unlike.items()]
        return lines


def account_of(
    tensors: Mapping[str, Tensor], rules: Sequence[Rule], wanted: Mapping[str, torch.Size]
) -> Account:
    """Sorts a file's tensors.

    Args:
        tensors: of the file, by name.
        rules: of its layout.
        wanted: the shapes of the model's tensors by their new names, without those that it shares.
    """
    account, sources = Account(), {}
    sparse = {name for name, tensor in tensors.items() if tensor.layout != torch.strided}
    for name, tensor in tensors.items():
        rule, stars = _first(name, rules)
        if isinstance(rule, Leave):
            account.left[name] = rule.why
        elif isinstance(rule, Twin):
            account.twins[name] = rule.of
            if name in sparse:
                account.unlike[name] = SPARSE
            elif rule.of in tensors.keys() - sparse and not torch.equal(tensor, tensors[rule.of]):
                account.unlike[name] = f"not equal to {rule.of}"
        elif rule is None or not wanted.keys() >= set(news := [_filled(new, stars) for new in _names(rule)]):
            account.unexpected.append(name)
        elif known := [sources[new] for new in news if new in sources]:
            account.unlike[name] = f"the same as {known[0]} in the model"
        else:
            sources |= dict.fromkeys(news, name)
            if isinstance(rule, Cut):
                account.cut[name] = tuple(news)
            else:
                account.taken[name] = news[0]
            shape = _joined([wanted[new] for new in news])
            if name in sparse:
                account.unlike[name] = SPARSE
            elif tensor.shape != shape:
                account.unlike[name] = f"{_size(tensor.shape)}, not {_size(shape)}"
            elif not tensor.is_floating_point():
                account.unlike[name] = f"{tensor.dtype} and no weights".replace("torch.", "")
    back = [Take(new, rule.pattern) for rule in rules if isinstance(rule, Take | Cut) for new in _names(rule)]
    for new in wanted.keys() - sources.keys():
        rule, stars = _first(new, back)
        account.missing.append(new if rule is None else _filled(rule.name, stars))
    account.missing = sorted(set(account.missing), key=_in_order)
    return account


def _names(rule: Take | Cut) -> tuple[str, ...]:
    return rule.names if isinstance(rule, Cut) else (rule.name,)


def _joined(shapes: Sequence[torch.Size]) -> torch.Size:
    """The shape of tensors one after the other along the first axis; a single one may have no axis."""
    first = shapes[0]
    return first if len(shapes) == 1 else torch.Size([sum(shape[0] for shape in shapes), *first[1:]])


def _first(name: str, rules: Iterable[Rule]) -> tuple[Rule | None, list[str]]:
    """The first rule for a name, and what its stars stand for."""
    for rule in rules:
        if match := re.fullmatch(_expression(rule.pattern), name):
            return rule, list(match.groups())
    return None, []


def _expression(pattern: str) -> str:
    parts = {r"\*\*": "(.+)", r"\*": r"([^.]+)"}
    return re.sub(r"\\\*\\\*|\\\*", lambda star: parts[star[0]], re.escape(pattern))


def _filled(pattern: str, stars: Sequence[str]) -> str:
    left = iter(stars)
    return re.sub(r"\*\*|\*", lambda _: next(left), pattern)


def _in_order(name: str) -> list[tuple[int, str]]:
    """Layer 2 before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def _families(names: Iterable[str]) -> list[str]:
    """The first parts of names, a star for what follows, each once."""
    return list(dict.fromkeys(f"{name.split('.')[0]}.*" if "." in name else name for name in names))


def _shown(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _size(shape: torch.Size) -> str:
    return " x ".join(map(str, shape)) or "a number"
