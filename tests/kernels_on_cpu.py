"""The kernels of a GPU without one, against the plain forms: python tests/kernels_on_cpu.py prints relative errors as JSON.

`mamba_ssm`'s Triton kernels run under Triton's interpreter. `causal_conv1d` is CUDA code with a Python part before it:
that part runs, and in place of the CUDA code its own reference form does, behind the checks that the CUDA code makes.
test_kernels.py starts this in a process of its own, since the interpreter is chosen before triton is imported."""
import os
os.environ |= dict(TRITON_INTERPRET="1", MAMBA_DETERMINISTIC="1") # as it is imported it takes one block size for each kernel: nothing has to be timed
import contextlib, json, sys, types, warnings
from collections import Counter
from unittest.mock import patch
import numpy as np, torch
from triton import language as tl
from triton.runtime import interpreter
import hebrewgpt_nb.engine.blocks as blocks
from hebrewgpt_nb.engine import fused
from hebrewgpt_nb.bench import relative_error
from hebrewgpt_nb.engine.scan import causal_conv, conv_kernel, import_part, kernels, ssd, ssd_kernel, ssd_step, step_kernel
from hebrewgpt_nb.model import get_preset
from hebrewgpt_nb.studies.gpu import CHECKS, document_ids, perturbed_model, run_check

# --- what a GPU would give --------------------------------------------------------------------------------

torch.cuda.device = lambda index: contextlib.nullcontext()
torch.cuda.get_device_properties = lambda device: types.SimpleNamespace(multi_processor_count=1)

plain_dot = interpreter.InterpreterBuilder.create_dot
def dot(self, a, b, d, *given): # the interpreter holds bfloat16 as uint16, and would multiply those
    def as_float(t): # a bfloat16 is the upper half of a float32
        return t if t.dtype.scalar != tl.bfloat16 else interpreter.TensorHandle((t.data.astype(np.uint32) << 16).view(np.float32), tl.float32)
    return plain_dot(self, as_float(a), as_float(b), d, *given)
interpreter.InterpreterBuilder.create_dot = dot

def check_conv(x, weight, bias, seq_idx): # as csrc/causal_conv1d.cpp of 1.7.0
    assert weight.shape == (x.shape[1], weight.shape[1]) and 2 <= weight.shape[1] <= 4 and bias.shape == x.shape[1:2] and bias.dtype == weight.dtype
    last = x.stride(1) == 1 and x.stride(2) > 1 # channels
    assert last or x.stride(2) == 1
    if last: assert x.shape[1] % 8 == x.stride(0) % 8 == x.stride(2) % 8 == 0
    if seq_idx is not None: assert last and seq_idx.dtype == torch.int32 and seq_idx.is_contiguous() and seq_idx.shape == (len(x), x.shape[2])

def conv_forward(x, weight, bias, seq_idx, initial_states, final_states_out, silu):
    check_conv(x, weight, bias, seq_idx)
    return torch.empty_like(x).copy_(interface.causal_conv1d_ref(x, weight, bias, seq_idx=seq_idx))

def conv_backward(x, weight, bias, dout, seq_idx, *rest):
    check_conv(x, weight, bias, seq_idx)
    assert dout.shape == x.shape and dout.stride(1) == 1 and dout.stride(0) % 8 == dout.stride(2) % 8 == 0
    leaves = [t.detach().requires_grad_() for t in (x, weight, bias)]
    with torch.enable_grad(): y = interface.causal_conv1d_ref(*leaves, seq_idx=seq_idx)
    return *torch.autograd.grad(y, leaves, dout), None

sys.modules["causal_conv1d_cuda"] = types.ModuleType("causal_conv1d_cuda") # compiled, where there is nvcc
interface = import_part("causal_conv1d.causal_conv1d_interface")
interface.causal_conv1d_fwd_function, interface.causal_conv1d_bwd_function = conv_forward, conv_backward

with warnings.catch_warnings(action="ignore"): scan, step, conv = (kernels()[part] for part in ("scan", "step", "conv"))
fused.MIN_FUSED = 2**60 # what runs on a CPU in C is not what is looked at here
import_part("mamba_ssm.utils.determinism").set_deterministic_mode(False) # as it runs on a GPU: sums are added up in place

# --- kernel by kernel -------------------------------------------------------------------------------------

b, T, H, P, N, Q = 2, 40, 2, 16, 16, 16 # three chunks, the last not full; P and N alike, so that a transposed state fits
DOCS = torch.tensor([[0] * 6 + [1] * 29 + [2] * 5, [3] * 16 + [4] * 3 + [5] * 21]) # one goes through a whole chunk, one ends with its chunk

def errors(ours, theirs, names): return {name: relative_error(t.float(), o.float()) for name, o, t in zip(names, ours, theirs, strict=True)}

def scan_leaves(dtype): # x, dt, A, B, C as the block gives them: parts of wider rows, only the step sizes in float32
    wide = torch.randn(b, T, H * P + 2 * N).to(dtype)
    x, B, C = wide.split([H * P, N, N], -1)
    return [t.requires_grad_() for t in (x.unflatten(-1, (H, P)).detach(), torch.rand(b, T, H), -.05 - torch.rand(H) / 2, B.detach(), C.detach())]

def run(form, leaves, docs, S):
    y, last = form(*leaves[:5], Q, docs, S)
    g = torch.Generator().manual_seed(1)
    loss = (y.float() * torch.randn(y.shape, generator=g)).sum() + (0 if docs is not None else (last * torch.randn(last.shape, generator=g)).sum())
    return y, last, *torch.autograd.grad(loss, leaves)

