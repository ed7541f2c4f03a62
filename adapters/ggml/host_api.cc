#include "host_api.h"

#include <dlfcn.h>
#include <link.h>

#include <cstdarg>
#include <cstdio>
#include <string>
#include <vector>

namespace tokensieve::ggml {
namespace {

HostApi api;

// Handles of loaded objects in which to look, best first.
class Scope {
 public:
  explicit Scope(const void* caller) {
    Dl_info info;
    if (caller != nullptr && dladdr(caller, &info) != 0) add(info.dli_fname);
    handles_.push_back(RTLD_DEFAULT);
    dl_iterate_phdr(
        [](dl_phdr_info* object, size_t, void* scope) {
          static_cast<Scope*>(scope)->add(object->dlpi_name);
          return 0;
        },
        this);
  }

  ~Scope() {
    for (void* handle : handles_) {
      if (handle != RTLD_DEFAULT) dlclose(handle);
    }
  }

  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;

  void* find(const char* name) const {
    for (void* handle : handles_) {
      if (void* symbol = dlsym(handle, name)) return symbol;
    }
    return nullptr;
  }

 private:
  void add(const char* path) {
    if (path == nullptr || path[0] == '\0') return;
    if (void* handle = dlopen(path, RTLD_LAZY | RTLD_NOLOAD)) handles_.push_back(handle);
  }

  std::vector<void*> handles_;
};

template <typename F>
void find_into(const Scope& scope, const char* name, F& function, const char*& missing) {
  function = reinterpret_cast<F>(scope.find(name));
  if (function == nullptr && missing == nullptr) missing = name;
}

}  // namespace

const char* resolve_host_api(const void* caller) {
  const Scope scope(caller);
  const char* missing = nullptr;
  const char* optional = nullptr;
  find_into(scope, "ggml_log_get", api.log_get, optional);
  find_into(scope, "ggml_version", api.version, missing);
  find_into(scope, "ggml_graph_n_nodes", api.graph_n_nodes, missing);
  find_into(scope, "ggml_graph_node", api.graph_node, missing);
  find_into(scope, "ggml_get_type_traits", api.get_type_traits, missing);
  find_into(scope, "ggml_backend_cpu_buffer_type", api.cpu_buffer_type, missing);
  find_into(scope, "ggml_backend_cpu_buffer_from_ptr", api.cpu_buffer_from_ptr, missing);
  find_into(scope, "ggml_backend_buft_is_host", api.buft_is_host, missing);
  find_into(scope, "ggml_backend_dev_count", api.dev_count, missing);
  find_into(scope, "ggml_backend_dev_get", api.dev_get, missing);
  find_into(scope, "ggml_backend_dev_type", api.dev_type, missing);
  return missing;
}

const HostApi& host() { return api; }

void log_line(ggml_log_level level, const char* format, ...) {
  char text[1024];
  va_list args;
  va_start(args, format);
  int length = std::vsnprintf(text, sizeof(text) - 1, format, args);
  va_end(args);
  if (length < 0) return;
  if (length > static_cast<int>(sizeof(text)) - 2) length = sizeof(text) - 2;
  text[length] = '\n';
  text[length + 1] = '\0';
  ggml_log_callback callback = nullptr;
  void* user_data = nullptr;
  if (api.log_get != nullptr) api.log_get(&callback, &user_data);
  if (callback != nullptr) {
    callback(level, text, user_data);
  } else {
    std::fputs(text, stderr);
  }
}

}  // namespace tokensieve::ggml
