"""Attempts to escape from a sandbox, which are harmless if they succeed.

A probe is Python code that runs inside. It calls `reached` with what it got access to, or ends
without. If `is_open_outside`, the same code in a plain process succeeds, which shows that the
probe looks in the right place.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

PRELUDE = """
import ctypes, errno, os, platform, signal, socket, sys
from pathlib import Path

libc = ctypes.CDLL(None, use_errno=True)

def reached(what):
    print("REACHED", what, flush=True)
    os._exit(0)

def syscall(x86_64, aarch64, *arguments):
    number = {"x86_64": x86_64, "aarch64": aarch64}[platform.machine()]
    if libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments)) >= 0:
        return 0
    return ctypes.get_errno()

def can_write(path):
    try:
        os.close(os.open(path, os.O_WRONLY))
    except OSError:
        return False
    return True
"""


async def there(marker: str) -> bool:
    """Wait until there is such a process. Returns whether there was one in time."""
    return await _becomes(marker, True)


async def gone(marker: str) -> bool:
    """Wait until there are no such processes. Returns whether they ended in time."""
    return await _becomes(marker, False)


async def _becomes(marker: str, wanted: bool) -> bool:
    patience = 1000  # times 10 ms; only ever spent when a test is about to fail
    while bool(processes_with(marker)) is not wanted and patience:
        patience -= 1
        await asyncio.sleep(0.01)
    return bool(patience)


def processes_with(marker: str) -> list[int]:
    """Return the processes of this machine that have a text in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if marker.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:  # it ended meanwhile
            continue
    return found


@dataclass(frozen=True, slots=True)
class Probe:
    """One attempt. `code` may use {host_file}, {host_pid}, {host_socket} and {host_name}."""

    name: str
    code: str
    is_open_outside: bool = False

    def program(self, **facts: object) -> str:
        code = self.code
        for name, value in facts.items():
            code = code.replace("{" + name + "}", str(value))
        return PRELUDE + code


