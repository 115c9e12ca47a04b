/* Measure the CPU time that a thread spends without Python's lock.

Loaded with LD_PRELOAD, this stands between extension modules (numpy, pyarrow, torch, tokenizers)
and the two functions of Python with which they release the lock and take it again. The
interpreter itself calls them directly: what it does without the lock, such as waiting for files,
counts as time with it. `benchmarks.host_side` compiles and loads it. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>

static __thread double released_at, total;

static double cpu_seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return now.tv_sec + 1e-9 * now.tv_nsec;
}

void *PyEval_SaveThread(void) {
  static void *(*release)(void);
  if (!release) release = (void *(*)(void))dlsym(RTLD_NEXT, "PyEval_SaveThread");
  void *state = release();
  released_at = cpu_seconds();
  return state;
}

void PyEval_RestoreThread(void *state) {
  static void (*take)(void *);
  if (!take) take = (void (*)(void *))dlsym(RTLD_NEXT, "PyEval_RestoreThread");
  total += cpu_seconds() - released_at;
  take(state);
}

/* Return the CPU seconds of this thread without the lock so far. */
double seconds_without_lock(void) { return total; }
