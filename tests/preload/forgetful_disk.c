/* A disk that forgets when its power is cut: preloaded into PostgreSQL, writes down how to undo what is not safe yet.
 *
 * METERWATCH_DISK is a directory with a file `journal` (its first 8 bytes: where its last record ends) and a directory
 * `graves`, on the file system of METERWATCH_DISK_ROOT; what is done to regular files below that root is recorded before
 * it is done, under one lock for all processes, so that the order of the records is that of the deeds:
 *
 *     W  bytes of a file are written                          payload: what was there
 *     T  the size of a file is changed                        payload: what is cut off
 *     C  a file is made (recorded after it)                   payload: its path
 *     R  a file is renamed                                    payload: old path, NUL, new path
 *     U  a name is removed                                    payload: its path
 *     S  fsync or fdatasync has returned: all of this file (or all names of this directory) that is recorded before the
 *        place `at`, where the journal ended when the call began
 *
 * What a rename or a removal takes the name of keeps another one, in `graves`, which is the place of its record. The
 * other side, which undoes, is tests/forgetful_disk.py. Not recorded: what goes through stdio (PostgreSQL writes nothing
 * that way which must survive), directories made and removed. sync_file_range makes nothing safe. One thread a process.
 */
#undef _FORTIFY_SOURCE
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

struct record { /* forgetful_disk.py: RECORD */
    uint64_t kind, inode, at, size, old_size, bytes;
};

#define REAL(function) ((__typeof__(&function))dlsym(RTLD_NEXT, #function))

static const char *root, *disk;
static size_t root_bytes;
static int journal = -1;

__attribute__((constructor)) static void begin(void)
{
    char *place = getenv("METERWATCH_DISK_ROOT"), *ours = getenv("METERWATCH_DISK");

    if (place == NULL || ours == NULL)
        return;
    root = strdup(place); /* PostgreSQL writes its title over the environment */
    disk = strdup(ours);
    root_bytes = strlen(root);
}

static void fail(const char *what)
{
    dprintf(STDERR_FILENO, "forgetful_disk: %s: %s\n", what, strerror(errno));
    abort();
}

static void lock(short type)
{
    struct flock whole = {.l_type = type, .l_whence = SEEK_SET};

    if (journal < 0) {
        char path[PATH_MAX];

        snprintf(path, sizeof path, "%s/journal", disk);
        journal = REAL(open)(path, O_RDWR | O_CLOEXEC);
        if (journal < 0)
            fail(path);
    }
    while (fcntl(journal, F_SETLKW, &whole) < 0)
        if (errno != EINTR)
            fail("lock");
}

static uint64_t tail(void)
{
    uint64_t end;

    if (pread(journal, &end, sizeof end, 0) != sizeof end)
        fail("journal");
    return end;
}

/* Append a record; who is killed before the end is moved has appended nothing. */
static void put(struct record record, const void *payload, size_t bytes)
{
    uint64_t end = tail(), next = end + sizeof record + bytes;

    record.bytes = bytes;
    if (REAL(pwrite)(journal, &record, sizeof record, end) != sizeof record
        || REAL(pwrite)(journal, payload, bytes, end + sizeof record) != (ssize_t)bytes
        || REAL(pwrite)(journal, &next, sizeof next, 0) != sizeof next)
        fail("journal");
}

static int below(const char *path)
{
    return root_bytes > 0 && strncmp(path, root, root_bytes) == 0
        && (path[root_bytes] == '/' || path[root_bytes] == 0);
}

/* Whether this is a file (or one of the directories too) below the root; then also its state. */
static int watched(int fd, int directories, struct stat *found)
{
    char link[64], path[PATH_MAX];
    ssize_t bytes;
    int was = errno, is;

    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    is = root_bytes > 0 && fstat(fd, found) == 0 && (S_ISREG(found->st_mode) || (directories && S_ISDIR(found->st_mode)))
        && (bytes = readlink(link, path, sizeof path - 1)) > 0;
    if (is) {
        path[bytes] = 0;
        is = below(path);
    }
    errno = was;
    return is;
}

