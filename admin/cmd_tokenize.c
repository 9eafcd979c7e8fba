#include "admin/command.h"
#include "admin/message_json.h"
#include "admin/output.h"
#include "proto/inference.pb-c.h"

static struct {
    const char *model;
    const char *system;
    bool chat;
    bool no_special;
    bool count;
} wish;

#define AT(member) .offset = offsetof(typeof(wish), member), .size_bytes = sizeof wish.member

static const struct option_row rows[] = {
    {"model", OPTION_TEXT, AT(model), .letter = 'm', .value = "NAME",
     .fallback_text = "the only one", .text = "Whose tokenizer."},
    {"chat", OPTION_BOOL, AT(chat), .text = "The text is a user's turn, in the model's template."},
    {"system", OPTION_TEXT, AT(system), .value = "TEXT",
     .text = "A system turn before it; implies --chat."},
    {"no-special", OPTION_BOOL, AT(no_special), .text = "Without the model's begin token."},
    {"count", OPTION_BOOL, AT(count), .text = "Print the number of tokens alone."},
};

static bool take(void *context, const ProtobufCMessage *message)
{
    static const struct table_column columns[] = {{"ID", true}, {"TOKEN", false}};
    const struct common *common = context;
    const Galerne__V1__TokenizeResponse *answer = (const Galerne__V1__TokenizeResponse *)message;
    if (wish.count) {
        printf("%zu\n", answer->n_ids);
        return true;
    }
    if (common->output == OUTPUT_JSON) {
        json_t *value = message_json(message);
        bool good = output_json(value, false);
        json_decref(value);
        return good;
    }
    struct table *table = table_new(columns, array_count(columns));
    for (size_t i = 0; i < answer->n_ids && i < answer->n_pieces; i++) {
        struct span piece = {(const char *)answer->pieces[i].data, answer->pieces[i].len};
        char *word = output_escape(piece);
        table_line(table);
        table_cell(table, TONE_PLAIN, "%u", answer->ids[i]);
        table_cell(table, TONE_PLAIN, "\"%s\"", word);
        free(word);
    }
    table_print(table);
    table_free(table);
    return true;
}

static int ask(const struct common *common, char *model, char *prompt)
{
    Galerne__V1__TokenizeRequest request = GALERNE__V1__TOKENIZE_REQUEST__INIT;
    Galerne__V1__ChatPrompt chat = GALERNE__V1__CHAT_PROMPT__INIT;
    Galerne__V1__ChatMessage turns[2] = {GALERNE__V1__CHAT_MESSAGE__INIT,
                                         GALERNE__V1__CHAT_MESSAGE__INIT};
    Galerne__V1__ChatMessage *list[2] = {&turns[0], &turns[1]};
    struct client_call call = {
        .method = METHOD_INFERENCE("Tokenize"),
        .request = &request.base,
        .response = &galerne__v1__tokenize_response__descriptor,
        .take = take,
        .context = (void *)(uintptr_t)common,
    };
    request.model = model;
    if (wish.chat || wish.system) {
        if (wish.system) {
            turns[chat.n_messages].role = GALERNE__V1__ROLE__ROLE_SYSTEM;
            turns[chat.n_messages++].content = (char *)(uintptr_t)wish.system;
        }
        turns[chat.n_messages].role = GALERNE__V1__ROLE__ROLE_USER;
        turns[chat.n_messages++].content = prompt;
        chat.messages = list;
        request.prompt_case = GALERNE__V1__TOKENIZE_REQUEST__PROMPT_CHAT;
        request.chat = &chat;
    } else {
        request.prompt_case = GALERNE__V1__TOKENIZE_REQUEST__PROMPT_TEXT;
        request.text = prompt;
    }
    if (wish.no_special) {
        request._add_special_case = GALERNE__V1__TOKENIZE_REQUEST___ADD_SPECIAL_ADD_SPECIAL;
        request.add_special = false;
    }
    return command_call(common, &call);
}

static int run(const struct common *common, const struct words *words)
{
    char *prompt = NULL, *model = NULL;
    int code = command_prompt(&command_tokenize, words, &prompt);
    if (code == EXIT_CODE_OK)
        code = command_model_name(common, wish.model, &model);
    if (code == EXIT_CODE_OK)
        code = ask(common, model, prompt);
    free(prompt);
    free(model);
    return code;
}

const struct command command_tokenize = {
    .name = "tokenize",
    .arguments = "TEXT | -",
    .summary = "text as a model's tokens",
    .text = "Shows the ids and the pieces that a model would be fed with; - reads standard input.",
    .rows = rows,
    .n_rows = array_count(rows),
    .target = &wish,
    .run = run,
};
