/*
 * model_files: which files of a model this room reads, from the path that an operator gave.
 *
 * A path is a directory, a file in one (tokenizer.json) or a .gguf file. Private to the room; any
 * thread.
 */
#pragma once

#include "base/json_read.h"
#include "base/map_file.h"

#define MODEL_PATH_MAX_BYTES 4096

struct model_files {
    char main[MODEL_PATH_MAX_BYTES];      /* DIRECTORY/tokenizer.json, or the file itself */
    char directory[MODEL_PATH_MAX_BYTES]; /* where its neighbours are */
    bool is_directory;                    /* the path was one */
};

/* NOT_FOUND, IO, INVALID (too long). */
enum status model_files_resolve(const char *path, struct model_files *ret_files,
                                struct error *error);

/*
 * Reads the JSON file `name` of the directory; `path` [MODEL_PATH_MAX_BYTES] gets its path. These
 * files are optional: one that is not there leaves *ret_root NULL and is no error.
 */
enum status model_files_json(const char *directory, const char *name, char *path, json_t **ret_root,
                             struct error *error);