static int named(const char *path, char *absolute)
{
    char here[PATH_MAX];

    if (root_bytes == 0)
        return 0;
    if (path[0] == '/')
        snprintf(absolute, PATH_MAX, "%s", path);
    else if (getcwd(here, sizeof here) == NULL || snprintf(absolute, PATH_MAX, "%s/%s", here, path) >= PATH_MAX)
        fail(path);
    return below(absolute);
}

static uint64_t directory_of(const char *absolute)
{
    char parent[PATH_MAX];
    struct stat found;

    snprintf(parent, sizeof parent, "%s", absolute);
    *strrchr(parent, '/') = 0;
    return stat(parent, &found) == 0 ? found.st_ino : 0;
}

/* Give what has this name another one, which is where its record will be. */
static void bury(const char *absolute)
{
    char grave[PATH_MAX];

    snprintf(grave, sizeof grave, "%s/graves/%llu", disk, (unsigned long long)tail());
    unlinkat(AT_FDCWD, grave, 0); /* of a process that was killed before its record was whole */
    if (link(absolute, grave) < 0)
        fail(grave);
}

static void note_change(int fd, char kind, off_t at, size_t size, off_t from, off_t until)
{
    struct stat now;
    struct record record = {.kind = (uint64_t)kind, .at = (uint64_t)at, .size = size};
    char *old;
    size_t bytes = 0;

    if (fstat(fd, &now) < 0)
        fail("fstat");
    record.inode = now.st_ino;
    record.old_size = (uint64_t)now.st_size;
    until = until < now.st_size ? until : now.st_size;
    if (from < until)
        bytes = (size_t)(until - from);
    old = malloc(bytes + 1);
    if (bytes > 0) { /* by a descriptor that may read: fd itself need not */
        char path[64];
        int reader;

        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        reader = REAL(open)(path, O_RDONLY | O_CLOEXEC);
        if (reader < 0 || pread(reader, old, bytes, from) != (ssize_t)bytes)
            fail("what was there");
        close(reader);
    }
    put(record, old, bytes);
    free(old);
}

static void note_write(int fd, off_t at, size_t size)
{
    note_change(fd, 'W', at, size, at, at + (off_t)size);
}

static void note_size(int fd, off_t size)
{
    note_change(fd, 'T', 0, (size_t)size, size, (off_t)INT64_MAX);
}

static void note_growth(int fd, off_t size)
{
    struct stat now;

    if (fstat(fd, &now) == 0 && size > now.st_size)
        note_size(fd, size);
}

/* A deed on an open file: noted and done under the lock. */
#define DEED(fd, note, call)              \
    do {                                  \
        struct stat found;                \
        if (!watched(fd, 0, &found))       \
            return call;                  \
        lock(F_WRLCK);                    \
        note;                             \
        __typeof__(call) done = call;     \
        int was = errno;                  \
        lock(F_UNLCK);                    \
        errno = was;                      \
        return done;                      \
    } while (0)

ssize_t pwrite(int fd, const void *data, size_t size, off_t at)
{
    DEED(fd, note_write(fd, at, size), REAL(pwrite)(fd, data, size, at));
}

ssize_t write(int fd, const void *data, size_t size)
{
    DEED(fd, note_write(fd, lseek(fd, 0, SEEK_CUR), size), REAL(write)(fd, data, size));
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at)
{
    size_t size = 0;

    for (int i = 0; i < count; i++)
        size += parts[i].iov_len;
    DEED(fd, note_write(fd, at, size), REAL(pwritev)(fd, parts, count, at));
}

int ftruncate(int fd, off_t size)
{
    DEED(fd, note_size(fd, size), REAL(ftruncate)(fd, size));
}

int posix_fallocate(int fd, off_t at, off_t size)
{
    DEED(fd, note_growth(fd, at + size), REAL(posix_fallocate)(fd, at, size));
}

