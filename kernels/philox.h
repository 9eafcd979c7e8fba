/*
 * philox: Philox-4x32-10, the counter-based generator behind every draw (Salmon, Moraes, Dror and
 * Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011).
 *
 * Pure and exact integer arithmetic: the same words on every backend and in every process, which is
 * what lets a worker be rebuilt in the middle of a sampled answer. Any thread.
 */
#pragma once

#include "base/types.h"

/* Encrypts `counter` in place under `key` with ten rounds. */
static inline void philox_4x32_10(uint32_t counter[4], const uint32_t key[2])
{
    uint32_t key_0 = key[0], key_1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t product_0 = (uint64_t)0xD2511F53u * counter[0];
        uint64_t product_1 = (uint64_t)0xCD9E8D57u * counter[2];
        uint32_t next_0 = (uint32_t)(product_1 >> 32) ^ counter[1] ^ key_0;
        uint32_t next_2 = (uint32_t)(product_0 >> 32) ^ counter[3] ^ key_1;
        counter[0] = next_0;
        counter[1] = (uint32_t)product_1;
        counter[2] = next_2;
        counter[3] = (uint32_t)product_0;
        key_0 += 0x9E3779B9u;
        key_1 += 0xBB67AE85u;
    }
}
