/* How much memory there is, as the kernel's files say it, and who gets what. */
#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/memory.h"

#define MIB (1024ull * 1024ull)

static char root[] = "/tmp/galerne-memory-XXXXXX";

static void file_write(const char *path, const char *text)
{
    char full[512];
    snprintf(full, sizeof full, "%s%s", root, path);
    for (char *slash = full + strlen(root) + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = '\0';
        mkdir(full, 0755);
        *slash = '/';
    }
    FILE *file = fopen(full, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void test_free_bytes(void **state)
{
    (void)state;
    assert_int_equal(memory_free_bytes("/nonexistent"), 0);
    file_write("/proc/meminfo", "MemTotal:  8388608 kB\nMemAvailable:  4194304 kB\n");
    assert_int_equal(memory_free_bytes(root), 4096 * MIB);
    file_write("/proc/self/cgroup", "0::/a.slice/b.service\n");
    assert_int_equal(memory_free_bytes(root), 4096 * MIB); /* no limit files */
    file_write("/sys/fs/cgroup/a.slice/b.service/memory.max", "max\n");
    file_write("/sys/fs/cgroup/a.slice/memory.max", "2147483648\n");
    file_write("/sys/fs/cgroup/a.slice/memory.current", "1073741824\n");
    assert_int_equal(memory_free_bytes(root), 1024 * MIB); /* the group above us */
    file_write("/sys/fs/cgroup/a.slice/b.service/memory.max", "536870912\n");
    file_write("/sys/fs/cgroup/a.slice/b.service/memory.current", "0\n");
    assert_int_equal(memory_free_bytes(root), 512 * MIB); /* our own */
    file_write("/sys/fs/cgroup/a.slice/b.service/memory.current", "999999999999\n");
    assert_int_equal(memory_free_bytes(root), 0);
    assert_true(memory_free_bytes("") > 0);
}

static struct memory_row row(const char *name, uint32_t fixed)
{
    return (struct memory_row){.name = name,
                               .weights_bytes = 100 * MIB,
                               .scratch_bytes = 10 * MIB,
                               .block_bytes = MIB,
                               .block_tokens = 16,
                               .blocks_min = 32,
                               .blocks_max = 1000,
                               .blocks_fixed = fixed};
}

static void test_share(void **state)
{
    (void)state;
    struct error error;
    struct memory_row rows[2] = {row("one", 0), row("two", 0)};
    assert_int_equal(memory_share(rows, 2, 420 * MIB, 50, &error), STATUS_OK);
    assert_int_equal(rows[0].blocks_count, 50); /* (420 - 220) * 50 % / 2 */
    assert_int_equal(rows[1].blocks_count, 50);
    assert_int_equal(memory_share(rows, 2, 100000 * MIB, 90, &error), STATUS_OK);
    assert_int_equal(rows[0].blocks_count, 1000); /* more is of no use */
    rows[1].blocks_fixed = 40;
    assert_int_equal(memory_share(rows, 2, 460 * MIB, 50, &error), STATUS_OK);
    assert_int_equal(rows[0].blocks_count, 100);
    assert_int_equal(rows[1].blocks_count, 40);
}

static void test_share_refuses(void **state)
{
    (void)state;
    struct error error;
    struct memory_row rows[2] = {row("one", 0), row("two", 0)};
    assert_int_equal(memory_share(rows, 2, 200 * MIB, 50, &error), STATUS_EXHAUSTED);
    assert_non_null(strstr(error.text, "220 MiB"));
    assert_non_null(strstr(error.text, "200 MiB"));
    assert_int_equal(memory_share(rows, 2, 300 * MIB, 50, &error), STATUS_EXHAUSTED);
    assert_non_null(strstr(error.text, "model one"));
    assert_non_null(strstr(error.text, "32 MiB")); /* needed */
    assert_non_null(strstr(error.text, "20 MiB")); /* there */
    assert_non_null(strstr(error.text, "kv_memory_percent"));
    rows[1].blocks_fixed = 31;
    assert_int_equal(memory_share(rows, 2, 4000 * MIB, 50, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, "kv_blocks_count is 31"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_free_bytes),
        cmocka_unit_test(test_share),
        cmocka_unit_test(test_share_refuses),
    };
    if (!mkdtemp(root))
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    return system(command) ? 1 : failed;
}
