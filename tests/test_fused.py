"What C does between the products of training: against plain PyTorch in float64, at odd sizes, and as a whole model."
import pytest, torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from hebrewgpt_nb.engine import fused
from hebrewgpt_nb.engine.cpu import library, newton_schulz
from hebrewgpt_nb.engine.fused import attention_op, cross_entropy_, mamba_op, norm_op, swiglu_op
from hebrewgpt_nb.engine.scan import causal_conv, ssd_step
from hebrewgpt_nb.model import HebrewGPT, get_preset, loss_of
from hebrewgpt_nb.training.optim import Muon

pytestmark = pytest.mark.skipif(not library(), reason="needs a C compiler")
sizes = settings(max_examples=25, deadline=None)

def documents(B: int, T: int, g) -> torch.Tensor: return (torch.rand(B, T, generator=g) < .1).cumsum(1)

def gradients(form, leaves):
    y = form(*leaves)
    return y, *torch.autograd.grad(y.sin().sum(), leaves)

def assert_alike(mine, theirs, eps):
    for a, b in zip(mine, theirs, strict=True): assert (a - b).abs().max() <= eps * b.abs().max().clamp(min=1e-6)

def step_by_step(input, conv, bias, dt_bias, A, D, norm, docs, P, N, eps):
    "The recurrence itself, a position at a time: no chunk, no matrix that equals it."
    H, inner = len(D), len(D) * P
    z, xBC, dt = input.split([inner, inner + 2*N, H], -1)
    x, B, C = F.silu(causal_conv(F.pad(xBC, [0, 0, len(conv) - 1, 0]), conv.T[:, None], bias, docs)).split([inner, N, N], -1)
    x, dt, S, ys = x.unflatten(-1, (H, P)), F.softplus(dt + dt_bias), input.new_zeros(len(input), H, P, N), []
    for t in range(input.shape[1]):
        if t: S = S * (docs[:, t] == docs[:, t - 1])[:, None, None, None]
        y, S = ssd_step(x[:, t], dt[:, t], A, B[:, t], C[:, t], S.clone())
        ys.append(y + x[:, t] * D[:, None])
    return norm * F.rms_norm(torch.stack(ys, 1).flatten(2) * F.silu(z), (inner,), eps=eps)

@sizes
@given(st.integers(1, 3), st.integers(1, 150), st.integers(1, 3), st.sampled_from([16, 32]), st.sampled_from([16, 48]),
       st.integers(1, 5), st.integers(0, 99))
def test_mamba_is_the_recurrence(B, T, H, P, N, taps, seed):
    g = torch.Generator().manual_seed(seed)
    def random(*shape): return torch.randn(shape, generator=g, dtype=torch.float64)
    channels, docs = H*P + 2*N, documents(B, T, g)
    leaves = [random(B, T, H*P + channels + H), random(taps, channels), random(channels), random(H), -random(H).exp(), random(H), random(H*P)]
    for t in leaves: t.requires_grad_()
    mine = gradients(lambda *ts: mamba_op(*ts, docs, P, N, 1e-6)[0], leaves)
    assert_alike(mine, gradients(lambda *ts: step_by_step(*ts, docs, P, N, 1e-6), leaves), 1e-8)

@sizes
@given(st.integers(1, 3), st.integers(1, 150), st.integers(1, 3), st.sampled_from([16, 64]), st.booleans(), st.integers(0, 99))
def test_attention_is_pytorchs(B, T, H, D, packed, seed):
    g = torch.Generator().manual_seed(seed)
    qkv = torch.randn(B, T, 3, H, D, generator=g, dtype=torch.float64).requires_grad_()
    angles = torch.rand(B, T, D//2, generator=g, dtype=torch.float64) * 6
    docs = documents(B, T, g) if packed else None
    def turned(x): return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * torch.polar(torch.ones_like(angles), angles)[:, None]).flatten(-2)
    def plain(qkv):
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mask = torch.ones(T, T, dtype=torch.bool).tril() if docs is None else (docs[:, None, :, None] == docs[:, None, None, :]).tril()
        return F.scaled_dot_product_attention(turned(q), turned(k), v, attn_mask=mask).transpose(1, 2)
    mine = gradients(lambda qkv: attention_op(qkv, angles.cos(), angles.sin(), docs)[0], [qkv])
    assert_alike(mine, gradients(plain, [qkv]), 1e-9)

