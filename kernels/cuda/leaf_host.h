/*
 * leaf_host: the leaves as calls into the emulator (host_block.h). See leaf.h for what each means.
 *
 * Places in shared memory and in memory that a kernel writes are small objects, so that every
 * access passes by the emulator, which looks for races and for addresses that are nobody's.
 */
#pragma once

#include <math.h>

#include "kernels/cuda/host_block.h"

#define ON_HOST 1
#define LEAF static inline
#define LEAF_BOTH static inline
#define KERNEL(name, type, n_threads, blocks_per_processor)                                        \
    static void name([[maybe_unused]] const type a, kernel_budget<n_threads, blocks_per_processor>)

struct alignas(16) bytes16 {
    uint32_t word[4];
};

LEAF uint32_t thread_index()
{
    return host_now->thread;
}
LEAF uint32_t block_threads()
{
    return host_now->threads;
}
LEAF uint32_t block_x()
{
    return host_now->x;
}
LEAF uint32_t block_y()
{
    return host_now->y;
}
LEAF uint32_t block_z()
{
    return host_now->z;
}
LEAF uint32_t grid_x()
{
    return host_now->grid_x;
}
LEAF uint32_t grid_y()
{
    return host_now->grid_y;
}
LEAF uint32_t grid_z()
{
    return host_now->grid_z;
}

/* ---- places ---- */

template <typename T> struct shared_place {
    uint32_t at;
    operator T() const
    {
        T value;
        memcpy(&value, host_shared(at, sizeof(T), HOST_READ), sizeof(T));
        return value;
    }
    void operator=(T value) const
    {
        memcpy(host_shared(at, sizeof(T), HOST_WRITE), &value, sizeof(T));
    }
    void operator=(const shared_place &other) const { *this = (T)other; }
    void operator+=(T value) const { *this = (T) * this + value; }
};

template <typename T> struct shared {
    uint32_t at; /* bytes from the start of the block's shared memory */
    shared_place<T> operator[](size_t i) const { return {(uint32_t)(at + i * sizeof(T))}; }
    shared operator+(size_t i) const { return {(uint32_t)(at + i * sizeof(T))}; }
    template <typename U> shared<U> as() const { return {at}; }
};

template <typename T> LEAF shared<T> shared_at(uint32_t offset_bytes)
{
    return {offset_bytes};
}

/* The address inside the block, as instructions take it. */
template <typename T> LEAF uint32_t shared_address(shared<T> s)
{
    return s.at;
}

template <typename T> struct global_place {
    T *at;
    operator T() const
    {
        host_global(at, sizeof(T), HOST_READ);
        return *at;
    }
    void operator=(T value) const
    {
        host_global(at, sizeof(T), HOST_WRITE);
        *at = value;
    }
    void operator=(const global_place &other) const { *this = (T)other; }
    void operator+=(T value) const { *this = (T) * this + value; }
};

template <typename T> struct global {
    T *at;
    explicit global(T *pointer) : at(pointer) {}
    global_place<T> operator[](size_t i) const { return {at + i}; }
    global operator+(size_t i) const { return global(at + i); }
    template <typename U> global<U> as() const { return global<U>((U *)(void *)at); }
};

LEAF bytes16 load_stream(const void *from)
{
    bytes16 value;
    memcpy(&value, from, sizeof value);
    return value;
}

/* ---- meeting ---- */

LEAF void barrier()
{
    host_barrier(0, host_now->threads, true);
}
LEAF void barrier_of(uint32_t id, uint32_t threads)
{
    host_barrier(id, threads, true);
}
LEAF void barrier_arrive(uint32_t id, uint32_t threads)
{
    host_barrier(id, threads, false);
}
LEAF void warp_sync()
{
    host_warp_meet("warp_sync", NULL, NULL);
}

struct host_shuffle {
    uint64_t value;
    uint32_t from;
};
void host_shuffle_run(void **lanes);
void host_ballot_run(void **lanes);

template <typename T> LEAF T shuffle(T value, uint32_t lane)
{
    struct host_shuffle mine = {0, lane};
    static_assert(sizeof(T) <= sizeof mine.value, "at most 8 bytes");
    memcpy(&mine.value, &value, sizeof value);
    host_warp_meet("shuffle", &mine, host_shuffle_run);
    memcpy(&value, &mine.value, sizeof value);
    return value;
}
template <typename T> LEAF T shuffle_xor(T value, uint32_t mask)
{
    return shuffle(value, (thread_index() & 31) ^ mask);
}
LEAF uint32_t warp_ballot(bool yes)
{
    struct host_shuffle mine = {yes, 0};
    host_warp_meet("ballot", &mine, host_ballot_run);
    return (uint32_t)mine.value;
}

/* ---- copies ---- */

