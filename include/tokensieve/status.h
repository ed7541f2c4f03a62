// Status and Result: how every tokensieve call reports failure.
//
// The library never prints, throws or aborts. A Status owns its message in place, so that
// returning an error does not allocate either.
#pragma once

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <utility>

#include "tokensieve/export.h"

namespace tokensieve {

enum class StatusCode : int32_t {
  kOk = 0,
  kInvalidArgument = 1,    // a value is wrong: shape, stride, null pointer, NaN parameter
  kUnsupported = 2,        // valid, but no backend here can do it
  kWorkspaceTooSmall = 3,  // the caller's workspace is smaller than workspace_bytes(plan)
  kCancelled = 4,          // the caller's cancel callback returned true
  kNotFound = 5,           // a file, model or library is missing
  kDataError = 6,          // a file is truncated, malformed or for something else
  kInternal = 7,           // a bug in tokensieve
  kOutOfMemory = 8,        // C ABI: a plan or thread pool could not be allocated
};

TOKENSIEVE_API const char* status_code_name(StatusCode code);

class [[nodiscard]] Status {
 public:
  Status() = default;  // ok

  // printf-style message: name the value, what is allowed and the fix.
  [[gnu::format(printf, 2, 3)]] static Status error(StatusCode code, const char* format, ...) {
    Status status;
    status.code_ = code;
    va_list args;
    va_start(args, format);
    std::vsnprintf(status.message_, sizeof(status.message_), format, args);
    va_end(args);
    return status;
  }

  bool ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  const char* message() const { return message_; }

 private:
  StatusCode code_ = StatusCode::kOk;
  char message_[316] = {};
};

// A value or the Status that says why there is none.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}
  Result(Status status) : status_(std::move(status)) {}

  bool ok() const { return value_.has_value(); }
  const Status& status() const { return status_; }
  const T& value() const& { return *value_; }
  T& value() & { return *value_; }
  T&& value() && { return *std::move(value_); }
  const T* operator->() const { return &*value_; }
  const T& operator*() const { return *value_; }

 private:
  std::optional<T> value_;
  Status status_;
};

// Returns from the enclosing function when `expr` yields a failed Status.
#define TOKENSIEVE_RETURN_IF_ERROR(expr)                                            \
  do {                                                                              \
    if (::tokensieve::Status status_ = (expr); !status_.ok()) return status_;       \
  } while (false)

}  // namespace tokensieve
