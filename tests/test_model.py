"The model against published counts, stock transformers, a naive recurrence, its own cache, and documents apart."
import pytest, torch, torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from transformers.models.bamba.modeling_bamba import BambaConfig, BambaMixer, mamba2_chunk_scan
import hebrewgpt_nb.engine.blocks as B
import hebrewgpt_nb.model as M
from hebrewgpt_nb.core import UserError
from hebrewgpt_nb.engine import fused
from hebrewgpt_nb.engine.cpu import has_library, library
from hebrewgpt_nb.engine.scan import ssd, ssd_step
from hebrewgpt_nb.engine.blocks import Mamba2
from hebrewgpt_nb.model import HebrewGPT, ModelConfig, PRESETS, count_parameters, get_preset
from hebrewgpt_nb.quantize import quantize_for_decoding
from hebrewgpt_nb.sft import add_lora
from conftest import fill, small

def close(a, b, eps=1e-4):
    "Equal within `eps` of the larger scale of `b` (at least 1)."
    assert a.shape == b.shape
    worst = (a - b).abs().max().item()
    assert worst <= eps * max(1, b.abs().max().item()), f"differs by {worst:.2e}"

# --- counts and shapes -----------------------------------------------------------------------------

def test_dense_1b_is_the_published_size(): assert count_parameters(get_preset("dense-1b")) == 1_077_495_808

def test_lora_on_the_published_model_trains_the_published_number():
    with torch.device("meta"):
        model = add_lora(HebrewGPT(get_preset("dense-1b")), rank=64)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 44_728_320

def test_hybrid_119m_is_the_instruct_card():
    c = get_preset("hybrid-119m")
    assert (c.width, c.depth, c.heads, c.head_dim, c.vocab_size, c.hidden, c.blocks) == (1024, 8, 8, 128, 8192, 2752, "AMAMAMAM")
    assert 119.15e6 < count_parameters(c) < 119.25e6

def test_hybrid_1b_is_108b_within_half_a_percent():
    c = get_preset("hybrid-1b")
    assert abs(count_parameters(c) / 1.08e9 - 1) < .005
    assert (c.width, c.depth, c.heads, c.vocab_size, c.blocks) == (2048, 20, 16, 8192, "AM" * 10)

def test_dense_296m_is_the_published_size(): assert 295.65e6 < count_parameters(get_preset("dense-296m")) < 295.75e6

@pytest.mark.parametrize("name", ["hybrid-119m", "hybrid-1b", "dense-1b", "dense-296m"])
def test_published_constants(name):
    c = PRESETS[name]
    assert (c.state, c.mamba_head, c.expand, c.conv, c.chunk) == (128, 64, 2, 4, 256)
    assert (c.eps, c.rope_theta, c.context, c.head_dim) == (1e-6, 10_000, 2048, 128)

def test_the_head_is_the_embedding():
    names = [n for n, _ in small().named_parameters()]
    assert "tok_emb.weight" in names and not any("head" in n or n.endswith("qkv.bias") for n in names)

# --- Mamba-2 against stock and against the recurrence ------------------------------------------------

LENGTHS = (1, 3, 31, 32, 33, 64, 65, 100)

def scan_inputs(T, dtype, b=2, H=3, P=8, N=4):
    g = torch.Generator().manual_seed(T)
    x, B, C = (torch.randn(b, T, *s, generator=g, dtype=dtype) for s in ((H, P), (N,), (N,)))
    dt, A = torch.rand(b, T, H, generator=g, dtype=dtype), -torch.rand(H, generator=g, dtype=dtype) * 2 - .1
    return [t.requires_grad_() for t in (x, dt, A, B, C)]

def recurrence(x, dt, A, B, C):
    "The definition, token by token."
    S, ys = x.new_zeros(x.shape[0], x.shape[2], x.shape[3], B.shape[2]), []
    for t in range(x.shape[1]):
        S = torch.exp(dt[:, t] * A)[..., None, None] * S + torch.einsum("bh,bhp,bn->bhpn", dt[:, t], x[:, t], B[:, t])
        ys.append(torch.einsum("bhpn,bn->bhp", S, C[:, t]))
    return torch.stack(ys, 1), S

