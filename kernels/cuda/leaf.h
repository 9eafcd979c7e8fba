/*
 * leaf: the few operations that a kernel body is written over.
 *
 * A body (`*.cu`) is one source for two compilers: nvcc makes machine code of it, where a leaf is
 * an instruction or a few lines of PTX (leaf_card.h); the host's C++ compiler makes the emulated
 * backend of it, where a leaf is a call into the emulator (leaf_host.h). Whatever a body does with
 * the machine goes through a leaf; the rest is plain C++ without library, exceptions or allocation.
 *
 *     KERNEL(name, struct task, 256, 2)   256 threads a block (a multiple of 32), at least 2
 *     { ... a.field ... }                 blocks on a processor; `a` is the one argument
 *
 *     thread_index() block_x() block_y() block_z() grid_x() lane_index() warp_index()
 *     shared<T> s = shared_at<T>(offset)  the block's dynamic shared memory, poisoned at its start
 *     global<T> out(pointer)              memory that the kernel writes; what it only reads may be
 *                                         read through a plain `const T *`
 *     barrier()                           all threads of the block
 *     barrier_of(id, threads)             bar.sync: some warps; barrier_arrive(id, threads) only
 *                                         signs it
 *     warp_sync() shuffle(v, lane) shuffle_xor(v, mask) warp_sum(v) warp_max(v) warp_ballot(bool)
 *     block_sum(v, scratch)               in one fixed order; scratch: shared<T> of 33
 *     copy_async16(shared, from, valid)   cp.async, 16 bytes, zeros where not valid;
 *     copy_async_commit() copy_async_wait<N>()
 *     mbarrier_init(bar, count) mbarrier_arrive(bar) mbarrier_expect(bar, bytes)
 *     mbarrier_wait(bar, parity) mbarrier_fence()
 *     copy_bulk(shared, from, bytes, bar) cp.async.bulk: 16-byte aligned, completes on `bar`
 *     async_fence()                       what was written by stores is seen by bulk and wgmma
 *     ldmatrix_x4(r, row) ldmatrix_x4_turned(r, row)
 *     mma_bf16(d, a, b) mma_f16 mma_s8 mma_e4m3   one warp, m16n8k16 (k32 for bytes)
 *     registers_raise<n>() registers_drop<n>()   a warpgroup takes or gives registers: sm_90a
 *     wgmma_*                             one warpgroup: see leaf_wgmma.h
 *     atomic_add atomic_max atomic_or atomic_exchange (p, v)
 *     atomic_add_ordered(p, v)            releases what the
 *                                         thread's block wrote before, acquires what others did
 *     shared_atomic_add(s, i, v) shared_atomic_max(s, i, v)
 *     load_stream(p)                      16 bytes that are read once
 *     float_of_bf16 bf16_of float_of_f16 f16_of pack_bf16 float_of_e4m3 e4m3_of fma32
 *     e4m3x2_of(low, high)                two values to the nearest e4m3, the first in the lower
 *                                         byte; 448 for larger ones, NaN stays one of either sign
 *     f16x2_of_e4m3x2(p) bf16x2_of_e4m3x2(p)  two e4m3 to halves, exactly; NaN becomes 0x7fff.
 *                                         With <true> there is none, which spares instructions
 *     exp2_near(x)                        2^x, two units off, 0 for small ones; cheap
 *
 * Arithmetic: nvcc runs with -fmad=false and IEEE division and roots, the host with
 * -ffp-contract=off: + - * / sqrtf fmaf and the double ones give the same bits on both. exp, log,
 * sin and cos do not.
 */
#pragma once

#include <math.h>

#include "kernels/cuda/cxx.h"

/* How rows of a tile are scrambled in shared memory: pieces of 16 bytes within so many bytes. */
enum swizzle { SWIZZLE_NONE, SWIZZLE_128, SWIZZLE_64, SWIZZLE_32 };

#ifdef __CUDACC__
#include "kernels/cuda/leaf_card.h"
#include "kernels/cuda/leaf_wgmma.h"
#else
#include "kernels/cuda/leaf_host.h"
#endif

/* ---- what is the same on both ---- */

#define ALL_LANES 0xffffffffu

LEAF uint32_t lane_index()
{
    return thread_index() & 31;
}

LEAF uint32_t warp_index()
{
    return thread_index() >> 5;
}

/* Butterflies: every lane gets the same bits, since a + b is b + a. */
template <typename T> LEAF T warp_sum(T value)
{
    for (uint32_t mask = 16; mask > 0; mask >>= 1)
        value += shuffle_xor(value, mask);
    return value;
}

template <typename T> LEAF T warp_max(T value)
{
    for (uint32_t mask = 16; mask > 0; mask >>= 1) {
        T other = shuffle_xor(value, mask);
        value = other > value ? other : value;
    }
    return value;
}

/* Warps first, then their sums: the order depends on the number of threads alone. All threads get
 * the sum; `scratch` may be used again after the call. */
template <typename T> LEAF T block_sum(T value, shared<T> scratch)
{
    value = warp_sum(value);
    if (lane_index() == 0)
        scratch[warp_index()] = value;
    barrier();
    if (warp_index() == 0) {
        T part = lane_index() < block_threads() / 32 ? (T)scratch[lane_index()] : (T)0;
        part = warp_sum(part);
        if (lane_index() == 0)
            scratch[32] = part;
    }
    barrier();
    value = scratch[32];
    barrier();
    return value;
}

LEAF float float_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

LEAF uint32_t bits_of_float(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

LEAF float float_of_bf16(uint16_t half)
{
    return float_of_bits((uint32_t)half << 16);
}

/* Nearest, ties to even; NaN stays one: the bits of dtype_bf16. */
LEAF uint16_t bf16_of(float value)
{
    uint32_t bits = bits_of_float(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

#if ON_HOST
/* Two values as tensor instructions want them: the first in the lower half. The card has an
 * instruction for it. */
LEAF uint32_t pack_bf16(float low, float high)
{
    return (uint32_t)bf16_of(low) | (uint32_t)bf16_of(high) << 16;
}
#endif

LEAF_BOTH uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

LEAF_BOTH uint32_t max_u32(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

LEAF_BOTH uint32_t div_up(uint32_t n, uint32_t d)
{
    return (n + d - 1) / d;
}

LEAF float silu(float x)
{
    return x / (1.0f + expf(-x));
}
