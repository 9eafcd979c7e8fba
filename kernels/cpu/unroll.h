/*
 * unroll: how the bodies of products are written once and compiled for every shape.
 *
 * A body is a SHAPE_BODY function whose numbers of rows and vectors are constants where it is
 * called, with UNROLL before each loop over them: the loops vanish, and sums stay in registers.
 * Under the sanitizers, which take minutes over such code, one copy with plain loops serves all
 * shapes: the same accesses and the same arithmetic in the same order.
 */
#pragma once

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define BODIES_ARE_LOOPS 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define BODIES_ARE_LOOPS 1
#endif

#ifdef BODIES_ARE_LOOPS
#define SHAPE_BODY static __attribute__((noinline))
#define UNROLL
#else
#define SHAPE_BODY static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
#endif
