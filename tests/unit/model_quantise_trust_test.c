/* Whether a file of quantised weights is one to trust: of this model's bytes, whatever its times
 * say, and made by nobody else; and that making one harms no other file. */
#include "tests/unit/quantise_rig.h"

/* Other weights behind the same headers and beginnings, whose writer set the times of the files
 * back, as cp -p, tar and rsync -t do. */
static void times_set_back(void **state)
{
    float before[ROWS * CP_VOCAB], want[ROWS * CP_VOCAB], got[ROWS * CP_VOCAB];
    const char *const names[] = {"config.json", "model.safetensors"};
    struct stat had[2], has;
    char path[128];
    checkpoint_make(false);
    load(directory, DTYPE_Q8_0, cache, before);
    for (size_t i = 0; i < array_count(names); i++) {
        snprintf(path, sizeof path, "%s/%s", directory, names[i]);
        assert_int_equal(stat(path, &had[i]), 0);
    }
    usleep(20000); /* longer than a tick of the clock that the system takes times from */
    struct checkpoint *cp = checkpoint_new(false);
    struct cp_tensor *tensor = cp_find(cp, "model.layers.0.self_attn.v_proj.weight");
    for (uint64_t i = cp_count(tensor) / 2; i < cp_count(tensor); i++)
        tensor->values[i] = -tensor->values[i];
    checkpoint_write(cp, directory);
    checkpoint_free(cp);
    for (size_t i = 0; i < array_count(names); i++) {
        snprintf(path, sizeof path, "%s/%s", directory, names[i]);
        struct timespec times[2] = {had[i].st_atim, had[i].st_mtim};
        assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
        assert_int_equal(stat(path, &has), 0);
        assert_memory_equal(&has.st_mtim, &had[i].st_mtim, sizeof has.st_mtim);
        assert_int_equal(has.st_size, had[i].st_size);
    }
    load(directory, DTYPE_Q8_0, NULL, want);
    assert_memory_not_equal(want, before, LOGITS_BYTES);
    load(directory, DTYPE_Q8_0, cache, got);
    said_has("stale, the model's files have changed: quantising ");
    assert_memory_equal(got, want, LOGITS_BYTES);
}

/* What others could have written is not used, and replaced. */
static void writable_by_others_is_not_trusted(void **state)
{
    float want[ROWS * CP_VOCAB], got[ROWS * CP_VOCAB];
    char path[512];
    struct stat facts;
    checkpoint_make(false);
    load(directory, DTYPE_Q8_0, cache, want);
    assert_int_equal(cache_files(path), 1);
    assert_int_equal(chmod(path, 0666), 0);
    load(directory, DTYPE_Q8_0, cache, got);
    said_has("not trusted, everybody may write it: quantising ");
    assert_true(said.warnings == 1 && said.quantised);
    assert_memory_equal(got, want, LOGITS_BYTES);
    assert_true(stat(path, &facts) == 0 && (facts.st_mode & 0022) == 0);
    if (geteuid() != 0) {
        print_message("a file of another user: not run, only root can make one\n");
        return;
    }
    assert_int_equal(chown(path, 12345, (gid_t)-1), 0);
    load(directory, DTYPE_Q8_0, cache, got);
    said_has("not trusted, it belongs to user 12345, not to 0: quantising ");
    assert_memory_equal(got, want, LOGITS_BYTES);
    assert_true(stat(path, &facts) == 0 && facts.st_uid == 0);
}

/* A name that leads to another file must not cost that file its bytes. */
static void other_names_are_left_alone(void **state)
{
    float want[ROWS * CP_VOCAB], got[ROWS * CP_VOCAB];
    char path[512], part[520], victim[128];
    size_t size = 0;
    checkpoint_make(false);
    load(directory, DTYPE_Q8_0, cache, want);
    assert_int_equal(cache_files(path), 1);
    assert_int_equal(unlink(path), 0);
    snprintf(part, sizeof part, "%s.part", path);
    snprintf(victim, sizeof victim, "%s/config.json", directory);
    free(file_read(victim, &size));
    for (int symbolic = 0; symbolic < 2; symbolic++) {
        assert_int_equal(symbolic ? symlink(victim, part) : link(victim, part), 0);
        load(directory, DTYPE_Q8_0, cache, got);
        said_has("the quantised weights are not kept");
        said_has(part);
        if (!symbolic)
            said_has("expected a file of user ");
        assert_memory_equal(got, want, LOGITS_BYTES);
        size_t now = 0;
        free(file_read(victim, &now));
        assert_int_equal(now, size);
        assert_int_equal(unlink(part), 0);
    }
}

int main(void)
{
#define WITH_CACHE(f) cmocka_unit_test_teardown(f, cache_drop)
    const struct CMUnitTest tests[] = {
        WITH_CACHE(times_set_back),
        WITH_CACHE(writable_by_others_is_not_trusted),
        WITH_CACHE(other_names_are_left_alone),
    };
    return cmocka_run_group_tests(tests, directory_make, directory_drop);
}
