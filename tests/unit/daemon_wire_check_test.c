/* Foreign protobuf: what passes, what is refused and how it is named, and the memory that it may
 * take. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "daemon/wire_check.h"
#include "proto/inference.pb-c.h"
#include "tests/unit/wire_build.h"

static struct wire_build wire, inner, innermost;

static int reset(void **state)
{
    wire.size_bytes = inner.size_bytes = innermost.size_bytes = 0;
    return 0;
}

static const ProtobufCMessageDescriptor *const generate =
    &galerne__v1__generate_request__descriptor;

static void expect(enum status status, const char *field, const char *words)
{
    struct error error = {.field = "stale"};
    assert_int_equal(wire_check(generate, wire_span(&wire), &error), status);
    assert_int_equal(wire_check(generate, wire_span(&wire), NULL), status);
    if (status == STATUS_OK)
        return;
    assert_int_equal(error.status, status);
    assert_string_equal(error.field, field);
    if (!strstr(error.text, words))
        fail_msg("\"%s\" does not say \"%s\"", error.text, words);
}

static void test_good(void **state)
{
    struct arena arena;
    ProtobufCMessage *message;
    struct error error;
    wire_text(&wire, 1, "tiny");
    wire_text(&wire, 2, "h\xc3\xa9llo");
    wire_tag(&wire, 6, 0);
    wire_varint(&wire, 12);
    wire_sized(&wire, 8, "\x01\x80\x01", 3); /* packed 1, 128 */
    wire_tag(&wire, 8, 0);                   /* and one more, not packed */
    wire_varint(&wire, 5);
    wire_text(&wire, 99, "\xff\xfe from the future");
    expect(STATUS_OK, "", "");

    arena_init(&arena, wire_unpacked_max_bytes(wire.size_bytes));
    assert_int_equal(wire_unpack(generate, wire_span(&wire), &arena, &message, &error), STATUS_OK);
    const Galerne__V1__GenerateRequest *request = (const void *)message;
    assert_string_equal(request->model, "tiny");
    assert_int_equal(request->prompt_case, GALERNE__V1__GENERATE_REQUEST__PROMPT_TEXT);
    assert_string_equal(request->text, "h\xc3\xa9llo");
    assert_int_equal(request->max_tokens, 12);
    assert_int_equal(request->_max_tokens_case,
                     GALERNE__V1__GENERATE_REQUEST___MAX_TOKENS_MAX_TOKENS);
    assert_int_equal(request->_logprobs_case, 0);
    assert_int_equal(request->n_stop_token_ids, 3);
    assert_int_equal(request->stop_token_ids[1], 128);
    assert_int_equal(request->stop_token_ids[2], 5);
    arena_free(&arena);
}

static void test_empty(void **state)
{
    struct arena arena;
    ProtobufCMessage *message;
    struct error error;
    arena_init(&arena, wire_unpacked_max_bytes(0));
    assert_int_equal(wire_unpack(generate, (struct span){0}, &arena, &message, &error), STATUS_OK);
    assert_string_equal(((const Galerne__V1__GenerateRequest *)(const void *)message)->model, "");
    arena_free(&arena);
}

static void test_strings(void **state)
{
    static const struct {
        const char *bytes;
        size_t size_bytes;
        const char *words;
    } cases[] = {
        {"ab\xff", 3, "UTF-8 at byte 2 of 3"},
        {"\xc3", 1, "UTF-8 at byte 0"},
        {"\xed\xa0\x80", 3, "UTF-8"},
        {"\xf4\x90\x80\x80", 4, "UTF-8"},
        {"\xc0\x80", 2, "UTF-8"},
        {"a\0b", 3, "NUL at byte 1"},
        {"\0", 1, "NUL at byte 0"},
    };
    for (size_t i = 0; i < array_count(cases); i++) {
        reset(NULL);
        wire_text(&wire, 1, "tiny");
        wire_sized(&wire, 2, cases[i].bytes, cases[i].size_bytes);
        expect(STATUS_INVALID, "text", cases[i].words);
    }
}

static void test_field_path(void **state)
{
    for (int i = 0; i < 4; i++) {
        innermost.size_bytes = 0;
        wire_tag(&innermost, 1, 0);
        wire_varint(&innermost, 2);
        wire_text(&innermost, 2, i == 3 ? "bad \x80" : "good");
        wire_sized(&inner, 1, innermost.data, innermost.size_bytes);
    }
    wire_sized(&wire, 3, inner.data, inner.size_bytes);
    expect(STATUS_INVALID, "chat.messages[3].content", "UTF-8 at byte 4");
}

static void test_wire_types(void **state)
{
    wire_tag(&wire, 1, 0); /* model as a number */
    wire_varint(&wire, 7);
    expect(STATUS_INVALID, "model", "wire type 0 where 2 belongs");
    reset(NULL);
    wire_text(&wire, 6, "12"); /* max_tokens as text */
    expect(STATUS_INVALID, "max_tokens", "wire type 2 where 0 belongs");
    reset(NULL);
    wire_tag(&inner, 1, 1); /* temperature as a double */
    wire_bytes(&inner, "12345678", 8);
    wire_sized(&wire, 5, inner.data, inner.size_bytes);
    expect(STATUS_INVALID, "sampling.temperature", "wire type 1 where 5 belongs");
    reset(NULL);
    wire_sized(&wire, 8, "\x01\xff", 2); /* a packed list that ends inside its second number */
    expect(STATUS_INVALID, "stop_token_ids[0]", "ends inside an element");
}

static void expect_malformed(const char *bytes, size_t size_bytes, const char *words)
{
    reset(NULL);
    wire_bytes(&wire, bytes, size_bytes);
    expect(STATUS_INVALID, "", words);
}

