/*
 * Loaded before libc into a process under test (LD_PRELOAD): writes down, in order, everything that the process changes
 * below one directory, and what it says on standard output.
 *
 *   AUDIT_TRACE_ROOT  the directory, by its real name
 *   AUDIT_TRACE_FILE  where the trace goes, outside of it; several processes may share it
 *   AUDIT_TRACE_DIE   CALL:NAME:N: dies by SIGKILL right behind the N-th CALL (sync, write, rename, link) on a path that
 *                     ends with NAME
 *
 * A call and its record happen under one lock, over threads and processes, so the order of the records is the order of
 * the calls, and a process that dies by AUDIT_TRACE_DIE leaves no call without its record. What can't be replayed (a
 * mapping that writes, a duplicated descriptor, a copy inside of the kernel) is recorded as such, and fails the replay.
 *
 * A record: u32 length of what follows, u8 call, u32 process, i64 descriptor, i64 a, i64 b, u32 length of the path, the
 * path, data; in the machine's byte order. Paths are relative to the directory.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OPEN = 1, CLOSE, WRITE, RESIZE, GROW, SYNC, UNLINK, RENAME, LINK, MKDIR, RMDIR, SAID, FORBIDDEN };
enum { CREATES = 1, TRUNCATES = 2, SYNCS = 4, EXCLUSIVE = 8 };
enum { FDS = 65536 };

static int trace_fd = -1;
static char root[PATH_MAX];
static size_t root_length;
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
/* The path of each descriptor below the directory; NULL: not ours. */
static char *names[FDS];
static uint8_t die_call;
static char die_name[PATH_MAX];
static long die_after;

static void fail(const char *why) {
    const char *parts[] = {"trace: ", why, "\n"};
    for (int i = 0; i < 3; i++)
        syscall(SYS_write, 2, parts[i], strlen(parts[i]));
    _exit(99);
}

__attribute__((constructor)) static void begin(void) {
    const char *directory = getenv("AUDIT_TRACE_ROOT"), *file = getenv("AUDIT_TRACE_FILE");
    if (!directory || !file)
        return;
    root_length = strlen(directory);
    if (root_length >= sizeof root)
        fail("the directory's name is too long");
    memcpy(root, directory, root_length + 1);
    int fd = syscall(SYS_openat, AT_FDCWD, file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0)
        fail("the trace can't be opened");
    /* High, so that the process gets the descriptors that it would get. */
    trace_fd = syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 900);
    syscall(SYS_close, fd);
    if (trace_fd < 0)
        fail("no descriptor for the trace");
    const char *die = getenv("AUDIT_TRACE_DIE");
    if (die) {
        char call[16];
        if (sscanf(die, "%15[a-z]:%4000[^:]:%ld", call, die_name, &die_after) != 3)
            fail("AUDIT_TRACE_DIE is not CALL:NAME:N");
        die_call = !strcmp(call, "sync") ? SYNC : !strcmp(call, "write") ? WRITE : !strcmp(call, "rename") ? RENAME
                 : !strcmp(call, "link") ? LINK : 0;
        if (!die_call)
            fail("AUDIT_TRACE_DIE names another call");
    }
}

static int tracing(void) { return trace_fd >= 0; }

static int ours(int fd) { return fd >= 0 && fd < FDS && names[fd]; }

static void enter(void) {
    pthread_mutex_lock(&turn);
    while (syscall(SYS_flock, trace_fd, LOCK_EX) != 0)
        if (errno != EINTR)
            fail("the trace can't be locked");
}

static void leave(void) {
    int saved = errno;
    syscall(SYS_flock, trace_fd, LOCK_UN);
    pthread_mutex_unlock(&turn);
    errno = saved;
}

static void record(uint8_t call, int64_t fd, int64_t a, int64_t b, const char *path, const void *data, size_t length) {
    int saved = errno;
    uint32_t process = getpid(), path_length = path ? strlen(path) : 0;
    uint32_t total = 1 + 4 + 8 * 3 + 4 + path_length + length;
    unsigned char head[4 + 1 + 4 + 8 * 3 + 4], *p = head;
    memcpy(p, &total, 4), p += 4;
    *p++ = call;
    memcpy(p, &process, 4), p += 4;
    memcpy(p, &fd, 8), p += 8;
    memcpy(p, &a, 8), p += 8;
    memcpy(p, &b, 8), p += 8;
    memcpy(p, &path_length, 4);
    struct iovec parts[3] = {{head, sizeof head}, {(void *)path, path_length}, {(void *)data, length}};
    if (syscall(SYS_writev, trace_fd, parts, 3) != (long)(sizeof head + path_length + length))
        fail("the trace can't be written");
    const char *name = path ? path : ours(fd) ? names[fd] : NULL;
    size_t ends = strlen(die_name);
    if (call == die_call && name && strlen(name) >= ends && !strcmp(name + strlen(name) - ends, die_name)
        && --die_after == 0)
        syscall(SYS_kill, getpid(), SIGKILL);
    errno = saved;
}

