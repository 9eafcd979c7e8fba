#include "admin/line_editor.h"

#include <errno.h>
#include <histedit.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>
#include <wchar.h>

#include "admin/command.h"

#define HISTORY_LINES 1000

struct line_editor {
    EditLine *edit; /* NULL: plain lines */
    History *history;
    const char *prompt;
    int unread; /* a byte that came in place of the rest of a character; -1: none */
};

/* ---- signals while a line is edited ---- */

/* Looked at between characters, where the terminal can be put back. They are blocked elsewhere
 * while a line is read, so none is missed between the look and the wait. */
static const int watched[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT, SIGWINCH};
static volatile sig_atomic_t came; /* the latest of the watched, without SIGINT */

static void signal_note(int number)
{
    came = number;
}

struct signals {
    struct sigaction before[array_count(watched)]; /* [n_watched] */
    sigset_t mask;
};

static struct signals kept;

static void signals_watch(void)
{
    struct sigaction action = {.sa_handler = signal_note};
    sigset_t all;
    sigemptyset(&all);
    for (size_t i = 0; i < array_count(watched); i++)
        sigaddset(&all, watched[i]);
    sigprocmask(SIG_BLOCK, &all, &kept.mask);
    for (size_t i = 0; i < array_count(watched); i++)
        if (watched[i] != SIGINT)
            sigaction(watched[i], &action, &kept.before[i]);
}

static void signals_leave(void)
{
    for (size_t i = 0; i < array_count(watched); i++)
        if (watched[i] != SIGINT)
            sigaction(watched[i], &kept.before[i], NULL);
    sigprocmask(SIG_SETMASK, &kept.mask, NULL);
}

/* Stops the process as Ctrl-Z wants it, with the terminal as the shell left it. */
static void stop_here(EditLine *edit)
{
    el_set(edit, EL_PREP_TERM, 0);
    signals_leave();
    raise(SIGTSTP);
    signals_watch(); /* it goes on */
}

/* False: the line is given up. */
static bool signals_answer(EditLine *edit)
{
    int number = came;
    came = 0;
    switch (number) {
    case 0:
        break;
    case SIGWINCH:
        el_resize(edit);
        break;
    case SIGTSTP:
        stop_here(edit);
        /* fallthrough */
    case SIGCONT:
        el_set(edit, EL_PREP_TERM, 1);
        el_set(edit, EL_REFRESH);
        break;
    default: /* it ends the process, as soon as the terminal is put back */
        came = number;
        return false;
    }
    return !command_interrupted;
}

/* ---- editing ---- */

static struct line_editor *editor_of(EditLine *edit)
{
    struct line_editor *lines = NULL;
    el_get(edit, EL_CLIENTDATA, &lines);
    return lines;
}

/* As read() of one byte. */
static int byte_get(EditLine *edit, unsigned char *ret_byte)
{
    struct line_editor *lines = editor_of(edit);
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    if (lines->unread >= 0) {
        *ret_byte = (unsigned char)lines->unread;
        lines->unread = -1;
        return 1;
    }
    do {
        if (!signals_answer(edit))
            return -1;
    } while (ppoll(&input, 1, NULL, &kept.mask) <= 0); /* a signal */
    return (int)read(STDIN_FILENO, ret_byte, 1);
}

/* One character, as libedit wants it: 1, 0 at the end, -1. A byte that breaks a character off is
 * looked at again: it may be the key that ends the line. */
static int character_get(EditLine *edit, wchar_t *ret_character)
{
    mbstate_t state = {0};
    for (;;) {
        unsigned char byte;
        bool is_begun = !mbsinit(&state);
        int n = byte_get(edit, &byte);
        if (n <= 0)
            return n;
        size_t used = mbrtowc(ret_character, (const char *)&byte, 1, &state);
        if (used == (size_t)-2)
            continue; /* the rest of the character is to come */
        if (used == (size_t)-1)
            *ret_character = 0xfffd;
        if (used == (size_t)-1 && is_begun)
            editor_of(edit)->unread = byte;
        return 1;
    }
}

