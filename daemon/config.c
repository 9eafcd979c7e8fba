#include "daemon/config.h"

#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cache_dir.h"
#include "base/runtime_dir.h"
#include "daemon/config_table.h"
#include "daemon/config_tenants.h"
#include "daemon/config_yaml.h"
#include "daemon/tcp_socket.h"

#define FILE_MAX_BYTES (1024 * 1024)

/* ---- models ---- */

static const char *key_hint(const struct yaml_section *section, const char *key)
{
    bool in_file = section->rows == config_rows;
    if (in_file && option_find(config_model_rows, config_model_rows_count, key))
        return "an entry of models: indent it there";
    if (in_file && option_find(config_tenant_rows, config_tenant_rows_count, key))
        return "an entry of tenants: indent it there";
    if (!in_file && option_find(config_rows, config_rows_count, key))
        return "the file, not to a model: do not indent it";
    return NULL;
}

static enum status model_read(struct yaml_reader *r, void *context)
{
    struct config *config = context;
    if (config->n_models == CONFIG_MODELS_MAX)
        return yaml_fail(r, r->event.start_mark, "models: expected at most %d of them",
                         CONFIG_MODELS_MAX);
    struct config_model *model = &config->models[config->n_models];
    struct yaml_section section = {.rows = config_model_rows,
                                   .n_rows = config_model_rows_count,
                                   .target = model,
                                   .key_hint = key_hint,
                                   .title = "an entry of models"};
    memset(model, 0, sizeof *model);
    option_defaults(config_model_rows, config_model_rows_count, model);
    enum status status = yaml_section(r, &section);
    for (uint32_t i = 0; status == STATUS_OK && i < config->n_models; i++)
        if (strcmp(config->models[i].name, model->name) == 0)
            status = yaml_fail(r, section.mark, "a second model is called %s: names are unique",
                               model->name);
    if (status == STATUS_OK)
        config->n_models++;
    return status;
}

static enum status models_read(struct yaml_reader *r, struct config *config)
{
    const struct yaml_list list = {.key = "models",
                                   .list_text = "a list (lines that begin with \"- name:\")",
                                   .item_text = "name and path of a model",
                                   .item_type = YAML_MAPPING_START_EVENT,
                                   .item = model_read,
                                   .context = config};
    yaml_mark_t mark = r->event.start_mark;
    enum status status = yaml_items(r, &list);
    if (status == STATUS_OK && config->n_models == 0)
        return yaml_fail(r, mark, "models: expected at least one model, the list is empty");
    return status;
}

static enum status nested_read(struct yaml_reader *r, struct yaml_section *section,
                               const struct option_row *row)
{
    bool models = strcmp(row->name, "models") == 0;
    return models ? models_read(r, section->target) : config_tenants_read(r, section->target);
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
    cache_dir_default(ret_config->cache_dir, sizeof ret_config->cache_dir);
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
    struct yaml_reader r;
    struct yaml_section root = {.rows = config_rows,
                                .n_rows = config_rows_count,
                                .target = config,
                                .nested = nested_read,
                                .key_hint = key_hint,
                                .title = "the file"};
    enum status status;
    if (!config)
        return error_set(error, STATUS_EXHAUSTED, "%s: out of memory", name);
    config_default(config);
    if (text.size_bytes > FILE_MAX_BYTES) {
        status = error_set(error, STATUS_INVALID, "%s: expected at most %d bytes, got %zu", name,
                           FILE_MAX_BYTES, text.size_bytes);
        goto out;
    }
    status = yaml_open(&r, name, text, error);
    if (status != STATUS_OK)
        goto out;
    status = yaml_root(&r, &root);
    yaml_close(&r);
    if (status == STATUS_OK)
        status = config_tenants_check(config, name, error);
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
    if (status == STATUS_OK && config->cache_dir[0])
        status = path_resolve(directory, config->cache_dir, error);
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

/* All of it is a comment, whose lines make a good list when their first # goes. */
static void tenants_print_sample(FILE *out)
{
    char *text = NULL, *rest = NULL;
    size_t size_bytes;
    FILE *memory = open_memstream(&text, &size_bytes);
    CHECK(memory != NULL);
    fputs("tenants:\n  -\n", memory);
    option_print_yaml(memory, config_tenant_rows, config_tenant_rows_count, 4);
    fputs("    # clients: [alice, \"uid:1000\"]\n", memory);
    CHECK(fclose(memory) == 0);
    fputs("\n# Who shares the models, up to 256; without it everybody is one tenant.\n", out);
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
        fprintf(out, "#%s\n", line);
    free(text);
}

void config_print_sample(FILE *out)
{
    fputs("# Configuration of galerned. Every key but models has a default, which is shown behind "
          "#.\n# galerned --check-config --config FILE says what is wrong with a file.\n\n",
          out);
    option_print_yaml(out, config_rows, config_rows_count, 0);
    fputs("\n# The models to serve, 1 to 16; each has its own worker.\nmodels:\n  -\n", out);
    option_print_yaml(out, config_model_rows, config_model_rows_count, 4);
    tenants_print_sample(out);
}