def stock_scan(x, dt, A, B, C): return mamba2_chunk_scan(x, dt, A, B[:, :, None], C[:, :, None], chunk_size=32, return_final_states=True)

def outputs_and_gradients(scan, inputs):
    y, S = scan(*inputs)
    g = torch.Generator().manual_seed(1)
    loss = sum((t * torch.randn(t.shape, generator=g, dtype=t.dtype)).sum() for t in (y, S)) # the last state has a gradient too
    return [y, S, *torch.autograd.grad(loss, inputs)]

@pytest.mark.parametrize("T", LENGTHS)
@pytest.mark.parametrize("oracle, dtype, eps", [(recurrence, torch.float64, 1e-10), (stock_scan, torch.float32, 1e-4)], ids=["recurrence", "stock"])
def test_ssd_and_its_gradients(T, oracle, dtype, eps):
    inputs = scan_inputs(T, dtype)
    ours = outputs_and_gradients(lambda *a: ssd(*a, 32), inputs)
    for mine, theirs in zip(ours, outputs_and_gradients(oracle, inputs), strict=True): close(mine, theirs, eps)

@pytest.mark.parametrize("chunk", [1, 7, 64, 256])
def test_the_chunk_changes_nothing(chunk):
    inputs = scan_inputs(100, torch.float64)
    for mine, whole in zip(ssd(*inputs, chunk), recurrence(*inputs)): close(mine, whole, 1e-10)

def test_ssd_goes_on_from_a_state():
    x, dt, A, B, C = scan_inputs(100, torch.float64)
    y, S = recurrence(x, dt, A, B, C)
    first, state = ssd(x[:, :37], dt[:, :37], A, B[:, :37], C[:, :37], 32)
    second, state = ssd(x[:, 37:99], dt[:, 37:99], A, B[:, 37:99], C[:, 37:99], 32, S=state)
    last, state = ssd_step(x[:, 99], dt[:, 99], A, B[:, 99], C[:, 99], state)
    close(torch.cat([first, second, last[:, None]], 1), y, 1e-10); close(state, S, 1e-10)

@pytest.mark.parametrize("T", LENGTHS)
def test_mixer_and_its_gradients_against_stock(T):
    cfg = get_preset("tiny")
    ours = fill(Mamba2(cfg), seed=T)
    theirs = BambaMixer(BambaConfig(hidden_size=cfg.width, mamba_n_heads=ours.heads, mamba_d_state=cfg.state, mamba_chunk_size=cfg.chunk, mamba_d_conv=cfg.conv,
                                    mamba_d_head=cfg.mamba_head, mamba_expand=cfg.expand, rms_norm_eps=cfg.eps, num_hidden_layers=1, attn_layer_indices=[]), layer_idx=0)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x, results = torch.randn(2, T, cfg.width), []
    for mixer in (ours, theirs):
        inputs = [x.clone().requires_grad_(), *dict(sorted(mixer.named_parameters())).values()]
        y = mixer(inputs[0])
        results.append([y, *torch.autograd.grad((y * torch.cos(torch.arange(y.numel()).view_as(y))).sum(), inputs)])
    assert len(results[0]) == 10 # output, input, eight parameters
    for a, b in zip(*results, strict=True): close(a, b)

# --- decoding ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("prefill", [1, 2, 3, 5, 31, 33, 45])
@pytest.mark.parametrize("pattern", ["AM", "A", "M"])
@torch.no_grad()
def test_cached_decoding_equals_the_full_forward(pattern, prefill):
    model, tokens = small(pattern), torch.randint(97, (2, 50), generator=torch.Generator().manual_seed(0))
    cache = model.make_cache(batch=2, length=50)
    steps = [model(tokens[:, :prefill], cache=cache)] + [model(tokens[:, i:i + 1], cache=cache) for i in range(prefill, 50)]
    assert (torch.cat(steps, 1) - model(tokens)).abs().max() < 1e-4
    assert cache.n == 50

