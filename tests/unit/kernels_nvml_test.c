/*
 * What is made of a management library's answers, and of what it lacks: on libraries that the build
 * made for it (fake_nvml.c), whole and old, and on files that are none.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/cuda/nvml.h"

#define BUS "00000000:00:00.0"

static const char *library(const char *variable)
{
    const char *path = getenv(variable);
    assert_non_null(path);
    return path;
}

static struct device_facts ask(const char *variable, const char *words)
{
    struct nvml *nvml = NULL;
    struct error error = {0};
    struct device_facts facts;
    setenv("FAKE_NVML", words, 1);
    if (nvml_open(library(variable), BUS, &nvml, &error) != STATUS_OK)
        fail_msg("%s", error.text);
    memset(&facts, 0xff, sizeof facts);
    nvml_ask(nvml, &facts);
    nvml_close(nvml);
    return facts;
}

static void everything_is_told(void **state)
{
    struct device_facts f = ask("FAKE_NVML_NEW_PATH", "");
    assert_int_equal(f.known, DEVICE_MEMORY | DEVICE_TEMPERATURE | DEVICE_POWER | DEVICE_ECC |
                                  DEVICE_THROTTLE);
    assert_string_equal(f.name, "Fake?Card"); /* what cannot be printed is not */
    assert_string_equal(f.driver, "580.65.06");
    assert_int_equal(f.memory_bytes, 80ull << 30);
    assert_int_equal(f.memory_free_bytes, 70ull << 30);
    assert_int_equal(f.temperature_celsius, 45);
    assert_int_equal(f.power_milliwatts, 310500);
    assert_int_equal(f.ecc_corrected_total, 7);
    assert_int_equal(f.ecc_uncorrected_total, 0);
    assert_int_equal(f.throttle, 0);
    assert_string_equal(f.note, "");
}

static void reasons_of_a_low_clock(void **state)
{
    static const struct {
        const char *words;
        uint32_t throttle;
    } table[] = {
        {"reasons=1", 0}, /* idle is no reason to worry */
        {"reasons=2", 0}, /* nor is a clock that somebody set */
        {"reasons=4", DEVICE_THROTTLE_POWER},
        {"reasons=128", DEVICE_THROTTLE_POWER},
        {"reasons=32", DEVICE_THROTTLE_HEAT},
        {"reasons=64", DEVICE_THROTTLE_HEAT},
        {"reasons=8", DEVICE_THROTTLE_OTHER},
        {"reasons=72", DEVICE_THROTTLE_HEAT | DEVICE_THROTTLE_OTHER},
    };
    for (size_t i = 0; i < array_count(table); i++)
        assert_int_equal(ask("FAKE_NVML_NEW_PATH", table[i].words).throttle, table[i].throttle);
}

static void codes_leave_a_number_unknown(void **state)
{
    static const struct {
        const char *words;
        uint32_t missing;
        const char *note;
    } table[] = {
        {"memory=3", DEVICE_MEMORY, "its memory: Not Supported (3)"},
        {"temperature=3", DEVICE_TEMPERATURE, "its temperature: Not Supported (3)"},
        {"power=999", DEVICE_POWER, "its power: error (999)"},
        {"ecc=3", DEVICE_ECC, "its memory errors: Not Supported (3)"},
        {"throttle=15", DEVICE_THROTTLE, "its clock is low: GPU is lost?for good (15)"},
    };
    uint32_t all = ask("FAKE_NVML_NEW_PATH", "").known;
    for (size_t i = 0; i < array_count(table); i++) {
        struct device_facts f = ask("FAKE_NVML_NEW_PATH", table[i].words);
        assert_int_equal(f.known, all & ~table[i].missing);
        if (!strstr(f.note, table[i].note))
            fail_msg("%s: %s", table[i].words, f.note);
    }
    struct device_facts f = ask("FAKE_NVML_NEW_PATH", "name=3,driver=3");
    assert_string_equal(f.name, "");
    assert_string_equal(f.driver, "");
}

/* Other names of what there is, and no word of memory errors. */
static void an_old_library(void **state)
{
    struct device_facts f = ask("FAKE_NVML_OLD_PATH", "reasons=4");
    assert_int_equal(f.known, DEVICE_MEMORY | DEVICE_TEMPERATURE | DEVICE_POWER | DEVICE_THROTTLE);
    assert_int_equal(f.throttle, DEVICE_THROTTLE_POWER);
    assert_non_null(strstr(f.note, "its memory errors: its library has no function for it"));
}

static void refused(const char *path, const char *bus, const char *words, const char *says)
{
    struct nvml *nvml = NULL;
    struct error error = {0};
    setenv("FAKE_NVML", words, 1);
    assert_int_equal(nvml_open(path, bus, &nvml, &error), STATUS_UNAVAILABLE);
    assert_null(nvml);
    if (!strstr(error.text, says))
        fail_msg("%s", error.text);
}

static void why_nothing_is_known(void **state)
{
    const char *path = library("FAKE_NVML_NEW_PATH");
    refused("libgalerne-no-such.so.1", BUS, "", "libgalerne-no-such.so.1 is not there");
    refused("/dev/null", BUS, "", "/dev/null is not there");
    refused(library("FAKE_NVML_EMPTY_PATH"), BUS, "", "lacks the functions to begin with");
    refused(path, BUS, "init=15", "it does not start: GPU is lost?for good (15)");
    refused(path, BUS, "find=3", "the card is not found: Not Supported (3)");
    refused(path, "00000000:07:00.0", "", "the card is not found: error (6)");
    nvml_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(everything_is_told),           cmocka_unit_test(reasons_of_a_low_clock),
        cmocka_unit_test(codes_leave_a_number_unknown), cmocka_unit_test(an_old_library),
        cmocka_unit_test(why_nothing_is_known),
    };
    return cmocka_run_group_tests_name("nvml", tests, NULL, NULL);
}
