#include "admin/command.h"
#include "admin/message_json.h"
#include "admin/output.h"
#include "proto/inference.pb-c.h"

struct answer {
    struct table *table; /* NULL: json */
    json_t *models;
    char next_page[256];
};

static const struct table_column columns[] = {
    {"MODEL", false},     {"STATE", false}, {"ARCHITECTURE", false}, {"CONTEXT", true},
    {"VOCABULARY", true}, {"CHAT", false},  {"REVISION", false}};

static const char *state_text(Galerne__V1__ModelState state, enum tone *ret_tone)
{
    *ret_tone = TONE_CARE;
    switch ((int)state) {
    case GALERNE__V1__MODEL_STATE__MODEL_STATE_LOADING:
        return "loading";
    case GALERNE__V1__MODEL_STATE__MODEL_STATE_SERVING:
        *ret_tone = TONE_GOOD;
        return "serving";
    case GALERNE__V1__MODEL_STATE__MODEL_STATE_RESTARTING:
        return "restarting";
    case GALERNE__V1__MODEL_STATE__MODEL_STATE_FAILED:
        *ret_tone = TONE_BAD;
        return "failed";
    default:
        return "unknown";
    }
}

static void model_take(struct answer *answer, const Galerne__V1__Model *m)
{
    enum tone tone;
    const char *state = state_text(m->state, &tone), *slash = strchr(m->name, '/');
    if (!answer->table) {
        json_array_append_new(answer->models, message_json(&m->base));
        return;
    }
    table_line(answer->table);
    table_cell(answer->table, TONE_PLAIN, "%s", slash ? slash + 1 : m->name);
    table_cell(answer->table, tone, m->state_text[0] ? "%s: %s" : "%s", state, m->state_text);
    table_cell(answer->table, TONE_PLAIN, "%s", m->architecture);
    table_cell(answer->table, TONE_PLAIN, "%u", m->context_tokens);
    table_cell(answer->table, TONE_PLAIN, "%u", m->vocabulary_count);
    table_cell(answer->table, TONE_PLAIN, "%s", m->chat_template);
    table_cell(answer->table, TONE_PLAIN, "%.12s", m->revision);
}

static bool take_list(void *context, const ProtobufCMessage *message)
{
    struct answer *answer = context;
    const Galerne__V1__ListModelsResponse *list = (const Galerne__V1__ListModelsResponse *)message;
    for (size_t i = 0; i < list->n_models; i++)
        model_take(answer, list->models[i]);
    snprintf(answer->next_page, sizeof answer->next_page, "%s", list->next_page_token);
    return true;
}

static bool take_one(void *context, const ProtobufCMessage *message)
{
    const Galerne__V1__GetModelResponse *one = (const Galerne__V1__GetModelResponse *)message;
    if (one->model)
        model_take(context, one->model);
    return true;
}

static int ask_one(const struct common *common, char *name, struct answer *answer)
{
    Galerne__V1__GetModelRequest request = GALERNE__V1__GET_MODEL_REQUEST__INIT;
    struct client_call call = {
        .method = METHOD_INFERENCE("GetModel"),
        .request = &request.base,
        .response = &galerne__v1__get_model_response__descriptor,
        .take = take_one,
        .context = answer,
    };
    request.name = name;
    return command_call(common, &call);
}

static int ask_all(const struct common *common, struct answer *answer)
{
    int code = EXIT_CODE_OK;
    do {
        Galerne__V1__ListModelsRequest request = GALERNE__V1__LIST_MODELS_REQUEST__INIT;
        char page[sizeof answer->next_page];
        struct client_call call = {
            .method = METHOD_INFERENCE("ListModels"),
            .request = &request.base,
            .response = &galerne__v1__list_models_response__descriptor,
            .take = take_list,
            .context = answer,
        };
        memcpy(page, answer->next_page, sizeof page);
        request.page_token = page;
        answer->next_page[0] = '\0';
        code = command_call(common, &call);
    } while (code == EXIT_CODE_OK && answer->next_page[0]);
    return code;
}

static int run(const struct common *common, const struct words *words)
{
    struct answer answer = {.table = NULL};
    if (words->count > 1)
        return command_misuse(&command_models, "expected one name at most, got %d words",
                              words->count);
    if (common->output == OUTPUT_JSON)
        answer.models = json_array();
    else
        answer.table = table_new(columns, array_count(columns));
    int code = words->count ? ask_one(common, words->items[0], &answer) : ask_all(common, &answer);
    if (code == EXIT_CODE_OK && answer.models &&
        !output_json(words->count ? json_array_get(answer.models, 0) : answer.models, true))
        code = EXIT_CODE_FAILED;
    if (code == EXIT_CODE_OK && answer.table)
        table_print(answer.table);
    table_free(answer.table);
    json_decref(answer.models);
    return code;
}

const struct command command_models = {
    .name = "models",
    .arguments = "[NAME]",
    .summary = "the models that are served, or one of them",
    .text = "Lists the models of the daemon in the order of its configuration.",
    .run = run,
};
