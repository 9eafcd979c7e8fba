/*
 * What a shell needs to complete a command line, made from the same tables as the parser. Three
 * scripts with one idea: which command stands on the line decides which options there are; the word
 * before decides whether a value is meant.
 */
#include "admin/command.h"
#include "admin/output.h"

enum value_kind { VALUE_NONE, VALUE_FREE, VALUE_FILE, VALUE_CHOICE };

static enum value_kind value_of(const struct option_row *row)
{
    if (row->type == OPTION_BOOL)
        return VALUE_NONE;
    if (row->choices)
        return VALUE_CHOICE;
    bool is_path =
        row->value && (strcmp(row->value, "PATH") == 0 || strcmp(row->value, "FILE") == 0);
    return is_path ? VALUE_FILE : VALUE_FREE;
}

/* "--output -o " */
static void names_print(const struct option_row *row)
{
    printf("--%s ", row->name);
    if (row->letter)
        printf("-%c ", row->letter);
}

static void choices_print(const struct option_row *row)
{
    for (const struct option_choice *c = row->choices; c->name; c++)
        printf("%s%s", c == row->choices ? "" : " ", c->name);
}

/* The first sentence, without what a quoted text of a shell could not hold. */
static void sentence_print(const char *text)
{
    for (const char *c = text; *c && !(*c == '.' && (c[1] == ' ' || !c[1])); c++)
        if (!strchr("'\"`$\\[]:", *c))
            putchar(*c == '\n' ? ' ' : *c);
}

typedef void row_fn(const struct command *command, const struct option_row *row);

static void rows_walk(const struct command *command, row_fn *each)
{
    const struct option_row *rows = command ? command->rows : common_rows;
    size_t n_rows = command ? command->n_rows : common_rows_count;
    for (size_t i = 0; i < n_rows; i++)
        each(command, &rows[i]);
}

static const char *words_of(const struct command *command)
{
    return command->words ? command->words : "";
}

static void commands_print(void)
{
    for (size_t i = 0; i < commands_count; i++)
        printf("%s%s", i ? " " : "", commands[i]->name);
}

/* ---- bash ---- */

static void bash_names(const struct command *command, const struct option_row *row)
{
    names_print(row);
}

/* One line of a case: what the option's value may be. */
static void bash_value(const struct command *command, const struct option_row *row)
{
    enum value_kind kind = value_of(row);
    if (kind == VALUE_NONE)
        return;
    const char *name = command ? command->name : "*";
    printf("    %s:--%s", name, row->name);
    if (row->letter)
        printf("|%s:-%c", name, row->letter);
    if (kind == VALUE_CHOICE) {
        printf(") COMPREPLY=($(compgen -W '");
        choices_print(row);
        printf("' -- \"$word\")); return ;;\n");
    } else if (kind == VALUE_FILE) {
        printf(") COMPREPLY=($(compgen -f -- \"$word\")); return ;;\n");
    } else {
        printf(") COMPREPLY=(); return ;;\n");
    }
}

static void bash_print(void)
{
    printf("# bash completion of galernectl: galernectl completion bash >"
           "/usr/share/bash-completion/completions/galernectl\n"
           "_galernectl() {\n"
           "    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}\n"
           "    local command='' i\n"
           "    for ((i = 1; i < COMP_CWORD; i++)); do\n"
           "        case ${COMP_WORDS[i]} in\n"
           "        ");
    for (size_t i = 0; i < commands_count; i++)
        printf("%s%s", i ? "|" : "", commands[i]->name);
    printf(") command=${COMP_WORDS[i]}; break ;;\n"
           "        esac\n"
           "    done\n"
           "    case $command:$before in\n");
    for (size_t i = 0; i < commands_count; i++)
        rows_walk(commands[i], bash_value);
    rows_walk(NULL, bash_value);
    printf("    esac\n    local options='");
    rows_walk(NULL, bash_names);
    printf("'\n    case $command in\n    '') [[ $word == -* ]] || options='");
    commands_print();
    printf("' ;;\n");
    for (size_t i = 0; i < commands_count; i++) {
        printf("    %s) options+='", commands[i]->name);
        rows_walk(commands[i], bash_names);
        printf("'; [[ $word == -* ]] || options='%s' ;;\n", words_of(commands[i]));
    }
    printf("    esac\n"
           "    COMPREPLY=($(compgen -W \"$options\" -- \"$word\"))\n"
           "}\n"
           "complete -F _galernectl galernectl\n");
}

