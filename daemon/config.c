#include "daemon/config.h"

#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <stdarg.h>
#include <sys/un.h>
#include <unistd.h>
#include <yaml.h>

#include "base/runtime_dir.h"
#include "daemon/config_table.h"
#include "daemon/tcp_socket.h"

#define FILE_MAX_BYTES (1024 * 1024)
#define ROWS_MAX 64 /* of one table */
#define MODELS_KEY "models"

/* What is being read, and where errors point. */
struct reader {
    yaml_parser_t parser;
    yaml_event_t event; /* the current one; owned */
    bool has_event;
    const char *name; /* of the file */
    struct span text;
    struct config *config;
    struct error *error;
};

/* ---- errors with a place ---- */

static enum status fail_at(struct reader *r, yaml_mark_t mark, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static enum status fail_at(struct reader *r, yaml_mark_t mark, const char *format, ...)
{
    char text[ERROR_TEXT_MAX_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return error_set(r->error, STATUS_INVALID, "%s:%zu:%zu: %s", r->name, mark.line + 1,
                     mark.column + 1, text);
}

/* The scanner gives no line for bytes that it cannot decode, only an offset. */
static yaml_mark_t mark_of_offset(struct span text, size_t offset)
{
    yaml_mark_t mark = {.index = offset};
    for (size_t i = 0; i < offset && i < text.size_bytes; i++) {
        if (text.data[i] == '\n') {
            mark.line++;
            mark.column = 0;
        } else if (((unsigned char)text.data[i] & 0xc0) != 0x80) {
            mark.column++;
        }
    }
    return mark;
}

static enum status fail_of_parser(struct reader *r)
{
    yaml_parser_t *p = &r->parser;
    const char *problem = p->problem ? p->problem : "out of memory";
    if (p->error == YAML_READER_ERROR)
        return fail_at(r, mark_of_offset(r->text, p->problem_offset),
                       "expected UTF-8 text without control characters: %s", problem);
    if (p->error == YAML_SCANNER_ERROR || p->error == YAML_PARSER_ERROR)
        return fail_at(r, p->problem_mark, "not YAML: %s%s%s", problem, p->context ? " " : "",
                       p->context ? p->context : "");
    return fail_at(r, p->mark, "not YAML: %s", problem);
}

/* ---- events ---- */

static const char *event_text(const yaml_event_t *event)
{
    switch (event->type) {
    case YAML_SCALAR_EVENT:
        return "a single value";
    case YAML_SEQUENCE_START_EVENT:
        return "a list";
    case YAML_MAPPING_START_EVENT:
        return "a mapping of keys";
    case YAML_STREAM_END_EVENT:
        return "the end of the file";
    default:
        return "something else";
    }
}

/* Anchors and tags would let a small file say much, or something other than it seems to. */
static enum status event_check(struct reader *r)
{
    const yaml_event_t *e = &r->event;
    const yaml_char_t *anchor = NULL, *tag = NULL;
    if (e->type == YAML_ALIAS_EVENT)
        return fail_at(r, e->start_mark, "aliases (*%s) are not accepted: write the value out",
                       (const char *)e->data.alias.anchor);
    if (e->type == YAML_SCALAR_EVENT) {
        anchor = e->data.scalar.anchor;
        tag = e->data.scalar.tag;
    } else if (e->type == YAML_SEQUENCE_START_EVENT) {
        anchor = e->data.sequence_start.anchor;
        tag = e->data.sequence_start.tag;
    } else if (e->type == YAML_MAPPING_START_EVENT) {
        anchor = e->data.mapping_start.anchor;
        tag = e->data.mapping_start.tag;
    }
    if (anchor)
        return fail_at(r, e->start_mark, "anchors (&%s) are not accepted: write the value out",
                       (const char *)anchor);
    if (tag)
        return fail_at(r, e->start_mark, "tags (%s) are not accepted: write the plain value",
                       (const char *)tag);
    return STATUS_OK;
}

static enum status next(struct reader *r)
{
    if (r->has_event)
        yaml_event_delete(&r->event);
    r->has_event = yaml_parser_parse(&r->parser, &r->event) == 1;
    return r->has_event ? event_check(r) : fail_of_parser(r);
}

/* ---- values ---- */

/* Numbers, bools and choices are written without quotes; texts either way. */
static bool row_is_text(const struct option_row *row)
{
    return row->type == OPTION_STRING || row->type == OPTION_PATH || row->type == OPTION_NAME;
}

static bool value_is_null(const yaml_event_t *e)
{
    const char *value = (const char *)e->data.scalar.value;
    return e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
           (!*value || strcmp(value, "~") == 0 || strcasecmp(value, "null") == 0);
}

/* The current event is the value of `row`. */
static enum status value_read(struct reader *r, const struct option_row *row, void *target)
{
    const yaml_event_t *e = &r->event;
    struct error error;
    char expected[256];
    option_expected(row, expected, sizeof expected);
    if (e->type != YAML_SCALAR_EVENT)
        return fail_at(r, e->start_mark, "%s: expected %s, got %s", row->name, expected,
                       event_text(e));
    if (value_is_null(e))
        return fail_at(r, e->start_mark, "%s has no value: expected %s", row->name, expected);
    const char *value = (const char *)e->data.scalar.value;
    for (size_t i = 0; i < e->data.scalar.length; i++)
        if ((unsigned char)value[i] < 0x20 || value[i] == 0x7f)
            return fail_at(r, e->start_mark,
                           "%s: expected %s on one line, without control "
                           "characters",
                           row->name, expected);
    if (!row_is_text(row) && e->data.scalar.style != YAML_PLAIN_SCALAR_STYLE)
        return fail_at(r, e->start_mark, "%s: expected %s, got a quoted text: leave the quotes out",
                       row->name, expected);
    if (option_set(row, target, value, &error) != STATUS_OK)
        return fail_at(r, e->start_mark, "%s", error.text);
    return STATUS_OK;
}

/* One mapping over one table. */
struct section {
    const struct option_row *rows;
    size_t n_rows;
    void *target;
    yaml_mark_t mark;           /* where it begins */
    yaml_mark_t seen[ROWS_MAX]; /* [n_rows], valid where is_seen */
    bool is_seen[ROWS_MAX];     /* [n_rows] */
    const char *title;          /* for errors: "the file", "an entry of models" */
};

static enum status fail_unknown_key(struct reader *r, const struct section *s, const char *key)
{
    const char *near = option_nearest(s->rows, s->n_rows, key);
    yaml_mark_t mark = r->event.start_mark;
    if (s->rows == config_rows && option_find(config_model_rows, config_model_rows_count, key))
        return fail_at(r, mark, "%s belongs to an entry of " MODELS_KEY ": indent it there", key);
    if (s->rows == config_model_rows && option_find(config_rows, config_rows_count, key))
        return fail_at(r, mark, "%s belongs to the file, not to a model: do not indent it", key);
    if (near)
        return fail_at(r, mark, "unknown key \"%.60s\": did you mean %s?", key, near);
    return fail_at(r, mark, "unknown key \"%.60s\": galerned --print-config lists the keys of %s",
                   key, s->title);
}

/* The current event is a key; finds its row and moves on to its value. */
static enum status key_read(struct reader *r, struct section *s, const struct option_row **ret_row)
{
    const yaml_event_t *e = &r->event;
    if (e->type != YAML_SCALAR_EVENT)
        return fail_at(r, e->start_mark, "expected a key, got %s", event_text(e));
    const char *key = (const char *)e->data.scalar.value;
    const struct option_row *row = option_find(s->rows, s->n_rows, key);
    if (!row || strlen(key) != e->data.scalar.length)
        return fail_unknown_key(r, s, key);
    size_t i = (size_t)(row - s->rows);
    if (s->is_seen[i])
        return fail_at(r, e->start_mark, "%s is set twice: first in line %zu", row->name,
                       s->seen[i].line + 1);
    s->is_seen[i] = true;
    s->seen[i] = e->start_mark;
    *ret_row = row;
    return next(r);
}

static enum status required_check(struct reader *r, const struct section *s)
{
    for (size_t i = 0; i < s->n_rows; i++)
        if (s->rows[i].required && !s->is_seen[i])
            return fail_at(r, s->mark, "%s lacks %s: %s", s->title, s->rows[i].name,
                           s->rows[i].text);
    return STATUS_OK;
}

static enum status models_read(struct reader *r);

/* The current event begins a mapping; reads to its end. */
static enum status section_read(struct reader *r, struct section *s)
{
    enum status status;
    CHECK(s->n_rows <= ROWS_MAX);
    s->mark = r->event.start_mark;
    while ((status = next(r)) == STATUS_OK && r->event.type != YAML_MAPPING_END_EVENT) {
        const struct option_row *row = NULL;
        status = key_read(r, s, &row);
        if (status == STATUS_OK)
            status = row->type == OPTION_SECTION ? models_read(r) : value_read(r, row, s->target);
        if (status != STATUS_OK)
            return status;
    }
    return status == STATUS_OK ? required_check(r, s) : status;
}

/* ---- models ---- */

static void model_default(struct config_model *ret_model)
{
    memset(ret_model, 0, sizeof *ret_model);
    option_defaults(config_model_rows, config_model_rows_count, ret_model);
}

static enum status model_check(struct reader *r, const struct section *s)
{
    const struct config *config = r->config;
    const struct config_model *model = s->target;
    for (uint32_t i = 0; i < config->n_models; i++)
        if (strcmp(config->models[i].name, model->name) == 0)
            return fail_at(r, s->mark, "a second model is called %s: names are unique",
                           model->name);
    return STATUS_OK;
}

/* The current event is the value of `models`. */
static enum status models_read(struct reader *r)
{
    enum status status;
    if (r->event.type != YAML_SEQUENCE_START_EVENT)
        return fail_at(r, r->event.start_mark,
                       MODELS_KEY ": expected a list (lines that begin "
                                  "with \"- name:\"), got %s",
                       event_text(&r->event));
    yaml_mark_t mark = r->event.start_mark;
    while ((status = next(r)) == STATUS_OK && r->event.type != YAML_SEQUENCE_END_EVENT) {
        if (r->event.type != YAML_MAPPING_START_EVENT)
            return fail_at(r, r->event.start_mark,
                           MODELS_KEY ": expected name and path of a "
                                      "model, got %s",
                           event_text(&r->event));
        if (r->config->n_models == CONFIG_MODELS_MAX)
            return fail_at(r, r->event.start_mark, MODELS_KEY ": expected at most %d of them",
                           CONFIG_MODELS_MAX);
        struct config_model *model = &r->config->models[r->config->n_models];
        struct section section = {.rows = config_model_rows,
                                  .n_rows = config_model_rows_count,
                                  .target = model,
                                  .title = "an entry of " MODELS_KEY};
        model_default(model);
        status = section_read(r, &section);
        if (status == STATUS_OK)
            status = model_check(r, &section);
        if (status != STATUS_OK)
            return status;
        r->config->n_models++;
    }
    if (status == STATUS_OK && r->config->n_models == 0)
        return fail_at(r, mark, MODELS_KEY ": expected at least one model, the list is empty");
    return status;
}

/* ---- the file ---- */

/* A file of comments alone is an empty mapping; so is "---". */
static enum status root_read(struct reader *r)
{
    struct section section = {
        .rows = config_rows, .n_rows = config_rows_count, .target = r->config, .title = "the file"};
    enum status status = next(r); /* the stream's start */
    if (status == STATUS_OK)
        status = next(r);
    if (status != STATUS_OK)
        return status;
    if (r->event.type == YAML_STREAM_END_EVENT)
        return required_check(r, &section);
    status = next(r); /* past the document's start */
    if (status != STATUS_OK)
        return status;
    section.mark = r->event.start_mark;
    if (r->event.type == YAML_MAPPING_START_EVENT)
        status = section_read(r, &section);
    else if (r->event.type == YAML_SCALAR_EVENT && value_is_null(&r->event))
        status = required_check(r, &section);
    else
        status = fail_at(r, section.mark, "expected lines of \"key: value\", got %s",
                         event_text(&r->event));
    if (status == STATUS_OK)
        status = next(r); /* the document's end */
    if (status == STATUS_OK)
        status = next(r);
    if (status == STATUS_OK && r->event.type != YAML_STREAM_END_EVENT)
        status = fail_at(r, r->event.start_mark, "a second document begins here: expected one");
    return status;
}

/* ---- what no row can check alone ---- */

/* "worker-NAME.sock" is the longest of the sockets. */
static enum status sockets_check(const struct config *config, const char *name, struct error *error)
{
    size_t longest = strlen("galerne.sock");
    for (uint32_t i = 0; i < config->n_models; i++)
        longest = size_max(longest, strlen("worker-.sock") + strlen(config->models[i].name));
    size_t most = sizeof(((struct sockaddr_un *)0)->sun_path) - 1;
    size_t total = strlen(config->runtime_dir) + 1 + longest;
    if (total > most)
        return error_set(error, STATUS_INVALID,
                         "%s: runtime_dir %s is too long: with the longest socket in it the path "
                         "has %zu bytes, and a socket's may have %zu",
                         name, config->runtime_dir, total, most);
    return STATUS_OK;
}

static enum status tls_check(const struct config *config, const char *name, struct error *error)
{
    const struct {
        const char *key, *value;
    } needed[] = {{"tls_certificate", config->tls_certificate},
                  {"tls_key", config->tls_key},
                  {"tls_client_ca", config->tls_client_ca}};
    struct tcp_addresses addresses;
    enum status status = tcp_addresses_parse(config->tcp_listen, &addresses, error);
    if (status != STATUS_OK) {
        error_prefix(error, "tcp_listen");
        return error_prefix(error, name);
    }
    for (size_t i = 0; i < array_count(needed); i++)
        if (addresses.n && !needed[i].value[0])
            return error_set(error, STATUS_INVALID,
                             "%s: tcp_listen needs %s: TCP is served with TLS and client "
                             "certificates only",
                             name, needed[i].key);
    return STATUS_OK;
}

void config_default(struct config *ret_config)
{
    memset(ret_config, 0, sizeof *ret_config);
    option_defaults(config_rows, config_rows_count, ret_config);
    char dir[RUNTIME_DIR_MAX_BYTES];
    runtime_dir_default(dir);
    snprintf(ret_config->runtime_dir, sizeof ret_config->runtime_dir, "%s", dir);
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - sizeof "/galerne-worker");
    if (n <= 0)
        n = snprintf(self, sizeof self, "/usr/bin/galerned");
    self[n] = '\0';
    snprintf(ret_config->worker_binary, sizeof ret_config->worker_binary, "%s/galerne-worker",
             dirname(self));
}

enum status config_parse(const char *name, struct span text, struct config *ret_config,
                         struct error *error)
{
    struct config *config = malloc(sizeof *config);
    struct reader r = {.name = name, .text = text, .config = config, .error = error};
    enum status status;
    if (!config)
        return error_set(error, STATUS_EXHAUSTED, "%s: out of memory", name);
    config_default(config);
    if (text.size_bytes > FILE_MAX_BYTES) {
        status = error_set(error, STATUS_INVALID, "%s: expected at most %d bytes, got %zu", name,
                           FILE_MAX_BYTES, text.size_bytes);
        goto out;
    }
    if (!yaml_parser_initialize(&r.parser)) {
        status = error_set(error, STATUS_EXHAUSTED, "%s: out of memory", name);
        goto out;
    }
    yaml_parser_set_encoding(&r.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)(text.data ? text.data : ""),
                                 text.size_bytes);
    status = root_read(&r);
    if (r.has_event)
        yaml_event_delete(&r.event);
    yaml_parser_delete(&r.parser);
    if (status == STATUS_OK)
        status = sockets_check(config, name, error);
    if (status == STATUS_OK)
        status = tls_check(config, name, error);
    if (status == STATUS_OK)
        *ret_config = *config;
out:
    free(config);
    return status;
}

