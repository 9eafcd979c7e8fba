/*
 * leaf_wgmma: the tensor instruction of a warpgroup (128 threads), for sm_90a.
 *
 *     wgmma_tile(shared, leading_bytes, stride_bytes, swizzle)   a matrix in shared memory, by its
 *                                         descriptor; swizzle: SWIZZLE_NONE, _32, _64, _128
 *     wgmma_bf16<n, turned>(d, a, b, keep)   d[n / 2] (+)= A B^T of m64 n k16: A by its tile, or
 *                                         by the four registers of each thread; B by its tile.
 *                                         turned: B lies as [k][n] (n runs along a row)
 *     wgmma_f16<n, turned> wgmma_e4m3<n> wgmma_s8<n> (k32)   the same
 *     wgmma_fence() wgmma_commit() wgmma_wait<groups>()
 *     wgmma_hold(d)                       after the wait that covers d, before d is used
 *     registers_raise<n>() registers_drop<n>()   a multiple of 8, by all of the warpgroup
 *
 * n: 8, 16, 32, 64, 128, 192, 256. d may not be touched between wgmma and the wait that covers it.
 * In d, value i of thread t is row 16 (t / 32) + (t % 32) / 4 + 8 (i / 2 % 2), column 8 (i / 4) + 2
 * (t % 4) + i % 2. Rows of A and B are along k. With SWIZZLE_128 a row is 128 bytes, 8 rows are
 * 1024 bytes, `stride_bytes` is from 8 rows to the next 8, and the 16-byte piece at address x lies
 * at x ^ (x >> 7 & 7) << 4; tiles begin on 1024 bytes; the next k is 32 bytes further. Turned: a
 * row is 64 columns of one k; `stride_bytes` is from 8 rows to the next 8, `leading_bytes` from 64
 * columns to the next 64.
 */
#pragma once

#include "kernels/cuda/leaf_card.h"

LEAF void wgmma_fence()
{
#if CARD_HAS_WGMMA
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
/* What comes later uses d as it is now: without it the compiler may read d before the wait. */
template <uint32_t n> LEAF void wgmma_hold(float (&d)[n])
{
#pragma unroll
    for (uint32_t i = 0; i < n; i++)
        asm volatile("" : "+f"(d[i])::"memory");
}
template <uint32_t n> LEAF void registers_raise()
{
#if CARD_HAS_WGMMA
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(n));
#endif
}
template <uint32_t n> LEAF void registers_drop()
{
#if CARD_HAS_WGMMA
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(n));
#endif
}
LEAF void wgmma_commit()
{
#if CARD_HAS_WGMMA
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
template <uint32_t groups> LEAF void wgmma_wait()
{
#if CARD_HAS_WGMMA
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(groups) : "memory");
#endif
}

template <typename T>
LEAF uint64_t wgmma_tile(shared<T> tile, uint32_t leading_bytes, uint32_t stride_bytes,
                         enum swizzle swizzle)
{
    return wgmma_descriptor(shared_address(tile), leading_bytes, stride_bytes, swizzle);
}

#define WGMMA_REGISTERS_8 "%0, %1, %2, %3"
#define WGMMA_TILE_8 "%4, %5"
#define WGMMA_KEEP_8 "%6"
#define WGMMA_HELD_8 "{%4, %5, %6, %7}, %8"
#define WGMMA_HELD_KEEP_8 "%9"
#define WGMMA_REGISTERS_16 "%0, %1, %2, %3, %4, %5, %6, %7"
#define WGMMA_TILE_16 "%8, %9"
#define WGMMA_KEEP_16 "%10"
#define WGMMA_HELD_16 "{%8, %9, %10, %11}, %12"
#define WGMMA_HELD_KEEP_16 "%13"
#define WGMMA_REGISTERS_32 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define WGMMA_TILE_32 "%16, %17"
#define WGMMA_KEEP_32 "%18"
#define WGMMA_HELD_32 "{%16, %17, %18, %19}, %20"
#define WGMMA_HELD_KEEP_32 "%21"
#define WGMMA_REGISTERS_64                                                                         \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, "        \
    "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define WGMMA_TILE_64 "%32, %33"
#define WGMMA_KEEP_64 "%34"
#define WGMMA_HELD_64 "{%32, %33, %34, %35}, %36"
#define WGMMA_HELD_KEEP_64 "%37"
#define WGMMA_REGISTERS_128                                                                        \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, "        \
    "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, "        \
    "%36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, "        \
    "%53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define WGMMA_TILE_128 "%64, %65"
#define WGMMA_KEEP_128 "%66"
#define WGMMA_HELD_128 "{%64, %65, %66, %67}, %68"
#define WGMMA_HELD_KEEP_128 "%69"
#define WGMMA_REGISTERS_192                                                                        \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, "             \
    "%18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, "             \
    "%34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, "             \
    "%50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, %64, %65, "             \
    "%66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, "             \
    "%82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define WGMMA_TILE_192 "%96, %97"
#define WGMMA_KEEP_192 "%98"
#define WGMMA_HELD_192 "{%96, %97, %98, %99}, %100"
#define WGMMA_HELD_KEEP_192 "%101"
#define WGMMA_REGISTERS_256                                                                        \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, "        \
    "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, "        \
    "%36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, "        \
    "%53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, %64, %65, %66, %67, %68, %69, "        \
    "%70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, %86, "        \
    "%87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, %101, %102, "          \
    "%103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, "         \
    "%117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define WGMMA_TILE_256 "%128, %129"
