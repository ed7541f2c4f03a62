// Test tensors: owned memory of any dtype and layout, poisoned where nothing was written and
// guarded on both sides.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "ref/elements.h"
#include "tokensieve/tensor.h"

namespace tokensieve::test {

// Every float format reads this byte as NaN.
inline constexpr std::byte kPoison{0xff};
inline constexpr std::byte kGuard{0xa5};
inline constexpr size_t kGuardBytes = 4096;

enum class Layout {
  kBshd,    // contiguous [batch, seq, head, dim]
  kBhsd,    // contiguous [batch, head, seq, dim]
  kPadded,  // [batch, seq, head, dim] with gaps after every row, token and sequence
  kHuge,    // as kPadded, with 16 MiB or more between tokens: offsets beyond 2^31 elements
};

// Zeroed memory that costs only the pages that are touched.
class LazyBytes {
 public:
  LazyBytes() = default;
  explicit LazyBytes(size_t size) : size_(size) {
    void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) std::abort();
    data_ = static_cast<std::byte*>(memory);
  }
  LazyBytes(LazyBytes&& other) noexcept { *this = std::move(other); }
  LazyBytes& operator=(LazyBytes&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~LazyBytes() {
    if (data_) munmap(data_, size_);
  }
  std::byte* data() const { return data_; }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// Bytes with guards before and after; starts poisoned.
class GuardedBytes {
 public:
  explicit GuardedBytes(size_t size = 0) : size_(size), bytes_(size + 2 * kGuardBytes, kGuard) {
    poison();
  }
  std::byte* data() { return bytes_.data() + kGuardBytes; }
  const std::byte* data() const { return bytes_.data() + kGuardBytes; }
  size_t size() const { return size_; }
  std::span<std::byte> span() { return {data(), size_}; }
  void poison() { std::fill_n(data(), size_, kPoison); }
  bool guards_intact() const {
    for (size_t i = 0; i < kGuardBytes; ++i) {
      if (bytes_[i] != kGuard || bytes_[kGuardBytes + size_ + i] != kGuard) return false;
    }
    return true;
  }

 private:
  size_t size_;
  std::vector<std::byte> bytes_;
};

class Tensor {
 public:
  Tensor() = default;
  Tensor(DType dtype, Layout layout, int64_t batch, int64_t seq, int64_t heads, int64_t dim) {
    switch (layout) {
      case Layout::kBshd:
        view_ = bshd(nullptr, dtype, batch, seq, heads, dim);
        break;
      case Layout::kBhsd:
        view_ = bhsd(nullptr, dtype, batch, seq, heads, dim);
        break;
      case Layout::kPadded: {
        const int64_t row = dim + 16;
        const int64_t token = heads * row + 48;
        view_ = {nullptr, dtype, {batch, seq, heads, dim}, {seq * token + 80, token, row, 1}};
        break;
      }
      case Layout::kHuge:
        view_ = {nullptr, dtype, {batch, seq, heads, dim}, {(seq + 1) << 23, 1 << 23, dim, 1}};
        break;
    }
    int64_t elements = 1;
    for (int axis = 0; axis < 4; ++axis) elements += (view_.shape[axis] - 1) * view_.strides[axis];
    const size_t bytes = static_cast<size_t>(elements) * dtype_size(dtype);
    if (layout == Layout::kHuge) {
      lazy_bytes_ = LazyBytes(bytes);
      poison();
    } else {
      bytes_ = GuardedBytes(bytes);
    }
  }

  TensorView view() const {
    TensorView view = view_;
    view.data = huge() ? lazy_bytes_.data() : const_cast<std::byte*>(bytes_.data());
    return view;
  }
  int64_t rows() const { return view_.shape[0] * view_.shape[1] * view_.shape[2]; }
  int64_t size() const { return rows() * view_.shape[3]; }

  double at(int64_t b, int64_t s, int64_t h, int64_t d) const {
    return ref::load(view(), ref::row_offset(view_, b, s, h) + d);
  }
  void set(int64_t b, int64_t s, int64_t h, int64_t d, double x) {
    ref::store(view(), ref::row_offset(view_, b, s, h) + d, x);
  }

  // All elements in the order [batch, seq, head, dim].
  std::vector<double> values() const {
    std::vector<double> result(static_cast<size_t>(size()));
    double* row = result.data();
    for (int64_t b = 0; b < view_.shape[0]; ++b) {
      for (int64_t s = 0; s < view_.shape[1]; ++s) {
        for (int64_t h = 0; h < view_.shape[2]; ++h, row += view_.shape[3]) {
          ref::load_row(view(), b, s, h, row);
        }
      }
    }
    return result;
  }
  // Sets all elements from that order.
  void assign(std::span<const double> values) {
    size_t i = 0;
    for (int64_t b = 0; b < view_.shape[0]; ++b) {
      for (int64_t s = 0; s < view_.shape[1]; ++s) {
        for (int64_t h = 0; h < view_.shape[2]; ++h) {
          for (int64_t d = 0; d < view_.shape[3]; ++d) set(b, s, h, d, values[i++]);
        }
      }
    }
  }

  // All bytes; of a huge tensor its rows only.
  void poison() {
    if (huge()) return assign(std::vector<double>(size(), std::nan("")));
    bytes_.poison();
  }

  // Neither the guards nor the gaps between rows were written (after poison()). Always true for
  // kHuge.
  bool untouched_outside() const {
    if (huge()) return true;
    if (!bytes_.guards_intact()) return false;
    std::vector<bool> inside(bytes_.size(), false);
    const size_t element = dtype_size(view_.dtype);
    for (int64_t b = 0; b < view_.shape[0]; ++b) {
      for (int64_t s = 0; s < view_.shape[1]; ++s) {
        for (int64_t h = 0; h < view_.shape[2]; ++h) {
          const size_t begin = ref::row_offset(view_, b, s, h) * element;
          for (size_t i = 0; i < view_.shape[3] * element; ++i) inside[begin + i] = true;
        }
      }
    }
    for (size_t i = 0; i < bytes_.size(); ++i) {
      if (!inside[i] && bytes_.data()[i] != kPoison) return false;
    }
    return true;
  }

 private:
  bool huge() const { return lazy_bytes_.data() != nullptr; }

  TensorView view_;
  GuardedBytes bytes_;
  LazyBytes lazy_bytes_;
};

}  // namespace tokensieve::test
