import pytest
import torch

from adapters.config import AdapterConfig
from attngraph.errors import UserError
from experiments.methods import Adapter, FullFineTuning
from experiments.models.mini_blip import build_model
from experiments.pretraining.tokenizer import build_tokenizer
from experiments.training.loop import Recipe, batch_positions, train
from experiments.training import loop as training

PROMPTS = [f"is it {word} ?" for word in ("red", "blue", "green", "a", "the", "yellow", "of", "black")]


@pytest.fixture
def tokenizer():
    return build_tokenizer(["is", "it"])


def model_of(tokenizer):
    torch.manual_seed(0)
    return build_model(tokenizer, width=16, vision_layers=1, text_layers=1, heads=2)


def run(tokenizer, method, folder, on_step=lambda step: None, steps=8):
    folder.mkdir(exist_ok=True)
    model = model_of(tokenizer)
    torch.manual_seed(1)
    tuned = method.put_on(model)
    states = torch.randn(len(PROMPTS), 5, 16, generator=torch.Generator().manual_seed(3))
    train(
        model,
        tuned,
        tokenizer,
        PROMPTS,
        lambda k, u: ("yes", "no")[int(2 * u)],
        lambda rows: states[rows],
        Recipe(1e-2, steps, batch_size=3),
        seed=5,
        folder=folder,
        on_step=on_step,
    )
    return tuned.state_dict()


@pytest.mark.parametrize("method", [Adapter(AdapterConfig(gnn="pgnn")), FullFineTuning(text_only=True)])
def test_an_interrupted_run_continues_as_if_it_had_not_been(tokenizer, method, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SAVE_EVERY", 3)
    whole = {k: v.clone() for k, v in run(tokenizer, method, tmp_path / "whole").items()}

    def stop(step):
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tokenizer, method, tmp_path / "halves", stop)
    steps = []
    halves = run(tokenizer, method, tmp_path / "halves", steps.append)
    assert steps[0] == 4, "continues from the last saved state"
    assert whole.keys() == halves.keys()
    for name in whole:
        assert torch.equal(whole[name], halves[name]), name
    assert (tmp_path / "whole" / "metrics.csv").read_text() == (
        tmp_path / "halves" / "metrics.csv"
    ).read_text()


def test_training_changes_the_adapters_and_nothing_else(tokenizer, tmp_path):
    model = model_of(tokenizer)
    before = {name: p.clone() for name, p in model.named_parameters()}
    tuned = Adapter(AdapterConfig(gnn="pgnn")).put_on(model)
    start = {name: p.clone() for name, p in tuned.state_dict().items()}
    train(
        model,
        tuned,
        tokenizer,
        PROMPTS,
        lambda k, u: "yes",
        lambda rows: torch.zeros(len(rows), 5, 16),
        Recipe(1e-2, 5, batch_size=4),
        seed=0,
        folder=tmp_path,
    )
    after = dict(model.named_parameters())
    assert all(torch.equal(before[name], after[name]) for name in before)
    changed = [name for name, p in tuned.state_dict().items() if not torch.equal(p, start[name])]
    assert any("p_logit" in name for name in changed) and any("up.weight" in name for name in changed)


def test_every_epoch_sees_every_example_once_in_a_new_order():
    epochs = [
        torch.cat([batch_positions(12, 4, 7, 3 * epoch + k)[0] for k in range(3)]) for epoch in range(2)
    ]
    assert all(sorted(epoch.tolist()) == list(range(12)) for epoch in epochs)
    assert epochs[0].tolist() != epochs[1].tolist()
    assert batch_positions(12, 4, 7, 1)[0].tolist() == batch_positions(12, 4, 7, 1)[0].tolist()
    assert batch_positions(12, 4, 8, 1)[0].tolist() != batch_positions(12, 4, 7, 1)[0].tolist()


def test_the_learning_rate_rises_and_falls_linearly():
    recipe = Recipe(1.0, 100, warmup=0.1)
    rates = [recipe.factor(step) for step in range(100)]
    assert (
        rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(1.0) and rates[9] == pytest.approx(1.0)
    )
    assert rates[99] == pytest.approx(1 / 90)


def test_a_loss_that_is_not_finite_ends_the_run_with_a_remedy(tokenizer, tmp_path):
    model = model_of(tokenizer)
    tuned = Adapter(AdapterConfig()).put_on(model)
    with pytest.raises(UserError, match="lower the learning rate"):
        train(
            model,
            tuned,
            tokenizer,
            PROMPTS,
            lambda k, u: "yes",
            lambda rows: torch.full((len(rows), 5, 16), float("nan")),
            Recipe(1e-2, 5),
            seed=0,
            folder=tmp_path,
        )


def test_a_damaged_state_is_named(tokenizer, tmp_path):
    (tmp_path / "state.pt").write_bytes(b"no state")
    with pytest.raises(UserError, match="state.pt"):
        run(tokenizer, Adapter(AdapterConfig()), tmp_path)


@pytest.mark.parametrize("wrong", [{"learning_rate": 0.0, "steps": 1}, {"learning_rate": 1.0, "steps": 0}])
def test_recipes_out_of_range(wrong):
    with pytest.raises(UserError):
        Recipe(**wrong)
