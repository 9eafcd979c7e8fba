/*
 * quantise_rig: a small model in a directory of its own, loaded with and without a cache of
 * quantised weights, what it said meanwhile, and its numbers. One test program, one thread.
 */
#pragma once

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>

#include "base/map_file.h"
#include "model/model.h"
#define CHECKPOINT_SCALE 4
#include "tests/unit/checkpoint.h"
#include "tests/unit/logits_rig.h"

#define ROWS 8
#define LOGITS_BYTES (ROWS * CP_VOCAB * sizeof(float))

static char directory[64], cache[96];

/* What the model said while it loaded. */
static struct {
    char text[4096];
    uint32_t warnings;
    bool quantised;
} said;

static inline int directory_make(void **state)
{
    snprintf(directory, sizeof directory, "/tmp/galerne_quantise_XXXXXX");
    assert_non_null(mkdtemp(directory));
    snprintf(cache, sizeof cache, "%s/a/cache", directory);
    return 0;
}

/* How many files are in the cache; the name of one. */
static inline uint32_t cache_files(char ret_path[512])
{
    DIR *files = opendir(cache);
    uint32_t n = 0;
    for (struct dirent *file; files && (file = readdir(files));)
        if (file->d_name[0] != '.') {
            snprintf(ret_path, 512, "%s/%s", cache, file->d_name);
            n++;
        }
    if (files)
        closedir(files);
    return n;
}

static inline int cache_drop(void **state)
{
    char path[512];
    while (cache_files(path))
        assert_int_equal(unlink(path), 0);
    return 0;
}

static inline int directory_drop(void **state)
{
    char path[512];
    cache_drop(state);
    const char *const names[] = {"a/cache", "a", "config.json", "model.safetensors", "model.gguf"};
    for (size_t i = 0; i < array_count(names); i++) {
        snprintf(path, sizeof path, "%s/%s", directory, names[i]);
        remove(path);
    }
    assert_int_equal(rmdir(directory), 0);
    return 0;
}

static inline void report(void *context, enum model_stage stage, uint32_t percent)
{
    said.quantised |= stage == MODEL_QUANTISING;
}

static inline void note(void *context, bool is_warning, const char *text)
{
    size_t used = strlen(said.text);
    said.warnings += is_warning;
    snprintf(said.text + used, sizeof said.text - used, "%s\n", text);
}

static inline struct model_options options_of(enum dtype kind, const char *cache_dir)
{
    return (struct model_options){.ops = &ops_ref,
                                  .device = {.threads_count = 2},
                                  .limits = {.slots_max = 2,
                                             .rows_max = 16,
                                             .tokens_max = 32,
                                             .open_tokens_max = 64,
                                             .block_tokens = 16,
                                             .blocks_count = 8,
                                             .quantise = kind},
                                  .cache_dir = cache_dir};
}

static inline void load(const char *path, enum dtype kind, const char *cache_dir, float *ret_logits)
{
    struct model_options options = options_of(kind, cache_dir);
    struct model_progress progress = {.report = report, .note = note};
    struct model *model = NULL;
    struct error error = {0};
    memset(&said, 0, sizeof said);
    if (model_open(path, &options, &progress, &model, &error))
        fail_msg("%s", error.text);
    logits_of_model(model, ROWS, CP_VOCAB, ret_logits);
    model_close(model);
}

static inline void said_has(const char *words)
{
    if (!strstr(said.text, words))
        fail_msg("expected \"%s\" in: %s", words, said.text);
}

static inline void checkpoint_make(bool mixture)
{
    struct checkpoint *cp = checkpoint_new(mixture);
    checkpoint_write(cp, directory);
    checkpoint_free(cp);
}

static inline uint8_t *file_read(const char *path, size_t *ret_size)
{
    struct map_file map = {0};
    assert_int_equal(map_file_open(path, SIZE_MAX, &map, NULL), STATUS_OK);
    uint8_t *bytes = malloc(map.size_bytes + 1);
    assert_non_null(bytes);
    memcpy(bytes, map.data, map.size_bytes);
    *ret_size = map.size_bytes;
    map_file_close(&map);
    return bytes;
}