@pytest.mark.parametrize("pattern", ["AM", "A", "M"])
@torch.no_grad()
def test_several_tokens_at_once_on_a_cache_that_is_not_empty(pattern):
    model, tokens = small(pattern), torch.randint(97, (1, 110), generator=torch.Generator().manual_seed(0))
    cache, pieces, at = model.make_cache(), [], 0
    for n in (7, 2, 1, 3, 40, 1, 1, 33, 22):
        pieces.append(model(tokens[:, at:at + n], cache=cache)); at += n
    assert at == 110
    assert (torch.cat(pieces, 1) - model(tokens)).abs().max() < 1e-4

# --- a new kind of block ---------------------------------------------------------------------------------

class Mean(torch.nn.Module):
    "A mixer for the test alone: the mean of what a document has said so far."
    def __init__(self, cfg):
        super().__init__()
        self.out = B.Linear(cfg.width, cfg.width)
    def forward(self, x, rope=None, mask=None, docs=None, cache=None):
        if cache is None:
            n = torch.arange(x.shape[1]).expand(x.shape[:2]) if docs is None else B.doc_positions(docs)
            seen = (torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])) # (T, T)
            return self.out(((seen >= 0) & (seen <= n[..., None])).to(x.dtype) @ x / (n[..., None] + 1))
        total = cache.total[:, None] + x.cumsum(1)
        count = cache.count + torch.arange(1, x.shape[1] + 1)
        cache.total, cache.count = total[:, -1], cache.count + x.shape[1]
        return self.out(total / count[:, None])

class MeanCache:
    def __init__(self, cfg, batch, length, device, dtype): self.total, self.count = torch.zeros(batch, cfg.width, device=device, dtype=dtype), 0
    @property
    def tensors(self): return (self.total,)

@pytest.fixture
def mean_kind(monkeypatch):
    "A third row of the table, and nothing else."
    monkeypatch.setitem(B.KINDS, "E", B.BlockKind("mean", Mean, MeanCache, ("out",), lambda cfg, T: 2 * cfg.width**2))

def test_a_new_kind_is_a_row_of_the_table(mean_kind, capsys):
    model, tokens = small("AEM"), torch.randint(97, (2, 50), generator=torch.Generator().manual_seed(0))
    assert "blocks.1.mean.out.weight" in model.state_dict() and B.KINDS["E"].flops(model.cfg, 9) == 2 * model.blocks[1].mean.out.weight.numel()
    fresh = HebrewGPT(get_preset("tiny", pattern="E", depth=8, width=256, heads=8))
    assert abs(fresh.blocks[3].mean.out.weight.std() / (.02 / 4) - 1) < .05 # it writes to the residual stream
    check_packed_equals_apart(model, [31, 3, 34]); check_no_leak(model, [31, 34])
    for ready, eps in ((model, 1e-5), (quantize_for_decoding(model, "float32"), 1e-5), (quantize_for_decoding(model, "int8"), .01)):
        cache = ready.make_cache(batch=2)
        with torch.no_grad(): steps = torch.cat([ready(part, cache=cache) for part in tokens.split([20] + [1] * 30, 1)], 1)
        assert (steps - ready(tokens)).norm() < eps * steps.norm() and (steps - model(tokens)).norm() < .1 * steps.norm()
        assert count_parameters(ready) == count_parameters(model.cfg)
    assert M.describe_paths(ready)["decoding"] == "module by module" and (not library() or "C does not know Mean" in capsys.readouterr().out)
    assert M.forward_flops(model.cfg, 9) - M.forward_flops(small("AM", depth=2).cfg, 9) == 2 * (64**2 + 3 * 64 * 192)

def test_without_its_row_a_letter_is_refused():
    with pytest.raises(UserError, match="letters A and M"): small("AEM")

def test_a_cache_does_not_take_documents():
    model = small()
    with pytest.raises(ValueError, match="docs or cache"): model(torch.zeros(1, 4, dtype=torch.long), docs=torch.zeros(1, 4, dtype=torch.long), cache=model.make_cache())

# --- packing ------------------------------------------------------------------------------------------

def row(lengths, seed=0):
    "Tokens of one packed row, and the document of each."
    docs = torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)])[None]
    return torch.randint(97, docs.shape, generator=torch.Generator().manual_seed(seed)), docs