#define WGMMA_KEEP_256 "%130"
#define WGMMA_HELD_256 "{%128, %129, %130, %131}, %132"
#define WGMMA_HELD_KEEP_256 "%133"

#define WGMMA_4(c, o) "+" c(d[o]), "+" c(d[o + 1]), "+" c(d[o + 2]), "+" c(d[o + 3])
#define WGMMA_8(c, o) WGMMA_4(c, o), WGMMA_4(c, o + 4)
#define WGMMA_16(c, o) WGMMA_8(c, o), WGMMA_8(c, o + 8)
#define WGMMA_32(c, o) WGMMA_16(c, o), WGMMA_16(c, o + 16)
#define WGMMA_64(c, o) WGMMA_32(c, o), WGMMA_32(c, o + 32)
#define WGMMA_96(c, o) WGMMA_64(c, o), WGMMA_32(c, o + 64)
#define WGMMA_128(c, o) WGMMA_64(c, o), WGMMA_64(c, o + 64)

/* `half` is n / 2; `ends` are the immediates that follow the predicate. */
#define WGMMA_WITH_TILES(n, half, c, types, ends)                                                  \
    asm volatile("{ .reg .pred keep;\n setp.ne.b32 keep, " WGMMA_KEEP_##n                          \
                 ", 0;\n"                                                                          \
                 "wgmma.mma_async.sync.aligned.m64n" #n types " {" WGMMA_REGISTERS_##n             \
                 "}, " WGMMA_TILE_##n ", keep" ends "; }"                                          \
                 : WGMMA_##half(c, 0)                                                              \
                 : "l"(a), "l"(b), "r"((uint32_t)keep)                                             \
                 : "memory")
#define WGMMA_WITH_HELD(n, half, c, types, ends)                                                   \
    asm volatile("{ .reg .pred keep;\n setp.ne.b32 keep, " WGMMA_HELD_KEEP_##n                     \
                 ", 0;\n"                                                                          \
                 "wgmma.mma_async.sync.aligned.m64n" #n types " {" WGMMA_REGISTERS_##n             \
                 "}, " WGMMA_HELD_##n ", keep" ends "; }"                                          \
                 : WGMMA_##half(c, 0)                                                              \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((uint32_t)keep)         \
                 : "memory")

#define WGMMA_SIZES(how, c, types, ends)                                                           \
    if constexpr (n == 8)                                                                          \
        how(8, 4, c, types, ends);                                                                 \
    else if constexpr (n == 16)                                                                    \
        how(16, 8, c, types, ends);                                                                \
    else if constexpr (n == 32)                                                                    \
        how(32, 16, c, types, ends);                                                               \
    else if constexpr (n == 64)                                                                    \
        how(64, 32, c, types, ends);                                                               \
    else if constexpr (n == 128)                                                                   \
        how(128, 64, c, types, ends);                                                              \
    else if constexpr (n == 192)                                                                   \
        how(192, 96, c, types, ends);                                                              \
    else                                                                                           \
        how(256, 128, c, types, ends)

#if CARD_HAS_WGMMA
#define WGMMA_BODY(how, c, types, ends) WGMMA_SIZES(how, c, types, ends)
#else
#define WGMMA_BODY(how, c, types, ends) __trap()
#endif

#define WGMMA_HALVES(name, types)                                                                  \
    template <uint32_t n, bool turned = false>                                                     \
    LEAF void name(float(&d)[n / 2], uint64_t a, uint64_t b, bool keep)                            \
    {                                                                                              \
        if constexpr (turned) {                                                                    \
            WGMMA_BODY(WGMMA_WITH_TILES, "f", types, ", 1, 1, 0, 1");                              \
        } else {                                                                                   \
            WGMMA_BODY(WGMMA_WITH_TILES, "f", types, ", 1, 1, 0, 0");                              \
        }                                                                                          \
    }                                                                                              \
    template <uint32_t n, bool turned = false>                                                     \
    LEAF void name(float(&d)[n / 2], const uint32_t(&a)[4], uint64_t b, bool keep)                 \
    {                                                                                              \
        if constexpr (turned) {                                                                    \
            WGMMA_BODY(WGMMA_WITH_HELD, "f", types, ", 1, 1, 1");                                  \
        } else {                                                                                   \
            WGMMA_BODY(WGMMA_WITH_HELD, "f", types, ", 1, 1, 0");                                  \
        }                                                                                          \
    }
WGMMA_HALVES(wgmma_bf16, "k16.f32.bf16.bf16")
WGMMA_HALVES(wgmma_f16, "k16.f32.f16.f16")

#define WGMMA_BYTES(name, type, c, types, ends)                                                    \
    template <uint32_t n> LEAF void name(type(&d)[n / 2], uint64_t a, uint64_t b, bool keep)       \
    {                                                                                              \
        WGMMA_BODY(WGMMA_WITH_TILES, c, types, ends);                                              \
    }                                                                                              \
    template <uint32_t n>                                                                          \
    LEAF void name(type(&d)[n / 2], const uint32_t(&a)[4], uint64_t b, bool keep)                  \
    {                                                                                              \
        WGMMA_BODY(WGMMA_WITH_HELD, c, types, ends);                                               \
    }
WGMMA_BYTES(wgmma_e4m3, float, "f", "k32.f32.e4m3.e4m3", ", 1, 1")
WGMMA_BYTES(wgmma_s8, int32_t, "r", "k32.s32.s8.s8", "")