/* The path below the directory, to be freed; NULL if it doesn't lie there. */
static char *below(int dirfd, const char *path) {
    char full[2 * PATH_MAX];
    int saved = errno;
    if (!tracing() || !path)
        return NULL;
    if (path[0] == '/' || dirfd != AT_FDCWD) {
        if (path[0] != '/') {
            char link[64];
            snprintf(link, sizeof link, "/proc/self/fd/%d", dirfd);
            ssize_t n = readlink(link, full, PATH_MAX - 1);
            if (n < 0)
                n = 0;
            snprintf(full + n, sizeof full - n, "/%s", path);
        } else
            snprintf(full, sizeof full, "%s", path);
    } else {
        if (!getcwd(full, PATH_MAX))
            full[0] = 0;
        size_t n = strlen(full);
        snprintf(full + n, sizeof full - n, "/%s", path);
    }
    errno = saved;
    if (strncmp(full, root, root_length) || (full[root_length] != '/' && full[root_length]))
        return NULL;
    return strdup(full[root_length] ? full + root_length + 1 : "");
}

static void forbidden(const char *what, const char *path) { record(FORBIDDEN, -1, 0, 0, path, what, strlen(what)); }

static int open_at(int dirfd, const char *path, int flags, mode_t mode) {
    char *name = below(dirfd, path);
    if (!name)
        return syscall(SYS_openat, dirfd, path, flags, mode);
    enter();
    int fd = syscall(SYS_openat, dirfd, path, flags, mode);
    if (fd >= FDS)
        fail("too many open files");
    if (fd >= 0) {
        int64_t how = (flags & O_CREAT ? CREATES : 0) | (flags & O_TRUNC ? TRUNCATES : 0)
                    | (flags & O_EXCL ? EXCLUSIVE : 0) | (flags & (O_SYNC | O_DSYNC) ? SYNCS : 0);
        names[fd] = name;
        record(OPEN, fd, how, 0, name, NULL, 0);
        if ((flags & O_TMPFILE) == O_TMPFILE)
            forbidden("O_TMPFILE", name);
    } else
        free(name);
    leave();
    return fd;
}

#define MODE(flags)                                                                                                    \
    mode_t mode = 0;                                                                                                   \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                                                                             \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode = va_arg(rest, mode_t);                                                                                   \
        va_end(rest);                                                                                                  \
    }

int open(const char *path, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, path, flags, mode); }
int openat(int dirfd, const char *path, int flags, ...) { MODE(flags) return open_at(dirfd, path, flags, mode); }
int openat64(int dirfd, const char *path, int flags, ...) { MODE(flags) return open_at(dirfd, path, flags, mode); }
int creat(const char *path, mode_t mode) { return open_at(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return creat(path, mode); }

int close(int fd) {
    if (!ours(fd))
        return syscall(SYS_close, fd);
    enter();
    record(CLOSE, fd, 0, 0, NULL, NULL, 0);
    free(names[fd]);
    names[fd] = NULL;
    int done = syscall(SYS_close, fd);
    leave();
    return done;
}

static int told(int fd) { return tracing() && (fd == 1 || ours(fd)); }

/* `done` bytes were written through the descriptor's own position. */
static void wrote(int fd, const void *data, ssize_t done) {
    int saved = errno;
    if (fd == 1 && !ours(fd))
        record(SAID, fd, 0, 0, NULL, data, done);
    else
        record(WRITE, fd, syscall(SYS_lseek, fd, 0, SEEK_CUR) - done, 0, NULL, data, done);
    errno = saved;
}

ssize_t write(int fd, const void *data, size_t length) {
    if (!told(fd))
        return syscall(SYS_write, fd, data, length);
    enter();
    ssize_t done = syscall(SYS_write, fd, data, length);
    if (done > 0)
        wrote(fd, data, done);
    leave();
    return done;
}

static unsigned char *joined(const struct iovec *parts, int count) {
    size_t total = 0, at = 0;
    for (int i = 0; i < count; i++)
        total += parts[i].iov_len;
    unsigned char *all = malloc(total + 1);
    if (!all)
        fail("no memory");
    for (int i = 0; i < count; at += parts[i++].iov_len)
        memcpy(all + at, parts[i].iov_base, parts[i].iov_len);
    return all;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    if (!told(fd))
        return syscall(SYS_writev, fd, parts, count);
    enter();
    ssize_t done = syscall(SYS_writev, fd, parts, count);
    if (done > 0) {
        unsigned char *all = joined(parts, count);
        wrote(fd, all, done);
        free(all);
    }
    leave();
    return done;
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) {
    if (!ours(fd))
        return syscall(SYS_pwrite64, fd, data, length, offset);
    enter();
    ssize_t done = syscall(SYS_pwrite64, fd, data, length, offset);
    if (done > 0)
        record(WRITE, fd, offset, 0, NULL, data, done);
    leave();
    return done;
}
ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) { return pwrite64(fd, data, length, offset); }

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset) {
    long low = (long)offset, high = (long)((uint64_t)offset >> 32);
    if (!ours(fd))
        return syscall(SYS_pwritev, fd, parts, count, low, high);
    enter();
    ssize_t done = syscall(SYS_pwritev, fd, parts, count, low, high);
    if (done > 0) {
        unsigned char *all = joined(parts, count);
        record(WRITE, fd, offset, 0, NULL, all, done);
        free(all);
    }
    leave();
    return done;
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) { return pwritev64(fd, parts, count, offset); }

