"""What is measured on a card: every cell by name, as tests/gpu/cell.h has it.

A new format of weights or of K and V is added to WEIGHTS or KV here, and nowhere else: what a build
or a backend lacks comes back as `absent`, with its words.
"""
from dataclasses import dataclass

MISTRAL = dict(layers=32, hidden=4096, heads=32, kv_heads=8, head_dim=128, ffn=14336, experts=0,
               top_k=0, vocab=32000)
MIXTRAL = dict(MISTRAL, experts=8, top_k=2)
MODELS = {"mistral": MISTRAL, "mixtral": MIXTRAL}
# What stands in a name, and what the backend is asked for: GPTQ and AWQ become these blocks too.
WEIGHTS = {"bf16": "bf16", "fp8": "fp8", "q8": "q8_0", "q4": "q4_0", "q4_1": "q4_1"}
KV = {"bf16": "bf16", "fp8": "fp8"}
PRODUCTS = {"qkv": (6144, 4096), "output": (4096, 4096), "gate_up": (28672, 4096),
            "down": (4096, 14336)}
TINY = dict(layers=2, hidden=64, heads=4, kv_heads=2, head_dim=64, ffn=64, vocab=96)


@dataclass(frozen=True)
class Cell:
    name: str
    group: str
    kind: str
    keys: dict
    unit: str           # of what is told: %, us, GB/s, TFLOP/s
    peers: tuple = ()   # which of peers.py can do it
    tiny: dict = None   # keys that a dry run has instead

    def line(self, dry: bool) -> str:
        keys = {**self.keys, **(self.tiny or {})} if dry else self.keys
        return " ".join([self.name, self.kind] + [f"{k}={v}" for k, v in keys.items()])


def size(tokens: int) -> str:
    return f"{tokens // 1024}k" if tokens >= 1024 else str(tokens)


def yardsticks() -> list:
    return [Cell("copy", "yardsticks", "copy", dict(mib=1024), "GB/s", tiny=dict(mib=1)),
            Cell("launch", "yardsticks", "floor", {}, "us"),
            Cell("rate", "yardsticks", "product", dict(n=8192, k=8192, rows=8192, weights="bf16"),
                 "TFLOP/s", ("torch",), dict(n=64, k=64, rows=40))]


def steps() -> list:
    """Whole decode steps; K and V in 8 bits with weights in 8 bits, as the floors have them."""
    cells = []
    for model, shape in MODELS.items():
        for weights in ("bf16", "fp8", "q4", "q8"):
            for batch in (1, 2, 4, 8, 64, 256):
                kv = KV["fp8" if weights == "fp8" else "bf16"]
                keys = dict(shape, weights=WEIGHTS[weights], kv=kv, batch=batch, context=1024)
                tiny = dict(TINY, experts=4 if shape["experts"] else 0, context=20,
                            batch=min(batch, 2))
                cells.append(Cell(f"step_{model}_{weights}_b{batch}", "step", "step", keys, "%",
                                  tiny=tiny))
    return cells


def mixtures() -> list:
    cells, tiny = [], dict(hidden=128, ffn=128, experts=4)
    block = dict(hidden=4096, ffn=14336, experts=8, top_k=2)
    for weights in ("bf16", "fp8", "q4", "q8"):
        for rows in (1, 2, 4, 8, 16, 32, 64):
            cells.append(Cell(f"moe_{weights}_{rows}", "moe", "experts",
                              dict(block, rows=rows, weights=WEIGHTS[weights]), "GB/s",
                              ("triton",), dict(tiny, rows=min(rows, 2))))
    for weights in ("bf16", "fp8"):
        for tokens in (256, 512, 1024):
            rows = tokens * block["experts"] // block["top_k"]
            cells.append(Cell(f"grouped_{weights}_{tokens}", "grouped", "experts",
                              dict(block, rows=rows, weights=WEIGHTS[weights]), "TFLOP/s",
                              ("torch",), dict(tiny, rows=40)))
    return cells


def attention() -> list:
    heads, cells = dict(heads=32, kv_heads=8, head_dim=128), []
    tiny = dict(heads=4, kv_heads=2, head_dim=64)
    for kv in KV:
        for rows in (1, 4, 16, 64, 256):
            for context in (1024, 4096, 16384, 65536):
                cells.append(Cell(f"attend_{kv}_{rows}x{size(context)}", "attend", "attend",
                                  dict(heads, rows=rows, context=context, kv=KV[kv]), "GB/s",
                                  (), dict(tiny, rows=min(rows, 2), context=40)))
    for rows in (2048, 4096, 8192, 16384, 32768):
        cells.append(Cell(f"prefill_{size(rows)}", "prefill", "prefill",
                          dict(heads, rows=rows, kv="bf16"), "TFLOP/s", ("flash", "cudnn"),
                          dict(tiny, rows=70)))
    return cells


def dense() -> list:
    cells = []
    for weights in ("bf16", "fp8"):
        for name, (n, k) in PRODUCTS.items():
            for rows in (2048, 8192):
                cells.append(Cell(f"dense_{weights}_{name}_{size(rows)}", "dense", "product",
                                  dict(n=n, k=k, rows=rows, weights=WEIGHTS[weights]), "TFLOP/s",
                                  ("torch",), dict(n=64, k=64, rows=40)))
    keys = {k: MISTRAL[k] for k in ("hidden", "heads", "kv_heads", "head_dim", "ffn")}
    cells.append(Cell("dense_gaps", "dense", "gaps", dict(keys, rows=8192, weights="bf16"), "%",
                      tiny=dict(hidden=64, heads=1, kv_heads=1, head_dim=64, ffn=64, rows=2)))
    return cells


def all_cells() -> list:
    return yardsticks() + attention() + mixtures() + dense() + steps()


# One of each kind and each shape of code: what a dry run goes through on an emulated card.
DRY = ["copy", "launch", "rate", "attend_bf16_4x1k", "prefill_2k", "moe_q4_2", "moe_fp8_1",
       "dense_bf16_qkv_2k", "dense_gaps", "step_mistral_q4_b1", "step_mixtral_bf16_b2"]
