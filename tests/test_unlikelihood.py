"Unlikelihood of what a model repeats: the loss by hand, and a phase of tuning that can be interrupted."
import pytest, torch
from hypothesis import given, strategies as st
from safetensors.torch import load_file
import hebrewgpt_nb.sft as tuning
from hebrewgpt_nb.bundle import save_bundle
from hebrewgpt_nb.sft import sft
from hebrewgpt_nb.text.records import write_records
from hebrewgpt_nb.unlikelihood import WEIGHT, WithOwnAnswers, loops_batch, mixed_loss, reads_unwanted, repeated, unwanted
from conftest import VOCAB, small

QUICK = dict(steps=1, unlearn=4, batch_tokens=256, context=128, rank=2, eval_every=1, save_every=1, device="cpu")


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(1, 5))
def test_a_position_repeats_if_its_run_was_there(ids, n):
    runs = [tuple(ids[i - n + 1:i + 1]) if i >= n - 1 else None for i in range(len(ids))]
    assert repeated(ids, n) == [i for i, run in enumerate(runs) if run and run in runs[:i]]

@given(st.lists(st.lists(st.integers(0, 3), max_size=20), min_size=1, max_size=4))
def test_only_what_repeats_is_unwanted_and_where_it_was_said(answers):
    batch = loops_batch([[7, 8, 9]] * len(answers), answers)
    some = [a for a in answers if repeated(a)]
    assert (batch is None) == (not some)
    for row, answer in enumerate(some):
        ids, asked = [7, 8, 9] + answer, batch.targets[row]
        scored = (asked != -100).nonzero()[:, 0].tolist()
        assert scored == [3 + i - 1 for i in repeated(answer)]
        assert [int(unwanted(asked[i])) for i in scored] == [ids[i + 1] for i in scored]

@pytest.mark.parametrize("blocks", ["AA", "MM"])
def test_gradients_are_those_of_the_written_formula(blocks):
    "Against the formula of Welleck et al. over the whole table of logits, wanted and unwanted targets mixed."
    model, luck = small(blocks, vocab_size=VOCAB).train(), torch.Generator().manual_seed(0)
    x, y = (torch.randint(VOCAB, (3, 20), generator=luck) for _ in range(2))
    kind = torch.randint(3, y.shape, generator=luck) # wanted, unwanted, nothing
    targets = torch.where(kind == 0, y, torch.where(kind == 1, unwanted(y), -100))
    log_p = model(x).log_softmax(-1).gather(2, y[..., None])[..., 0]
    by_hand = -(log_p * (kind == 0)).sum() - WEIGHT * (torch.log1p(-log_p.exp()) * (kind == 1)).sum()
    weights = list(model.parameters())
    expected = torch.autograd.grad(by_hand, weights)
    with reads_unwanted(model): loss = model(x, targets=targets)
    torch.testing.assert_close(loss, by_hand)
    for a, b in zip(torch.autograd.grad(loss, weights), expected): torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)

def test_a_certain_repetition_has_a_finite_loss():
    model = small("A", vocab_size=VOCAB)
    h = model.head_matrix()[5][None, None] * 1e4 # all the mass on one token
    loss = mixed_loss(model, h, torch.tensor([[unwanted(int(model.head(h).argmax()))]]))
    assert loss.isfinite() and loss > 8

def test_the_loss_is_the_models_own_again_after_an_error():
    model = small("A", vocab_size=VOCAB)
    with pytest.raises(ZeroDivisionError), reads_unwanted(model): 1 / 0
    assert "loss" not in vars(model)


@pytest.fixture(scope="module")
def given_base(tok, tmp_path_factory):
    folder = tmp_path_factory.mktemp("given")
    save_bundle(small("AM", vocab_size=VOCAB), tok, folder/"base")
    write_records(folder/"asks.jsonl", [dict(instruction=f"שאלה {n}", input="", output=f"תשובה ארוכה יותר {n}", task="mine") for n in range(40)])
    return dict(base=str(folder/"base"), data=str(folder/"asks.jsonl"))

@pytest.mark.parametrize("method", ["lora", "dora", "full"])
def test_an_interrupted_unlearning_ends_as_one_that_was_not(given_base, method, tmp_path, monkeypatch):
    sft(run=str(tmp_path/"whole"), method=method, **given_base, **QUICK)
    plain, stopped = WithOwnAnswers.__call__, []
    def stop_once(self, step):
        if step == 2 and not stopped:
            stopped.append(step)
            raise KeyboardInterrupt
        return plain(self, step)
    monkeypatch.setattr(tuning.WithOwnAnswers, "__call__", stop_once)
    with pytest.raises(KeyboardInterrupt): sft(run=str(tmp_path/"parts"), method=method, **given_base, **QUICK)
    sft(run=str(tmp_path/"parts"), method=method, **given_base, **QUICK)
    whole, parts = (load_file(tmp_path/name/"bundle"/"model.safetensors") for name in ("whole", "parts"))
    assert stopped == [2] and all(torch.equal(w, parts[n]) for n, w in whole.items())
    assert not list((tmp_path/"parts"/"unlearning"/"checkpoints").glob("[0-9]*.pt")) # done: no longer needed
    sft(run=str(tmp_path/"without"), method=method, **given_base, **QUICK | dict(unlearn=0))
    without = load_file(tmp_path/"without"/"bundle"/"model.safetensors")
    assert any(not torch.equal(w, without[n]) for n, w in whole.items())