def loss_on(model, tokens, docs, keep):
    "Logits at `keep`, gradients of a loss there: of each parameter, and of the embedding at every position."
    seen = {}
    handle = model.tok_emb.register_forward_hook(lambda module, args, out: (out.retain_grad(), seen.update(x=out))[0])
    model.zero_grad()
    logits = model(tokens, docs=docs)
    handle.remove()
    F.cross_entropy(logits[0, keep][:-1], tokens[0, keep][1:], reduction="sum").backward()
    return logits[0, keep].detach(), {n: p.grad.clone() for n, p in model.named_parameters()}, seen["x"].grad[0]

LEAK = 0. # not even in the last bit: a masked place adds exactly nothing

def check_no_leak(model, lengths, eps=LEAK):
    "Changing every token of the documents before the last one changes nothing for the last one, forward and backward."
    tokens, docs = row(lengths)
    last = docs[0] == docs[0, -1]
    other = torch.where(last, tokens, (tokens + 1 + torch.arange(tokens.shape[1]) % 90) % 97)
    assert (other != tokens)[0, ~last].all()
    (logits, grads, by_place), (logits2, grads2, _) = loss_on(model, tokens, docs, last), loss_on(model, other, docs, last)
    close(logits2, logits, eps)
    assert by_place[last][:-1].abs().max() > 1e-3 # the check can see something
    close(by_place[~last], torch.zeros_like(by_place[~last]), eps)
    for name in grads: close(grads2[name], grads[name], eps)

def check_packed_equals_apart(model, lengths, eps=1e-5):
    tokens, docs = row(lengths)
    with torch.no_grad(): apart = torch.cat([model(part) for part in tokens.split(lengths, 1)], 1)
    close(model(tokens, docs=docs), apart, eps)

LAYOUTS = [[n, 40] for n in range(29, 36)] + [[61, 20], [64, 33], [65, 40], [5, 1, 1, 30], [1, 30], [2, 30], [3, 30], [30, 1, 2, 3], [29, 3, 2], [31, 1, 2], [33, 64, 3]]

def use(path: str, monkeypatch): # plain, or C: at any size
    if path == "C" and not has_library(): pytest.skip("needs a C compiler")
    monkeypatch.setattr(fused, "MIN_FUSED", 1 if path == "C" else 2**60)

@pytest.fixture(params=["plain", "C"])
def path(request, monkeypatch): use(request.param, monkeypatch)

@pytest.mark.parametrize("lengths", LAYOUTS, ids=str)
def test_documents_do_not_see_each_other(lengths, path): check_no_leak(small(), lengths)

@pytest.mark.parametrize("lengths", LAYOUTS, ids=str)
def test_packed_equals_apart(lengths, path): check_packed_equals_apart(small(), lengths)

@pytest.mark.parametrize("pattern", ["A", "M", "MMA"])
def test_the_other_patterns_keep_documents_apart(pattern, path):
    for lengths in ([31, 34], [3, 2, 40]): check_no_leak(small(pattern), lengths); check_packed_equals_apart(small(pattern), lengths)

def test_gradients_of_a_packed_row_are_the_sum_of_the_documents():
    model, lengths = small(), [31, 3, 34]
    tokens, docs = row(lengths)
    def grads(loss): return torch.autograd.grad(loss, list(model.parameters()))
    def nll(logits, t): return F.cross_entropy(logits[0, :-1], t[0, 1:], reduction="none")
    packed = grads((nll(model(tokens, docs=docs), tokens) * (docs[0, 1:] == docs[0, :-1])).sum())
    apart = [grads(nll(model(t), t).sum()) for t in tokens.split(lengths, 1)]
    for p, parts in zip(packed, zip(*apart)): close(p, sum(parts), 1e-5)

# Each test below puts one leak back, and the checks above must then fail: a check that cannot fail proves nothing.
scan, conv, attention, block = B.ssd, B.causal_conv, B.attention_op, B.mamba_block
LEAKS = {"attention": ("doc_mask", lambda docs: torch.ones(docs.shape[1], docs.shape[1], dtype=torch.bool).tril().expand(len(docs), 1, -1, -1)),
         "state": ("ssd", lambda x, dt, A, B, C, chunk, docs=None, S=None: scan(x, dt, A, B, C, chunk, None, S)),
         "convolution": ("causal_conv", lambda x, weight, bias, docs=None: conv(x, weight, bias)),
         "attention in C": ("attention_op", lambda qkv, cosine, sine, docs: attention(qkv, cosine, sine, None)),
         "Mamba-2 in C": ("mamba_block", lambda *args: block(*args[:10]))}