/* ---- from the disk ---- */

static enum status file_read(const char *path, char *text, size_t *ret_size_bytes,
                             struct error *error)
{
    FILE *file = fopen(path, "re");
    if (!file && errno == ENOENT)
        return error_set(error, STATUS_NOT_FOUND,
                         "%s: there is no such file: name one with --config, or begin with what "
                         "galerned --print-config prints",
                         path);
    if (!file)
        return error_set(error, STATUS_IO, "%s: %s", path, strerror(errno));
    *ret_size_bytes = fread(text, 1, FILE_MAX_BYTES + 1, file);
    enum status status = STATUS_OK;
    if (ferror(file))
        status = error_set(error, STATUS_IO, "%s: %s", path, strerror(errno));
    fclose(file);
    return status;
}

/* A relative path is seen from the file that says it. */
static enum status path_resolve(const char *directory, char path[CONFIG_PATH_MAX_BYTES],
                                struct error *error)
{
    char whole[CONFIG_PATH_MAX_BYTES];
    if (path[0] == '/')
        return STATUS_OK;
    size_t length = strlen(directory), more = strlen(path);
    if (length + 1 + more >= sizeof whole)
        return error_set(error, STATUS_INVALID, "the path %s/%.60s... is too long", directory,
                         path);
    memcpy(whole, directory, length);
    whole[length] = '/';
    memcpy(whole + length + 1, path, more + 1);
    memcpy(path, whole, length + more + 2);
    return STATUS_OK;
}

