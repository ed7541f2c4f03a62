/* LD_PRELOAD shim: loads the plug-in into programs that do not read GGML_BACKEND_PATH.
 *
 * The plug-in is the file that TOKENSIEVE_PLUGIN names, else libggml-tokensieve.so beside this
 * library. Programs without ggml are left alone. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern void* ggml_backend_load(const char* path) __attribute__((weak));
extern size_t ggml_backend_reg_count(void) __attribute__((weak));

static const char* plugin_path(char* buffer, size_t size) {
  const char* path = getenv("TOKENSIEVE_PLUGIN");
  if (path != NULL && path[0] != '\0') return path;
  Dl_info info;
  if (dladdr((void*)plugin_path, &info) == 0) return NULL;
  const char* slash = strrchr(info.dli_fname, '/');
  const int folder = slash == NULL ? 0 : (int)(slash - info.dli_fname) + 1;
  const int length =
      snprintf(buffer, size, "%.*slibggml-tokensieve.so", folder, info.dli_fname);
  return length > 0 && (size_t)length < size ? buffer : NULL;
}

__attribute__((constructor)) static void load_plugin(void) {
  char buffer[4096];
  if (ggml_backend_load == NULL || ggml_backend_reg_count == NULL) return;
  const char* path = plugin_path(buffer, sizeof(buffer));
  if (path == NULL) return;
  /* No backend is compiled in: the program loads all of them itself, and would load none if ours
   * were there already. It reads this variable then. */
  if (ggml_backend_reg_count() == 0) {
    setenv("GGML_BACKEND_PATH", path, 0);
  } else {
    ggml_backend_load(path);
  }
}
