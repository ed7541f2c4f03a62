// The ggml functions that the plug-in calls, found in the host process at load time.
//
// The plug-in links no ggml: sonames differ between builds, and in hosts that load ggml with
// RTLD_LOCAL (Python) an undefined ggml symbol would not resolve.
#pragma once

#include "ggml-backend.h"
#include "ggml.h"

namespace tokensieve::ggml {

struct HostApi {
  decltype(&::ggml_version) version = nullptr;
  decltype(&::ggml_graph_n_nodes) graph_n_nodes = nullptr;
  decltype(&::ggml_graph_node) graph_node = nullptr;
  decltype(&::ggml_get_type_traits) get_type_traits = nullptr;
  decltype(&::ggml_backend_cpu_buffer_type) cpu_buffer_type = nullptr;
  decltype(&::ggml_backend_cpu_buffer_from_ptr) cpu_buffer_from_ptr = nullptr;
  decltype(&::ggml_backend_buft_is_host) buft_is_host = nullptr;
  decltype(&::ggml_backend_dev_count) dev_count = nullptr;
  decltype(&::ggml_backend_dev_get) dev_get = nullptr;
  decltype(&::ggml_backend_dev_type) dev_type = nullptr;
  decltype(&::ggml_log_get) log_get = nullptr;  // optional: older hosts log to stderr only
};

// Fills the table; `caller` is any address inside the library that loads the plug-in, whose own
// ggml is preferred when a process holds several. Returns the name of a missing function, or null.
const char* resolve_host_api(const void* caller);

// The table; valid after resolve_host_api returned null.
const HostApi& host();

// One line through the host's log callback, or to stderr if there is none. printf-style; a
// newline is added.
[[gnu::format(printf, 2, 3)]] void log_line(ggml_log_level level, const char* format, ...);

}  // namespace tokensieve::ggml