int ftruncate64(int fd, off64_t length) {
    if (!ours(fd))
        return syscall(SYS_ftruncate, fd, length);
    enter();
    int done = syscall(SYS_ftruncate, fd, length);
    if (done == 0)
        record(RESIZE, fd, length, 0, NULL, NULL, 0);
    leave();
    return done;
}
int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

int fallocate64(int fd, int mode, off64_t offset, off64_t length) {
    if (!ours(fd))
        return syscall(SYS_fallocate, fd, mode, offset, length);
    enter();
    int done = syscall(SYS_fallocate, fd, mode, offset, length);
    if (done == 0) {
        if (mode == 0)
            record(GROW, fd, offset + length, 0, NULL, NULL, 0);
        else
            forbidden("fallocate with a mode", names[fd]);
    }
    leave();
    return done;
}
int fallocate(int fd, int mode, off_t offset, off_t length) { return fallocate64(fd, mode, offset, length); }
int posix_fallocate64(int fd, off64_t offset, off64_t length) {
    return fallocate64(fd, 0, offset, length) == 0 ? 0 : errno;
}
int posix_fallocate(int fd, off_t offset, off_t length) { return posix_fallocate64(fd, offset, length); }

static int synced(int fd, long call) {
    if (!ours(fd))
        return syscall(call, fd);
    enter();
    int done = syscall(call, fd);
    if (done == 0)
        record(SYNC, fd, 0, 0, NULL, NULL, 0);
    leave();
    return done;
}
int fsync(int fd) { return synced(fd, SYS_fsync); }
int fdatasync(int fd) { return synced(fd, SYS_fdatasync); }

int unlinkat(int dirfd, const char *path, int flags) {
    char *name = below(dirfd, path);
    if (!name)
        return syscall(SYS_unlinkat, dirfd, path, flags);
    enter();
    int done = syscall(SYS_unlinkat, dirfd, path, flags);
    if (done == 0)
        record(flags & AT_REMOVEDIR ? RMDIR : UNLINK, -1, 0, 0, name, NULL, 0);
    leave();
    free(name);
    return done;
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
int remove(const char *path) {
    int done = unlink(path);
    return done != 0 && (errno == EISDIR || errno == EPERM) ? rmdir(path) : done;
}

int renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags) {
    char *old = below(from_fd, from), *new = below(to_fd, to);
    if (!old && !new)
        return syscall(SYS_renameat2, from_fd, from, to_fd, to, flags);
    enter();
    int done = syscall(SYS_renameat2, from_fd, from, to_fd, to, flags);
    if (done == 0) {
        if (!old || !new || (flags & ~1u))
            forbidden("a rename across the directory's border, or an exchange", old ? old : new);
        else
            record(RENAME, -1, 0, 0, old, new, strlen(new));
    }
    leave();
    free(old), free(new);
    return done;
}
int renameat(int from_fd, const char *from, int to_fd, const char *to) { return renameat2(from_fd, from, to_fd, to, 0); }
int rename(const char *from, const char *to) { return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0); }

