#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "admin/message_json.h"
#include "base/types.h"
#include "proto/admin.pb-c.h"
#include "proto/inference.pb-c.h"

static void must_be(const ProtobufCMessage *message, const char *expected)
{
    json_t *value = message_json(message);
    char *text = json_dumps(value, JSON_COMPACT);
    assert_string_equal(text, expected);
    free(text);
    json_decref(value);
}

static void says_what_is_set(void **state)
{
    Galerne__V1__Sampling sampling = GALERNE__V1__SAMPLING__INIT;
    must_be(&sampling.base, "{\"logit_bias\":[]}"); /* optional fields that nobody set are absent */
    sampling._top_k_case = GALERNE__V1__SAMPLING___TOP_K_TOP_K;
    sampling.top_k = 0;
    must_be(&sampling.base, "{\"top_k\":0,\"logit_bias\":[]}");
    Galerne__V1__GenerateResponse empty = GALERNE__V1__GENERATE_RESPONSE__INIT;
    must_be(&empty.base, "{\"tokens\":[],\"choices\":[],\"request_id\":\"\"}");
}

static void writes_every_kind(void **state)
{
    uint8_t bytes[] = {0xff, 0x00, 0x7f, 0x80};
    Galerne__V1__TokenLogprob best = GALERNE__V1__TOKEN_LOGPROB__INIT;
    Galerne__V1__TokenLogprob *bests[] = {&best};
    Galerne__V1__Token token = GALERNE__V1__TOKEN__INIT;
    best.id = 4294967295u;
    best.logprob = -0.5f;
    best.bytes = (ProtobufCBinaryData){.data = bytes, .len = 1};
    token.id = 7;
    token.bytes = (ProtobufCBinaryData){.data = bytes, .len = sizeof bytes};
    token.top_logprobs = bests;
    token.n_top_logprobs = 1;
    must_be(&token.base, "{\"choice_index\":0,\"id\":7,\"bytes\":\"/wB/gA==\",\"top_logprobs\":["
                         "{\"id\":4294967295,\"logprob\":-0.5,\"bytes\":\"/w==\"}]}");
    token.bytes.len = 3;
    token.n_top_logprobs = 0;
    must_be(&token.base, "{\"choice_index\":0,\"id\":7,\"bytes\":\"/wB/\",\"top_logprobs\":[]}");

    uint32_t ids[] = {1, 2};
    ProtobufCBinaryData pieces[] = {{.data = bytes, .len = 2}, {.data = bytes, .len = 0}};
    Galerne__V1__TokenizeResponse list = GALERNE__V1__TOKENIZE_RESPONSE__INIT;
    list.ids = ids;
    list.n_ids = 2;
    list.pieces = pieces;
    list.n_pieces = 2;
    must_be(&list.base, "{\"ids\":[1,2],\"pieces\":[\"/wA=\",\"\"]}");
}

static void names_enums_and_mends_text(void **state)
{
    char bad[] = "a\xff\"z";
    Galerne__V1__Choice choice = GALERNE__V1__CHOICE__INIT;
    choice.finish_reason = GALERNE__V1__FINISH_REASON__FINISH_REASON_STOP;
    choice.text = bad;
    must_be(&choice.base, "{\"choice_index\":0,\"text\":\"a\xef\xbf\xbd\\\"z\","
                          "\"finish_reason\":\"FINISH_REASON_STOP\",\"stop\":\"\"}");
    choice.finish_reason = (Galerne__V1__FinishReason)77; /* of a newer daemon */
    choice.text = (char *)(uintptr_t) "";
    must_be(&choice.base, "{\"choice_index\":0,\"text\":\"\",\"finish_reason\":77,\"stop\":\"\"}");
}

static void writes_large_numbers(void **state)
{
    Galerne__Admin__V1__StatusResponse status = GALERNE__ADMIN__V1__STATUS_RESPONSE__INIT;
    status.resident_bytes = 1ull << 60;
    json_t *value = message_json(&status.base);
    assert_int_equal(json_integer_value(json_object_get(value, "resident_bytes")), 1ll << 60);
    assert_string_equal(json_string_value(json_object_get(value, "state")),
                        "DAEMON_STATE_UNSPECIFIED");
    assert_int_equal(json_array_size(json_object_get(value, "models")), 0);
    json_decref(value);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(says_what_is_set),
        cmocka_unit_test(writes_every_kind),
        cmocka_unit_test(names_enums_and_mends_text),
        cmocka_unit_test(writes_large_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