int truncate(const char *path, off_t size)
{
    int fd = REAL(open)(path, O_WRONLY | O_CLOEXEC), done, was;

    if (fd < 0)
        return -1;
    done = ftruncate(fd, size);
    was = errno;
    close(fd);
    errno = was;
    return done;
}

int open(const char *path, int flags, ...)
{
    char absolute[PATH_MAX];
    struct stat found;
    mode_t mode = 0;
    int there, fd, was;

    if (flags & O_CREAT) {
        va_list more;

        va_start(more, flags);
        mode = va_arg(more, mode_t);
        va_end(more);
    }
    if (!(flags & (O_CREAT | O_TRUNC)) || !named(path, absolute))
        return REAL(open)(path, flags, mode);
    lock(F_WRLCK);
    there = stat(path, &found) == 0;
    fd = REAL(open)(path, flags & ~O_TRUNC, mode);
    was = errno;
    if (fd >= 0 && !there && fstat(fd, &found) == 0) {
        struct record record = {.kind = 'C', .inode = found.st_ino, .at = directory_of(absolute)};
        put(record, absolute, strlen(absolute));
    }
    if (fd >= 0 && there && (flags & O_TRUNC) && S_ISREG(found.st_mode)) {
        note_size(fd, 0);
        if (REAL(ftruncate)(fd, 0) < 0)
            fail(path);
    }
    lock(F_UNLCK);
    errno = was;
    return fd;
}

int rename(const char *old, const char *new)
{
    char pair[2 * PATH_MAX], from[PATH_MAX], to[PATH_MAX];
    struct stat moved, replaced;
    int done, was;

    if (!named(old, from) || !named(new, to) || stat(old, &moved) < 0 || !S_ISREG(moved.st_mode))
        return REAL(rename)(old, new);
    lock(F_WRLCK);
    struct record record = {.kind = 'R', .inode = moved.st_ino, .at = directory_of(to)};
    if (stat(new, &replaced) == 0) {
        bury(new);
        record.size = 1;
    }
    snprintf(pair, sizeof pair, "%s%c%s", from, 0, to);
    put(record, pair, strlen(from) + 1 + strlen(to));
    done = REAL(rename)(old, new);
    was = errno;
    lock(F_UNLCK);
    errno = was;
    return done;
}

int unlink(const char *path)
{
    char absolute[PATH_MAX];
    struct stat found;
    int done, was;

    if (!named(path, absolute) || lstat(path, &found) < 0 || !S_ISREG(found.st_mode))
        return REAL(unlink)(path);
    lock(F_WRLCK);
    bury(path);
    struct record record = {.kind = 'U', .inode = found.st_ino, .at = directory_of(absolute)};
    put(record, absolute, strlen(absolute));
    done = REAL(unlink)(path);
    was = errno;
    lock(F_UNLCK);
    errno = was;
    return done;
}

static int synced(int fd, int (*real)(int))
{
    struct stat found;
    struct record record = {.kind = 'S'};
    int done, was;

    if (!watched(fd, 1, &found))
        return real(fd);
    lock(F_RDLCK);
    record.at = tail();
    lock(F_UNLCK);
    done = real(fd);
    was = errno;
    if (done == 0) {
        record.inode = found.st_ino;
        lock(F_WRLCK);
        put(record, "", 0);
        lock(F_UNLCK);
    }
    errno = was;
    return done;
}

int fsync(int fd) { return synced(fd, REAL(fsync)); }
int fdatasync(int fd) { return synced(fd, REAL(fdatasync)); }

/* The same by the names that programs built for large files use; on 64 bits they are the same. */
int open64(const char *, int, ...) __attribute__((alias("open")));
ssize_t pwrite64(int, const void *, size_t, off_t) __attribute__((alias("pwrite")));
ssize_t pwritev64(int, const struct iovec *, int, off_t) __attribute__((alias("pwritev")));
int ftruncate64(int, off_t) __attribute__((alias("ftruncate")));
int truncate64(const char *, off_t) __attribute__((alias("truncate")));
int posix_fallocate64(int, off_t, off_t) __attribute__((alias("posix_fallocate")));
