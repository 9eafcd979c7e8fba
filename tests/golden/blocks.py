"""Random matrices and the blocks of 8 and 4 bits that the `gguf` package makes of them.

    blocks.py

Writes blocks/values.f32 (little-endian float32 [n_blocks][32]) and what gguf.quants.quantize makes
of them, which is what ggml's reference routines make: blocks/q8_0.bin and blocks/q4_0.bin.
"""

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Q

from oracle import HERE

N_RANDOM = 256


def blocks() -> np.ndarray:
    draw = np.random.default_rng(7)
    normal = draw.standard_normal((N_RANDOM, 32)) * 2.0 ** draw.integers(-30, 12, (N_RANDOM, 1))
    # As bf16 and f16 files have them: few bits, so that products fall on halves.
    coarse = (draw.standard_normal((64, 32)) * 0.02).astype(np.float16).astype(np.float32)
    whole = draw.integers(-127, 128, (64, 32)) / draw.choice([1, 2, 4, 254], (64, 1))
    halves = np.array([[127, *(k + 0.5 for k in range(-15, 16))], [8, *np.arange(-7.5, 8, 0.5)]])
    # The largest magnitude twice, first with one sign, then with the other.
    twins = draw.uniform(-1, 1, (16, 32))
    twins[:, 3], twins[:, 20] = 1.5, -1.5
    twins[8:] *= -1
    edges = np.zeros((6, 32))
    edges[1, 5] = -2.0**-20  # alone
    edges[2] = -0.0
    edges[3] = np.linspace(-8e6, 8e6, 32)  # the scale just fits an f16
    edges[4] = np.linspace(-1, 1, 32) * 2.0**-26  # and here it is too small for one
    edges[5] = np.linspace(-1, 1, 32) * 127 * 2.0**-20  # and here it has few bits
    return np.concatenate([normal, coarse, whole, halves, twins, edges]).astype(np.float32)


def main() -> None:
    folder = HERE / "blocks"
    folder.mkdir(exist_ok=True)
    values = blocks()
    values.tofile(folder / "values.f32")
    for kind in (Q.Q8_0, Q.Q4_0):
        # The edges of Q4_0 reach further: its scale is an eighth of the largest, not a 127th.
        source = np.where(np.abs(values) > 5e5, values / 16, values) if kind == Q.Q4_0 else values
        gguf.quants.quantize(source.astype(np.float32), kind).tofile(
            folder / f"{kind.name.lower()}.bin"
        )


if __name__ == "__main__":
    main()