static char *prompt_of(EditLine *edit)
{
    return (char *)(uintptr_t)editor_of(edit)->prompt;
}

static void bind(EditLine *edit, const char *key, const char *what)
{
    el_set(edit, EL_BIND, key, what, NULL);
}

struct line_editor *line_editor_open(void)
{
    HistEvent event;
    struct line_editor *lines = calloc(1, sizeof *lines);
    CHECK(lines != NULL);
    if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO))
        return lines;
    lines->edit = el_init("galernectl", stdin, stdout, stderr);
    lines->history = history_init();
    CHECK(lines->edit != NULL && lines->history != NULL);
    history(lines->history, &event, H_SETSIZE, HISTORY_LINES);
    history(lines->history, &event, H_SETUNIQUE, 1);
    el_set(lines->edit, EL_CLIENTDATA, lines);
    el_set(lines->edit, EL_PROMPT, prompt_of);
    el_set(lines->edit, EL_EDITOR, "emacs");
    el_set(lines->edit, EL_HIST, history, lines->history);
    el_set(lines->edit, EL_GETCFN, character_get);
    bind(lines->edit, "^R", "em-inc-search-prev");
    bind(lines->edit, "^W", "ed-delete-prev-word");
    bind(lines->edit, "\\e[3~", "ed-delete-next-char");
    bind(lines->edit, "\\e[1;5C", "em-next-word");
    bind(lines->edit, "\\e[1;5D", "ed-prev-word");
    el_source(lines->edit, NULL); /* ~/.editrc has the last word */
    return lines;
}

void line_editor_close(struct line_editor *lines)
{
    if (!lines)
        return;
    if (lines->edit) {
        el_end(lines->edit);
        history_end(lines->history);
    }
    free(lines);
}

bool line_editor_is_interactive(const struct line_editor *lines)
{
    return lines->edit != NULL;
}

static enum line_outcome edited_read(struct line_editor *lines, char **ret_line)
{
    int n = 0;
    HistEvent event;
    came = 0;
    lines->unread = -1;
    fflush(stderr);
    signals_watch();
    el_set(lines->edit, EL_PREP_TERM, 1); /* before the prompt: who sees it may type Ctrl-D */
    const char *text = el_gets(lines->edit, &n); /* the terminal is put back when it returns */
    signals_leave();
    if (came)
        raise(came); /* it was to end the process, and does */
    if (command_interrupted) {
        command_interrupted = 0;
        puts("");
        return LINE_INTERRUPTED;
    }
    if (!text || n <= 0) {
        puts("");
        return LINE_END;
    }
    char *line = strndup(text, strcspn(text, "\n"));
    CHECK(line != NULL);
    if (line[0])
        history(lines->history, &event, H_ENTER, line);
    *ret_line = line;
    return LINE_READ;
}

/* ---- plain lines ---- */

static enum line_outcome plain_read(char **ret_line)
{
    char *line = NULL;
    size_t size_bytes = 0, read_bytes = 0;
    bool has_zero = false;
    FILE *out = open_memstream(&line, &size_bytes);
    int c;
    CHECK(out != NULL);
    while ((c = getc(stdin)) != EOF && c != '\n') {
        has_zero |= c == 0;
        if (read_bytes++ < LINE_MAX_BYTES)
            putc(c, out);
    }
    CHECK(fclose(out) == 0);
    enum line_outcome outcome = command_interrupted                       ? LINE_INTERRUPTED
                                : has_zero || read_bytes > LINE_MAX_BYTES ? LINE_UNUSABLE
                                : c == EOF && read_bytes == 0             ? LINE_END
                                                                          : LINE_READ;
    if (outcome == LINE_INTERRUPTED)
        command_interrupted = 0;
    if (outcome == LINE_READ)
        *ret_line = line;
    else
        free(line);
    return outcome;
}

enum line_outcome line_editor_read(struct line_editor *lines, const char *prompt, char **ret_line)
{
    lines->prompt = prompt;
    return lines->edit ? edited_read(lines, ret_line) : plain_read(ret_line);
}