/* What the service manager hands over lies in a directory of its own and goes by its name. */
static enum status credential_resolve(const char *directory, char path[CONFIG_PATH_MAX_BYTES],
                                      struct error *error)
{
    char given[CONFIG_PATH_MAX_BYTES];
    const char *credentials = getenv("CREDENTIALS_DIRECTORY");
    if (!path[0])
        return STATUS_OK;
    if (credentials && !strchr(path, '/') &&
        snprintf(given, sizeof given, "%s/%s", credentials, path) < (int)sizeof given &&
        access(given, F_OK) == 0) {
        memcpy(path, given, sizeof given);
        return STATUS_OK;
    }
    return path_resolve(directory, path, error);
}

static enum status paths_resolve(const char *file, struct config *config, struct error *error)
{
    char copy[CONFIG_PATH_MAX_BYTES], directory[PATH_MAX];
    snprintf(copy, sizeof copy, "%s", file);
    if (!realpath(dirname(copy), directory))
        return error_set(error, STATUS_IO, "%s: %s", file, strerror(errno));
    enum status status = path_resolve(directory, config->runtime_dir, error);
    if (status == STATUS_OK)
        status = path_resolve(directory, config->worker_binary, error);
    char *const credentials[] = {config->tls_certificate, config->tls_key, config->tls_client_ca,
                                 config->tls_clients};
    for (size_t i = 0; status == STATUS_OK && i < array_count(credentials); i++)
        status = credential_resolve(directory, credentials[i], error);
    for (uint32_t i = 0; status == STATUS_OK && i < config->n_models; i++)
        status = path_resolve(directory, config->models[i].path, error);
    return status == STATUS_OK ? sockets_check(config, file, error) : status;
}

