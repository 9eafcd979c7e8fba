#!/usr/bin/env python3
"""What torch and Triton take for the same cells, for tests/gpu/run bench.

First line out: `ready`, or `absent WHY`. Then for each line `NAME KIND key=value... peers=A,B` of
standard input one line: `cell NAME A=SECONDS B!WHY!`. Peers:
    torch    product: a matrix product (cuBLASLt); weights=fp8: torch._scaled_mm.
             experts: two grouped products (torch._grouped_mm), silu(gate) * up between them; rows
             are already sorted, so without the routing that ours does as well
    flash, cudnn   causal attention by torch's backends of these names
    triton   experts: a fused mixture kernel written here: a program for each tile of an expert's
             rows, products by tl.dot; bf16 weights, or fp8 with bf16 rows
Inputs are random. A captured graph is timed where it can be, as ours is. Weights and rows are far
larger than caches, or each call takes others in turn, as with ours.
"""
import statistics
import sys
import time

ROUNDS = 9
GRAPH_SECONDS = 0.01
COLD_BYTES = 256 << 20

try:
    import torch
    import torch.nn.functional as F
    ABSENT = "" if torch.cuda.is_available() else "torch sees no card"
except ImportError as error:
    ABSENT = f"no torch: {error}"


def timed(work, calls_max: int = 64) -> float:
    """Seconds of one call work(index): the median of rounds."""
    for index in range(3):
        work(index)
    torch.cuda.synchronize()
    start = time.monotonic()
    work(0)
    torch.cuda.synchronize()
    once = time.monotonic() - start
    calls = max(1, min(calls_max, int(GRAPH_SECONDS / once)))
    try:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for index in range(calls):
                work(index)
        launch = graph.replay
    except RuntimeError:  # what cannot be captured
        torch.cuda.synchronize()

        def launch():
            for index in range(calls):
                work(index)
    seconds = []
    for _ in range(ROUNDS + 1):
        torch.cuda.synchronize()
        start = time.monotonic()
        launch()
        torch.cuda.synchronize()
        seconds.append((time.monotonic() - start) / calls)
    return statistics.median(seconds[1:])


def random_bf16(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16) * 0.02


def of_type(tensor, weights: str):
    if weights == "bf16":
        return tensor
    if weights == "fp8":
        return (tensor * 64).to(torch.float8_e4m3fn)
    raise ValueError(f"no peer has weights of {weights}")


def product(keys: dict) -> float:
    n, k, rows, weights = keys["n"], keys["k"], keys["rows"], keys["weights"]
    weight, row = of_type(random_bf16(n, k), weights), of_type(random_bf16(rows, k), weights)
    if weights == "bf16":
        return timed(lambda _: row @ weight.t())
    one = torch.ones((), device="cuda")
    return timed(lambda _: torch._scaled_mm(row, weight.t(), scale_a=one, scale_b=one,
                                            out_dtype=torch.bfloat16))


def routed(keys: dict) -> tuple:
    """(expert of each pair, sorted; the row of each; where each expert's pairs end)"""
    rows, experts, top_k = keys["rows"], keys["experts"], keys["top_k"]
    chosen = torch.rand(rows, experts, device="cuda").topk(top_k, dim=1).indices.flatten()
    order = chosen.argsort(stable=True)
    ends = torch.bincount(chosen, minlength=experts).cumsum(0).to(torch.int32)
    return chosen[order].to(torch.int32), (order // top_k).to(torch.int32), ends


def grouped(keys: dict) -> float:
    if keys["weights"] != "bf16":
        raise ValueError("torch's grouped products are measured with bf16 weights alone")
    experts, hidden, ffn = keys["experts"], keys["hidden"], keys["ffn"]
    gate_up, down = random_bf16(experts, hidden, 2 * ffn), random_bf16(experts, ffn, hidden)
    _, row_of, ends = routed(keys)
    rows = random_bf16(keys["rows"], hidden)[row_of.long()]

    def work(_):
        gate, up = torch._grouped_mm(rows, gate_up, offs=ends).chunk(2, dim=1)
        torch._grouped_mm(F.silu(gate) * up, down, offs=ends)
    return timed(work, 16)


def attention(keys: dict, backend: str) -> float:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    wanted = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}[backend]
    rows, size = keys["rows"], keys["head_dim"]
    q = random_bf16(1, keys["heads"], rows, size)
    k, v = (random_bf16(1, keys["kv_heads"], rows, size) for _ in range(2))

    def work(_):
        with sdpa_kernel([wanted]):
            F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return timed(work, 16)


# ---- a fused mixture in Triton ----

TILE_ROWS, TILE_OUT, TILE_IN = 16, 64, 128