def compare_scan(docs=None, start=False, dtype=torch.float32):
    torch.manual_seed(0)
    leaves, S = scan_leaves(dtype), torch.randn(b, H, P, N, requires_grad=True) if start else None
    if start: leaves.append(S)
    def plain(x, dt, A, B, C, *rest): return ssd(x.float(), dt, A, B.float(), C.float(), *rest)
    def by_kernel(*given): return ssd_kernel(scan, *given)
    return errors(*(run(form, leaves, docs, S) for form in (plain, by_kernel)), "y S dx ddt dA dB dC dS".split()[:2 + len(leaves)])

def compare_step(dtype=torch.float32):
    torch.manual_seed(0)
    x, dt, A, B, C = (t.detach() for t in scan_leaves(dtype))
    S, token = torch.randn(b, H, P, N), lambda t: t[:, 7]
    plain = ssd_step(token(x).float(), token(dt), A, token(B).float(), token(C).float(), S.clone())
    return errors(plain, step_kernel(step, token(x), token(dt), A, token(B), token(C), S.clone()), "yS")

def compare_conv(docs, dtype=torch.float32):
    torch.manual_seed(0)
    x, weight, bias = (t.requires_grad_() for t in (torch.randn(b, T + 3, 24).to(dtype), torch.randn(24, 1, 4), torch.randn(24)))
    outputs = [causal_conv(x.float(), weight, bias, docs), conv_kernel(conv, x, weight, bias, docs)]
    return errors(*((y, *torch.autograd.grad(y.float().sin().sum(), (x, weight, bias))) for y in outputs), ("y", "dx", "dweight", "dbias"))

# --- a model ------------------------------------------------------------------------------------------------

def compare_model(check, dtype, without=()): # the checks of `make gpu`, by the kernels
    cfg = get_preset("tiny", pattern="AM", vocab_size=97, width=32, heads=2, head_dim=16, hidden=48, state=16, mamba_head=32, chunk=16)
    model, called = perturbed_model(cfg), Counter()
    tokens = torch.randint(cfg.vocab_size, (2, 40), generator=torch.Generator().manual_seed(0))
    def counted(part):
        def call(*given, **named):
            called[part] += 1
            return kernels()[part](*given, **named)
        return call
    plain = run_check(check, model, tokens, "cpu", autocast=False)
    with patch.object(blocks, "kernel_for", lambda part, x: None if part in without else counted(part)):
        made = run_check(check, model, tokens, "cpu", autocast=dtype == torch.bfloat16)
    return {check: relative_error(made, plain), "called": dict(called)}

# --- calls that are wrong -----------------------------------------------------------------------------------

def mutated(output, docs=None, last=lambda S: S, **changes): # error of y or S where an argument, or the last state, is another
    torch.manual_seed(0)
    leaves, start = [t.detach()[:1] if t.ndim > 1 else t.detach() for t in scan_leaves(torch.float32)], torch.randn(1, H, P, N)
    def call(*given, **named):
        given = dict(zip(("x", "dt", "A", "B", "C", "chunk_size"), given)) | named
        y, S = scan(**given | {name: change(given) for name, change in changes.items()})
        return y, last(S)
    given = *leaves, Q, docs, None if docs is not None else start
    return {output: errors(ssd(*given), ssd_kernel(call, *given), "yS")[output]}

def mutated_conv():
    torch.manual_seed(0)
    x, weight, bias = torch.randn(b, T + 3, 24), torch.randn(24, 1, 4), torch.randn(24)
    return dict(y=relative_error(conv_kernel(conv, x, weight, bias), causal_conv(x, weight, bias, DOCS)))

CASES = {
    "scan documents": lambda: compare_scan(DOCS),
    "scan state": lambda: compare_scan(start=True),
    "scan documents bf16": lambda: compare_scan(DOCS, dtype=torch.bfloat16),
    "step": compare_step,
    "step bf16": lambda: compare_step(torch.bfloat16),
    "conv": lambda: compare_conv(None),
    "conv documents": lambda: compare_conv(DOCS),
    "conv documents bf16": lambda: compare_conv(DOCS, torch.bfloat16),
    **{f"model {check}": lambda check=check: compare_model(check, torch.float32) for check in CHECKS},
    "model gradient bf16": lambda: compare_model("gradient", torch.bfloat16),
    "model documents bf16 conv plain": lambda: compare_model("documents", torch.bfloat16, without=("conv",)),
    "wrong: documents not passed": lambda: mutated("y", DOCS[:1], seq_idx=lambda given: None),
    "wrong: documents a token late": lambda: mutated("y", DOCS[:1], seq_idx=lambda given: given["seq_idx"].roll(1, 1)),
    "wrong: B and C exchanged": lambda: mutated("y", B=lambda given: given["C"], C=lambda given: given["B"]),
    "wrong: heads exchanged": lambda: mutated("y", dt=lambda given: given["dt"].flip(-1)),
    "wrong: state transposed": lambda: mutated("y", initial_states=lambda given: given["initial_states"].mT),
    "wrong: last state transposed": lambda: mutated("S", last=lambda S: S.mT),
    "wrong: documents not passed to the convolution": mutated_conv,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps({name: case() for name, case in CASES.items() if not sys.argv[1:] or sys.argv[1] in name}))
