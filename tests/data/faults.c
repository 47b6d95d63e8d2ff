/* File systems that lack something: calls fail with the numbers that FAULTS gives, as in
   FAULTS="flock=37,link=1". Loaded into a program with LD_PRELOAD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
static int fails(const char *name) {
  size_t n = strlen(name);
  for (const char *v = getenv("FAULTS"); v && *v; v = strchr(v, ',') ? strchr(v, ',') + 1 : "")
    if (!strncmp(v, name, n) && v[n] == '=') { errno = atoi(v + n + 1); return 1; }
  return 0;
}
#define CALL(key, f, declared, given) int f declared { \
  __typeof__(&f) real = (__typeof__(&f))dlsym(RTLD_NEXT, #f); \
  return fails(key) ? -1 : real given; }
CALL("chmod", fchmod, (int a, mode_t b), (a, b))
CALL("chmod", chmod, (const char *a, mode_t b), (a, b))
CALL("chown", fchown, (int a, uid_t b, gid_t c), (a, b, c))
CALL("flock", flock, (int a, int b), (a, b))
CALL("fsync", fsync, (int a), (a))
CALL("link", link, (const char *a, const char *b), (a, b))
CALL("link", linkat, (int a, const char *b, int c, const char *d, int e), (a, b, c, d, e))
#define CONTROL(f) int f(int fd, int c, ...) { \
  va_list a; va_start(a, c); void *p = va_arg(a, void *); va_end(a); \
  __typeof__(&f) real = (__typeof__(&f))dlsym(RTLD_NEXT, #f); \
  if ((c == F_SETLK || c == F_SETLKW) && fails("setlk")) return -1; \
  if (c == F_SETFL && fails("setfl")) return -1; \
  return real(fd, c, p); }
CONTROL(fcntl)
CONTROL(fcntl64)
