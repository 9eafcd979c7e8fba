/* Checkpoints in several files: what the index may say and what must lie in the files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <unistd.h>

#include "model/shards.h"

#define FIRST "m-1.safetensors"
#define SECOND "m-2.safetensors"
#define INDEX "model.safetensors.index.json"
#define A "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}"
#define B "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}"

static char directory[64], index_path[128];

static int directory_make(void **state)
{
    snprintf(directory, sizeof directory, "/tmp/galerne_shards_XXXXXX");
    assert_non_null(mkdtemp(directory));
    snprintf(index_path, sizeof index_path, "%s/" INDEX, directory);
    return 0;
}

static int directory_drop(void **state)
{
    static const char *const names[] = {FIRST, SECOND, INDEX};
    for (size_t i = 0; i < array_count(names); i++) {
        char path[128];
        snprintf(path, sizeof path, "%s/%s", directory, names[i]);
        unlink(path);
    }
    assert_int_equal(rmdir(directory), 0);
    return 0;
}

static void file_write(const char *name, const void *data, size_t size_bytes)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "wb");
    assert_true(file && fwrite(data, 1, size_bytes, file) == size_bytes);
    assert_int_equal(fclose(file), 0);
}

/* A safetensors file of one tensor with 8 bytes of data; NULL writes none. */
static void shard_write(const char *name, const char *entry)
{
    char bytes[256] = {0};
    if (!entry)
        return;
    uint64_t length = (uint64_t)snprintf(bytes + 8, sizeof bytes - 24, "{%s}", entry);
    while (length % 8)
        bytes[8 + length++] = ' ';
    memcpy(bytes, &length, sizeof length);
    memset(bytes + 8 + length, 0, 8);
    file_write(name, bytes, 16 + length);
}

#define MAP(more) "{\"weight_map\":{\"a\":\"" FIRST "\",\"b\":\"" SECOND "\"" more "}}"

static void reads_two_files(void **state)
{
    static const char *const indexes[] = {
        MAP(""), "{\"metadata\":{\"total_size\":16},\"weight_map\":{\"a\":\"" FIRST
                 "\",\"b\":\"" SECOND "\"}}"};
    for (size_t i = 0; i < array_count(indexes); i++) {
        struct shards shards = {0};
        struct tensor_list list = {0};
        struct error error = {.text = ""};
        shard_write(FIRST, A);
        shard_write(SECOND, B);
        file_write(INDEX, indexes[i], strlen(indexes[i]));
        if (shards_open(index_path, &shards, &list, &error))
            fail_msg("%s", error.text);
        assert_int_equal(list.count, 2);
        assert_non_null(tensor_list_find(&list, "a"));
        assert_non_null(tensor_list_find(&list, "b"));
        assert_int_equal(tensor_list_find(&list, "b")->size_bytes, 8);
        tensor_list_close(&list);
        shards_close(&shards);
        shards_close(&shards);
    }
}

static void refuses(void **state)
{
    static const struct {
        const char *index, *first, *second;
        enum status status;
        const char *says;
    } table[] = {
        {"", A, B, STATUS_INVALID, "the file is empty"},
        {"{", A, B, STATUS_INVALID, "not valid JSON"},
        {"{}", A, B, STATUS_INVALID, INDEX ": weight_map: expected an object"},
        {"{\"weight_map\":{}}", A, B, STATUS_INVALID, "weight_map: it is empty"},
        {"{\"weight_map\":{\"a\":7}}", A, B, STATUS_INVALID,
         "weight_map.a: expected the name of a .safetensors file in the same directory, got an "
         "integer"},
        {"{\"weight_map\":{\"a\":\"../" FIRST "\"}}", A, B, STATUS_INVALID, "got ../" FIRST},
        {"{\"weight_map\":{\"a\":\".safetensors\"}}", A, B, STATUS_INVALID, "got .safetensors"},
        {"{\"weight_map\":{\"a\":\"model.bin\"}}", A, B, STATUS_INVALID, "got model.bin"},
        {"{\"metadata\":3,\"weight_map\":{\"a\":\"" FIRST "\"}}", A, B, STATUS_INVALID,
         "metadata: expected an object"},
        {"{\"metadata\":{\"total_size\":\"x\"},\"weight_map\":{\"a\":\"" FIRST "\"}}", A, B,
         STATUS_INVALID, "metadata.total_size: expected an integer"},
        {"{\"metadata\":{\"total_size\":15},\"weight_map\":{\"a\":\"" FIRST "\",\"b\":\"" SECOND
         "\"}}",
         A, B, STATUS_INVALID,
         "metadata.total_size: 15 bytes, but the tensors of its files have "
         "16"},
        {MAP(""), A, NULL, STATUS_NOT_FOUND, SECOND ": No such file"},
        {MAP(""), A, "", STATUS_INVALID, SECOND ": 8 bytes of data follow the header"},
        {MAP(""), A, A, STATUS_INVALID, "tensor a is in " SECOND ", but weight_map says " FIRST},
        {MAP(""), B, A, STATUS_INVALID, "tensor b is in " FIRST ", but weight_map says " SECOND},
        {MAP(",\"c\":\"" FIRST "\""), A, B, STATUS_INVALID,
         "weight_map.c: the tensor is missing in " FIRST},
        {"{\"weight_map\":{\"a\":\"" FIRST "\",\"c\":\"" SECOND "\"}}", A, B, STATUS_INVALID,
         "tensor b of " SECOND " is missing in weight_map"},
    };
    for (size_t i = 0; i < array_count(table); i++) {
        struct shards shards = {0};
        struct tensor_list list = {.count = 77};
        struct error error = {.text = ""};
        char second[128];
        snprintf(second, sizeof second, "%s/" SECOND, directory);
        unlink(second);
        shard_write(FIRST, table[i].first);
        shard_write(SECOND, table[i].second);
        file_write(INDEX, table[i].index, strlen(table[i].index));
        enum status status = shards_open(index_path, &shards, &list, &error);
        if (status != table[i].status || !strstr(error.text, table[i].says))
            fail_msg("row %zu: %s, %s", i, status_name(status), error.text);
        assert_int_equal(strncmp(error.text, directory, strlen(directory)), 0);
        assert_int_equal(list.count, 77); /* untouched on failure */
        shards_close(&shards);
    }
}

static void refuses_many_files(void **state)
{
    char *text = NULL;
    size_t size_bytes = 0;
    struct shard_index index;
    struct error error = {.text = ""};
    FILE *out = open_memstream(&text, &size_bytes);
    fprintf(out, "{\"weight_map\":{");
    for (int i = 0; i <= SHARDS_MAX; i++)
        fprintf(out, "%s\"t%d\":\"%d.safetensors\"", i ? "," : "", i, i);
    fprintf(out, "}}");
    fclose(out);
    assert_int_equal(shard_index_read((struct span){text, size_bytes}, "x", &index, &error),
                     STATUS_INVALID);
    assert_string_equal(error.text, "x: weight_map: more than 1024 files");
    free(text);
}

int main(void)
{
#define SHARDS_TEST(f) cmocka_unit_test_setup_teardown(f, directory_make, directory_drop)
    const struct CMUnitTest tests[] = {
        SHARDS_TEST(reads_two_files),
        SHARDS_TEST(refuses),
        cmocka_unit_test(refuses_many_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