PROBES = [
    # --- files ---
    Probe(
        "a file of the host",
        "if os.path.exists('{host_file}'): reached('{host_file}')",
        is_open_outside=True,
    ),
    Probe(
        "the directories of the host",
        "found = set(os.listdir('/')) - {'bin', 'dev', 'etc', 'lib', 'lib32', 'lib64', 'libx32',"
        " 'proc', 'run', 'sbin', 'tmp', 'usr', 'work'}\n"
        "if found: reached(found)",
        is_open_outside=True,
    ),
    Probe(
        "the host's passwords",
        "if os.path.exists('/etc/shadow') or os.path.exists('/etc/machine-id'): reached('/etc')",
        is_open_outside=True,
    ),
    Probe(
        "writing to the system",
        "for place in ('/', '/usr', '/usr/bin', '/etc', '/dev', '/run', '/proc', '/run/aios'):\n"
        "    if os.access(place, os.W_OK):\n"
        "        try: os.close(os.open(place, os.O_TMPFILE | os.O_WRONLY))\n"
        "        except OSError: continue\n"
        "        reached(place)",
    ),
    Probe(
        "the sandbox's command line, which would tell paths of the host",
        "for path in Path('/proc').glob('[0-9]*/cmdline'):\n"
        "    if b'--ro-bind' in path.read_bytes(): reached(path)",
    ),
    Probe("the host's name", "if socket.gethostname() == '{host_name}': reached('it')", True),
    # --- network ---
    Probe(
        "TCP",
        "try: reached(socket.socket(socket.AF_INET, socket.SOCK_STREAM))\nexcept OSError: pass",
        is_open_outside=True,
    ),
    Probe(
        "UDP",
        "try: reached(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))\nexcept OSError: pass",
        is_open_outside=True,
    ),
    Probe(
        "families of sockets other than unix",
        "for family in range(2, 46):\n"
        "    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):\n"
        "        try: reached(socket.socket(family, kind))\n"
        "        except OSError: pass",
        is_open_outside=True,
    ),
    Probe(
        "an abstract unix socket of the host",
        "s = socket.socket(socket.AF_UNIX)\n"
        "try: s.connect('\\0{host_socket}')\n"
        "except OSError: pass\n"
        "else: reached('it')",
        is_open_outside=True,
    ),
    Probe(
        "network interfaces",
        "lines = Path('/proc/net/dev').read_text().splitlines()[2:]\n"
        "names = {line.split(':')[0].strip() for line in lines} - {'lo'}\n"
        "if names: reached(names)",
    ),
    # --- processes ---
    Probe(
        "processes of the host",
        "pids = [int(p) for p in os.listdir('/proc') if p.isdigit()]\n"
        "if len(pids) > 3 or max(pids) > 99: reached(pids)",
        is_open_outside=True,
    ),
    Probe(
        "a signal to the host",
        "try: os.kill({host_pid}, 0)\nexcept ProcessLookupError: pass\nelse: reached('it')",
        is_open_outside=True,
    ),
    Probe(
        "ptrace of the first process",
        "PTRACE_ATTACH = 16\n"
        "if syscall(101, 117, PTRACE_ATTACH, 1, 0, 0) != errno.EPERM: reached('it')",
    ),
    Probe(
        "memory of the first process",
        "for path in ('/proc/1/mem', '/proc/1/task/1/mem', '/proc/1/fd', '/proc/1/root'):\n"
        "    if os.path.exists(path): reached(path)",
        is_open_outside=True,
    ),
    Probe(
        "descriptors of this process's parents",
        "found = set(os.listdir('/proc/self/fd'))\n"
        "found.discard(str(max(map(int, found))))\n"  # that of listdir itself
        "if found - {'0', '1', '2'}: reached(found)",
    ),
    Probe(
        "the environment of the kernel",
        "known = {'HOME', 'LANG', 'LC_CTYPE', 'PATH', 'PWD', 'PYTHONDONTWRITEBYTECODE',"
        " 'PYTHONPATH', 'PYTHONSAFEPATH', 'PYTHONUNBUFFERED', 'SHLVL', 'OLDPWD', '_', 'TMPDIR',"
        # What the sandbox itself sets for libraries.
        " 'MPLBACKEND', 'MPLCONFIGDIR', 'OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS',"
        " 'XDG_CACHE_HOME'}\n"
        "if found := os.environ.keys() - known: reached(found)",
        is_open_outside=True,
    ),
    Probe(
        "a terminal",
        "try: os.close(os.open('/dev/tty', os.O_RDWR))\nexcept OSError: pass\nelse: reached('it')",
    ),
    Probe(
        "typing into a terminal (TIOCSTI)",
        "if syscall(16, 29, 0, 0x5412, 0) != errno.EPERM: reached('it')",
        is_open_outside=True,
    ),
    # --- privileges ---
    Probe(
        "capabilities",
        "status = Path('/proc/self/status').read_text()\n"
        "for line in status.splitlines():\n"
        "    if line.startswith('Cap') and int(line.split()[1], 16): reached(line)",
    ),
    Probe(
        "new privileges by a set-uid program",
        "status = Path('/proc/self/status').read_text()\n"
        "if 'NoNewPrivs:\\t1' not in status: reached('no_new_privs')\n"
        "if not os.statvfs('/usr').f_flag & os.ST_NOSUID: reached('/usr')",
        is_open_outside=True,
    ),
    Probe(
        "another user",
        "ids = {*os.getresuid(), *os.getresgid(), *os.getgroups()}\n"
        "if len(ids) != 1 or 0 in ids: reached(ids)\n"
        "for change in (os.setuid, os.setgid):\n"
        "    try: change(0)\n"
        "    except OSError: continue\n"
        "    reached(change)",
    ),
    Probe(
        "core_pattern, through which root in a sandbox gets out",
        "if can_write('/proc/sys/kernel/core_pattern'): reached('it')",
    ),
    Probe(
        "switches of the kernel",
        "for root, _, names in os.walk('/proc/sys'):\n"
        "    for name in names:\n"
        "        path = os.path.join(root, name)\n"
        "        if can_write(path): reached(path)\n"
        "for name in ('sysrq-trigger', 'kcore', 'self/mem', 'self/uid_map'):\n"
        "    path = '/proc/' + name\n"
        "    if can_write(path): reached(path)",
    ),
    Probe(
        "a raw device",
        "if os.path.exists('/dev/mem') or list(Path('/dev').glob('vd*')): reached('/dev')\n"
        "import stat\n"
        "try: os.mknod('/tmp/disk', 0o600 | stat.S_IFBLK, os.makedev(8, 0))\n"
        "except OSError: pass\n"
        "else: reached('mknod')",
    ),
    Probe(
        "devices that are not needed",
        "known = {'console', 'core', 'fd', 'full', 'null', 'ptmx', 'pts', 'random', 'shm',"
        " 'stderr', 'stdin', 'stdout', 'tty', 'urandom', 'zero'}\n"
        "if found := set(os.listdir('/dev')) - known: reached(found)",
        is_open_outside=True,
    ),
    Probe(
        "higher limits",
        "import resource\n"
        "for kind in (resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_NPROC,\n"
        "             resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE):\n"
        "    soft, hard = resource.getrlimit(kind)\n"
        "    if hard == resource.RLIM_INFINITY: reached(kind)\n"
        "    try: resource.setrlimit(kind, (soft, hard + 1))\n"
        "    except (OSError, ValueError): continue\n"
        "    reached(kind)",
        is_open_outside=True,
    ),
    # --- system calls ---
    Probe(
        "a user namespace by clone",
        "CLONE_NEWUSER = 0x10000000\n"
        "if platform.machine() == 'x86_64':\n"
        "    failed = syscall(56, 220, CLONE_NEWUSER | signal.SIGCHLD, 0, 0, 0, 0)\n"
        "    if not failed: reached('it')",
    ),
    Probe(
        "a user namespace by clone3, whose flags no filter sees",
        "if syscall(435, 435, 0, 0) != errno.ENOSYS: reached('it')",
        is_open_outside=True,
    ),
    Probe(
        "another personality",
        "if syscall(135, 92, 0x0040000) != errno.EPERM: reached('it')",
        is_open_outside=True,
    ),
    Probe(
        "calls that are newer than the filter",
        "if syscall(4000, 4000) != errno.ENOSYS: reached('it')",
    ),
    Probe(
        "calls of the x32 table",
        "if platform.machine() == 'x86_64' and not syscall(0x40000000 | 39, 0): reached('it')",
    ),
]

