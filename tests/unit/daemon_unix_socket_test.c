/* Listening sockets: who may have the place, with which mode, and what stays behind. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/unix_socket.h"

static char directory[64];

static int setup(void **state)
{
    strcpy(directory, "/tmp/galerne-socket-XXXXXX");
    return mkdtemp(directory) ? 0 : -1;
}

static int teardown(void **state)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", directory);
    return system(command);
}

static const char *in_directory(const char *name)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return path;
}

static int connect_to(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
        return fd;
    close(fd);
    return -1;
}

static void test_open_accept_close(void **state)
{
    struct unix_socket made;
    struct unix_peer peer;
    struct error error;
    struct stat found;
    mode_t before = umask(0);
    umask(before);
    assert_int_equal(unix_socket_open(directory, "a.sock", 0660, "", &made, &error), STATUS_OK);
    assert_string_equal(made.path, in_directory("a.sock"));
    assert_int_equal(stat(made.path, &found), 0);
    assert_int_equal(found.st_mode & 0777, 0660);
    mode_t after = umask(before);
    assert_int_equal(after, before); /* other threads' files kept their modes */

    assert_int_equal(unix_socket_accept(&made, &peer), -1);
    assert_int_equal(errno, EAGAIN);
    int client = connect_to(made.path);
    assert_true(client >= 0);
    int accepted = unix_socket_accept(&made, &peer);
    assert_true(accepted >= 0);
    assert_int_equal(peer.uid, geteuid());
    assert_int_equal(peer.pid, getpid());
    close(accepted);
    close(client);

    char path[128];
    strcpy(path, made.path);
    unix_socket_close(&made);
    unix_socket_close(&made); /* again does nothing */
    assert_int_equal(access(path, F_OK), -1);
}

static void test_live_is_refused_and_stale_replaced(void **state)
{
    struct unix_socket first, second;
    struct error error;
    assert_int_equal(unix_socket_open(directory, "a.sock", 0600, "", &first, &error), STATUS_OK);
    assert_int_equal(unix_socket_open(directory, "a.sock", 0600, "", &second, &error),
                     STATUS_EXISTS);
    char pid[32];
    snprintf(pid, sizeof pid, "process %d", (int)getpid());
    assert_non_null(strstr(error.text, pid));
    assert_true(connect_to(first.path) >= 0); /* the live one still lives */

    close(first.fd); /* as if its process had died: the path stays */
    assert_int_equal(unix_socket_open(directory, "a.sock", 0600, "", &second, &error), STATUS_OK);
    unix_socket_close(&second);
    assert_int_equal(access(first.path, F_OK), -1);
}

static void test_only_our_own_path_is_removed(void **state)
{
    struct unix_socket first, second;
    struct error error;
    assert_int_equal(unix_socket_open(directory, "a.sock", 0600, "", &first, &error), STATUS_OK);
    /* Renamed, not removed: else the file system may give the same inode again. */
    char aside[128];
    strcpy(aside, in_directory("aside"));
    assert_int_equal(rename(first.path, aside), 0);
    assert_int_equal(unix_socket_open(directory, "a.sock", 0600, "", &second, &error), STATUS_OK);
    unix_socket_close(&first);
    assert_int_equal(access(second.path, F_OK), 0);
    unix_socket_close(&second);
}

static void test_no_socket_in_its_place(void **state)
{
    struct unix_socket made;
    struct error error;
    FILE *file = fopen(in_directory("a.sock"), "w");
    fclose(file);
    assert_int_equal(unix_socket_open(directory, "a.sock", 0600, "", &made, &error), STATUS_EXISTS);
    assert_non_null(strstr(error.text, "no socket"));
    assert_int_equal(access(in_directory("a.sock"), F_OK), 0);
    /* A link is not followed. */
    assert_int_equal(symlink("/tmp/nowhere", in_directory("b.sock")), 0);
    assert_int_equal(unix_socket_open(directory, "b.sock", 0600, "", &made, &error), STATUS_EXISTS);
}

static void test_paths(void **state)
{
    struct unix_socket made;
    struct error error;
    char name[128];
    size_t fits = UNIX_SOCKET_PATH_MAX_BYTES - strlen(directory) - 1;
    memset(name, 'n', sizeof name);
    name[fits] = '\0';
    assert_int_equal(unix_socket_open(directory, name, 0600, "", &made, &error), STATUS_OK);
    unix_socket_close(&made);
    name[fits] = 'n';
    name[fits + 1] = '\0';
    assert_int_equal(unix_socket_open(directory, name, 0600, "", &made, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, "108 bytes and may have 107"));
    assert_int_equal(unix_socket_open("/nonexistent/x", "a", 0600, "", &made, &error), STATUS_IO);
    assert_int_equal(
        unix_socket_open(directory, "a.sock", 0600, "no-such-group-here", &made, &error),
        STATUS_OK);
    unix_socket_close(&made);
}

static void test_claim(void **state)
{
    struct error error;
    int first, second;
    char path[128];
    strcpy(path, in_directory("run"));
    assert_int_equal(runtime_claim(path, &first, &error), STATUS_OK);
    struct stat found;
    assert_int_equal(stat(path, &found), 0);
    assert_int_equal(found.st_mode & 0777, 0755);
    assert_int_equal(runtime_claim(path, &second, &error), STATUS_EXISTS);
    assert_non_null(strstr(error.text, path));
    close(first);
    assert_int_equal(runtime_claim(path, &first, &error), STATUS_OK);
    close(first);
    assert_int_equal(runtime_claim("/nonexistent/x/y", &first, &error), STATUS_IO);
    fclose(fopen(in_directory("file"), "w"));
    assert_int_equal(runtime_claim(in_directory("file"), &first, &error), STATUS_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_open_accept_close, setup, teardown),
        cmocka_unit_test_setup_teardown(test_live_is_refused_and_stale_replaced, setup, teardown),
        cmocka_unit_test_setup_teardown(test_only_our_own_path_is_removed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_socket_in_its_place, setup, teardown),
        cmocka_unit_test_setup_teardown(test_paths, setup, teardown),
        cmocka_unit_test_setup_teardown(test_claim, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