def kernels() -> tuple:
    """Compiled late: without triton the other peers still run."""
    import triton
    import triton.language as tl

    @triton.jit
    def gate_up_tile(rows, weights, out, tile_expert, tile_first, tile_end, row_of, hidden, ffn,
                     R: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
        """out[pair][ffn] = silu(gate) * up of one expert's rows; weights [expert][2 ffn][hidden]"""
        tile, column = tl.program_id(0), tl.program_id(1) * N + tl.arange(0, N)
        expert = tl.load(tile_expert + tile).to(tl.int64)
        pair = tl.load(tile_first + tile) + tl.arange(0, R)
        there = pair < tl.load(tile_end + tile)
        row = tl.load(row_of + pair, mask=there, other=0).to(tl.int64)
        gate = tl.zeros((R, N), dtype=tl.float32)
        up = tl.zeros((R, N), dtype=tl.float32)
        base = weights + expert * 2 * ffn * hidden
        for first in range(0, hidden, K):
            k = first + tl.arange(0, K)
            x = tl.load(rows + row[:, None] * hidden + k[None, :], mask=there[:, None], other=0)
            g = tl.load(base + column[None, :].to(tl.int64) * hidden + k[:, None])
            u = tl.load(base + (ffn + column)[None, :].to(tl.int64) * hidden + k[:, None])
            gate = tl.dot(x, g.to(tl.bfloat16), gate)
            up = tl.dot(x, u.to(tl.bfloat16), up)
        value = gate * tl.sigmoid(gate) * up
        tl.store(out + pair[:, None].to(tl.int64) * ffn + column[None, :], value.to(tl.bfloat16),
                 mask=there[:, None])

    @triton.jit
    def down_tile(pairs, weights, shares, out, tile_expert, tile_first, tile_end, row_of, hidden,
                  ffn, R: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
        """out[row] += share * pairs[pair] by down; weights [expert][hidden][ffn]"""
        tile, column = tl.program_id(0), tl.program_id(1) * N + tl.arange(0, N)
        expert = tl.load(tile_expert + tile).to(tl.int64)
        pair = tl.load(tile_first + tile) + tl.arange(0, R)
        there = pair < tl.load(tile_end + tile)
        sums = tl.zeros((R, N), dtype=tl.float32)
        base = weights + expert * hidden * ffn
        for first in range(0, ffn, K):
            k = first + tl.arange(0, K)
            x = tl.load(pairs + pair[:, None].to(tl.int64) * ffn + k[None, :],
                        mask=there[:, None], other=0)
            w = tl.load(base + column[None, :].to(tl.int64) * ffn + k[:, None])
            sums = tl.dot(x, w.to(tl.bfloat16), sums)
        row = tl.load(row_of + pair, mask=there, other=0).to(tl.int64)
        share = tl.load(shares + pair, mask=there, other=0)
        tl.atomic_add(out + row[:, None] * hidden + column[None, :], sums * share[:, None],
                      mask=there[:, None])

    return gate_up_tile, down_tile


def tiles(ends) -> tuple:
    """(expert, first pair, end) of each tile; made on the host, and not in the time."""
    found, first = [], 0
    for expert, end in enumerate(ends.tolist()):
        found += [(expert, at, end) for at in range(first, end, TILE_ROWS)]
        first = end
    return tuple(torch.tensor(part, device="cuda", dtype=torch.int32) for part in zip(*found))


def fused(keys: dict) -> float:
    gate_up_tile, down_tile = kernels()
    experts, hidden, ffn = keys["experts"], keys["hidden"], keys["ffn"]
    gate_up = of_type(random_bf16(experts, 2 * ffn, hidden), keys["weights"])
    down = of_type(random_bf16(experts, hidden, ffn), keys["weights"])
    _, row_of, ends = routed(keys)
    rows, n_pairs = random_bf16(keys["rows"], hidden), len(row_of)
    between = torch.empty(n_pairs, ffn, device="cuda", dtype=torch.bfloat16)
    shares = torch.full((n_pairs,), 1 / keys["top_k"], device="cuda")
    out = torch.zeros(keys["rows"], hidden, device="cuda")
    where = tiles(ends)
    sizes = dict(R=TILE_ROWS, N=TILE_OUT, K=TILE_IN, num_stages=4)

    def work(_):
        out.zero_()
        gate_up_tile[(len(where[0]), ffn // TILE_OUT)](rows, gate_up, between, *where, row_of,
                                                      hidden, ffn, **sizes)
        down_tile[(len(where[0]), hidden // TILE_OUT)](between, down, shares, out, *where, row_of,
                                                      hidden, ffn, **sizes)
    return timed(work, 16)


def peer(name: str, kind: str, keys: dict) -> float:
    if name in ("flash", "cudnn") and kind == "prefill":
        return attention(keys, name)
    if name == "torch" and kind == "product":
        return product(keys)
    if name == "torch" and kind == "experts":
        return grouped(keys)
    if name == "triton" and kind == "experts":
        return fused(keys)
    raise ValueError(f"{name} has no {kind}")


def answer(line: str) -> str:
    name, kind, *words = line.split()
    texts = dict(word.split("=", 1) for word in words)
    keys = {key: int(text) if text.isdigit() else text for key, text in texts.items()}
    told = []
    for which in texts["peers"].split(","):
        try:
            told.append(f"{which}={peer(which, kind, keys):.9g}")
        except Exception as error:  # of whatever kind: the peer has no figure, and says why
            why = " ".join(f"{type(error).__name__}: {error}".replace("!", ".").split())
            told.append(f"{which}!{why[:200]}!")
        torch.cuda.empty_cache()
    return f"cell {name} {' '.join(told)}"


def main() -> None:
    print(f"absent {ABSENT}" if ABSENT else "ready", flush=True)
    for line in sys.stdin if not ABSENT else ():
        print(answer(line), flush=True)


if __name__ == "__main__":
    main()
