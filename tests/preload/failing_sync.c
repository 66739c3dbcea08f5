/* A disk that cannot make anything safe: preloaded into PostgreSQL, lets fsync and fdatasync fail with EIO.
 *
 * In the directory METERWATCH_SYNC_FAULTS a file named after the function (fsync, fdatasync) fails every call of it for
 * as long as it is there; one named so with .once is taken away by the call that it fails.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int fails(const char *function)
{
    const char *directory = getenv("METERWATCH_SYNC_FAULTS");
    char path[PATH_MAX];

    if (directory == NULL)
        return 0;
    snprintf(path, sizeof path, "%s/%s", directory, function);
    if (access(path, F_OK) == 0)
        return 1;
    snprintf(path, sizeof path, "%s/%s.once", directory, function);
    return unlink(path) == 0;
}

static int synced(const char *function, int fd)
{
    int was = errno;

    if (fails(function)) {
        errno = EIO;
        return -1;
    }
    errno = was;
    return ((int (*)(int))dlsym(RTLD_NEXT, function))(fd);
}

int fsync(int fd) { return synced("fsync", fd); }
int fdatasync(int fd) { return synced("fdatasync", fd); }