template <typename T> LEAF void copy_async16(shared<T> to, const void *from, bool valid)
{
    host_copy_async(to.at, from, 16, valid);
}
LEAF void copy_async_commit()
{
    host_copy_commit();
}
template <uint32_t groups> LEAF void copy_async_wait()
{
    host_copy_wait(groups);
}

LEAF void mbarrier_init(shared<uint64_t> bar, uint32_t count)
{
    host_mbarrier_init(bar.at, count);
}
LEAF void mbarrier_fence() {}
LEAF void mbarrier_arrive(shared<uint64_t> bar)
{
    host_mbarrier_arrive(bar.at, 0);
}
/* Arrives, and announces so many bytes of copies for this phase. */
LEAF void mbarrier_expect(shared<uint64_t> bar, uint32_t bytes)
{
    host_mbarrier_arrive(bar.at, bytes);
}
LEAF void mbarrier_wait(shared<uint64_t> bar, uint32_t parity)
{
    host_mbarrier_wait(bar.at, parity);
}
template <typename T>
LEAF void copy_bulk(shared<T> to, const void *from, uint32_t bytes, shared<uint64_t> bar)
{
    host_copy_bulk(to.at, from, bytes, bar.at);
}
LEAF void async_fence()
{
    host_async_fence();
}

/* Between launches that overlap (struct launch). Emulated ones never do, but a thread that has not
 * waited yet finds nothing of what the launch before wrote. */
LEAF void launch_wait()
{
    host_launch_wait();
}
LEAF void launch_next() {}

/* ---- atomics on memory that a kernel writes ---- */

template <typename T> LEAF T atomic_add(T *at, T value)
{
    host_global(at, sizeof(T), HOST_ATOMIC);
    T before = *at;
    *at = (T)(before + value);
    return before;
}
template <typename T> LEAF T atomic_max(T *at, T value)
{
    host_global(at, sizeof(T), HOST_ATOMIC);
    T before = *at;
    *at = value > before ? value : before;
    return before;
}
template <typename T> LEAF T atomic_or(T *at, T value)
{
    host_global(at, sizeof(T), HOST_ATOMIC);
    T before = *at;
    *at = (T)(before | value);
    return before;
}
template <typename T> LEAF T atomic_exchange(T *at, T value)
{
    host_global(at, sizeof(T), HOST_ATOMIC);
    T before = *at;
    *at = value;
    return before;
}
template <typename T> LEAF T atomic_add_ordered(T *at, T value)
{
    host_global_order();
    return atomic_add(at, value);
}
template <typename T> LEAF T shared_atomic_add(shared<T> s, size_t i, T value)
{
    T *at = (T *)host_shared((uint32_t)(s.at + i * sizeof(T)), sizeof(T), HOST_ATOMIC);
    T before = *at;
    *at = (T)(before + value);
    return before;
}
template <typename T> LEAF T shared_atomic_max(shared<T> s, size_t i, T value)
{
    T *at = (T *)host_shared((uint32_t)(s.at + i * sizeof(T)), sizeof(T), HOST_ATOMIC);
    T before = *at;
    *at = value > before ? value : before;
    return before;
}

/* ---- numbers ---- */

LEAF float fma32(float a, float b, float c)
{
    return fmaf(a, b, c);
}
LEAF float exp2_near(float x)
{
    float y = exp2f(x);
    return y < 0x1p-126f ? 0 : y;
}
LEAF float float_of_f16(uint16_t half)
{
    return host_float_of_f16(half);
}
LEAF uint16_t f16_of(float value)
{
    return host_f16_of(value);
}
LEAF float float_of_e4m3(uint8_t byte)
{
    return host_float_of_e4m3(byte);
}
LEAF uint8_t e4m3_of(float value)
{
    return host_e4m3_of(value);
}
LEAF uint16_t e4m3x2_of(float low, float high)
{
    return (uint16_t)(host_e4m3_of(low) | host_e4m3_of(high) << 8);
}
LEAF uint32_t f16_of_e4m3(uint8_t byte)
{
    float value = host_float_of_e4m3(byte);
    return isnan(value) ? 0x7fff : host_f16_of(value);
}
template <bool finite = false> LEAF uint32_t f16x2_of_e4m3x2(uint16_t pair)
{
    return f16_of_e4m3((uint8_t)pair) | f16_of_e4m3((uint8_t)(pair >> 8)) << 16;
}
LEAF uint32_t bf16_of_e4m3(uint8_t byte)
{
    float value = host_float_of_e4m3(byte);
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return isnan(value) ? 0x7fff : bits >> 16; /* nothing is lost */
}
template <bool finite = false> LEAF uint32_t bf16x2_of_e4m3x2(uint16_t pair)
{
    return bf16_of_e4m3((uint8_t)pair) | bf16_of_e4m3((uint8_t)(pair >> 8)) << 16;
}

/* ---- tensor instructions of a warp: pointers to the lane's registers meet ---- */