static void test_malformed(void **state)
{
    expect_malformed("\x0a", 1, "cut short");
    expect_malformed("\x0a\x05hell", 6, "cut short");
    expect_malformed("\x0a\xff\xff\xff\xff\x7f", 6, "cut short");
    expect_malformed("\x0a\xff\xff\xff\xff\xff\x01", 7, "cut short"); /* a length of six bytes */
    expect_malformed("\x30\xff", 2, "cut short");
    expect_malformed("\x30\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 12, "cut short");
    expect_malformed("\x2d\0\0\0", 4, "cut short");
    expect_malformed("\x29\0\0\0\0\0\0\0", 8, "cut short");
    expect_malformed("\x00\x00", 2, "no field tag at byte 0");
    expect_malformed("\x80", 1, "no field tag at byte 0");
    expect_malformed("\xff\xff\xff\xff\x1f\x00", 6, "no field tag"); /* number over 2^29 - 1 */
    expect_malformed("\x0b", 1, "groups");
    expect_malformed("\x0f", 1, "wire type 7");
}

static void test_elements(void **state)
{
    for (int i = 0; i < WIRE_ELEMENTS_MAX; i++)
        wire_text(&wire, 7, "");
    expect(STATUS_OK, "", "");
    wire_text(&wire, 7, "");
    expect(STATUS_EXHAUSTED, "", "more than 16384");
}

/* Our own requests have no recursive type; this one is its own field. */
static ProtobufCFieldDescriptor tower_field;
static const ProtobufCIntRange tower_ranges[] = {{1, 0}, {0, 1}};
static const ProtobufCMessageDescriptor tower = {
    .magic = PROTOBUF_C__MESSAGE_DESCRIPTOR_MAGIC,
    .name = "Tower",
    .n_fields = 1,
    .fields = &tower_field,
    .n_field_ranges = 1,
    .field_ranges = tower_ranges,
};

static enum status tower_check(int floors, struct error *error)
{
    static struct wire_build next;
    wire.size_bytes = 0;
    for (int i = 1; i < floors; i++) {
        next.size_bytes = 0;
        wire_sized(&next, 1, wire.data, wire.size_bytes);
        memcpy(wire.data, next.data, next.size_bytes);
        wire.size_bytes = next.size_bytes;
    }
    return wire_check(&tower, wire_span(&wire), error);
}

static void test_depth(void **state)
{
    struct error error;
    tower_field = (ProtobufCFieldDescriptor){.name = "up",
                                             .id = 1,
                                             .label = PROTOBUF_C_LABEL_NONE,
                                             .type = PROTOBUF_C_TYPE_MESSAGE,
                                             .descriptor = &tower};
    assert_int_equal(tower_check(WIRE_DEPTH_MAX, &error), STATUS_OK);
    assert_int_equal(tower_check(WIRE_DEPTH_MAX + 1, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, "nested more than 8"));
    assert_string_equal(error.field, "up.up.up.up.up.up.up.up");
    assert_int_equal(tower_check(5000, &error), STATUS_INVALID);
}

static void test_long_path_is_cut(void **state)
{
    struct error error;
    tower_field.name = "a_field_with_a_rather_long_name";
    assert_int_equal(tower_check(WIRE_DEPTH_MAX + 1, &error), STATUS_INVALID);
    assert_int_equal(strlen(error.field), sizeof error.field - 1);
}

static void test_memory_cap(void **state)
{
    struct arena arena;
    ProtobufCMessage *message = NULL;
    struct error error;
    for (int i = 0; i < 1000; i++)
        wire_sized(&wire, 15, "", 0); /* unknown fields are kept by the library */
    for (size_t max_bytes = 0; max_bytes < 60000; max_bytes += 997) {
        arena_init(&arena, max_bytes);
        assert_int_equal(wire_unpack(generate, wire_span(&wire), &arena, &message, &error),
                         STATUS_EXHAUSTED);
        assert_null(message);
        assert_non_null(strstr(error.text, "memory"));
        arena_free(&arena);
    }
    arena_init(&arena, wire_unpacked_max_bytes(wire.size_bytes));
    assert_int_equal(wire_unpack(generate, wire_span(&wire), &arena, &message, &error), STATUS_OK);
    arena_free(&arena);
}

/* Whatever passes the check in number of fields fits the cap. */
static void test_cap_fits_the_elements(void **state)
{
    struct arena arena;
    ProtobufCMessage *message;
    struct error error;
    for (int i = 0; i < WIRE_ELEMENTS_MAX - 1; i++)
        wire_sized(&inner, 1, "", 0);
    wire_sized(&wire, 3, inner.data, inner.size_bytes);
    arena_init(&arena, wire_unpacked_max_bytes(wire.size_bytes));
    assert_int_equal(wire_unpack(generate, wire_span(&wire), &arena, &message, &error), STATUS_OK);
    assert_int_equal(
        ((const Galerne__V1__GenerateRequest *)(const void *)message)->chat->n_messages,
        WIRE_ELEMENTS_MAX - 1);
    arena_free(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_good, reset),
        cmocka_unit_test_setup(test_empty, reset),
        cmocka_unit_test_setup(test_strings, reset),
        cmocka_unit_test_setup(test_field_path, reset),
        cmocka_unit_test_setup(test_wire_types, reset),
        cmocka_unit_test_setup(test_malformed, reset),
        cmocka_unit_test_setup(test_elements, reset),
        cmocka_unit_test_setup(test_depth, reset),
        cmocka_unit_test_setup(test_long_path_is_cut, reset),
        cmocka_unit_test_setup(test_memory_cap, reset),
        cmocka_unit_test_setup(test_cap_fits_the_elements, reset),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
