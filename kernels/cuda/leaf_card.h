/*
 * leaf_card: the leaves as instructions. See leaf.h for what each means.
 *
 * Compiled by nvcc for sm_80, sm_90a and PTX for what comes later. What only sm_90 has (mbarriers
 * with transactions, bulk copies, wgmma) exists in that code alone; elsewhere it traps, and the
 * launching side asks `device->wgmma` first.
 */
#pragma once

#include <cuda_fp16.h>
#include <cuda_fp8.h>

#define ON_HOST 0
#define LEAF static __device__ __forceinline__
#define LEAF_BOTH static __host__ __device__ __forceinline__
#define KERNEL(name, type, n_threads, blocks_per_processor)                                        \
    static __global__ void __launch_bounds__(n_threads, blocks_per_processor)                      \
        name(const __grid_constant__ type a)

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define CARD_HAS_90 1
#else
#define CARD_HAS_90 0
#endif
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define CARD_HAS_WGMMA 1
#else
#define CARD_HAS_WGMMA 0
#endif

struct alignas(16) bytes16 {
    uint32_t word[4];
};

LEAF uint32_t thread_index()
{
    return threadIdx.x;
}
LEAF uint32_t block_threads()
{
    return blockDim.x;
}
LEAF uint32_t block_x()
{
    return blockIdx.x;
}
LEAF uint32_t block_y()
{
    return blockIdx.y;
}
LEAF uint32_t block_z()
{
    return blockIdx.z;
}
LEAF uint32_t grid_x()
{
    return gridDim.x;
}
LEAF uint32_t grid_y()
{
    return gridDim.y;
}
LEAF uint32_t grid_z()
{
    return gridDim.z;
}

/* ---- places ---- */

template <typename T> struct shared {
    T *at;
    __device__ __forceinline__ T &operator[](size_t i) const { return at[i]; }
    __device__ __forceinline__ shared operator+(size_t i) const { return {at + i}; }
    template <typename U> __device__ __forceinline__ shared<U> as() const
    {
        return {(U *)(void *)at};
    }
};

template <typename T> LEAF shared<T> shared_at(uint32_t offset_bytes)
{
    extern __shared__ __align__(1024) char block_shared[];
    return {(T *)(void *)(block_shared + offset_bytes)};
}

template <typename T> LEAF uint32_t shared_address(shared<T> s)
{
    return (uint32_t)__cvta_generic_to_shared(s.at);
}

template <typename T> struct global {
    T *at;
    __device__ __forceinline__ explicit global(T *pointer) : at(pointer) {}
    __device__ __forceinline__ T &operator[](size_t i) const { return at[i]; }
    __device__ __forceinline__ global operator+(size_t i) const { return global(at + i); }
    template <typename U> __device__ __forceinline__ global<U> as() const
    {
        return global<U>((U *)(void *)at);
    }
};

LEAF bytes16 load_stream(const void *from)
{
    bytes16 v;
    asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.word[0]), "=r"(v.word[1]), "=r"(v.word[2]), "=r"(v.word[3])
                 : "l"(from));
    return v;
}

/* ---- meeting ---- */

LEAF void barrier()
{
    __syncthreads();
}
LEAF void barrier_of(uint32_t id, uint32_t threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
LEAF void barrier_arrive(uint32_t id, uint32_t threads)
{
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
LEAF void warp_sync()
{
    __syncwarp();
}
template <typename T> LEAF T shuffle(T value, uint32_t lane)
{
    return __shfl_sync(0xffffffffu, value, (int)lane);
}
template <typename T> LEAF T shuffle_xor(T value, uint32_t mask)
{
    return __shfl_xor_sync(0xffffffffu, value, (int)mask);
}
LEAF uint32_t warp_ballot(bool yes)
{
    return __ballot_sync(0xffffffffu, yes);
}

/* ---- copies ---- */

template <typename T> LEAF void copy_async16(shared<T> to, const void *from, bool valid)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
                 "l"(from), "r"(valid ? 16 : 0)
                 : "memory");
}
LEAF void copy_async_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}
template <uint32_t groups> LEAF void copy_async_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
}

LEAF void mbarrier_init(shared<uint64_t> bar, uint32_t count)
{
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(bar)), "r"(count)
                 : "memory");
}
LEAF void mbarrier_arrive(shared<uint64_t> bar)
{
    asm volatile(
        "{ .reg .b64 state; mbarrier.arrive.shared.b64 state, [%0]; }" ::"r"(shared_address(bar))
        : "memory");
}
/* Makes initialised mbarriers known to bulk copies; a barrier() follows. */
LEAF void mbarrier_fence()
{
#if CARD_HAS_90
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}
LEAF void mbarrier_expect(shared<uint64_t> bar, uint32_t bytes)
{
#if CARD_HAS_90
    asm volatile(
        "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(bar)),
        "r"(bytes)
        : "memory");
#else
    __trap();
#endif
}
LEAF void mbarrier_wait(shared<uint64_t> bar, uint32_t parity)
{
#if CARD_HAS_90
    asm volatile("{ .reg .pred done;\n"
                 "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again; }" ::"r"(shared_address(bar)),
                 "r"(parity)
                 : "memory");
#else
    __trap();
#endif
}
template <typename T>
LEAF void copy_bulk(shared<T> to, const void *from, uint32_t bytes, shared<uint64_t> bar)
{
#if CARD_HAS_90
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1], %2, [%3];" ::"r"(shared_address(to)),
                 "l"(from), "r"(bytes), "r"(shared_address(bar))
                 : "memory");
#else
    __trap();