int linkat(int from_fd, const char *from, int to_fd, const char *to, int flags) {
    char *old = below(from_fd, from), *new = below(to_fd, to);
    if (!old && !new)
        return syscall(SYS_linkat, from_fd, from, to_fd, to, flags);
    enter();
    int done = syscall(SYS_linkat, from_fd, from, to_fd, to, flags);
    if (done == 0) {
        if (!old || !new)
            forbidden("a link across the directory's border", old ? old : new);
        else
            record(LINK, -1, 0, 0, old, new, strlen(new));
    }
    leave();
    free(old), free(new);
    return done;
}
int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

int mkdirat(int dirfd, const char *path, mode_t mode) {
    char *name = below(dirfd, path);
    if (!name)
        return syscall(SYS_mkdirat, dirfd, path, mode);
    enter();
    int done = syscall(SYS_mkdirat, dirfd, path, mode);
    if (done == 0)
        record(MKDIR, -1, 0, 0, name, NULL, 0);
    leave();
    free(name);
    return done;
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

/* What a replay can't follow. */

static void refuse(const char *what, int fd) {
    if (tracing() && ours(fd)) {
        enter();
        forbidden(what, names[fd]);
        leave();
    }
}

static void refuse_path(const char *what, const char *path) {
    char *name = below(AT_FDCWD, path);
    if (name) {
        enter();
        forbidden(what, name);
        leave();
        free(name);
    }
}

int symlinkat(const char *target, int dirfd, const char *path) {
    refuse_path("a symbolic link", path);
    return syscall(SYS_symlinkat, target, dirfd, path);
}
int symlink(const char *target, const char *path) { return symlinkat(target, AT_FDCWD, path); }

int truncate64(const char *path, off64_t length) {
    refuse_path("truncate by name", path);
    return syscall(SYS_truncate, path, length);
}
int truncate(const char *path, off_t length) { return truncate64(path, length); }

void *mmap64(void *address, size_t length, int protection, int flags, int fd, off64_t offset) {
    /* SQLite's shared memory is made anew from its log after a power cut; it is no data. */
    if (!(flags & MAP_ANONYMOUS) && (flags & MAP_TYPE) != MAP_PRIVATE && (protection & PROT_WRITE) && ours(fd)) {
        size_t n = strlen(names[fd]);
        if (n < 4 || strcmp(names[fd] + n - 4, "-shm"))
            refuse("a shared mapping that writes", fd);
    }
    return (void *)syscall(SYS_mmap, address, length, protection, flags, fd, offset);
}
void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
    return mmap64(address, length, protection, flags, fd, offset);
}

int dup(int fd) {
    refuse("dup", fd);
    return syscall(SYS_dup, fd);
}
int dup3(int from, int to, int flags) {
    refuse("dup3", from);
    refuse("dup3", to);
    return syscall(SYS_dup3, from, to, flags);
}
int dup2(int from, int to) { return from == to ? syscall(SYS_fcntl, from, F_GETFD) < 0 ? -1 : to : dup3(from, to, 0); }

static int control(int fd, int command, void *argument) {
    if (command == F_DUPFD || command == F_DUPFD_CLOEXEC)
        refuse("fcntl, which duplicates", fd);
    return syscall(SYS_fcntl, fd, command, argument);
}
#define ARGUMENT(command)                                                                                              \
    va_list rest;                                                                                                      \
    va_start(rest, command);                                                                                           \
    void *argument = va_arg(rest, void *);                                                                             \
    va_end(rest);
int fcntl(int fd, int command, ...) { ARGUMENT(command) return control(fd, command, argument); }
int fcntl64(int fd, int command, ...) { ARGUMENT(command) return control(fd, command, argument); }

ssize_t copy_file_range(int in, off64_t *in_offset, int out, off64_t *out_offset, size_t length, unsigned flags) {
    refuse("copy_file_range", out);
    return syscall(SYS_copy_file_range, in, in_offset, out, out_offset, length, flags);
}
ssize_t sendfile64(int out, int in, off64_t *offset, size_t count) {
    refuse("sendfile", out);
    return syscall(SYS_sendfile, out, in, offset, count);
}
ssize_t sendfile(int out, int in, off_t *offset, size_t count) { return sendfile64(out, in, (off64_t *)offset, count); }
ssize_t splice(int in, off64_t *in_offset, int out, off64_t *out_offset, size_t length, unsigned flags) {
    refuse("splice", out);
    return syscall(SYS_splice, in, in_offset, out, out_offset, length, flags);
}