@sizes
@given(st.integers(1, 200), st.integers(1, 90), st.integers(0, 99))
def test_small_parts_are_pytorchs(rows, width, seed):
    g = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(rows, width, generator=g, dtype=torch.float64).requires_grad_() for _ in range(2))
    w = torch.randn(width, generator=g, dtype=torch.float64).requires_grad_()
    assert_alike(gradients(swiglu_op, [x, y]), gradients(lambda a, b: F.silu(a) * b, [x, y]), 1e-9)
    assert_alike(gradients(lambda x, w: norm_op(x, w, 1e-6)[0], [x, w]), gradients(lambda x, w: w * F.rms_norm(x, (width,), eps=1e-6), [x, w]), 1e-7)
    targets = torch.randint(-1, width, (rows,), generator=g)
    loss = F.cross_entropy(x, targets, reduction="sum", ignore_index=-1)
    slope, made = torch.autograd.grad(loss, x)[0], x.detach().clone()
    assert_alike([cross_entropy_(made, targets).sum(), made], [loss, slope], 1e-9)

@pytest.mark.parametrize("pattern", ["A", "M", "AM"])
def test_a_model_in_c_is_the_model_without(pattern, monkeypatch):
    "Loss and every gradient, on packed rows of no round length; without a compiler it is plain PyTorch."
    torch.manual_seed(0)
    model = HebrewGPT(get_preset("tiny", pattern=pattern, context=512))
    g = torch.Generator().manual_seed(1)
    tokens, targets, docs = torch.randint(1024, (2, 301), generator=g), torch.randint(-1, 1024, (2, 301), generator=g), documents(2, 301, g)
    def made():
        model.zero_grad()
        loss = loss_of(model, tokens, targets.masked_fill(targets < 0, -100), docs)
        loss.backward()
        return loss.detach(), *(p.grad.clone() for p in model.parameters())
    in_c = made()
    monkeypatch.setattr("hebrewgpt_nb.engine.fused.has_library", lambda: False)
    monkeypatch.setattr("hebrewgpt_nb.engine.cpu.has_library", lambda: False)
    plain = made()
    assert_alike(in_c, plain, 2e-4)
    assert any(not torch.equal(a, b) for a, b in zip(in_c, plain)) # another path did run

@pytest.mark.parametrize("pattern", ["M", "AM"])
def test_a_prompt_read_in_parts_is_the_prompt(pattern):
    torch.manual_seed(0)
    model, tokens = HebrewGPT(get_preset("tiny", pattern=pattern, context=512)).eval(), torch.randint(1024, (2, 300))
    with torch.no_grad():
        whole, cache = model(tokens), model.make_cache(2)
        parts = torch.cat([model(part, cache=cache) for part in tokens.split([130, 1, 2, 66, 101], 1)], 1)
    assert (whole - parts).abs().max() < 1e-4

@pytest.mark.parametrize("shape", [(128, 300), (300, 128), (160, 160)])
def test_muon_is_torchs(shape):
    "`torch.optim.Muon`, whose products are bfloat16: the same but for their rounding."
    torch.manual_seed(0)
    start, grad = torch.randn(shape), torch.randn(shape)
    mine, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    mine.grad = theirs.grad = grad
    Muon([mine], lr=.1, momentum=.95).step()
    torch.optim.Muon([theirs], lr=.1, momentum=.95, weight_decay=0., adjust_lr_fn="original").step()
    a, b = mine.detach() - start, theirs.detach() - start
    assert F.cosine_similarity(a.flatten(), b.flatten(), dim=0) > .999 and (a.norm() / b.norm() - 1).abs() < .02

def test_the_singular_values_of_a_steep_matrix():
    "The powers of S alone lose what is small in it, and it grows with every step: it must still end where float64 ends."
    torch.manual_seed(0)
    U, V = (torch.linalg.qr(torch.randn(n, 128, dtype=torch.float64))[0] for n in (128, 400))
    X = (U * torch.logspace(0, -5, 128, dtype=torch.float64)) @ V.T
    X, Y = X / X.norm(), X / X.norm()
    a, b, c = 3.4445, -4.775, 2.0315
    for _ in range(5): S = Y @ Y.T; Y = a*Y + (b*S + c*S @ S) @ Y
    made = newton_schulz(X.float()[None].contiguous(), (a, b, c), 5)[0]
    assert (made - Y).norm() / Y.norm() < 2e-3

@pytest.mark.parametrize("pattern", ["A", "M"])
def test_documents_that_do_not_lie_in_a_row(pattern, monkeypatch):
    "One row of numbers expanded over a batch, and every other one of a longer tensor, are read as they are meant."
    monkeypatch.setattr(fused, "MIN_FUSED", 1)
    torch.manual_seed(0)
    model, tokens = HebrewGPT(get_preset("tiny", pattern=pattern)), torch.randint(1024, (3, 90))
    one = torch.arange(90) // 31
    wide = torch.stack([one, torch.full_like(one, 7)], 1).flatten().expand(3, -1)[:, ::2]
    with torch.no_grad():
        right = model(tokens, docs=one.repeat(3, 1))
        for docs in (one.expand(3, -1), wide): assert torch.equal(model(tokens, docs=docs), right)