enum status config_load(const char *path, struct config *ret_config, struct error *error)
{
    enum status status;
    size_t size_bytes = 0;
    struct config *config = malloc(sizeof *config);
    char *text = malloc(FILE_MAX_BYTES + 1);
    if (!config || !text) {
        status = error_set(error, STATUS_EXHAUSTED, "%s: out of memory", path);
        goto out;
    }
    if (strlen(path) >= sizeof config->file) {
        status = error_set(error, STATUS_INVALID, "the path of the configuration is too long");
        goto out;
    }
    status = file_read(path, text, &size_bytes, error);
    if (status == STATUS_OK)
        status = config_parse(path, (struct span){text, size_bytes}, config, error);
    if (status == STATUS_OK)
        status = paths_resolve(path, config, error);
    if (status == STATUS_OK) {
        snprintf(config->file, sizeof config->file, "%s", path);
        *ret_config = *config;
    }
out:
    free(text);
    free(config);
    return status;
}

/* ---- the sample ---- */

void config_print_sample(FILE *out)
{
    fputs("# Configuration of galerned. Every key but models has a default, which is shown behind "
          "#.\n# galerned --check-config --config FILE says what is wrong with a file.\n\n",
          out);
    option_print_yaml(out, config_rows, config_rows_count, 0);
    fputs("\n# The models to serve, 1 to 16; each has its own worker.\n" MODELS_KEY ":\n  -\n",
          out);
    option_print_yaml(out, config_model_rows, config_model_rows_count, 4);
}