# name, number on x86-64, on aarch64, and arguments with which nothing happens where it is allowed
REFUSED_CALLS = [
    ("mount", 165, 40, "0, 0, 0, 0, 0"),
    ("umount2", 166, 39, "0, 0"),
    ("pivot_root", 155, 41, "0, 0"),
    ("chroot", 161, 51, "0"),
    ("open_tree", 428, 428, "-1, 0, 0"),
    ("move_mount", 429, 429, "-1, 0, -1, 0, 0"),
    ("fsopen", 430, 430, "0, 0"),
    ("mount_setattr", 442, 442, "-1, 0, 0, 0, 0"),
    ("unshare of the user namespace", 272, 97, "0x10000000"),
    ("setns", 308, 268, "-1, 0"),
    ("process_vm_readv", 310, 270, "1, 0, 0, 0, 0, 0"),
    ("process_vm_writev", 311, 271, "1, 0, 0, 0, 0, 0"),
    ("pidfd_getfd", 438, 438, "-1, 0, 0"),
    ("kcmp", 312, 272, "1, 1, 0, 0, 0"),
    ("keyctl", 250, 219, "0, 0, 0, 0, 0"),
    ("add_key", 248, 217, "0, 0, 0, 0, 0"),
    ("request_key", 249, 218, "0, 0, 0, 0"),
    ("io_uring_setup", 425, 425, "0, 0"),
    ("io_uring_enter", 426, 426, "-1, 0, 0, 0, 0, 0"),
    ("bpf", 321, 280, "0, 0, 0"),
    ("perf_event_open", 298, 241, "0, 0, 0, -1, 0"),
    ("userfaultfd", 323, 282, "-1"),
    ("kexec_load", 246, 104, "0, 0, 0, -1"),
    ("init_module", 175, 105, "0, 0, 0"),
    ("finit_module", 313, 273, "-1, 0, 0"),
    ("delete_module", 176, 106, "0, 0"),
    ("open_by_handle_at", 304, 265, "-1, 0, 0"),
    ("name_to_handle_at", 303, 264, "-1, 0, 0, 0, 0"),
    ("fanotify_init", 300, 262, "-1, 0"),
    ("memfd_create", 319, 279, "0, -1"),
    ("shmget", 29, 194, "0, 0, 0"),
    ("msgget", 68, 186, "12345, 0"),
    ("mq_open", 240, 180, "0, 0, 0, 0"),
    ("syslog", 103, 116, "10, 0, 0"),
    ("swapon", 167, 224, "0, 0"),
    ("reboot", 169, 142, "0, 0, 0, 0"),
    ("settimeofday", 164, 170, "0, 0"),
    ("quotactl", 179, 60, "-1, 0, 0, 0"),
    ("acct", 163, 89, "-1"),
    ("seccomp", 317, 277, "-1, 0, 0"),
]