@pytest.mark.parametrize("lengths", [[31, 40], [32, 40], [3, 30], [30, 1, 2, 3]], ids=str)
@pytest.mark.parametrize("leak", LEAKS)
def test_a_leak_put_back_is_caught(leak, lengths, monkeypatch):
    use("C" if leak.endswith("in C") else "plain", monkeypatch)
    check_no_leak(small(), lengths)
    monkeypatch.setattr(B, *LEAKS[leak])
    with pytest.raises(AssertionError, match="differs by"): check_no_leak(small(), lengths, eps=1e-3)
    with pytest.raises(AssertionError, match="differs by"): check_packed_equals_apart(small(), lengths, eps=1e-3)

def test_positions_that_run_on_are_no_leak(monkeypatch):
    "Rotary scores depend on distances alone: positions that run on from document to document change rounding, and nothing else."
    monkeypatch.setattr(M, "doc_positions", lambda docs: torch.arange(docs.shape[1]).expand_as(docs))
    check_packed_equals_apart(small(), [31, 40])

def test_positions_of_another_scale_are_caught(monkeypatch):
    "So the model does read them."
    monkeypatch.setattr(M, "doc_positions", lambda docs: 2 * torch.arange(docs.shape[1]).expand_as(docs))
    with pytest.raises(AssertionError, match="differs by"): check_packed_equals_apart(small(), [31, 40], eps=1e-3)

def test_positions_start_anew_with_each_document():
    _, docs = row([3, 1, 2, 4])
    assert B.doc_positions(docs).tolist() == [[0, 1, 2, 0, 0, 1, 0, 1, 2, 3]]
    assert B.doc_positions(torch.cat([docs, docs * 0])).tolist()[1] == list(range(10)) # each row by itself

# --- configuration --------------------------------------------------------------------------------------

@pytest.mark.parametrize("changes, says", [
    (dict(heads=7), "heads 7 of head_dim 128 do not make width 1024"), (dict(pattern="AX"), "letters A and M"), (dict(pattern=""), "letters A and M"),
    (dict(mamba_head=60), "mamba_head 60 does not divide"), (dict(width=1029, heads=343, head_dim=3, mamba_head=2), "even number"),
    (dict(depth=0), "1 or more"), (dict(hidden=-3), "1 or more"), (dict(vocab_size=0), "1 or more"), (dict(chunk=0), "1 or more")], ids=str)
def test_impossible_shapes_are_one_clear_line(changes, says):
    with pytest.raises(UserError, match=says) as e: ModelConfig(**changes)
    assert "\n" not in str(e.value)

def test_an_unknown_preset_lists_the_known():
    with pytest.raises(UserError, match="choose one of tiny, mini, hybrid-119m"): get_preset("mega")

# --- every path is the same model -------------------------------------------------------------------------

def test_a_compiled_model_is_the_plain_one():
    model, (tokens, docs) = small(), row([31, 3, 34])
    compiled = torch.compile(small(), backend="aot_eager") # traced and differentiated as by inductor, without its minute of C++
    results = []
    for m in (model, compiled):
        loss = F.cross_entropy(m(tokens, docs=docs)[0, :-1], tokens[0, 1:])
        results.append([loss, *torch.autograd.grad(loss, list(m.parameters()))])
    for mine, theirs in zip(*results, strict=True): close(mine, theirs, 1e-5)

@pytest.mark.parametrize("memory", [1, 3000, None])
@pytest.mark.parametrize("autocast", [False, True])
def test_the_sliced_loss_is_the_plain_one(memory, autocast):
    g = torch.Generator().manual_seed(0)
    h, w = torch.randn(2, 33, 16, generator=g, requires_grad=True), torch.randn(97, 16, generator=g, requires_grad=True)
    targets = torch.randint(97, (2, 33), generator=g).masked_fill_(torch.rand(2, 33, generator=g) < .3, -100)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        losses = M.linear_cross_entropy(h, w, targets, memory), F.cross_entropy(F.linear(h, w).flatten(0, 1).float(), targets.flatten(), ignore_index=-100, reduction="sum")
    mine, plain = ([loss, *torch.autograd.grad(loss * .5, (h, w))] for loss in losses) # a loss that is scaled, as in accumulation
    for a, b in zip(mine, plain): assert a.dtype == b.dtype and (a - b).norm() <= (.02 if autocast else 1e-5) * b.norm()

