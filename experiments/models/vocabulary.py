"""The vocabulary that belongs to an original checkpoint, which does not hold it: that of BERT.

Authors fetch it by its hub name when a model is built. Here it lies in a file next to the checkpoint, in
another place that is named, or in the hub's cache; it is fetched only where that is allowed.
"""

from __future__ import annotations

import json
from pathlib import Path

from huggingface_hub import hf_hub_download
from transformers import BertTokenizerFast, PreTrainedTokenizerBase

from attngraph.errors import UserError
from experiments.base.errors import first_line
from experiments.base.progress import note

BERT = "google-bert/bert-base-uncased"
WORDS, WHOLE = FILES = ("vocab.txt", "tokenizer.json")  # a word a line; transformers' own
NEEDED = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def in_folder(folder: Path) -> Path | None:
    """The file with a vocabulary in a folder."""
    return next((folder / name for name in FILES if (folder / name).is_file()), None)


def find_vocabulary(source: str | None, checkpoint: Path, download: bool) -> Path:
    """The file with the vocabulary.

    Args:
        source: a file, a folder or a hub name; None for the checkpoint's folder, or else :data:`BERT`.
        checkpoint: whose vocabulary it is.
        download: whether the hub may be asked for what is not on this machine.

    Raises:
        UserError: there is none.
    """
    place = checkpoint.parent if source is None else Path(source)
    if (found := place if place.is_file() else in_folder(place)) is not None:
        return found
    if source is not None and place.exists():
        raise UserError(f"--tokenizer {source}: the folder holds neither {WORDS} nor {WHOLE}")
    name = source or BERT
    try:
        if download:
            note(f"looking for {name} on the hub")
        return Path(hf_hub_download(name, WORDS, local_files_only=not download))
    except Exception as error:  # a bad name, no network, not in the cache
        remedy = (
            "check the name and the network" if download else f"allow the download (--tokenizer hub:{name})"
        )
        where = "" if source else f"no {WORDS} or {WHOLE} next to {checkpoint}, and "
        raise UserError(
            f"--tokenizer: {where}{name} cannot be found ({first_line(error)[:100]}): give its {WORDS}, or a "
            f"folder with it, or {remedy}"
        ) from None


def read_vocabulary(file: Path) -> dict[str, int]:
    """The words and their ids. What a ``tokenizer.json`` adds to them is left out.

    Raises:
        UserError: it is no vocabulary of BERT's kind.
    """
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".json":
            words = dict(json.loads(text)["model"]["vocab"])
        else:
            lines = text.removesuffix("\n").split("\n")
            words = {line.removesuffix("\r"): place for place, line in enumerate(lines)}
            if len(words) != len(lines):
                raise ValueError("a word is there twice")
        lacking = [word for word in NEEDED if word not in words]
        if lacking or sorted(words.values()) != list(range(len(words))):
            raise ValueError(f"without {', '.join(lacking)}" if lacking else "its ids leave places out")
    except OSError as error:
        raise UserError(f"{file}: {error.strerror or error}: check the path and your rights") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{file}: no vocabulary ({first_line(error)[:100]}): give BERT's {WORDS}") from None
    return words


def make_tokenizer(file: Path, size: int, longest: int, *own: str) -> PreTrainedTokenizerBase:
    """BERT's tokenizer for lower-case text, with a model's own tokens after the words.

    Args:
        file: with the vocabulary.
        size: tokens that have an embedding.
        longest: how many tokens the model has positions for.
        own: the model's own tokens, in this order; the first stands before what is written.

    Raises:
        UserError: the file holds no vocabulary, or not the checkpoint's.
    """
    words = read_vocabulary(file)
    tokenizer = BertTokenizerFast(vocab=dict(words), do_lower_case=True)
    tokenizer.add_special_tokens({"bos_token": own[0]})
    if own[1:]:
        tokenizer.add_special_tokens({"additional_special_tokens": list(own[1:])})
    tokenizer.model_max_length = longest
    added = [token for token in own if token not in NEEDED]
    if (
        len(tokenizer) != size
        or tokenizer.convert_tokens_to_ids(added) != list(range(size))[size - len(added) :]
    ):
        among = f" with {' and '.join(added)}" if added else ""
        raise UserError(
            f"{file}: {len(tokenizer)} tokens{among}, but the checkpoint has embeddings of {size}: give the "
            "vocabulary that the checkpoint was trained with"
        )
    return tokenizer
