/*
 * probe: how fast this machine reads memory, and how fast it computes, just now: the yardsticks.
 *
 * The figures move with whatever else the machine does, so they belong next to the measurement that
 * they judge: take them before, between and after, in the same run. One caller at a time.
 */
#pragma once

#include "base/types.h"

/* `threads_count` threads read one private part of a large buffer each, front to back, and do
 * nothing else: 1e9 bytes a second, median of five passes. The buffer (256 MB, several times the
 * last cache) is made by the first call and kept. One thread is measured in its own time. */
double probe_read_gb_per_s(uint32_t threads_count);

/* As many threads multiply and add in registers, by the widest instructions that this CPU has: 1e9
 * operations a second (a multiply-add is two). f32: fused multiply-adds. bf16: pairs of bf16 added
 * to f32 in one instruction, and what f32 gives where there is none. int8: bytes by bytes added to
 * 32 bits, in one instruction where there is one (VNNI), else in three. A CPU without AVX2 gives
 * what plain C gives. By the threads' own time, in which no neighbour shows. Some milliseconds. */
double probe_f32_gop_per_s(uint32_t threads_count);
double probe_bf16_gop_per_s(uint32_t threads_count);
double probe_int8_gop_per_s(uint32_t threads_count);

/* The calling thread's own time. */
uint64_t probe_thread_ns(void);