def test_the_loss_of_a_model_and_its_gradients():
    model, (tokens, docs) = small(), row([31, 3, 34])
    targets = tokens.roll(-1, 1).masked_fill(docs != docs.roll(-1, 1), -100)
    plain = F.cross_entropy(model(tokens, docs=docs).flatten(0, 1), targets.flatten())
    close(M.loss_of(model, tokens, targets, docs), plain, 1e-5)
    for a, b in zip(*(torch.autograd.grad(loss, list(model.parameters())) for loss in (M.loss_of(model, tokens, targets, docs), plain)), strict=True): close(a, b, 1e-5)

def test_frozen_weights_get_no_gradient():
    model, (tokens, _) = small(), row([40])
    for p in model.parameters(): p.requires_grad_(False)
    adapted = add_lora(model, rank=4)
    M.loss_of(adapted, tokens, tokens.roll(-1, 1)).backward()
    assert model.tok_emb.weight.grad is None and all(p.grad is not None for p in adapted.parameters() if p.requires_grad)

@pytest.mark.parametrize("pattern", ["AM", "A", "M"])
def test_the_last_position_alone(pattern):
    model, (tokens, _) = small(pattern), row([40])
    close(model(tokens, last_only=True), model(tokens)[:, -1:], 1e-5)

def test_adapters_reach_every_path():
    adapted, (tokens, docs) = add_lora(small(), rank=4).eval(), row([31, 9])
    targets = tokens.roll(-1, 1)
    for name, p in adapted.named_parameters():
        if "lora_B" in name: torch.nn.init.normal_(p, std=.1, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        merged = add_lora(small(), rank=4)
        merged.load_state_dict(adapted.state_dict())
        merged = merged.merge_and_unload().eval() # the oracle: no adapter left
        without = small()
        cache = adapted.make_cache()
        pairs = [(adapted(tokens, docs=docs), merged(tokens, docs=docs), without(tokens, docs=docs)), (adapted(tokens[:, :20], cache=cache), merged(tokens[:, :20]), without(tokens[:, :20])),
                 (adapted(tokens[:, 20:21], cache=cache), merged(tokens[:, :21])[:, 20:], without(tokens[:, :21])[:, 20:]),
                 (M.loss_of(adapted, tokens, targets), M.loss_of(merged, tokens, targets), M.loss_of(without, tokens, targets))]
        for dtype in ("float32", "bfloat16"): pairs.append((quantize_for_decoding(adapted, dtype)(tokens), merged(tokens), without(tokens)))
    for mine, right, wrong in pairs: assert (mine - right).norm() < .05 * (wrong - right).norm() + 1e-3

def test_an_adapter_that_would_be_bypassed_is_refused():
    tokens = row([8])[0]
    for target, rank, says in (("conv1d", 192, "adapt in_proj and out_proj"), ("tok_emb", 2, "adapt qkv, proj, gate, up and down")):
        adapted = get_peft_model(small(), LoraConfig(r=rank, target_modules=[target]))
        with pytest.raises(UserError, match=says): adapted(tokens)

@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("pattern", ["AM", "A", "M"])
def test_the_paths_of_a_gpu(pattern):
    model, (tokens, docs) = small(pattern), row([31, 3, 34])
    there = small(pattern).cuda()
    close(there(tokens.cuda(), docs=docs.cuda()).cpu(), model(tokens, docs=docs), 1e-2)

def test_tokens_that_have_no_row():
    for bad in (97, -1):
        with pytest.raises(UserError, match="vocabulary is 0 to 96"): small()(torch.tensor([[3, bad]]))
    with pytest.raises(UserError, match="no tokens"): small()(torch.zeros(1, 0, dtype=torch.long))
