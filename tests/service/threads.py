"""Stops one thread of another process, as a debugger does: the way to see a watchdog bite."""
import ctypes
import os
import pathlib

PTRACE_CONT, PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT = 7, 17, 0x4206, 0x4207
SYS_PIDFD_OPEN, SYS_PIDFD_GETFD = 434, 438  # on every architecture
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long
libc.syscall.restype = ctypes.c_long


def must(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def thread_named(pid: int, name: str) -> int:
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        if (task / "comm").read_text().strip() == name:
            return int(task.name)
    raise AssertionError(f"process {pid} has no thread called {name}")


class Stopped:
    """with Stopped(tid): the thread stands still; every other one goes on. All ptrace calls come
    from the thread that made it."""

    def __init__(self, tid: int):
        self.tid = tid

    def __enter__(self):
        must(libc.ptrace(PTRACE_SEIZE, self.tid, None, None))
        must(libc.ptrace(PTRACE_INTERRUPT, self.tid, None, None))
        os.waitpid(self.tid, 0x40000000)  # __WALL
        return self

    def __exit__(self, *exception):
        libc.ptrace(PTRACE_DETACH, self.tid, None, None)


def hold_sockets(pid: int) -> list:
    """Copies of the socket descriptors of another process: they stay open when it is gone."""
    pidfd = must(libc.syscall(SYS_PIDFD_OPEN, pid, 0))
    held = []
    for link in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        if os.readlink(link).startswith("socket:"):
            held.append(must(libc.syscall(SYS_PIDFD_GETFD, pidfd, int(link.name), 0)))
    os.close(pidfd)
    return held
