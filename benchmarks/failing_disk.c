/* A disk that fails: preloaded into a process, it lets calls that change files below one folder
 * fail from the n-th on, whichever library makes them.
 *
 *     cc -shared -fPIC -O2 -o failing_disk.so failing_disk.c -ldl
 *
 * What stdio writes inside the C library passes it by.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITES = 1, SYNCS = 2, NAMES = 4, REMOVALS = 8 };

static char below[PATH_MAX];
static long failing_from = -1;
static int failing_with;
static int failing_kinds;
static atomic_long seen;

void disk_arm(const char *folder, long from, int error_number, int kinds) {
    failing_from = from;
    failing_with = error_number;
    failing_kinds = kinds;
    atomic_store(&seen, 0);
    strncpy(below, folder, PATH_MAX - 1);
}

long disk_seen(void) { return atomic_load(&seen); }

static int refused(const char *path, int kind) {
    size_t length = strlen(below);
    if (!length || !(failing_kinds & kind) || strncmp(path, below, length)) return 0;
    if (path[length] != '/' && path[length] != 0) return 0;
    long number = atomic_fetch_add(&seen, 1);
    if (failing_from < 0 || number < failing_from) return 0;
    errno = failing_with;
    return 1;
}

static int path_of(int descriptor, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
    return length > 0;
}

static int refused_fd(int descriptor, int kind) {
    char path[PATH_MAX];
    int before = errno;
    if (!below[0] || !path_of(descriptor, path)) return 0;
    if (refused(path, kind)) return 1;
    errno = before;
    return 0;
}

static int refused_at(int folder, const char *name, int kind) {
    char path[2 * PATH_MAX];
    if (!below[0] || !name) return 0;
    if (name[0] == '/') return refused(name, kind);
    char start[PATH_MAX];
    if (folder == AT_FDCWD ? !getcwd(start, sizeof start) : !path_of(folder, start)) return 0;
    snprintf(path, sizeof path, "%s/%s", start, name);
    return refused(path, kind);
}

#define NEXT(type, name) \
    static type (*next)(); \
    if (!next) next = (type(*)())dlsym(RTLD_NEXT, #name)

#define ON_FD(type, name, kind, arguments, ...) \
    type name arguments { \
        NEXT(type, name); \
        if (refused_fd(fd, kind)) return -1; \
        return next(__VA_ARGS__); \
    }
ON_FD(ssize_t, write, WRITES, (int fd, const void *data, size_t n), fd, data, n)
ON_FD(ssize_t, pwrite, WRITES, (int fd, const void *data, size_t n, off_t at), fd, data, n, at)
ON_FD(ssize_t, pwrite64, WRITES, (int fd, const void *data, size_t n, off64_t at), fd, data, n, at)
ON_FD(ssize_t, writev, WRITES, (int fd, const struct iovec *v, int n), fd, v, n)
ON_FD(ssize_t, pwritev, WRITES, (int fd, const struct iovec *v, int n, off_t at), fd, v, n, at)
ON_FD(int, ftruncate, WRITES, (int fd, off_t size), fd, size)
ON_FD(int, ftruncate64, WRITES, (int fd, off64_t size), fd, size)
ON_FD(int, posix_fallocate, WRITES, (int fd, off_t at, off_t size), fd, at, size)
ON_FD(int, fsync, SYNCS, (int fd), fd)
ON_FD(int, fdatasync, SYNCS, (int fd), fd)

#define ON_NAME(name, kind, folder, path, arguments, ...) \
    int name arguments { \
        NEXT(int, name); \
        if (refused_at(folder, path, kind)) return -1; \
        return next(__VA_ARGS__); \
    }
ON_NAME(rename, NAMES, AT_FDCWD, to, (const char *from, const char *to), from, to)
ON_NAME(renameat, NAMES, b, to, (int a, const char *from, int b, const char *to), a, from, b, to)
ON_NAME(renameat2, NAMES, b, to, (int a, const char *from, int b, const char *to, unsigned flags),
        a, from, b, to, flags)
ON_NAME(link, NAMES, AT_FDCWD, to, (const char *from, const char *to), from, to)
ON_NAME(symlink, NAMES, AT_FDCWD, to, (const char *from, const char *to), from, to)
ON_NAME(symlinkat, NAMES, b, to, (const char *from, int b, const char *to), from, b, to)
ON_NAME(mkdir, NAMES, AT_FDCWD, path, (const char *path, mode_t mode), path, mode)
ON_NAME(mkdirat, NAMES, b, path, (int b, const char *path, mode_t mode), b, path, mode)
ON_NAME(unlink, REMOVALS, AT_FDCWD, path, (const char *path), path)
ON_NAME(unlinkat, REMOVALS, b, path, (int b, const char *path, int flags), b, path, flags)
ON_NAME(rmdir, REMOVALS, AT_FDCWD, path, (const char *path), path)

/* Opening counts where it may make a file; on a disk that forbids removals, also to change one. */
static int refused_open(int folder, const char *path, int flags) {
    int changes = flags & (O_CREAT | O_TRUNC) || (flags & O_TMPFILE) == O_TMPFILE;
    if (failing_kinds & REMOVALS) changes = changes || (flags & O_ACCMODE) != O_RDONLY;
    return changes && refused_at(folder, path, NAMES);
}

#define MODE_OF(flags) \
    mode_t mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { \
        va_list more; \
        va_start(more, flags); \
        mode = va_arg(more, mode_t); \
        va_end(more); \
    }
#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        NEXT(int, name); \
        MODE_OF(flags) \
        if (refused_open(AT_FDCWD, path, flags)) return -1; \
        return next(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)
#define OPENAT(name) \
    int name(int folder, const char *path, int flags, ...) { \
        NEXT(int, name); \
        MODE_OF(flags) \
        if (refused_open(folder, path, flags)) return -1; \
        return next(folder, path, flags, mode); \
    }
OPENAT(openat)
OPENAT(openat64)