/* ---- zsh ---- */

static void zsh_row(const struct command *command, const struct option_row *row)
{
    enum value_kind kind = value_of(row);
    for (int letter = 0; letter <= (row->letter != 0); letter++) {
        if (letter)
            printf("        '-%c[", row->letter);
        else
            printf("        '--%s[", row->name);
        sentence_print(row->text);
        printf("]");
        if (kind != VALUE_NONE)
            printf(":%s:", row->value ? row->value : row->name);
        if (kind == VALUE_CHOICE) {
            printf("(");
            choices_print(row);
            printf(")");
        } else if (kind == VALUE_FILE) {
            printf("_files");
        } else if (kind == VALUE_FREE) {
            printf(" ");
        }
        printf("'\n");
    }
}

static void zsh_print(void)
{
    printf(
        "#compdef galernectl\n"
        "# zsh completion of galernectl: put it into a file _galernectl in a directory of $fpath\n"
        "_galernectl() {\n"
        "    local -a common=(\n");
    rows_walk(NULL, zsh_row);
    printf("    )\n    local -a names=(\n");
    for (size_t i = 0; i < commands_count; i++) {
        printf("        '%s:", commands[i]->name);
        sentence_print(commands[i]->summary);
        printf("'\n");
    }
    printf("    )\n    local -a own=()\n"
           "    case ${words[(r)(");
    for (size_t i = 0; i < commands_count; i++)
        printf("%s%s", i ? "|" : "", commands[i]->name);
    printf(")]} in\n");
    for (size_t i = 0; i < commands_count; i++) {
        printf("    %s) own=(\n", commands[i]->name);
        rows_walk(commands[i], zsh_row);
        printf("        '*: :(%s)' ) ;;\n", words_of(commands[i]));
    }
    printf("    *) own=('1:command:{_describe command names}') ;;\n"
           "    esac\n"
           "    _arguments $common $own\n"
           "}\n"
           "_galernectl \"$@\"\n");
}

/* ---- fish ---- */

static void fish_row(const struct command *command, const struct option_row *row)
{
    enum value_kind kind = value_of(row);
    printf("complete -c galernectl");
    if (command)
        printf(" -n '__fish_seen_subcommand_from %s'", command->name);
    printf(" -l %s", row->name);
    if (row->letter)
        printf(" -s %c", row->letter);
    if (kind == VALUE_CHOICE) {
        printf(" -x -a '");
        choices_print(row);
        printf("'");
    } else if (kind == VALUE_FILE) {
        printf(" -r -F");
    } else if (kind == VALUE_FREE) {
        printf(" -x");
    }
    printf(" -d '");
    sentence_print(row->text);
    printf("'\n");
}

static void fish_print(void)
{
    printf("# fish completion of galernectl: galernectl completion fish >"
           "~/.config/fish/completions/galernectl.fish\n"
           "complete -c galernectl -f\n");
    for (size_t i = 0; i < commands_count; i++) {
        printf("complete -c galernectl -n '__fish_use_subcommand' -a %s -d '", commands[i]->name);
        sentence_print(commands[i]->summary);
        printf("'\n");
        if (commands[i]->words)
            printf("complete -c galernectl -n '__fish_seen_subcommand_from %s' -a '%s'\n",
                   commands[i]->name, commands[i]->words);
    }
    rows_walk(NULL, fish_row);
    for (size_t i = 0; i < commands_count; i++)
        rows_walk(commands[i], fish_row);
}

static int run(const struct common *common, const struct words *words)
{
    static const char *const shells[] = {"bash", "zsh", "fish"};
    static void (*const prints[])(void) = {bash_print, zsh_print, fish_print};
    if (words->count != 1)
        return command_misuse(&command_completion, "expected a shell: bash, zsh or fish");
    for (size_t i = 0; i < array_count(shells); i++) {
        if (strcmp(words->items[0], shells[i]) == 0) {
            prints[i]();
            return EXIT_CODE_OK;
        }
    }
    return command_misuse(&command_completion, "expected bash, zsh or fish, got \"%.60s\"",
                          words->items[0]);
}

const struct command command_completion = {
    .name = "completion",
    .arguments = "SHELL",
    .words = "bash zsh fish",
    .summary = "a script that completes command lines in bash, zsh or fish",
    .text =
        "Prints it; nothing is asked of a daemon. The script's first lines say where it goes; for\n"
        "bash, `source <(galernectl completion bash)` tries it.",
    .run = run,
};