template <typename T> LEAF void ldmatrix_x4(uint32_t (&r)[4], shared<T> row)
{
    struct host_ldmatrix mine = {r, row.at, false};
    host_warp_meet("ldmatrix", &mine, host_ldmatrix_run);
}
template <typename T> LEAF void ldmatrix_x4_turned(uint32_t (&r)[4], shared<T> row)
{
    struct host_ldmatrix mine = {r, row.at, true};
    host_warp_meet("ldmatrix", &mine, host_ldmatrix_run);
}
LEAF void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    struct host_mma mine = {d, a, b};
    host_warp_meet("mma", &mine, host_mma_bf16_run);
}
LEAF void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    struct host_mma mine = {d, a, b};
    host_warp_meet("mma", &mine, host_mma_f16_run);
}
LEAF void mma_s8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    struct host_mma mine = {d, a, b};
    host_warp_meet("mma", &mine, host_mma_s8_run);
}
LEAF void mma_e4m3(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    struct host_mma mine = {d, a, b};
    host_warp_meet("mma", &mine, host_mma_e4m3_run);
}

/* A matrix in shared memory, as wgmma takes it. */
LEAF uint64_t wgmma_descriptor(uint32_t address, uint32_t leading_bytes, uint32_t stride_bytes,
                               uint32_t swizzle)
{
    return (uint64_t)((address & 0x3ffff) >> 4) | (uint64_t)(leading_bytes >> 4 & 0x3fff) << 16 |
           (uint64_t)(stride_bytes >> 4 & 0x3fff) << 32 | (uint64_t)swizzle << 62;
}

/* ---- wgmma: see leaf_wgmma.h ---- */

LEAF void wgmma_fence() {}
template <uint32_t n> LEAF void wgmma_hold(float (&)[n]) {}
template <uint32_t n> LEAF void registers_raise() {}
template <uint32_t n> LEAF void registers_drop() {}
LEAF void wgmma_commit()
{
    host_group_meet("wgmma_commit", NULL, host_wgmma_commit_run);
}
template <uint32_t groups> LEAF void wgmma_wait()
{
    uint32_t mine = groups;
    host_group_meet("wgmma_wait", &mine, host_wgmma_wait_run);
}
template <typename T>
LEAF uint64_t wgmma_tile(shared<T> tile, uint32_t leading_bytes, uint32_t stride_bytes,
                         uint32_t swizzle)
{
    return wgmma_descriptor(tile.at, leading_bytes, stride_bytes, swizzle);
}

LEAF void wgmma_issue(void *d, uint32_t n, enum host_element type, bool turned,
                      const uint32_t *held, uint64_t a, uint64_t b, bool keep)
{
    struct host_wgmma mine = {d, n, type, turned, keep, held, a, b};
    host_group_meet("wgmma", &mine, host_wgmma_run);
}
template <uint32_t n, bool turned = false>
LEAF void wgmma_bf16(float (&d)[n / 2], uint64_t a, uint64_t b, bool keep)
{
    wgmma_issue(d, n, HOST_BF16, turned, NULL, a, b, keep);
}
template <uint32_t n, bool turned = false>
LEAF void wgmma_bf16(float (&d)[n / 2], const uint32_t (&a)[4], uint64_t b, bool keep)
{
    wgmma_issue(d, n, HOST_BF16, turned, a, 0, b, keep);
}
template <uint32_t n, bool turned = false>
LEAF void wgmma_f16(float (&d)[n / 2], uint64_t a, uint64_t b, bool keep)
{
    wgmma_issue(d, n, HOST_F16, turned, NULL, a, b, keep);
}
template <uint32_t n, bool turned = false>
LEAF void wgmma_f16(float (&d)[n / 2], const uint32_t (&a)[4], uint64_t b, bool keep)
{
    wgmma_issue(d, n, HOST_F16, turned, a, 0, b, keep);
}
template <uint32_t n> LEAF void wgmma_e4m3(float (&d)[n / 2], uint64_t a, uint64_t b, bool keep)
{
    wgmma_issue(d, n, HOST_E4M3, false, NULL, a, b, keep);
}
template <uint32_t n>
LEAF void wgmma_e4m3(float (&d)[n / 2], const uint32_t (&a)[4], uint64_t b, bool keep)
{
    wgmma_issue(d, n, HOST_E4M3, false, a, 0, b, keep);
}
template <uint32_t n> LEAF void wgmma_s8(int32_t (&d)[n / 2], uint64_t a, uint64_t b, bool keep)
{
    wgmma_issue(d, n, HOST_S8, false, NULL, a, b, keep);
}
template <uint32_t n>
LEAF void wgmma_s8(int32_t (&d)[n / 2], const uint32_t (&a)[4], uint64_t b, bool keep)
{
    wgmma_issue(d, n, HOST_S8, false, a, 0, b, keep);
}
