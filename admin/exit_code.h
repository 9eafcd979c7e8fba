/*
 * exit_code: what galernectl says to the shell. Constant numbers, part of the product: scripts
 * depend on them, and docs/galernectl.md lists them.
 */
#pragma once

enum exit_code {
    EXIT_CODE_OK = 0,
    EXIT_CODE_FAILED = 1,      /* the call failed, or the daemon is not well */
    EXIT_CODE_DEGRADED = 2,    /* status: it serves, but not everything */
    EXIT_CODE_DENIED = 4,      /* you may not */
    EXIT_CODE_NOT_FOUND = 5,   /* no such model */
    EXIT_CODE_CONFLICT = 6,    /* it is not in the state for that */
    EXIT_CODE_UNREACHABLE = 7, /* no daemon, or it cannot serve just now */
    EXIT_CODE_TIMEOUT = 8,     /* --timeout passed */
    EXIT_CODE_USAGE = 64,      /* the command line is wrong */
    EXIT_CODE_INTERRUPTED = 130,
};