#endif
}
LEAF void async_fence()
{
#if CARD_HAS_90
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

LEAF void launch_wait()
{
#if CARD_HAS_90
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
LEAF void launch_next()
{
#if CARD_HAS_90
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* ---- atomics ---- */

template <typename T> LEAF T atomic_add(T *at, T value)
{
    return atomicAdd(at, value);
}
template <typename T> LEAF T atomic_max(T *at, T value)
{
    return atomicMax(at, value);
}
template <typename T> LEAF T atomic_or(T *at, T value)
{
    return atomicOr(at, value);
}
template <typename T> LEAF T atomic_exchange(T *at, T value)
{
    return atomicExch(at, value);
}
LEAF uint32_t atomic_add_ordered(uint32_t *at, uint32_t value)
{
    uint32_t before;
    asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;"
                 : "=r"(before)
                 : "l"(at), "r"(value)
                 : "memory");
    return before;
}
template <typename T> LEAF T shared_atomic_add(shared<T> s, size_t i, T value)
{
    if constexpr (sizeof(T) == 8)
        return (T)atomicAdd((unsigned long long *)&s[i], (unsigned long long)value);
    else
        return atomicAdd(&s[i], value);
}
template <typename T> LEAF T shared_atomic_max(shared<T> s, size_t i, T value)
{
    if constexpr (sizeof(T) == 8)
        return (T)atomicMax((unsigned long long *)&s[i], (unsigned long long)value);
    else
        return atomicMax(&s[i], value);
}

/* ---- numbers ---- */

LEAF float fma32(float a, float b, float c)
{
    return __fmaf_rn(a, b, c);
}
LEAF float exp2_near(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
LEAF uint32_t pack_bf16(float low, float high)
{
    uint32_t both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}
LEAF float float_of_f16(uint16_t half)
{
    return __half2float(__ushort_as_half(half));
}
LEAF uint16_t f16_of(float value)
{
    return __half_as_ushort(__float2half_rn(value));
}
LEAF float float_of_e4m3(uint8_t byte)
{
    return __half2float(__half(__nv_cvt_fp8_to_halfraw(byte, __NV_E4M3)));
}
LEAF uint8_t e4m3_of(float value)
{
    return __nv_cvt_float_to_fp8(value, __NV_SATFINITE, __NV_E4M3);
}
LEAF uint16_t e4m3x2_of(float low, float high)
{
    return __nv_cvt_float2_to_fp8x2(make_float2(low, high), __NV_SATFINITE, __NV_E4M3);
}
/* Each byte to the upper one of a half word. */
LEAF uint32_t e4m3x2_spread(uint16_t pair)
{
    return __byte_perm(pair, 0, 0x1404);
}
/* `halves` with 0x7fff where `spread` has a NaN: what cvt makes of it. */
LEAF uint32_t e4m3x2_nan_put(uint32_t halves, uint32_t spread)
{
    uint32_t nan = ((spread & 0x7f007f00) + 0x01000100) & 0x80008000;
    return (halves & ~nan) | (nan - (nan >> 15));
}
template <bool finite = false> LEAF uint32_t f16x2_of_e4m3x2(uint16_t pair)
{
    uint32_t both;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(both) : "h"(pair));
    return both;
#else
    /* The fields moved to their places make a half 2^-8 times as large, subnormal or not. */
    uint32_t spread = e4m3x2_spread(pair);
    uint32_t moved = (spread & 0x80008000) | (spread >> 1 & 0x3f803f80);
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(both) : "r"(moved), "r"(0x5c005c00));
    return finite ? both : e4m3x2_nan_put(both, spread);
#endif
}
template <bool finite = false> LEAF uint32_t bf16x2_of_e4m3x2(uint16_t pair)
{
    /* The same, 2^-120 times as large; minus zero is added to keep the sign of zero. */
    uint32_t both, spread = e4m3x2_spread(pair);
    uint32_t moved = (spread & 0x80008000) | (spread >> 4 & 0x07f007f0);
    asm("fma.rn.bf16x2 %0, %1, %2, %3;"
        : "=r"(both)
        : "r"(moved), "r"(0x7b807b80), "r"(0x80008000));
    return finite ? both : e4m3x2_nan_put(both, spread);
}

/* ---- tensor instructions of a warp ---- */

template <typename T> LEAF void ldmatrix_x4(uint32_t (&r)[4], shared<T> row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
template <typename T> LEAF void ldmatrix_x4_turned(uint32_t (&r)[4], shared<T> row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
#define CARD_MMA(shape_types, constraint)                                                          \
    asm volatile("mma.sync.aligned." shape_types                                                   \
                 " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                \
                 : "+" constraint(d[0]), "+" constraint(d[1]), "+" constraint(d[2]),               \
                   "+" constraint(d[3])                                                            \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
LEAF void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    CARD_MMA("m16n8k16.row.col.f32.bf16.bf16.f32", "f");
}
LEAF void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    CARD_MMA("m16n8k16.row.col.f32.f16.f16.f32", "f");
}
LEAF void mma_s8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    CARD_MMA("m16n8k32.row.col.s32.s8.s8.s32", "r");
}
LEAF void mma_e4m3(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    CARD_MMA("m16n8k32.row.col.f32.e4m3.e4m3.f32", "f");
#else
    __trap();
#endif
}

/* A matrix in shared memory, as wgmma takes it. */
LEAF uint64_t wgmma_descriptor(uint32_t address, uint32_t leading_bytes, uint32_t stride_bytes,
                               uint32_t swizzle)
{
    return (uint64_t)((address & 0x3ffff) >> 4) | (uint64_t)(leading_bytes >> 4 & 0x3fff) << 16 |
           (uint64_t)(stride_bytes >> 4 & 0x3fff) << 32 | (uint64_t)swizzle << 62;
}
