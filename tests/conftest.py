"What every test shares: one thread, and models whose every parameter matters."
import os
os.environ.setdefault("OMP_NUM_THREADS", "1") # of this process and of those it starts: sums in another order are other bits
import pytest, torch
from hebrewgpt_nb.core import read_jsonl, sample_dir
from hebrewgpt_nb.model import HebrewGPT, get_preset
from hebrewgpt_nb.tokenizer import Tokenizer, train_tokenizer

VOCAB = 600 # of the tokenizer and models that tests share
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

def fill(model, seed=0):
    "Randomise EVERY parameter, norms and the Mamba-2 vectors too, so that a swapped or forgotten one shows."
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            z = torch.randn(p.shape, generator=g).to(p.dtype)
            if name.endswith("A_log"): p.copy_(z * .7) # decays of about 0.5 to 2
            elif name.endswith("dt_bias"): p.copy_(z - 1.5) # steps of about 0.05 to 0.5
            elif name.endswith(".D"): p.copy_(z)
            elif "conv1d" in name: p.copy_(z * .5)
            elif p.dim() == 1: p.copy_(1 + z * .3) # norms
            elif "emb" in name: p.copy_(z * .3)
            else: p.copy_(z * 1.2 / p.shape[-1] ** .5)
    return model

def small(pattern="AM", seed=0, **changes):
    "A filled model of the `tiny` preset, in evaluation mode."
    return fill(HebrewGPT(get_preset("tiny", pattern=pattern, **{"vocab_size": 97, "depth": 3} | changes)), seed).eval()

@pytest.fixture(scope="session")
def tok(tmp_path_factory):
    path = tmp_path_factory.mktemp("tok")/"tokenizer.model"
    train_tokenizer([r["text"] for p in sorted((sample_dir()/"pretrain").glob("*.train.jsonl")) for r in read_jsonl(p)], path, vocab_size=VOCAB)
    return Tokenizer(path)

@pytest.fixture(scope="session")
def models(): return {pattern: small(pattern, vocab_size=VOCAB) for pattern in ("A", "M", "AM")}
