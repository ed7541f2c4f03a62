// What every function of the C ABI needs: no exception passes it, and a status tells the result.
#pragma once

#include <cstdio>
#include <exception>
#include <new>

#include "core/c_structs.h"

namespace tokensieve {

inline int32_t report_status(const Status& status, tokensieve_status* out) {
  const int32_t code = static_cast<int32_t>(status.code());
  if (out != nullptr) {
    tokensieve_status c = {.struct_size = sizeof(tokensieve_status), .code = code};
    std::snprintf(c.message, sizeof(c.message), "%s", status.message());
    write_struct(c, out);
  }
  return code;
}

template <typename F>
int32_t guarded(tokensieve_status* out, F&& body) noexcept {
  try {
    return report_status(body(), out);
  } catch (const std::bad_alloc&) {
    return report_status(Status::error(StatusCode::kOutOfMemory, "out of memory"), out);
  } catch (const std::exception& e) {
    return report_status(Status::error(StatusCode::kInternal, "%s", e.what()), out);
  } catch (...) {
    return report_status(Status::error(StatusCode::kInternal, "unknown exception"), out);
  }
}

inline Status null_argument(const char* name) {
  return Status::error(StatusCode::kInvalidArgument, "%s is NULL", name);
}

// Fills a caller's struct of `size` bytes; what this library does not know becomes 0.
template <typename T>
size_t init(T* out, size_t size, const T& defaults) {
  if (out != nullptr && size >= sizeof(uint32_t) && size <= kMaxStructSize) {
    std::memset(static_cast<void*>(out), 0, size);
    write_struct(defaults, size, out);
  }
  return sizeof(T);
}

template <typename T>
T empty() {
  T value = {};
  value.struct_size = sizeof(T);
  return value;
}

}  // namespace tokensieve
