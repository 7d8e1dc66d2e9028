/*
 * Loaded before libc into a process under test (LD_PRELOAD): as long as a flag exists, the disk below one directory is
 * full. What would make a file longer, or reserve space, fails with ENOSPC; overwriting what is there goes on, as it does
 * on a real full disk.
 *
 *   AUDIT_FULL_ROOT  the directory, by its real name
 *   AUDIT_FULL_FLAG  the file whose presence means full
 */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <fcntl.h>
#include <unistd.h>

static char root[PATH_MAX], flag[PATH_MAX];

__attribute__((constructor)) static void begin(void) {
    const char *r = getenv("AUDIT_FULL_ROOT"), *f = getenv("AUDIT_FULL_FLAG");
    if (r && f && strlen(r) < sizeof root && strlen(f) < sizeof flag) {
        strcpy(root, r);
        strcpy(flag, f);
    }
}

/* Whether the file may not become longer now. */
static int full(int fd) {
    if (!root[0] || syscall(SYS_faccessat, AT_FDCWD, flag, F_OK) != 0)
        return 0;
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0)
        return 0;
    path[n] = 0;
    size_t length = strlen(root);
    return !strncmp(path, root, length) && path[length] == '/';
}

static int grows(int fd, off_t offset, size_t count) {
    int saved = errno, answer = 0;
    struct stat s;
    if (full(fd) && fstat(fd, &s) == 0 && S_ISREG(s.st_mode)) {
        if (offset < 0) /* at the descriptor's own place */
            offset = fcntl(fd, F_GETFL) & O_APPEND ? s.st_size : lseek(fd, 0, SEEK_CUR);
        answer = offset + (off_t)count > s.st_size;
    }
    errno = saved;
    return answer;
}

static size_t total(const struct iovec *parts, int n) {
    size_t sum = 0;
    for (int i = 0; i < n; i++)
        sum += parts[i].iov_len;
    return sum;
}

#define REFUSE_IF(condition) do { if (condition) { errno = ENOSPC; return -1; } } while (0)

ssize_t write(int fd, const void *data, size_t count) {
    REFUSE_IF(grows(fd, -1, count));
    return syscall(SYS_write, fd, data, count);
}

ssize_t pwrite(int fd, const void *data, size_t count, off_t offset) {
    REFUSE_IF(grows(fd, offset, count));
    return syscall(SYS_pwrite64, fd, data, count, offset);
}

ssize_t pwrite64(int fd, const void *data, size_t count, off64_t offset) { return pwrite(fd, data, count, offset); }

ssize_t writev(int fd, const struct iovec *parts, int n) {
    REFUSE_IF(grows(fd, -1, total(parts, n)));
    return syscall(SYS_writev, fd, parts, n);
}

ssize_t pwritev(int fd, const struct iovec *parts, int n, off_t offset) {
    REFUSE_IF(grows(fd, offset, total(parts, n)));
    return syscall(SYS_pwritev, fd, parts, (long)n, (long)offset, 0L);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int n, off64_t offset) { return pwritev(fd, parts, n, offset); }

int fallocate(int fd, int mode, off_t offset, off_t size) {
    REFUSE_IF(full(fd));
    return syscall(SYS_fallocate, fd, mode, offset, size);
}

int fallocate64(int fd, int mode, off64_t offset, off64_t size) { return fallocate(fd, mode, offset, size); }

int posix_fallocate(int fd, off_t offset, off_t size) {
    int saved = errno;
    int answer = fallocate(fd, 0, offset, size) == 0 ? 0 : errno;
    errno = saved;
    return answer;
}

int posix_fallocate64(int fd, off64_t offset, off64_t size) { return posix_fallocate(fd, offset, size); }
