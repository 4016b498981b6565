"""The optimizer against PyTorch's own, and in two processes against one."""
import torch, torch.distributed as dist, torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from hebrewgpt_nb.model import HebrewGPT, get_preset
from hebrewgpt_nb.training.optim import Muon, MuonAdamW, orthogonalize, orthogonalize_all, to_full_tensor

SHAPES = [(24, 40), (40, 24), (16, 16), (24, 40), (24, 40), (96, 32)]


def matrices(seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=g) for s in SHAPES]


def steps(net, opt, n=7):
    "A few steps on fixed tokens; every process has the whole batch."
    tokens = torch.randint(97, (3, 17), generator=torch.Generator().manual_seed(1))
    for _ in range(n):
        torch.nn.functional.cross_entropy(net(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()
        opt.step(); opt.zero_grad()


def fresh():
    torch.manual_seed(0)
    return HebrewGPT(get_preset("tiny", vocab_size=97))


def in_two(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.set_num_threads(1)
    turned = orthogonalize_all(matrices())
    net = fresh()
    steps(net, MuonAdamW(net, .02, .005, lookahead=5))
    divided = fresh()
    for block in divided.blocks: fully_shard(block, mesh=init_device_mesh("cpu", (2,)))
    fully_shard(divided, mesh=init_device_mesh("cpu", (2,)))
    steps(divided, MuonAdamW(divided, .02, .005, lookahead=5))
    made = dict(turned=turned, net=net.state_dict(), divided={n: to_full_tensor(p).detach() for n, p in divided.named_parameters()})
    torch.save(made, f"{folder}/{rank}.pt")
    dist.barrier(); dist.destroy_process_group()


def test_two_processes_share_the_work_and_agree_with_one(tmp_path):
    mp.spawn(in_two, (str(tmp_path),), nprocs=2)
    net, turned = fresh(), orthogonalize_all(matrices())
    steps(net, MuonAdamW(net, .02, .005, lookahead=5))
    for rank in (0, 1):
        made = torch.load(tmp_path/f"{rank}.pt", weights_only=True)
        assert all(torch.equal(a, b) for a, b in zip(turned, made["turned"]))
        for name, p in net.named_parameters():
            torch.testing.assert_close(made["net"][name], p.detach(), rtol=0, atol=1e-6)
            torch.testing.assert_close(made["divided"][name], p.detach(), rtol=0, atol=1e-4) # its gradients were averaged


def test_the_same_operations_give_the_update_of_torch():
    ours = [torch.nn.Parameter(m) for m in matrices(1)]
    theirs = [torch.nn.Parameter(m) for m in matrices(1)]
    o, t = Muon(ours, lr=.03, weight_decay=.1, dtype=torch.bfloat16), torch.optim.Muon(theirs, lr=.03, weight_decay=.1)
    for seed in range(4):
        for p, q, g in zip(ours, theirs, matrices(seed + 2)): p.grad, q.grad = g.clone(), g.clone()
        o.step(); t.step()
        for p, q in zip(ours, theirs): assert torch.equal(p, q)


def test_a_stack_is_worked_on_as_each_alone():
    stack = torch.randn(5, 48, 80, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float32, torch.bfloat16):
        apart = torch.stack([orthogonalize(m, dtype=dtype) for m in stack]).float()
        torch.testing.assert_close(orthogonalize(stack, dtype=dtype).float(), apart, rtol=0, atol=1e-6 if dtype == torch.float32 else .02)
