"""Files of ``torch.save``: nothing in them is run, and what is no checkpoint is one line."""

import os
import pickle

import pytest
import torch

from attngraph.errors import UserError
from experiments.models.original.reading import read_tensors

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "the format of before 2020"])
@pytest.mark.parametrize("place", ["model", "module", "state_dict", None])
def test_weights_under_their_places(place, zipped, tmp_path):
    content = (
        STATE if place is None else {"epoch": 3, place: STATE, "optimizer": {"state": {0: torch.ones(1)}}}
    )
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    found = read_tensors(tmp_path / "x.pth")
    assert list(found) == list(STATE) and all(torch.equal(found[name], STATE[name]) for name in STATE)


class Trap:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


class Settings:
    """Some program's own options."""


def refused(file, match: str) -> None:
    with pytest.raises(UserError, match=match) as error:
        read_tensors(file)
    message = str(error.value)
    assert "\n" not in message and str(file) in message and "weights_only" not in message


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_not_run(zipped, tmp_path):
    file, trace = tmp_path / "x.pth", tmp_path / "trace"
    torch.save({"model": STATE, "args": Trap(trace)}, file, _use_new_zipfile_serialization=zipped)
    refused(
        file, r"Python objects other than tensors \((posix|nt).system\), which reading would run: ask its"
    )
    assert not trace.exists()
    file.write_bytes(pickle.dumps(Trap(trace)))
    refused(file, "no PyTorch checkpoint|Python objects other")
    assert not trace.exists()


def test_objects_of_other_programs(tmp_path):
    torch.save({"model": STATE, "args": Settings()}, tmp_path / "x.pth")
    refused(tmp_path / "x.pth", r"Python objects other than tensors \(.*Settings\)")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pth")
    refused(tmp_path / "x.pth", r"Python objects other than tensors \(torch.nn.modules.linear.Linear\)")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_files_cut_short(zipped, share, tmp_path):
    file = tmp_path / "x.pth"
    torch.save({"model": STATE}, file, _use_new_zipfile_serialization=zipped)
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    refused(file, "no PyTorch checkpoint, or one that is damaged or cut short .*: download it again$")


def test_files_of_another_kind(tmp_path):
    file = tmp_path / "x.pth"
    for content in (
        b"<!DOCTYPE html><html>Not found</html>",
        b"version https://git-lfs.github.com/spec/v1\n",
        b"{}",
    ):
        file.write_bytes(content)
        refused(file, "no PyTorch checkpoint")
    refused(tmp_path / "nowhere.pth", "No such file")


@pytest.mark.parametrize(
    "content, match",
    [
        (STATE["a.bias"], "holds no weights by their names"),
        ([STATE], "holds no weights by their names"),
        ({}, "holds no weights by their names"),
        ({"model": {}}, "holds no weights by their names"),
        ({1: torch.ones(1)}, "holds no weights by their names"),
        ({"epoch": 3, "optimizer": {}}, r"epoch is no tensor \(int\)"),
        ({"model": {**STATE, "b": [1, 2]}}, r"b is no tensor \(list\)"),
    ],
)
def test_contents_of_another_kind(content, match, tmp_path):
    torch.save(content, tmp_path / "x.pth")
    refused(tmp_path / "x.pth", match)
